"""A function around a point, as its gradient and its curvature see it, and as it is (T9)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..run import NothingToDrawError, Run
from .theme import AMBER, BLUE, GREEN, GREY, blank, label, line

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def first_weights(run: Run) -> "Figure":
    """The training loss around the weights that training began with.

    Raises:
        NothingToDrawError: it was not recorded.
    """
    return _recorded(run, "first", "Around the first weights")


def best_weights(run: Run) -> "Figure":
    """The training loss around the weights that were kept.

    Raises:
        NothingToDrawError: it was not recorded.
    """
    return _recorded(run, "best", "Around the best weights")


def _recorded(run: Run, which: str, title: str) -> "Figure":
    if which not in run.local_models:
        raise NothingToDrawError(f"{run.folder} has no local model of its {which} weights")
    figure = local_model(run.local_models[which], title)
    return figure.update_yaxes(title="training loss")


def local_model(numbers: Mapping[str, Any], title: str = "Around a point") -> "Figure":
    """The function along a line with its linear and its quadratic model; the latter's lowest point is marked.

    The linear model says where down is, the quadratic one how far; where they leave the function, neither
    is to be trusted.

    Args:
        numbers: of a `ravine.optim.local_models` model: its `numbers()`.
        title: of the figure.
    """
    import numpy

    steps, value = numpy.asarray(numbers["steps"]), numbers["value"]
    values = numpy.asarray(numbers["values"], dtype=numpy.float64)
    values[~numpy.isfinite(values)] = numpy.nan
    along = label(numbers["direction"])
    figure = blank(title, f"step (multiples of the {along})", "value")
    for name, drawn, color, dash in (
        ("function", values, BLUE, "solid"),
        ("linear model", numbers["linear"], AMBER, "dash"),
        ("quadratic model", numbers["quadratic"], GREEN, "dash"),
    ):
        style = {"color": color, "width": 2.5 if dash == "solid" else 2, "dash": dash}
        hover = f"{name}<br>step %{{x:.4g}}: %{{y:.5g}}<extra></extra>"
        drawing = line(steps, drawn, name, color, line=style, hovertemplate=hover, connectgaps=False)
        figure.add_trace(drawing)
    _mark(figure, "here", 0.0, value, GREY)
    seen = [*values, value]
    best, lowest = numbers["best_step"], numbers["lowest"]
    if best is not None:
        _mark(figure, f"lowest at step {best:.3g}", best, lowest, GREEN)
        seen.append(lowest)
    # The models leave the picture where the function does not follow them.
    low, high = float(numpy.nanmin(seen)), float(numpy.nanmax(seen))
    margin = 0.12 * (high - low) or 0.1 * (abs(high) or 1.0)
    figure.update_yaxes(range=[low - margin, high + margin])
    figure.update_layout(showlegend=True)
    return figure


def _mark(figure: "Figure", text: str, step: float, value: float, color: str) -> None:
    """A point, and its name far enough above it to stand clear of the lines."""
    figure.add_trace(
        {
            "type": "scatter",
            "x": [step],
            "y": [value],
            "mode": "markers",
            "name": text,
            "marker": {"color": color, "size": 9},
            "cliponaxis": False,
            "showlegend": False,
            "hovertemplate": f"{text}<br>step %{{x:.4g}}: %{{y:.5g}}<extra></extra>",
        }
    )
    arrow = {"showarrow": True, "arrowhead": 0, "arrowwidth": 1, "arrowcolor": color, "ax": 0, "ay": -44}
    figure.add_annotation(x=step, y=value, text=text, font={"color": color}, standoff=6, **arrow)
