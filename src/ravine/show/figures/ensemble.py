"""What members are worth together: their number, their differences, and how sure they may be."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..metric import metric_named
from ..run import NothingToDrawError, Run
from .reliability import reliability, softmax
from .theme import AMBER, BLUE, GREY, INK, blank, label, line, tint

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_BINS = 15  # as the ensemble's calibration error has it
_SHARES_SHOWN = 16


def score_by_number(run: Run) -> "Figure":
    """The score of ensembles of 1, 2, ... members: its mean over their orders, and one deviation around it.

    Raises:
        NothingToDrawError: the run is no ensemble of several members.
    """
    import numpy

    told = _ensemble(run).get("by_number")
    if not told:
        raise NothingToDrawError(f"{run.folder} does not average several members")
    metric = metric_named(told["score"])
    unit = " (%)" if metric.percent else ""
    means, spreads = (numpy.array(told[key], dtype=float) for key in ("mean", "deviation"))
    numbers = numpy.arange(1, len(means) + 1)
    figure = blank(
        f"{metric.title[0].upper()}{metric.title[1:]} against the number of members",
        "members",
        f"{_ensemble(run)['part']} {metric.title}{unit}",
        showlegend=False,
    )
    figure.add_trace(
        {
            "type": "scatter",
            "x": numpy.concatenate([numbers, numbers[::-1]]),
            "y": numpy.concatenate([means + spreads, (means - spreads)[::-1]]),
            "fill": "toself",
            "fillcolor": tint(BLUE, 0.18),
            "mode": "none",
            "hoverinfo": "skip",
        }
    )
    shown = "%{y:.2%}" if metric.percent else "%{y:.4g}"
    drawn = line(numbers, means, metric.title, BLUE, mode="lines+markers", marker={"size": 7})
    figure.add_trace(drawn | {"hovertemplate": f"%{{x}} members<br>{shown}<extra></extra>"})
    figure.update_xaxes(tickvals=numbers[:: -(-len(numbers) // 12)])
    if metric.percent:
        figure.update_yaxes(tickformat=".1%")
    return figure


def disagreement(run: Run) -> "Figure":
    """How much each two members differ: the share of items with other first guesses, or a mean distance.

    Raises:
        NothingToDrawError: the run is no ensemble.
    """
    import numpy

    told = _ensemble(run)
    pairs = numpy.array(told["disagreement"]["pairs"], dtype=float)
    names = [label(member["name"], 22) for member in told["members"]]
    size, shares = len(names), run.task != "regression"
    mean = told["disagreement"]["mean"]
    figure = blank(
        f"Disagreement, {mean:.1%} on average"
        if shares
        else f"Distance between predictions, {mean:.3g} on average",
        "",
        "",
        height=int(min(max(300, 160 + 30 * size), 760)),
        showlegend=False,
    )
    off = numpy.where(numpy.eye(size, dtype=bool), numpy.nan, pairs)
    trace: dict[str, Any] = {
        "type": "heatmap",
        "z": off,
        "zmin": 0,
        "zmax": max(float(pairs.max()), 1e-9),
        "colorscale": [[0, tint(AMBER, 0.06)], [1, tint(AMBER, 0.8)]],
        "showscale": False,
        "xgap": 1.5,
        "ygap": 1.5,
        "hoverongaps": False,
        "hovertemplate": f"%{{y}} and %{{x}}<br>%{{z:{'.2%' if shares else '.4g'}}}<extra></extra>",
    }
    if size <= _SHARES_SHOWN:
        text = [
            ["" if a == b else f"{cell:.1%}" if shares else f"{cell:.3g}" for b, cell in enumerate(row)]
            for a, row in enumerate(pairs)
        ]
        trace |= {"text": text, "texttemplate": "%{text}", "textfont": {"color": INK}}
    figure.add_trace(trace)
    ticks = {
        "tickvals": list(range(size)),
        "ticktext": names,
        "ticks": "",
        "ticklabelstandoff": 6,
        "showgrid": False,
    }
    figure.update_xaxes(**ticks, showline=False, tickangle=-35 if max(map(len, names)) > 6 else 0)
    figure.update_yaxes(**ticks, autorange="reversed")
    return figure


def scaled_calibration(run: Run) -> "Figure":
    """The reliability diagram before and after temperature scaling; larger dots stand for more items.

    Raises:
        NothingToDrawError: the run is no ensemble of classifiers, or no temperature was fitted.
    """
    import numpy

    temperature = (_ensemble(run).get("calibration") or {}).get("temperature")
    if temperature is None:
        raise NothingToDrawError(f"{run.folder} has no temperature")
    part, logits, targets = run.predicted("classification")
    figure = blank(
        f"Calibration at temperature {temperature:.3g}, {part} part",
        "confidence: probability of the predicted class (%)",
        "answered rightly (%)",
        showlegend=True,
        height=420,
        wide="by_number" in _ensemble(run),  # else it stands beside the disagreement
    )
    dashes = {"color": GREY, "width": 1.2, "dash": "dash"}
    figure.add_trace(line([0, 1], [0, 1], "perfect", GREY, line=dashes, hoverinfo="skip"))
    right = logits.argmax(axis=1) == targets
    for name, scale, color in (("as it is", 1.0, BLUE), ("with temperature", temperature, AMBER)):
        sure = softmax(logits / scale).max(axis=1)
        items, confidence, share, error = reliability(sure, right, _BINS)
        drawn = line(
            confidence, share, f"{name}: error {error:.1%}", color, mode="lines+markers",
            line={"color": tint(color, 0.35), "width": 1.2},
            marker={"color": color, "size": 4 + 16 * numpy.sqrt(items / items.max())},
        )  # fmt: skip
        told = "confidence %{x:.1%}<br>right %{y:.1%}<br>%{customdata} items<extra></extra>"
        figure.add_trace(drawn | {"customdata": items, "hovertemplate": told, "cliponaxis": False})
    figure.update_xaxes(range=[0, 1.01], tickformat=".0%")
    figure.update_yaxes(range=[0, 1.02], tickformat=".0%")
    return figure


def _ensemble(run: Run) -> Mapping[str, Any]:
    told: Mapping[str, Any] | None = run.result.get("ensemble")
    if not told:
        raise NothingToDrawError(f"{run.folder} is no ensemble")
    return told
