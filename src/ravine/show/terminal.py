"""Training in the terminal: a live table, or plain lines where nobody watches."""

import atexit
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from rich import progress as bars
from rich.console import Console
from rich.live import Live
from rich.text import Text

from ..training.progress import Progress
from .columns import Row, Table, number, table_for
from .metric import HEADLINES, count, duration, interval_of, interval_text, metric_named, significant

_REFRESHES_PER_SECOND = 8
_ROWS_LIVE = 12
_ROWS_KEPT = 40
_PLAIN_SECONDS = 1.0
_PLAIN_ROWS = 40
_ASCII = str.maketrans("·●━─–²", "-*#--2")  # each one character, so that columns stay aligned


class TerminalProgress(Progress, Protocol):
    """A `Progress` to be used in a `with` block, which gives the terminal back whatever happens."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def progress(console: Console | None = None) -> TerminalProgress:
    """What suits the console (default: standard output): a live table, or plain lines for logs and pipes."""
    console = console or Console()
    if console.is_terminal and not console.is_dumb_terminal and not console.is_jupyter:
        return LiveTable(console)
    return PlainLines(console)


class _Teller:
    """What both ways have in common: the first lines, notices, and the last lines."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.facts: Mapping[str, object] = {}
        self._early: list[Text] = []
        self.rows: list[Row] = []
        self.best: int | None = None
        self._table: Table | None = None
        self._width = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._say_early()
        self.close()

    def close(self) -> None:
        """Give the terminal back."""

    def say(self, text: Text) -> None:
        """Print one line; in a file lines are never folded, in a terminal at its edge."""
        self.console.print(self.fit(text), soft_wrap=not self.console.is_terminal)

    def fit(self, text: Text) -> Text:
        """The same text, in letters that the console's encoding has."""
        if self.console.options.ascii_only:
            text.plain = text.plain.translate(_ASCII).encode("ascii", "replace").decode()
        return text

    def begin(self, facts: Mapping[str, object]) -> None:
        """Say what is trained on what, and where."""
        self.facts = facts
        items = facts.get("items")
        sizes = (
            " + ".join(f"{part} {size:,}" for part, size in items.items())
            if isinstance(items, Mapping)
            else ""
        )
        parameters = number(facts, "parameters")
        model = f"{facts.get('model')}, {count(parameters)} parameters" if parameters == parameters else ""
        parts = [str(facts.get("kind", "")), sizes, model, str(facts.get("device", ""))]
        line = Text(f"{facts.get('data', '')}", style="bold")
        line.append("".join(f" · {part}" for part in parts if part), style="not bold dim")
        self.say(line)
        self._say_early()

    def notice(self, level: str, text: str) -> None:
        """Print what was noticed: above the table, or below the first line where that is still to come."""
        if level == "warning":
            line = Text.assemble(("warning: ", "bold yellow"), text)
        else:
            line = Text(f"noticed: {text}", style="dim")
        self._early.append(line)
        if self.facts:
            self._say_early()

    def _say_early(self) -> None:
        waiting, self._early = self._early, []
        for line in waiting:
            self.say(line)

    def evaluated(self, row: Row, best: bool) -> None:
        """Remember an evaluation."""
        self.rows.append(row)  # before `best` moves: the thread that draws looks `best` up in `rows`
        if best:
            self.best = len(self.rows) - 1

    def end(self, result: Mapping[str, object], folder: Path) -> None:
        """The score beside the baseline, how the training went, and where everything is."""
        self.close()
        for line in _score_lines(result):
            self.say(line)
        self.say(Text(_story(result), style="dim"))
        for name, file in (("report", "report.html"), ("model", "model.safetensors")):
            self.say(Text.assemble((f"{name:<8}", "dim"), str(folder / file)))

    @property
    def epochs(self) -> int | None:
        """How many epochs there will be at most, where that is known."""
        told = number(self.facts, "epochs")
        return int(told) if told == told and told > 0 else None

    def table(self, width: int) -> Table:
        """The columns for the rows seen, made anew only when the terminal's width changed."""
        if self._table is None or self._width != width:
            self._width = width
            self._table = table_for(self.rows[0], self.epochs, str(self.facts.get("monitor", "")), width)
        return self._table

    def row_text(self, table: Table, position: int) -> Text:
        """The line of one evaluation; the best one so far stands out."""
        if position == self.best:
            return Text(table.line(self.rows[position], "●"), style="bold green", no_wrap=True)
        return Text(table.line(self.rows[position]), no_wrap=True)


class PlainLines(_Teller):
    """Aligned lines for logs and pipes: the first evaluation, the last, and a few dozen between."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: seconds, for tests."""
        super().__init__(console)
        self._clock = clock
        self._printed: list[int] = []
        self._next_time = 0.0
        self._next_share = 0.0
        self._pause = _PLAIN_SECONDS

    def tick(self, state: Mapping[str, object]) -> None:
        """Nothing: evaluations tell enough."""

    def evaluated(self, row: Row, best: bool) -> None:
        """Print it if a line is due: at most one a second, and some dozens in all."""
        super().evaluated(row, best)
        share, now = self._share(row), self._clock()
        if self._printed and (now < self._next_time or (share is not None and share < self._next_share)):
            return
        self._print(len(self.rows) - 1)
        if share is None:  # no end in sight: ever longer pauses keep the log short
            self._pause *= 1.1
        else:
            self._next_share = share + 1 / (_PLAIN_ROWS + 0.5)
        self._next_time = now + self._pause

    def close(self) -> None:
        """Print the best evaluation and the last, if they were not yet."""
        last = len(self.rows) - 1
        if self.best is not None and self.best not in (*self._printed, last):
            self._print(self.best)
        if self.rows and last not in self._printed:
            self._print(last)

    def _print(self, position: int) -> None:
        table = self.table(self.console.width)
        if not self._printed:
            self.say(Text(table.head(), style="dim"))
        self.say(self.row_text(table, position))
        self._printed.append(position)

    def _share(self, row: Row) -> float | None:
        """How much of all steps is done, where the number of all steps is known."""
        steps = number(self.facts, "steps_per_epoch") * (self.epochs or 0)
        done = number(row, "step") / steps if steps > 0 else float("nan")
        return done if done == done else None


