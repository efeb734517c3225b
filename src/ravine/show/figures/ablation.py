"""The gap of a run, and of the same training without each of its regularizers."""

from typing import TYPE_CHECKING

from ..run import NothingToDrawError, Run
from .theme import GREY, TRAIN, VALIDATION, blank, label

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_ROW = 34  # pixels


def gaps(run: Run) -> "Figure":
    """Training and validation loss at the kept weights, joined by their gap, a line a training.

    Raises:
        NothingToDrawError: the run was not ablated, or has no validation part.
    """
    rows = [("as trained", run.ablation.get("run") or {})]
    told = run.ablation.get("without") or []
    rows += [(f"without {row['name']}", row) for row in told if "failed" not in row]
    if len(rows) < 2 or any("validation" not in scores for _, scores in rows):
        raise NothingToDrawError(f"{run.folder} was not ablated")
    names = [label(name, 44) for name, _ in rows]
    train, validation = ([scores[part]["loss"] for _, scores in rows] for part in ("train", "validation"))
    figure = blank(
        "Gap with and without", "loss at the kept weights", "", wide=True, height=150 + _ROW * len(rows)
    )
    for name, *ends in zip(names, train, validation, strict=True):
        figure.add_scatter(
            x=ends, y=[name, name], mode="lines", line={"color": GREY, "width": 2},
            showlegend=False, hoverinfo="skip",
        )  # fmt: skip
    for part, values, color in (("training", train, TRAIN), ("validation", validation, VALIDATION)):
        figure.add_scatter(x=values, y=names, mode="markers", name=part, marker={"color": color, "size": 10})
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_layout(showlegend=True)
    return figure
