"""The picture of a learning-rate range test (Smith 2017, "Cyclical Learning Rates")."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ...errors import RunError
from ..metric import rate
from .theme import BLUE, GREEN, RED, blank, line, log_axis, tint

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def range_test(
    rows: Sequence[Mapping[str, float | None]], suggestion: float | None, diverged: float
) -> "Figure":
    """Loss against learning rate, raw and smoothed, the suggested rate marked, divergence shaded.

    Args:
        rows: {"lr", "loss", "smoothed"} of each step, rates rising; None or not finite where it blew up.
        suggestion: the rate to use, or None where the test found none.
        diverged: the smoothed loss has diverged above this many times its lowest value.

    Raises:
        RunError: there are no rows.
    """
    import numpy

    if not rows:
        raise RunError("the range test has no steps to draw")
    rates, raw, smoothed = (
        numpy.array([row.get(key) for row in rows], dtype=numpy.float64) for key in ("lr", "loss", "smoothed")
    )
    figure = blank("Learning-rate range test", "learning rate (logarithmic)", "loss", height=420, wide=True)
    figure.add_trace(line(rates, raw, "each step", BLUE, line={"color": tint(BLUE, 0.35), "width": 1}))
    figure.add_trace(line(rates, smoothed, "smoothed", BLUE, line={"color": BLUE, "width": 2.5}))
    log_axis(figure, rates, "x")
    figure.update_xaxes(range=[float(numpy.log10(rates.min())), float(numpy.log10(rates.max()))])
    figure.update_layout(showlegend=True)
    finite = smoothed[numpy.isfinite(smoothed)]
    if len(finite):
        floor = float(finite.min())
        ceiling = max(float(finite[0]) * 1.5, floor * diverged if floor > 0 else floor + 1.0)
        figure.update_yaxes(range=[min(floor, float(numpy.nanmin(raw))) - 0.04 * abs(ceiling), ceiling])
        _shade_divergence(figure, rates, smoothed, ceiling)
    if suggestion is not None:
        figure.add_vline(x=suggestion, line={"color": GREEN, "width": 2})
        figure.add_annotation(
            text=f"<b>suggested: {rate(suggestion)}</b>",
            x=float(numpy.log10(suggestion)),
            y=0.97,
            yref="paper",
            xanchor="right",
            xshift=-6,
            font={"color": GREEN, "size": 13},
        )
    return figure


def _shade_divergence(figure: "Figure", rates: object, smoothed: object, ceiling: float) -> None:
    """Shade the rates from where the smoothed loss leaves the picture for good, if it does."""
    import numpy

    rates, smoothed = numpy.asarray(rates), numpy.asarray(smoothed)
    lowest = int(numpy.nanargmin(smoothed))
    lost = ~(smoothed[lowest:] <= ceiling)
    if lost.any():
        start = rates[lowest + int(lost.argmax())]
        end = rates[-1] if rates[-1] > start else start * 1.3
        figure.add_vrect(x0=start, x1=end, fillcolor=tint(RED, 0.1), line={"width": 0}, layer="below")
        figure.add_annotation(
            text="diverged",
            # On a logarithmic axis shapes stand at values, annotations at their logarithms.
            x=float(numpy.log10(start) + numpy.log10(end)) / 2,
            y=0.5,
            yref="paper",
            textangle=-90,
            font={"color": RED},
        )
