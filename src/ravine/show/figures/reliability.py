"""Does a classifier know how sure it may be?"""

from typing import TYPE_CHECKING, Any

from ..run import Run
from .theme import AMBER, BLUE, GREY, blank, tint

if TYPE_CHECKING:
    from numpy import ndarray
    from plotly.graph_objects import Figure

_BINS = 10
_Z = 1.959964  # of the 95 % interval


def reliability(
    confidence: "ndarray[Any, Any]", right: "ndarray[Any, Any]", bins: int = _BINS
) -> "tuple[ndarray[Any, Any], ndarray[Any, Any], ndarray[Any, Any], float]":
    """Bin items by their confidence (N,) in (0, 1]; `right` (N,) says which were answered rightly.

    Returns:
        (items, mean confidence, share answered rightly) of each bin, not-a-number in empty ones, and the
        expected calibration error: the mean over items of |share right − mean confidence| of their bin
        (Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3).
    """
    import numpy

    place = numpy.clip(numpy.ceil(confidence * bins).astype(numpy.int64) - 1, 0, bins - 1)
    items = numpy.bincount(place, minlength=bins)
    filled = numpy.where(items > 0, items, numpy.nan)
    sure = numpy.bincount(place, confidence, minlength=bins) / filled
    share = numpy.bincount(place, right, minlength=bins) / filled
    error = float(numpy.nansum(items * numpy.abs(share - sure)) / max(len(confidence), 1))
    return items, sure, share, error


def calibration(run: Run) -> "Figure":
    """The reliability diagram: on the diagonal, "80 % sure" is right 80 % of the time.

    Bars carry Wilson's 95 % intervals; below them, how many items each bin holds.

    Raises:
        NothingToDrawError: the run is no classification, or kept no predictions.
    """
    part, logits, targets = run.predicted("classification")
    probabilities = softmax(logits)
    items, sure, share, error = reliability(probabilities.max(axis=1), logits.argmax(axis=1) == targets)
    figure = blank(
        f"Calibration, {part} part",
        "confidence: probability of the predicted class (%)",
        "answered rightly (%)",
        height=420,
    )
    figure.add_trace(
        {
            "type": "scatter",
            "x": [0, 1],
            "y": [0, 1],
            "mode": "lines",
            "name": "perfect",
            "line": {"color": GREY, "width": 1.2, "dash": "dash"},
            "hoverinfo": "skip",
        }
    )
    figure.add_trace(_answered(items, sure, share, error))
    figure.add_trace(_counts(items))
    figure.update_layout(
        xaxis={"range": [0, 1], "tickformat": ".0%", "anchor": "y2"},
        yaxis={"range": [0, 1.02], "tickformat": ".0%", "domain": [0.3, 1]},
        yaxis2={"domain": [0, 0.17], "title": {"text": "items"}, "nticks": 3, "rangemode": "tozero"},
        showlegend=True,
    )
    return figure


def _answered(
    items: "ndarray[Any, Any]", sure: "ndarray[Any, Any]", share: "ndarray[Any, Any]", error: float
) -> dict[str, Any]:
    """The line of the shares answered rightly, with their intervals."""
    low, high = _wilson(share, items)
    return {
        "type": "scatter",
        "x": sure,
        "y": share,
        "mode": "lines+markers",
        "name": f"this model: expected calibration error {error:.1%}",
        "line": {"color": tint(BLUE, 0.5), "width": 1.5},
        "connectgaps": True,
        "marker": {"color": BLUE, "size": 8},
        "error_y": {
            "array": high - share,
            "arrayminus": share - low,
            "color": tint(BLUE, 0.7),
            "thickness": 1.2,
        },
        "customdata": items,
        "hovertemplate": "confidence %{x:.1%}<br>right %{y:.1%}<br>%{customdata} items<extra></extra>",
    }


def _counts(items: "ndarray[Any, Any]") -> dict[str, Any]:
    """The bars below: items in each bin."""
    return {
        "type": "bar",
        "x": [(number + 0.5) / _BINS for number in range(_BINS)],
        "y": items,
        "yaxis": "y2",
        "width": 0.9 / _BINS,
        "marker": {"color": tint(AMBER, 0.75)},
        "showlegend": False,
        "hovertemplate": "%{y} items<extra></extra>",
        "text": [f"{number:,}" if number else "" for number in items],
        "textposition": "outside",
        "cliponaxis": False,
    }


def softmax(logits: "ndarray[Any, Any]") -> "ndarray[Any, Any]":
    """Probabilities (N, classes) of logits, in float64."""
    import numpy

    shifted = logits.astype(numpy.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    grown = numpy.exp(shifted)
    chances: ndarray[Any, Any] = grown / grown.sum(axis=1, keepdims=True)
    return chances


def _wilson(
    share: "ndarray[Any, Any]", items: "ndarray[Any, Any]"
) -> "tuple[ndarray[Any, Any], ndarray[Any, Any]]":
    """Wilson's 95 % score interval of a share observed over a number of items."""
    import numpy

    n = numpy.maximum(items, 1)
    center = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * numpy.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return numpy.minimum(center - half, share), numpy.maximum(center + half, share)
