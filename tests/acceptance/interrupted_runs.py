"""Trains in child processes that are killed, and says how it went: run by `test_kills.py`.

Children are forked from a process that has imported everything, so that a kill costs a fraction of a second
and many moments can be tried. One thread, because a fork copies only one.
"""

import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ravine.errors import RavineError
from ravine.training import parts  # noqa: F401  imports everything before the first fork
from ravine.training import run as runs

PEEK = os.WEXITED | os.WNOHANG | os.WNOWAIT
SETTINGS = {
    "seed": 5,
    "augment": ["shift"],
    "model": {"name": "cnn", "width": 8, "dropout": 0.1},
    "optimizer": {"name": "adamw", "lr": 0.003, "average": 0.9},
    "log": {"checkpoint_seconds": 0.0},
    "stop": {"epochs": 4},
}


def child(work: Callable[[], object]) -> int:
    """Run `work` in a forked process; its process number."""
    process = os.fork()
    if process == 0:
        try:
            work()
        except RavineError as error:
            sys.stderr.write(f"{error}\n")
            sys.stderr.flush()
            os._exit(error.exit_code)
        os._exit(0)
    return process


def code_of(process: int) -> int:
    """Wait for a process; its exit code, negative where a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def begin_or_resume(folder: Path) -> None:
    if folder.exists():
        runs.resume(folder)
    else:
        runs.train(None, "digits", settings=[SETTINGS], out=folder)


def kills(folder: Path, seed: int, most: int) -> dict[str, object]:
    """Kill the run at up to `most` random moments, half of them while a checkpoint is being written."""
    chance = random.Random(seed)
    killed = 0
    for _ in range(most):
        process = child(lambda: begin_or_resume(folder))
        in_checkpoint, latest = chance.random() < 0.5, time.monotonic() + 2
        moment = time.monotonic() + chance.uniform(0.05, 0.9)
        while time.monotonic() < (latest if in_checkpoint else moment):
            caught = in_checkpoint and any(folder.glob("checkpoints/.step-*"))
            if caught or os.waitid(os.P_PID, process, PEEK):
                break
        os.kill(process, signal.SIGKILL)
        if code_of(process) == 0:
            break
        killed += 1
    return {"killed": killed, "code": code_of(child(lambda: finish(folder)))}


def finish(folder: Path) -> None:
    if not (folder / "result.json").exists():
        begin_or_resume(folder)


def full_disk(folder: Path) -> dict[str, object]:
    """Let the disk refuse larger files from some moment on, then give it room again and resume."""
    process = child(lambda: begin_or_resume(folder))
    while not any(folder.glob("checkpoints/step-*")):
        time.sleep(0.001)
    resource.prlimit(process, resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    refused = code_of(process)
    left = sorted(path.name for path in (folder / "checkpoints").iterdir())
    return {"refused": refused, "left": left, "code": code_of(child(lambda: begin_or_resume(folder)))}


def main() -> None:
    action, folder, seed, most = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    torch.set_num_threads(1)
    if action == "whole":
        told: dict[str, object] = {"code": code_of(child(lambda: begin_or_resume(folder)))}
    else:
        told = kills(folder, seed, most) if action == "kills" else full_disk(folder)
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
