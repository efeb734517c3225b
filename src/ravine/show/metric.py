"""How the numbers of a run are named and written for people, in the terminal and in the report."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# The metric that sums a run of each task up in one number.
HEADLINES = {"classification": "accuracy", "regression": "rmse", "language": "bits"}


@dataclass(frozen=True)
class Metric:
    """A measured quantity.

    Attributes:
        name: its key, for example "accuracy".
        title: what people read, for example "bits per character".
        higher_is_better: which way is up.
        percent: whether its values are fractions, written as percentages.
        guess: what the baseline does.
    """

    name: str
    title: str
    higher_is_better: bool = False
    percent: bool = False
    guess: str = "the baseline"

    def text(self, value: float | None, digits: int = 1) -> str:
        """A value in words and units: "98.1%" or "53.20"; `digits` after the point of a percentage."""
        if value is None or value != value:
            return "–"
        return f"{100 * value:.{digits}f}%" if self.percent else significant(value)


_KNOWN = {
    metric.name: metric
    for metric in (
        Metric("loss", "loss"),
        Metric("accuracy", "accuracy", True, True, "always the most frequent class"),
        Metric("rmse", "root mean squared error", guess="always the mean"),
        Metric("mae", "mean absolute error", guess="always the mean"),
        Metric("r2", "R²", True, guess="always the mean"),
        Metric("bits", "bits per character", guess="by the frequency of each character"),
    )
}


def metric_named(name: str) -> Metric:
    """The metric of a key; an unknown key is its own title, and lower is taken as better."""
    return _KNOWN.get(name) or Metric(name, name.replace("_", " "))


def significant(value: float) -> str:
    """A number with three or four significant digits, zeros kept: "0.0700", "2.303", "53.20", "1,204"."""
    if value != value:
        return "–"
    magnitude = abs(value)
    if magnitude and not 1e-4 <= magnitude < 1e6:
        return f"{value:.1e}"
    if magnitude >= 1:
        return f"{value:,.{max(4 - len(str(int(magnitude))), 0)}f}"
    return f"{value:.{2 - math.floor(math.log10(magnitude)) if magnitude else 3}f}"


def rate(value: float) -> str:
    """A learning rate, short: "0.001", "3.2e-05"."""
    return "–" if value != value else f"{value:.2g}" if value < 1e-3 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """A time span: "0.4 s", "12.3 s", "4 min 05 s", "2 h 13 min"."""
    if seconds != seconds or seconds == float("inf"):
        return "–"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def clock(seconds: float) -> str:
    """A time span as narrow as a table wants it: "12.3 s", "4:05", "2:13:05"."""
    if not 59.95 <= seconds < float("inf"):
        return duration(seconds)
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def count(value: float) -> str:
    """A large number, short: "870", "12.4k", "350k", "3.1M"."""
    if value < 9999.5:
        return f"{value:,.0f}"
    size, unit = next(
        pair for pair in ((1e3, "k"), (1e6, "M"), (1e9, "G")) if value < 999.5 * pair[0] or pair[0] == 1e9
    )
    return f"{value / size:.{0 if value >= 99.95 * size else 1}f}".removesuffix(".0") + unit


def interval_of(scores: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    """The 95 % interval of a metric in a table of scores, where it has one."""
    ends = scores.get(f"{name}_interval")
    if not isinstance(ends, list | tuple) or len(ends) != 2 or None in ends:
        return None
    return float(ends[0]), float(ends[1])


def gain_text(metric: Metric, gained: Mapping[str, Any]) -> str:
    """What was gained, with its interval: better is positive, whichever way the metric is better.

    Args:
        metric: of which.
        gained: differences by name, and their intervals.
    """
    value, ends = gained.get(metric.name), interval_of(gained, metric.name)
    if not isinstance(value, int | float):
        return "–"
    if not metric.higher_is_better:
        value, ends = 0.0 - value, ends and (0.0 - ends[1], 0.0 - ends[0])  # no gain is no "-0"
    if not metric.percent:
        told = f"{value:+.3g} {metric.title}"
        return told if ends is None else f"{told} ({ends[0]:+.3g} to {ends[1]:+.3g})"
    told = f"{100 * value:+.1f} points"
    return told if ends is None else f"{told} ({100 * ends[0]:+.1f} to {100 * ends[1]:+.1f})"


def interval_text(metric: Metric, ends: tuple[float, float]) -> str:
    """An interval in words: "96.4% to 99.2%"."""
    return f"{metric.text(ends[0])} to {metric.text(ends[1])}"
