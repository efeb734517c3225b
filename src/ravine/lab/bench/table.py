"""The results as aligned lines, written as they come."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

from .configurations import Configuration
from .measure import Result

_GAP = "  "


@dataclass(frozen=True)
class _Column:
    title: str
    width: int
    write: Callable[[Result], str]


class Table:
    """A line an optimizer; packages that are not installed have no column."""

    def __init__(self, configurations: list[Configuration]) -> None:
        """`configurations`: whose lines are to come; their names decide the first column's width."""
        self._name_width = max(len("optimizer"), *(len(one.name) for one in configurations))
        self._columns = [
            _Column("ravine ms", 9, lambda result: _milliseconds(result.ravine)),
            _Column("torch ms", 18, _by("torch")),
            _Column("ratio", 5, lambda result: _shown(result.ratio, ".2f")),
            *(
                _Column(f"{package} ms", max(18, len(package) + 3), _by(package))
                for package in ("pytorch_optimizer", "optax")
                if find_spec(package)
            ),
            _Column("GB/s", 6, lambda result: _gigabytes(result.bandwidth)),
            _Column("of copy", 7, lambda result: _shown(result.share, ".0%")),
            _Column("first step s", 12, lambda result: f"{result.first_step:.3f}"),
        ]

    def head(self) -> str:
        """The titles."""
        return self._line("optimizer", [column.title for column in self._columns])

    def line(self, result: Result) -> str:
        """The line of one result."""
        return self._line(result.configuration.name, [column.write(result) for column in self._columns])

    def _line(self, name: str, cells: list[str]) -> str:
        aligned = [cell.rjust(column.width) for cell, column in zip(cells, self._columns, strict=True)]
        return _GAP.join([name.ljust(self._name_width), *aligned])


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3f}" if seconds < 1e-2 else f"{seconds * 1e3:.1f}"


def _gigabytes(bandwidth: float | None) -> str:
    return _shown(None if bandwidth is None else bandwidth / 1e9, ".1f")


def _shown(figure: float | None, form: str) -> str:
    return "-" if figure is None else format(figure, form)


def _by(package: str) -> Callable[[Result], str]:
    def write(result: Result) -> str:
        fastest = result.fastest(package)
        return "-" if fastest is None else f"{_milliseconds(fastest[1])} ({fastest[0]})"

    return write
