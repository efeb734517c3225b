"""How a run stepped: learning rate, update ratios, gradient norm, and where its seconds went."""

from typing import TYPE_CHECKING, Any

from ..metric import duration
from ..run import NothingToDrawError, Run
from .theme import AMBER, BLUE, GREEN, GREY, PURPLE, blank, label, line, log_axis, tint

if TYPE_CHECKING:
    from numpy import ndarray
    from plotly.graph_objects import Figure

_ACTIVITIES = {"training": BLUE, "evaluation": AMBER, "checkpoints": PURPLE, "start": GREEN}


def schedule(run: Run) -> "Figure":
    """The learning rate by step: what the schedule planned, or what each evaluation recorded.

    Raises:
        NothingToDrawError: no learning rate was recorded.
    """
    import numpy

    if run.planned_rates:
        steps, rates = (numpy.asarray(run.planned_rates[key], dtype=float) for key in ("step", "lr"))
    else:
        run.require_rows("lr")
        steps, rates = run.series("step"), run.series("lr")
    figure = blank("Learning rate", "step", "learning rate", showlegend=False)
    figure.add_trace(line(steps, rates, "learning rate", BLUE))
    spread = rates[numpy.isfinite(rates) & (rates > 0)]
    if len(spread) and spread.min() == spread.max():
        figure.update_yaxes(range=[0, 1.25 * float(spread[0])])
    else:
        figure.update_yaxes(rangemode="tozero")
    return figure


def update_ratios(run: Run) -> "Figure":
    """Size of an update over size of the weights, by weight tensor: around 1e-3 is usual (CS231n).

    The median over all tensors is drawn strong, each tensor thin, first layers lighter than last ones.

    Raises:
        NothingToDrawError: no update ratios were recorded.
    """
    import numpy

    run.require_rows("update_ratio")
    steps = run.series("step")
    tensors = list(dict.fromkeys(name for row in run.rows for name in row.get("update_ratios") or {}))
    figure = blank("Update ratios", "step", "‖update‖ / ‖weights‖ (logarithmic)")
    figure.add_hrect(y0=10**-3.5, y1=10**-2.5, fillcolor=tint(GREEN, 0.13), line={"width": 0}, layer="below")
    drawn = []
    for number, name in enumerate(tensors):
        values = numpy.array([(row.get("update_ratios") or {}).get(name) for row in run.rows], dtype=float)
        values[~(values > 0)] = numpy.nan
        drawn.append(values)
        shade = 0.3 + 0.6 * number / max(len(tensors) - 1, 1)
        figure.add_trace(
            line(
                steps,
                values,
                label(name),
                BLUE,
                line={"color": tint(BLUE, shade), "width": 1},
                showlegend=False,
                hovertemplate=f"{label(name)}<br>step %{{x}}: %{{y:.2e}}<extra></extra>",
            )
        )
    median = run.series("update_ratio")
    median[~(median > 0)] = numpy.nan
    figure.add_trace(line(steps, median, "median of all tensors", AMBER, line={"color": AMBER, "width": 2.5}))
    log_axis(figure, [1e-6, 1.0])
    figure.update_layout(showlegend=True)
    figure.update_yaxes(range=_decades(numpy.concatenate([*drawn, median])))
    return figure


def gradient_norm(run: Run) -> "Figure":
    """The norm of the whole gradient by step; logarithmic.

    Raises:
        NothingToDrawError: no gradient norm was recorded.
    """
    import numpy

    run.require_rows("gradient_norm")
    values = run.series("gradient_norm")
    values[~(values > 0)] = numpy.nan
    figure = blank("Gradient norm", "step", "‖gradient‖ (logarithmic)", showlegend=False)
    figure.add_trace(line(run.series("step"), values, "gradient norm", BLUE))
    log_axis(figure, values)
    return figure


def timing(run: Run) -> "Figure":
    """Where the seconds of a run went.

    Raises:
        NothingToDrawError: the run has not come to its end.
    """
    spent = {str(name): float(value) for name, value in (run.result.get("timing") or {}).items()}
    total = max(float(run.result.get("seconds") or 0.0), sum(spent.values()))
    if total <= 0:
        raise NothingToDrawError(f"{run.folder} has no timing: it has not come to its end")
    spent["other"] = total - sum(spent.values())
    spent = {name: value for name, value in spent.items() if value > 0.005 * total}
    names = sorted(spent, key=lambda name: spent[name])
    figure = blank("Where the seconds went", "seconds", "", showlegend=False, height=120 + 34 * len(names))
    figure.add_trace(
        {
            "type": "bar",
            "orientation": "h",
            "y": [label(name) for name in names],
            "x": [spent[name] for name in names],
            "text": [f"{duration(spent[name])}  {spent[name] / total:.0%}" for name in names],
            "textposition": "outside",
            "cliponaxis": False,
            "marker": {"color": [_ACTIVITIES.get(name, GREY) for name in names]},
            "hovertemplate": "%{y}: %{text}<extra></extra>",
        }
    )
    figure.update_xaxes(range=[0, 1.4 * max(spent.values())])
    figure.update_yaxes(showgrid=False, ticks="", ticksuffix="  ")
    return figure


def _decades(values: "ndarray[Any, Any]") -> list[float]:
    """The range (in decades) that shows all ratios from 1e-6 up, and at least the usual ones.

    At the end of a schedule that falls to zero the ratios do too, and would squeeze all before them.
    """
    import numpy

    logs = numpy.log10(values[numpy.isfinite(values)])
    low, high = (float(logs.min()), float(logs.max())) if len(logs) else (-3.0, -3.0)
    return [min(-4.2, max(low, -6.0) - 0.2), max(-1.8, high + 0.2)]
