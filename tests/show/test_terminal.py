import io
import json
import re
import time
from pathlib import Path

import made_runs
import pytest
from rich.console import Console

from ravine.show import terminal
from ravine.show.columns import table_for
from ravine.show.terminal import LiveTable, PlainLines, kept_rows, progress

FACTS = {
    "data": "digits",
    "kind": "image",
    "items": {"train": 1150, "validation": 287, "test": 360},
    "model": "cnn",
    "parameters": 35_012,
    "device": "cpu",
    "epochs": 300,
    "steps_per_epoch": 18,
    "monitor": "validation.loss",
    "out": "runs/1",
}
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


def pipe(width=80):
    return Console(file=io.StringIO(), width=width, force_terminal=False)


def screen(width=80, height=25, **more):
    environment = {"TERM": "xterm-256color", **more.pop("environment", {})}
    return Console(
        file=io.StringIO(), width=width, height=height, force_terminal=True, _environ=environment, **more
    )


def result_of(tmp_path, make):
    return json.loads((make(tmp_path / "made") / "result.json").read_text())


def tell(teller, rows, clock=None, pause=0.0):
    best = float("inf")
    teller.begin(FACTS)
    for row in rows:
        if clock is not None:
            clock[0] += pause
        teller.evaluated(row, row["validation.loss"] < best)
        best = min(best, row["validation.loss"])


def test_the_console_decides_on_the_way():
    assert isinstance(progress(screen()), LiveTable)
    assert isinstance(progress(pipe()), PlainLines)
    assert isinstance(progress(screen(environment={"TERM": "dumb"})), PlainLines)


@pytest.mark.parametrize(("pause", "least", "most"), [(0.005, 2, 4), (1.0, 36, 42), (60.0, 36, 42)])
def test_a_log_of_hundreds_of_epochs_stays_short(pause, least, most):
    console, clock = pipe(), [0.0]
    rows = made_runs.rows(300, {"accuracy": (0.1, 0.99)})
    with PlainLines(console, lambda: clock[0]) as teller:
        tell(teller, rows, clock, pause)
    lines = [line for line in console.file.getvalue().splitlines() if "/300" in line]
    assert least <= len(lines) <= most
    assert lines[0].split("/300")[0].strip("● ") == "1"
    assert lines[-1].split("/300")[0].strip("● ") == "300"


def test_a_log_of_few_slow_epochs_has_them_all():
    console, clock = pipe(), [0.0]
    teller = PlainLines(console, lambda: clock[0])
    teller.begin(FACTS | {"epochs": 40})
    for row in made_runs.rows(40, {}):
        clock[0] += 5.0
        teller.evaluated(row, False)
    assert console.file.getvalue().count("/40 ") == 40


def test_a_log_ends_with_the_best_and_the_last_evaluation():
    console = pipe()
    with PlainLines(console, lambda: 0.0) as teller:
        teller.begin(FACTS)
        for at, row in enumerate(made_runs.rows(9, {})):
            teller.evaluated(row, at in (0, 4))
    lines = [line.split("/300")[0].split() for line in console.file.getvalue().splitlines() if "/300" in line]
    assert lines == [["●", "1"], ["●", "5"], ["9"]]


def test_a_log_without_a_known_end_grows_ever_slower():
    console, clock = pipe(), [0.0]
    teller = PlainLines(console, lambda: clock[0])
    teller.begin(FACTS | {"epochs": None})
    for row in made_runs.rows(10_000, {}):
        clock[0] += 1.0
        teller.evaluated(row, False)
    assert len(console.file.getvalue().splitlines()) < 90


