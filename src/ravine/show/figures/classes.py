"""Where a classifier errs, class by class."""

from typing import TYPE_CHECKING, Any

from ..run import Run
from .theme import AMBER, BLUE, GREY, INK, PART_COLORS, blank, label, tint

if TYPE_CHECKING:
    from numpy import ndarray
    from plotly.graph_objects import Figure

_COUNTS_SHOWN = 20
_LABELS_SHOWN = 25
_SCORES_SHOWN = 20
# Above so many classes, a text for each cell would outweigh the rest of the page.
_HOVERED = 200


def confusion(run: Run) -> "tuple[str, ndarray[Any, Any], list[str]]":
    """(part, counts (true class, predicted class), names of the classes) of a classification run.

    Raises:
        NothingToDrawError: the run is no classification, or kept no predictions.
    """
    import numpy

    part, logits, targets = run.predicted("classification")
    classes = logits.shape[1]
    pairs = targets.astype(numpy.int64) * classes + logits.argmax(axis=1)
    counts = numpy.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
    names = run.classes if len(run.classes) == classes else [str(number) for number in range(classes)]
    return part, counts, names


def confusion_matrix(run: Run) -> "Figure":
    """True against predicted class: right answers blue, mistakes orange on a scale of their own.

    A cell's depth is its share of the true class. With a common scale the few mistakes of a good
    classifier would be invisible beside its right answers.

    Raises:
        NothingToDrawError: as `confusion`.
    """
    import numpy

    part, counts, names = confusion(run)
    size = len(names)
    shares = counts / numpy.maximum(counts.sum(axis=1, keepdims=True), 1)
    right = numpy.eye(size, dtype=bool)
    figure = blank(
        f"Confusion, {part} part",
        "predicted class",
        "true class",
        height=int(min(max(340, 190 + 24 * size), 760)),
        showlegend=False,
        wide=size > _COUNTS_SHOWN,
    )
    worst = float(shares[~right].max()) if size > 1 else 0.0
    told: dict[str, Any] = {
        "hovertemplate": "true class number %{y}<br>predicted %{x}<br>%{z:.1%} of the class<extra></extra>"
    }
    if size <= _HOVERED:
        told = {"customdata": _hover(counts, shares, names), "hovertemplate": "%{customdata}<extra></extra>"}
    for cells, color, top in ((right, BLUE, 1.0), (~right & (counts > 0), AMBER, max(worst, 1e-9))):
        figure.add_trace(
            {
                "type": "heatmap",
                "z": numpy.where(cells, shares, numpy.nan),
                "zmin": 0,
                "zmax": top,
                "colorscale": [[0, tint(color, 0.06)], [1, tint(color, 0.8)]],
                "showscale": False,
                "xgap": 1.5 if size <= _COUNTS_SHOWN else 0,
                "ygap": 1.5 if size <= _COUNTS_SHOWN else 0,
                "hoverongaps": False,
            }
            | told
            | (
                {
                    "text": numpy.where(cells, counts.astype(str), ""),
                    "texttemplate": "%{text}",
                    "textfont": {"color": INK},
                }
                if size <= _COUNTS_SHOWN
                else {}
            )
        )
    ticks = list(range(0, size, -(-size // _LABELS_SHOWN)))
    shown = {
        "tickvals": ticks,
        "ticktext": [label(names[at], 14) for at in ticks],
        "ticks": "",
        "showgrid": False,
    }
    figure.update_xaxes(**shown, showline=False, constrain="domain", tickangle=-45 if _long(names) else 0)
    figure.update_yaxes(**shown, autorange="reversed")
    return figure


def class_scores(run: Run) -> "Figure":
    """Precision and recall of each class; of many classes, the 20 with the lowest F1.

    Raises:
        NothingToDrawError: as `confusion`.
    """
    import numpy

    part, counts, names = confusion(run)
    hits = counts.diagonal()
    recall = hits / numpy.maximum(counts.sum(axis=1), 1)
    precision = hits / numpy.maximum(counts.sum(axis=0), 1)
    f1 = 2 * hits / numpy.maximum(counts.sum(axis=0) + counts.sum(axis=1), 1)
    present = numpy.flatnonzero(counts.sum(axis=1))
    chosen = present[numpy.argsort(f1[present], kind="stable")][:_SCORES_SHOWN][::-1]
    some = f", the {len(chosen)} weakest of {len(present)}" if len(chosen) < len(present) else ""
    figure = blank(
        f"Classes, {part} part{some}", "share of items (%)", "", height=int(140 + 24 * len(chosen))
    )
    rows = [label(f"{names[at]}", 20) for at in chosen]
    places = numpy.arange(len(chosen))
    ends = numpy.stack([precision[chosen], recall[chosen], numpy.full(len(chosen), numpy.nan)], axis=1)
    figure.add_trace(
        {
            "type": "scatter",
            "x": ends.ravel(),
            "y": numpy.repeat(places, 3),
            "mode": "lines",
            "line": {"color": GREY, "width": 1.5},
            "hoverinfo": "skip",
            "showlegend": False,
        }
    )
    for values, name, color, symbol in (
        (precision, "precision: of those predicted, right", BLUE, "circle"),
        (recall, "recall: of those there, found", AMBER, "diamond"),
    ):
        figure.add_trace(
            {
                "type": "scatter",
                "x": values[chosen],
                "y": places,
                "mode": "markers",
                "name": name,
                "marker": {"color": color, "size": 9, "symbol": symbol},
                "customdata": rows,
                "hovertemplate": "%{customdata}: " + name.partition(":")[0] + " %{x:.1%}<extra></extra>",
            }
        )
    figure.update_xaxes(tickformat=".3~%", title_text="precision, recall")
    figure.update_yaxes(tickvals=places, ticktext=rows, ticks="", range=[-0.7, len(chosen) - 0.3])
    return figure


def class_balance(run: Run) -> "Figure":
    """How much of each part a class makes up.

    Raises:
        NothingToDrawError: as `confusion`.
    """
    import numpy

    _, _, names = confusion(run)
    figure = blank(
        "Class balance", "class", "share of the part (%)", bargap=0.3, wide=len(names) > _COUNTS_SHOWN
    )
    for part in ("validation", "test"):
        targets = run.predictions.get(f"{part}.targets")
        if targets is None or not len(targets):
            continue
        counts = numpy.bincount(targets.astype(numpy.int64), minlength=len(names))
        figure.add_trace(
            {
                "type": "bar",
                "x": list(range(len(names))),
                "y": counts / len(targets),
                "customdata": [
                    f"{label(name)}: {number:,} items" for name, number in zip(names, counts, strict=True)
                ],
                "hovertemplate": "%{customdata}, %{y:.1%}<extra></extra>",
                "name": f"{part}, {len(targets):,} items",
                "marker": {"color": PART_COLORS[part]},
            }
        )
    ticks = list(range(0, len(names), -(-len(names) // _LABELS_SHOWN)))
    figure.update_xaxes(tickvals=ticks, ticktext=[label(names[at], 14) for at in ticks], ticks="")
    figure.update_yaxes(tickformat=".3~%")
    figure.update_layout(showlegend=True)
    return figure


def _hover(counts: "ndarray[Any, Any]", shares: "ndarray[Any, Any]", names: list[str]) -> list[list[str]]:
    texts = [label(name) for name in names]
    return [
        [
            f"true {true}<br>predicted {predicted}<br>"
            f"{counts[row, column]:,} items, {shares[row, column]:.1%} of the class"
            for column, predicted in enumerate(texts)
        ]
        for row, true in enumerate(texts)
    ]


def _long(names: list[str]) -> bool:
    return len(names) > _COUNTS_SHOWN or any(len(name) > 4 for name in names)
