"""`ravine train` as a user runs it: the command, in a process of its own."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RAVINE = Path(sys.executable).with_name("ravine")


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser whose `--set` goes to `ravine train`, for a quick try or another setting."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    return parser


def train_command(data: object, out: Path, settings: list[str], *options: str) -> list[str]:
    """The command that trains on `data` and leaves `out`."""
    assigned = [word for setting in settings for word in ("--set", setting)]
    return [str(RAVINE), "train", str(data), "--out", str(out), *options, *assigned]


def train(data: object, settings: list[str], *options: str, quiet: bool = False) -> tuple[float, Any]:
    """Wall seconds of the whole command, its start and the report included, and its `result.json`."""
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "run"
        command = train_command(data, out, settings, *options)
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL if quiet else None)
        return time.perf_counter() - started, json.loads((out / "result.json").read_text())


def verdict(good: bool) -> str:
    """The last word of a line of results."""
    return "pass" if good else "FAIL"
