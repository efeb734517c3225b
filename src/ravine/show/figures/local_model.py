"""A function around a point, as its gradient and its curvature see it, and as it is."""

from typing import TYPE_CHECKING

from .theme import AMBER, BLUE, GREEN, GREY, blank, label, line

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from ...optim.full_batch.local_model import LocalModel


def local_model(model: "LocalModel") -> "Figure":
    """The function along a line with its linear and its quadratic model; the latter's lowest point is marked.

    The linear model says where down is, the quadratic one how far; where they leave the function, neither
    is to be trusted.
    """
    import numpy

    steps = numpy.asarray(model.steps)
    values = numpy.asarray(model.values, dtype=numpy.float64)
    values[~numpy.isfinite(values)] = numpy.nan
    along = label(model.direction)
    figure = blank("Around a point", f"step (multiples of the {along})", "value", height=420)
    for name, drawn, color, dash in (
        ("function", values, BLUE, "solid"),
        ("linear model", [model.linear(step) for step in model.steps], AMBER, "dash"),
        ("quadratic model", [model.quadratic(step) for step in model.steps], GREEN, "dash"),
    ):
        style = {"color": color, "width": 2.5 if dash == "solid" else 2, "dash": dash}
        hover = f"{name}<br>step %{{x:.4g}}: %{{y:.5g}}<extra></extra>"
        drawing = line(steps, drawn, name, color, line=style, hovertemplate=hover, connectgaps=False)
        figure.add_trace(drawing)
    _mark(figure, "here", 0.0, model.value, GREY)
    seen = [*values, model.value]
    best = model.best_step
    if best is not None:
        lowest = model.quadratic(best)
        _mark(figure, f"lowest at step {best:.3g}", best, lowest, GREEN)
        seen.append(lowest)
    # The models leave the picture where the function does not follow them.
    low, high = float(numpy.nanmin(seen)), float(numpy.nanmax(seen))
    margin = 0.08 * (high - low) or 0.1 * (abs(high) or 1.0)
    figure.update_yaxes(range=[low - margin, high + margin])
    figure.update_layout(showlegend=True)
    return figure


def _mark(figure: "Figure", text: str, step: float, value: float, color: str) -> None:
    """A point with its name above it."""
    figure.add_trace(
        {
            "type": "scatter",
            "x": [step],
            "y": [value],
            "mode": "markers+text",
            "text": [text],
            "textposition": "top center",
            "textfont": {"color": color},
            "marker": {"color": color, "size": 9},
            "cliponaxis": False,
            "showlegend": False,
            "hovertemplate": f"{text}<br>step %{{x:.4g}}: %{{y:.5g}}<extra></extra>",
        }
    )
