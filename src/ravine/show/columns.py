"""The terminal's table of evaluations: which columns there is room for, and what stands in them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .metric import Metric, clock, count, metric_named, rate, significant

Row = Mapping[str, object]

_GAP = "  "
_MARK_WIDTH = 2
_PREFERRED = ("bits", "accuracy", "rmse")


@dataclass(frozen=True)
class Column:
    """A column: its title, its width in characters, and how it writes a row's value."""

    title: str
    width: int
    write: Callable[[Row], str]


@dataclass(frozen=True)
class Table:
    """The columns of one training, as many as fit."""

    columns: Sequence[Column]

    def head(self) -> str:
        """The line of titles."""
        return self._line(" ", [column.title for column in self.columns])

    def line(self, row: Row, mark: str = " ") -> str:
        """The line of an evaluation; `mark` is one character, for the best one."""
        return self._line(mark, [column.write(row) for column in self.columns])

    @property
    def width(self) -> int:
        """Characters of a line."""
        return (
            _MARK_WIDTH + sum(column.width for column in self.columns) + len(_GAP) * (len(self.columns) - 1)
        )

    def _line(self, mark: str, cells: Sequence[str]) -> str:
        aligned = (cell.rjust(column.width) for cell, column in zip(cells, self.columns, strict=True))
        return mark.ljust(_MARK_WIDTH) + _GAP.join(aligned)


def table_for(row: Row, epochs: int | None, monitor: str, width: int) -> Table:
    """The table for evaluations like `row`, at most `width` characters wide.

    The epoch and the validation loss always stand; the least telling columns give way first.

    Args:
        row: the first evaluation: its metrics decide on the score that is shown.
        epochs: how many epochs there will be, where that is known.
        monitor: the watched value; if it is a metric, that is the score shown.
        width: characters of a line.
    """
    metric = shown_metric(row, monitor)
    total = f"/{epochs}" if epochs else ""
    epoch = Column("epoch", max(5, 2 * len(total) - 1), lambda row: f"{number(row, 'epoch'):g}{total}")
    validation = Column("val loss", 8, lambda row: significant(number(row, "validation.loss")))
    optional = [
        (1, Column("train loss", 10, lambda row: significant(number(row, "train.loss")))),
        (3, Column("gap", 7, _gap)),
        (5, Column("rate", 7, lambda row: rate(number(row, "lr")))),
        (4, Column("samples/s", 9, lambda row: count(number(row, "samples_per_second")))),
        (2, Column("time", 8, lambda row: clock(number(row, "seconds")))),
    ]
    if metric is not None:
        optional.insert(1, (0, _score(metric)))
    while True:
        train = [column for _, column in optional if column.title == "train loss"]
        rest = [column for _, column in optional if column.title != "train loss"]
        table = Table([epoch, *train, validation, *rest])
        if table.width <= width or not optional:
            return table
        optional.remove(max(optional, key=lambda pair: pair[0]))


def shown_metric(row: Row, monitor: str) -> Metric | None:
    """The metric beside the loss: the watched one, else the one that people ask for, else any."""
    measured = [key.removeprefix("validation.") for key in row if key.startswith("validation.")]
    watched = monitor.removeprefix("validation.")
    order = (watched, *_PREFERRED, *measured)
    name = next((name for name in order if name in measured and name != "loss"), None)
    return None if name is None else metric_named(name)


def number(row: Row, key: str) -> float:
    """A value of a row; not-a-number where it has none."""
    value = row.get(key)
    return float(value) if isinstance(value, int | float) else float("nan")


def _score(metric: Metric) -> Column:
    title = metric.name.replace("_", " ")[:10]
    return Column(
        title, max(8, len(title)), lambda row: metric.text(number(row, f"validation.{metric.name}"))
    )


def _gap(row: Row) -> str:
    difference = number(row, "validation.loss") - number(row, "train.loss")
    return (
        "–"
        if difference != difference
        else f"{difference:+.3f}"
        if abs(difference) < 100
        else f"{difference:+.0e}"
    )
