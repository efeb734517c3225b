"""Where overfitting began and what stopping there gained, in words (T14, C25). Plain text, not HTML."""

from typing import TYPE_CHECKING, Any

from .metric import Metric, metric_named, significant
from .overfitting import FOLLOWING, Turn, turn
from .run import Run

if TYPE_CHECKING:
    from numpy import ndarray

# Differences below this share of a value, or of all items for fractions, are none to speak of.
_LEAST = 5e-4


def overfitting(run: Run) -> str:
    """Where overfitting began, or that none was seen; and what the kept weights gain over the last ones.

    Empty where that cannot be known: without a validation part, or with a single evaluation.
    """
    import numpy

    measured = numpy.flatnonzero(numpy.isfinite(run.series("validation.loss")))
    if len(measured) < 2:
        return ""
    found = turn(run)
    began = _none_seen(run, measured) if found is None else _began(run, found)
    return f"{began} {_gain(run, int(measured[-1]))}".rstrip()


def _began(run: Run, found: Turn) -> str:
    where = _place(run, found.row)
    low, high = map(significant, found.validation)
    start, end = found.train
    if not found.overfits:
        return (
            f"The validation loss was lowest at {where} and rose from {low} to about {high} since, but the "
            f"training loss rose too, from {significant(start)} to {significant(end)}: that is no "
            "overfitting. The training went astray; try a lower learning rate."
        )
    fell = f"fell on from {significant(start)} to {significant(end)}" if end < start else "hardly moved"
    return (
        f"Overfitting began at {where}: since then the validation loss rose from {low} to about {high} while "
        f"the training loss {fell}."
    )


def _none_seen(run: Run, measured: "ndarray[Any, Any]") -> str:
    losses = run.series("validation.loss")[measured]
    lowest = int(losses.argmin())
    seen = f"No overfitting was seen{_so_far(run)}: the validation loss was lowest at"
    where = _place(run, measured[lowest])
    if len(measured) - 1 - lowest < FOLLOWING:
        return f"{seen} {where} of {run.progress[0][measured[-1]]:,.0f}."
    return f"{seen} {where} and did not clearly rise after it."


def _gain(run: Run, last: int) -> str:
    """What the kept weights are worth against those of row `last`; empty where they are the same."""
    kept = run.best_row
    if kept is None or kept == last:
        return ""
    part, _, name = run.monitor.partition(".")
    watched = metric_named(name)
    better: list[str] = []
    worse: list[str] = []
    for metric in dict.fromkeys((metric_named("loss"), run.headline, watched)):
        values = run.series(f"validation.{metric.name}")
        change = float(values[kept] - values[last]) * (1 if metric.higher_is_better else -1)
        if told := _amount(metric, abs(change), abs(float(values[last]))):
            (better if change > 0 else worse).append(told)
    verbs = ("gained", "cost") if run.finished else ("gains", "costs")
    told = " and ".join(
        f"{verb} {_listed(each)}" for verb, each in zip(verbs, (better, worse), strict=True) if each
    )
    if not told:
        return ""
    chosen = f"the best by {'training' if part == 'train' else part} {watched.title}"
    weights = f"{_place(run, kept)}{'' if run.monitor == 'validation.loss' else f', {chosen},'}"
    others = f"the last {run.progress[1]}'s" if last == len(run.rows) - 1 else f"those of {_place(run, last)}"
    measured_on = f"on the validation part{', which chose them' if part == 'validation' else ''}"
    return f"Keeping the weights of {weights} {told} against {others}{_so_far(run)}, {measured_on}."


def _amount(metric: Metric, change: float, old: float) -> str:
    """A difference in words and units; empty where there is none to speak of, or it was not measured."""
    if not change >= _LEAST * (1.0 if metric.percent else old):
        return ""
    if metric.percent:
        return f"{100 * change:.1f} points of {metric.title}"
    unit = metric.title if metric.name == "bits" else f"of {metric.title}"
    if metric.higher_is_better or not old:  # R² has no zero that a share could be of
        return f"{significant(change)} {unit}"
    share = change / old
    return f"{significant(change)} {unit} ({share:.{0 if share >= 0.0095 else 1}%})"


def _place(run: Run, row: int) -> str:
    at, unit = run.progress
    return f"{unit} {at[row]:,.0f}"


def _so_far(run: Run) -> str:
    return "" if run.finished else " so far"


def _listed(words: list[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
