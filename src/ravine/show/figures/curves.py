"""How a run learned: losses, their gap and the metrics, by epoch."""

from typing import TYPE_CHECKING, Any

from ..metric import metric_named
from ..overfitting import turn
from ..run import Run
from .theme import GREY, RED, TRAIN, VALIDATION, blank, line, log_axis, tint

if TYPE_CHECKING:
    from numpy import ndarray
    from plotly.graph_objects import Figure

_LOG_SPAN = 20.0
_LABEL_WIDTH = 0.2  # of the mark of the best evaluation, in a figure of half the page


def loss_curves(run: Run) -> "Figure":
    """Training and validation loss, the best evaluation and overfitting marked.

    Logarithmic where they span over 20 times.

    Raises:
        NothingToDrawError: no training loss was measured.
    """
    run.require_rows("train.loss")
    x, title = run.progress
    figure = blank("Loss", title, "loss", wide=True)
    _add_parts(figure, run, x, "loss")
    losses = _both(run, "loss")
    if _wide(losses):
        log_axis(figure, losses)
        figure.update_yaxes(title_text="loss (logarithmic)")
    _mark_best(figure, run, x)
    _mark_overfitting(figure, run, x)
    return figure


def gap(run: Run) -> "Figure":
    """How much worse the validation loss is than the training loss: where it grows, a run overfits.

    Raises:
        NothingToDrawError: one of the losses was not measured.
    """
    run.require_rows("train.loss", "validation.loss")
    x, title = run.progress
    figure = blank("Gap", title, "validation loss − training loss", showlegend=False)
    figure.add_hline(y=0, line={"width": 1, "color": GREY})
    figure.add_trace(
        line(
            x,
            run.series("validation.loss") - run.series("train.loss"),
            "gap",
            VALIDATION,
            fill="tozeroy",
            fillcolor=tint(VALIDATION, 0.15),
        )
    )
    _mark_best(figure, run, x)
    _mark_overfitting(figure, run, x)
    return figure


def metric_curves(run: Run, metric: str | None = None) -> "Figure":
    """One metric on both parts; by default the one that sums the run up (accuracy, rmse, bits).

    Raises:
        NothingToDrawError: the metric was not measured.
    """
    chosen = run.headline if metric is None else metric_named(metric)
    x, title = run.progress
    figure = blank(chosen.title[:1].upper() + chosen.title[1:], title, chosen.title)
    _add_parts(figure, run, x, chosen.name)
    if not figure.data:
        run.require_rows(f"validation.{chosen.name}")
    if chosen.percent:
        figure.update_yaxes(tickformat=".3~%", title_text=f"{chosen.title} (%)", ticksuffix="")
    elif not chosen.higher_is_better and _wide(_both(run, chosen.name)):
        log_axis(figure, _both(run, chosen.name))
    _mark_best(figure, run, x)
    return figure


def _add_parts(figure: "Figure", run: Run, x: "ndarray[Any, Any]", metric: str) -> None:
    import numpy

    for part, color in (("train", TRAIN), ("validation", VALIDATION)):
        values = run.series(f"{part}.{metric}")
        if numpy.isfinite(values).any():
            name = "training" if part == "train" else part
            figure.add_trace(line(x, values, name, color))
    figure.update_layout(hovermode="x unified", showlegend=True)


def _mark_best(figure: "Figure", run: Run, x: "ndarray[Any, Any]") -> None:
    """A thin line at the evaluation whose weights were kept."""
    best = run.best_row
    if best is None:
        return
    span = x[-1] - x[0]
    place = (x[best] - x[0]) / span if span else 0.0
    if place <= 0.5:  # the legend gives way
        figure.update_layout(legend={"x": 1, "xanchor": "right"})
    # The label hangs away from the legend, but never out of the picture.
    hangs_left = _LABEL_WIDTH < place <= 0.5 or place > 1 - _LABEL_WIDTH
    figure.add_vline(
        x=x[best],
        line={"color": GREY, "width": 1, "dash": "dot"},
        annotation={
            "text": f"best {x[best]:g}",
            "xanchor": "right" if hangs_left else "left",
            "yanchor": "bottom",
            "y": 1,
            "yref": "paper",
        },
    )


def _mark_overfitting(figure: "Figure", run: Run, x: "ndarray[Any, Any]") -> None:
    """A shade over the evaluations since overfitting began, named in the legend."""
    found = turn(run)
    if found is None or not found.overfits:
        return
    figure.add_vrect(
        x0=x[found.row],
        x1=x[-1],
        fillcolor=tint(RED, 0.12),
        line={"width": 0},
        layer="below",
        name="overfitting",
        showlegend=True,
    )
    figure.update_layout(showlegend=True)


def _both(run: Run, metric: str) -> "ndarray[Any, Any]":
    """The finite values of a metric on both parts."""
    import numpy

    values = numpy.concatenate([run.series(f"train.{metric}"), run.series(f"validation.{metric}")])
    finite: ndarray[Any, Any] = values[numpy.isfinite(values)]
    return finite


def _wide(values: "ndarray[Any, Any]") -> bool:
    return bool(len(values)) and values.min() > 0 and values.max() / values.min() > _LOG_SPAN