@pytest.mark.parametrize("width", [20, 30, 40, 60, 79, 80, 120])
def test_columns_fit_and_align(width):
    rows = made_runs.rows(300, {"accuracy": (0.1, 0.99)})
    table = table_for(rows[0], 300, "validation.loss", width)
    lines = [table.head(), *(table.line(row) for row in rows)]
    assert {len(line) for line in lines} == {table.width}
    assert table.width <= max(width, 19)  # the epoch and the validation loss always stand
    if width >= 80:
        titles = re.split(r"\s{2,}", table.head().strip())
        assert titles == ["epoch", "train loss", "val loss", "accuracy", "gap", "rate", "samples/s", "time"]


def test_numbers_of_any_size_keep_the_columns():
    table = table_for({"validation.loss": 1.0, "validation.rmse": 1.0}, 40, "validation.loss", 100)
    row = {
        "epoch": 40,
        "train.loss": 3.2e9,
        "validation.loss": 1.5e-9,
        "validation.rmse": 123456.7,
        "lr": 1e-12,
    }
    row |= {"samples_per_second": 4.2e8, "seconds": 260_000.0}
    assert len(table.line(row)) == table.width
    assert len(table.line({"epoch": 1, "validation.loss": None})) == table.width


def test_the_watched_metric_is_the_one_shown():
    row = {"validation.loss": 1.0, "validation.rmse": 2.0, "validation.r2": 0.5}
    assert "rmse" in table_for(row, 4, "validation.loss", 100).head()
    assert "r2" in table_for(row, 4, "validation.r2", 100).head()
    assert "top_one" not in table_for(row, 4, "validation.loss", 100).head()


def test_the_end_names_score_baseline_and_files(tmp_path):
    console = pipe()
    teller = PlainLines(console)
    tell(teller, made_runs.rows(3, {"accuracy": (0.1, 0.9)}))
    teller.end(result_of(tmp_path, made_runs.classification), Path("runs/1"))
    said = console.file.getvalue()
    assert "test accuracy 98.1%  (95% interval 96.4% to 99.2%)\nalways the most frequent class: 10.1%" in said
    assert "best epoch 39 of 40 · 14.3 s · stopped: reached 40 epochs" in said
    assert "runs/1/report.html" in said and "runs/1/model.safetensors" in said


@pytest.mark.parametrize(
    ("make", "score"),
    [
        (
            made_runs.regression,
            "test root mean squared error 53.20  (95% interval 46.90 to 59.30)\nalways the mean: 77.00",
        ),
        (made_runs.language, "test bits per character 2.240  (95% interval 2.210 to 2.270)"),
    ],
)
def test_the_end_of_other_tasks(tmp_path, make, score):
    console = pipe(200)
    PlainLines(console).end(result_of(tmp_path, make), tmp_path)
    assert score in console.file.getvalue()


def test_names_from_data_are_no_markup():
    console = pipe()
    teller = PlainLines(console)
    teller.begin(FACTS | {"data": "[red]x[/red]"})
    teller.notice("warning", "class [b]cat[/b] has one item")
    assert "[red]x[/red]" in console.file.getvalue()
    assert "warning: class [b]cat[/b] has one item" in console.file.getvalue()


@pytest.mark.parametrize("begins", [True, False])
def test_what_is_noticed_before_the_beginning_is_said_below_it(begins):
    console = pipe()
    with PlainLines(console) as teller:
        teller.notice("info", "the first loss is 2.31")
        if begins:
            teller.begin(FACTS)
    lines = [line.partition(" ")[0] for line in console.file.getvalue().splitlines()]
    assert lines == (["digits", "noticed:"] if begins else ["noticed:"])


def test_the_live_table_shows_the_newest_rows_the_best_and_a_bar():
    console = screen()
    rows = made_runs.rows(60, {"accuracy": (0.1, 0.99)})
    with LiveTable(console) as teller:
        tell(teller, rows)
        teller.tick({"epoch": 60, "step": 1080, "steps_per_epoch": 18, "loss": 0.1, "seconds_left": 12.5})
        teller.best = 5
        lines = teller.picture().plain.splitlines()
    assert len(lines) == 1 + 12 + 1
    assert lines[1].startswith("●") and " 6/300" in lines[1]
    assert " 60/300" in lines[-2]
    assert "━" in lines[-1] and "epoch 60/300" in lines[-1] and "12.5 s left" in lines[-1]
    assert all(len(line) <= 80 for line in lines)


