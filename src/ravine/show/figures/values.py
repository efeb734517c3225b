"""Regression and language: predicted values, residuals, loss along the context."""

from typing import TYPE_CHECKING, Any

from ..run import NothingToDrawError, Run
from .theme import BLUE, GREY, blank, line, tint

if TYPE_CHECKING:
    from numpy import ndarray
    from plotly.graph_objects import Figure

_POINTS = 3000


def predicted_against_true(run: Run) -> "Figure":
    """Each item's prediction against its true value; on the diagonal it is right.

    Raises:
        NothingToDrawError: the run is no regression, or kept no predictions.
    """
    part, truths, guesses = _values(run)
    target = _target(run)
    figure = blank(
        f"Predicted against true, {part} part",
        f"true {target}",
        f"predicted {target}",
        showlegend=False,
        height=420,
    )
    ends = [float(min(truths.min(), guesses.min())), float(max(truths.max(), guesses.max()))]
    figure.add_trace(
        line(ends, ends, "", GREY, line={"color": GREY, "width": 1.2, "dash": "dash"}, hoverinfo="skip")
    )
    figure.add_trace(_points(truths, guesses, "true %{x:.4g}<br>predicted %{y:.4g}<extra></extra>"))
    return figure


def residuals(run: Run) -> "Figure":
    """What the model misses, against what it predicts, and how the misses are spread.

    Raises:
        NothingToDrawError: as `predicted_against_true`.
    """
    part, truths, guesses = _values(run)
    target = _target(run)
    misses = guesses - truths
    figure = blank(
        f"Residuals, {part} part",
        f"predicted {target}",
        f"predicted − true {target}",
        showlegend=False,
        height=420,
    )
    figure.add_hline(y=0, line={"width": 1.2, "color": GREY, "dash": "dash"})
    figure.add_trace(_points(guesses, misses, "predicted %{x:.4g}<br>off by %{y:.4g}<extra></extra>"))
    figure.add_trace(
        {
            "type": "histogram",
            "y": misses,
            "xaxis": "x2",
            "marker": {"color": tint(BLUE, 0.45)},
            "nbinsy": 30,
            "hovertemplate": "%{y}: %{x} items<extra></extra>",
        }
    )
    figure.update_layout(
        xaxis={"domain": [0, 0.78]},
        xaxis2={"domain": [0.82, 1], "title": {"text": "items"}, "nticks": 3, "anchor": "y"},
    )
    return figure


def loss_by_position(run: Run) -> "Figure":
    """A language model's mean test loss by position in its context: more context should help.

    Raises:
        NothingToDrawError: the run kept no such losses.
    """
    import numpy

    losses = run.predictions.get("test.loss_by_position")
    if losses is None or not len(losses):
        raise NothingToDrawError(f"{run.folder} has no losses by position")
    figure = blank(
        "Loss by position, test part",
        "characters of context before it",
        "loss (nats per character)",
        showlegend=False,
        wide=True,
    )
    figure.add_trace(line(numpy.arange(len(losses)), losses.astype(numpy.float64), "loss", BLUE))
    return figure


def _values(run: Run) -> "tuple[str, ndarray[Any, Any], ndarray[Any, Any]]":
    """(part, true values, predicted values), float64, those that are finite."""
    import numpy

    part, outputs, targets = run.predicted("regression")
    truths, guesses = targets.astype(numpy.float64).ravel(), outputs.astype(numpy.float64).ravel()
    finite = numpy.isfinite(truths) & numpy.isfinite(guesses)
    if not finite.any():
        raise NothingToDrawError(f"{run.folder} has no finite prediction")
    return part, truths[finite], guesses[finite]


def _points(x: "ndarray[Any, Any]", y: "ndarray[Any, Any]", hover: str) -> dict[str, Any]:
    """A cloud of points: of very many, evenly spaced ones, so that a page stays fast."""
    stride = -(-len(x) // _POINTS)
    return {
        "type": "scatter",
        "x": x[::stride],
        "y": y[::stride],
        "mode": "markers",
        "marker": {"color": tint(BLUE, 0.55 if len(x) < 500 else 0.3), "size": 6},
        "hovertemplate": hover,
    }


def _target(run: Run) -> str:
    from .theme import label

    return label(str(run.preprocessing.get("target_name") or "value"))
