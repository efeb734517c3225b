"""The command line as people call it: the installed program, or, to save seconds, its `main`."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from ravine.cli import main

PROGRAM = str(Path(sys.executable).with_name("ravine"))


class Said(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def program() -> Callable[..., Said]:
    """Run the installed program in its own process."""

    def run(*arguments: object, **options: object) -> Said:
        done = subprocess.run(
            [PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=120, **options
        )
        return Said(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def ravine(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run a command in this process, where torch is loaded already."""

    def run(*arguments: object) -> Said:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Said(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three short runs: `digits`, `prices` (a table with gaps and categories) and `text`."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "prices.csv").write_text(prices_table())
    (folder / "verse.txt").write_text("the quick brown fox jumps over the lazy dog.\n" * 60)
    short = ("--set", "stop.epochs=2")
    for arguments in (
        ("digits", "--out", folder / "digits", *short),
        (folder / "prices.csv", "--set", "data.target=price", "--out", folder / "prices", *short),
        (folder / "verse.txt", "--out", folder / "text", *short, *TINY_TEXT),
    ):
        assert main(["train", *map(str, arguments)]) == 0
    return folder


TINY_TEXT = ("--set", "model.width=16", "--set", "model.depth=1", "--set", "model.context=32")


def prices_table() -> str:
    """150 rows: a number with gaps, a category, and a price that depends on both."""
    lines = ["rooms,district,price"]
    for row in range(150):
        rooms, district = row % 7 + 1, ("north", "south", "west")[row % 3]
        price = 100.0 * rooms + 50 * (row % 3) + (row * 37 % 11)
        lines.append(f"{'' if row % 13 == 0 else rooms},{district},{price}")
    return "\n".join(lines) + "\n"