def test_the_live_table_stays_within_a_small_screen():
    with LiveTable(screen(width=40, height=8)) as teller:
        tell(teller, made_runs.rows(60, {"accuracy": (0.1, 0.99)}))
        lines = teller.picture().plain.splitlines()
    assert len(lines) <= 8


def test_the_whole_table_is_left_behind():
    console = screen()
    with LiveTable(console) as teller:
        tell(teller, made_runs.rows(30, {}))
    left = console.file.getvalue().rpartition(SHOW)[2]
    assert [f"{epoch}/300" in left for epoch in range(1, 31)] == [True] * 30


def test_of_hundreds_of_rows_some_dozens_are_left():
    console = screen()
    with LiveTable(console) as teller:
        tell(teller, made_runs.rows(300, {}))
    left = console.file.getvalue().rpartition(SHOW)[2]
    assert 36 <= left.count("/300") <= 40
    assert "of 300 evaluations; metrics.jsonl holds them all" in left


@pytest.mark.parametrize(("rows", "best", "limit"), [(300, 151, 24), (41, 0, 40), (41, None, 40), (5, 2, 40)])
def test_kept_rows_have_the_ends_and_the_best(rows, best, limit):
    kept = kept_rows(rows, best, limit)
    assert kept == sorted(set(kept)) and len(kept) <= limit
    assert {0, rows - 1} | ({best} - {None}) <= set(kept)


def test_an_exception_gives_the_terminal_back():
    console = screen()
    with pytest.raises(ZeroDivisionError), LiveTable(console) as teller:
        tell(teller, made_runs.rows(3, {}))
        assert HIDE in console.file.getvalue()
        raise ZeroDivisionError
    assert console.file.getvalue().count(SHOW) == 1
    assert "3/300" in console.file.getvalue().rpartition(SHOW)[2]


def test_a_training_that_never_ends_properly_still_gives_the_cursor_back(tmp_path):
    import subprocess
    import sys

    code = (
        "from rich.console import Console\n"
        "from ravine.show.terminal import LiveTable\n"
        "LiveTable(Console(force_terminal=True, width=80, height=25)).begin({'data': 'digits'})\n"
        "raise SystemExit(3)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stdout.count(HIDE) == done.stdout.count(SHOW) == 1


def test_no_color_is_respected():
    coloured, plain = screen(), screen(environment={"NO_COLOR": "1"})
    for console in (coloured, plain):
        with LiveTable(console) as teller:
            tell(teller, made_runs.rows(3, {}))
            teller.notice("warning", "careful")
    colour = re.compile(r"\x1b\[[\d;]*3[0-7]m")
    assert colour.search(coloured.file.getvalue())
    assert not colour.search(plain.file.getvalue())


def test_letters_that_the_console_lacks_are_replaced(tmp_path):
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    console = Console(file=file, width=80)
    teller = PlainLines(console)
    tell(teller, [{"epoch": 1, "validation.loss": 0.5, "train.loss": None}])
    teller.notice("info", "naïve – so")
    teller.end(result_of(tmp_path, made_runs.classification), tmp_path)
    file.flush()
    said = file.buffer.getvalue().decode("ascii")
    assert "na?ve - so" in said and "*   1/300" in said


def test_a_bar_for_other_work_is_shown_and_taken_away():
    console = screen()
    with terminal.work(console, "epochs") as watch:
        watch(3, 12)
        time.sleep(0.25)  # it is drawn ten times a second
    shown = console.file.getvalue()
    assert "3/12 epochs" in shown and shown.rindex(SHOW) > shown.rindex(HIDE)
    log = pipe()
    with terminal.work(log, "epochs") as watch:
        watch(3, 12)
    assert log.file.getvalue() == ""