class LiveTable(_Teller):
    """The newest evaluations and a bar, drawn anew a few times a second by a thread of rich's.

    `tick` and `evaluated` only remember what they are told: drawing costs the training nothing.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._state: Mapping[str, object] = {}
        self._live: Live | None = None

    def begin(self, facts: Mapping[str, object]) -> None:
        """Print what is trained, then take over the lines below."""
        super().begin(facts)
        self._live = Live(
            get_renderable=self.picture,
            console=self.console,
            refresh_per_second=_REFRESHES_PER_SECOND,
            transient=True,
            vertical_overflow="crop",
        )
        atexit.register(self._release)  # the cursor comes back even where nobody used `with`
        self._live.start()

    def tick(self, state: Mapping[str, object]) -> None:
        """Remember where training is."""
        self._state = state

    def close(self) -> None:
        """Leave the table in the terminal: all of it, or of hundreds of rows a few dozen."""
        if self._live is None:
            return
        self._release()
        if not self.rows:
            return
        table = self.table(self.console.width)
        self.say(Text(table.head(), style="dim", no_wrap=True))
        positions = kept_rows(len(self.rows), self.best, _ROWS_KEPT)
        for position in positions:
            self.say(self.row_text(table, position))
        if len(positions) < len(self.rows):
            said = f"  {len(positions)} of {len(self.rows)} evaluations; metrics.jsonl holds them all"
            self.say(Text(said, style="dim"))

    def _release(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            atexit.unregister(self._release)
            live.stop()

    def picture(self) -> Text:
        """What the live lines show now."""
        lines = []
        seen = len(self.rows)
        if seen:
            table = self.table(self.console.width)
            first = max(0, seen - max(1, min(_ROWS_LIVE, self.console.height - 4)))
            lines = [Text(table.head(), style="dim")]
            if self.best is not None and self.best < first:
                first += 1
                lines.append(self.row_text(table, self.best))
            lines += [self.row_text(table, position) for position in range(first, seen)]
        lines.append(self._bar_line())
        return self.fit(Text("\n", no_wrap=True, overflow="crop").join(lines))

    def _bar_line(self) -> Text:
        state = self._state
        if not state:
            return Text("starting", style="dim")
        epoch = f"epoch {number(state, 'epoch'):g}" + (f"/{self.epochs}" if self.epochs else "")
        words = [epoch]
        for name, text in (
            ("loss", f"loss {significant(number(state, 'loss'))}"),
            ("samples_per_second", f"{count(number(state, 'samples_per_second'))} samples/s"),
            ("seconds_left", f"{duration(number(state, 'seconds_left'))} left"),
        ):
            if number(state, name) == number(state, name):
                words.append(text)
        line = Text("  " + " · ".join(words))
        room = min(self.console.width - len(line.plain) - 2, 24)
        steps = number(state, "steps_per_epoch") * (self.epochs or 0)
        if room >= 6 and steps > 0:
            done = round(room * min(1.0, number(state, "step") / steps))
            line = Text("  ").append("━" * done, "cyan").append("─" * (room - done), "dim") + line
        return line


@contextmanager
def work(console: Console, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for work that is no single training: call what is given with how much is done, and of how much.

    Args:
        console: a terminal shows the bar until the work ends; a file or a pipe gets nothing.
        unit: what is counted, for example "epochs".
    """
    columns = (
        bars.BarColumn(bar_width=32, style="dim", complete_style="cyan", finished_style="cyan"),
        bars.TextColumn("{task.completed}/{task.total} " + unit, style="dim"),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, planned: bar.update(task, completed=done, total=planned)


def kept_rows(rows: int, best: int | None, limit: int) -> list[int]:
    """At most `limit` positions out of `rows`, evenly spaced, with the first, the last and the best."""
    if rows <= limit:
        return list(range(rows))
    spaced = {round(place * (rows - 1) / (limit - 2)) for place in range(limit - 1)}
    return sorted(spaced | ({best} if best is not None else set()))


def _score_lines(result: Mapping[str, object]) -> list[Text]:
    """The test score (or the validation score, where there is no test part) beside the baseline."""
    metric = metric_named(HEADLINES.get(str(result.get("task")), "loss"))
    for part in ("test", "validation"):
        scores = result.get(part)
        if not isinstance(scores, Mapping) or number(scores, metric.name) != number(scores, metric.name):
            continue
        line = Text.assemble(
            f"{part} {metric.title} ", (metric.text(number(scores, metric.name)), "bold green")
        )
        ends = interval_of(scores, metric.name)
        if ends:
            line.append(f"  (95% interval {interval_text(metric, ends)})")
        baseline = result.get("baseline")
        guess = number(baseline, metric.name) if isinstance(baseline, Mapping) else float("nan")
        told = [] if guess != guess else [Text(f"{metric.guess}: {metric.text(guess)}", style="dim")]
        return [line, *told]
    return []


def _story(result: Mapping[str, object]) -> str:
    parts = [f"best epoch {number(result, 'best_epoch'):g} of {number(result, 'epochs'):g}"]
    parts.append(duration(number(result, "seconds")))
    if result.get("stopped"):
        parts.append(f"stopped: {result['stopped']}")
    return " · ".join(parts)
