"""What the training loop costs on a tiny model: Ravine against the shortest loop that one can write.

A digits MLP (64-64-64-10) at batch 64, 100 epochs a round. The shortest loop takes
whole-tensor batches and torch's fused Adam, and does nothing else; Ravine's loop has its metrics,
evaluation every epoch, logging and checkpoints on, and the first loss and tiny subset are not counted. In
the same table, each as its users have it (see loop_peers.py): a DataLoader loop, which does nothing else
either, and with evaluation, logging and checkpoints Lightning, skorch and Keras on torch, where they
are installed. All have the same network, items, batch size and Adam's rate, and a processor to compute on.
The rounds alternate; a figure is the median over rounds of (seconds from the first step to the last /
steps).

    pip install -c constraints.txt -r benchmarks/requirements.txt
    python benchmarks/loop_overhead.py [--rounds 7] [--epochs 100]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loop_peers import Taken, Task, keras_loop, lightning_loop, loader_loop, shortest_loop, skorch_loop
from ravine.training import run as runs
from ravine.training.loop import Loop
from ravine.training.run_folder import RunFolder
from ravine.training.setup import Setup
from ravine.training.signals import StopRequest
from running import verdict

BATCH_SIZE = 64
LR = 1e-3
RATIO = 1.15
PEERS = {"lightning": lightning_loop, "skorch": skorch_loop, "keras": keras_loop}


def make_setup(epochs: int) -> Setup:
    settings: dict[str, Any] = {
        "device": "cpu",
        "augment": [],
        "precision": "fp32",
        "data": {"batch_size": BATCH_SIZE},
        "model": {"name": "mlp", "width": 64, "depth": 2, "normalization": "none"},
        "optimizer": {"name": "adam", "lr": LR, "average": 0.0},
        "schedule": {"name": "none"},
        "loss": {"label_smoothing": 0.0},
        "stop": {"epochs": epochs},
    }
    return runs.make_setup(None, "digits", None, settings=[settings])


def ravine_loop(epochs: int) -> Taken:
    setup = make_setup(epochs)
    with tempfile.TemporaryDirectory() as place, RunFolder.making(Path(place) / "run") as folder:
        loop = Loop(setup, folder, runs.SILENT, StopRequest())
        started = time.perf_counter()
        loop.run()
        return time.perf_counter() - started, loop.state.step


def on_same_task(contender: Callable[[Task], Taken]) -> Callable[[int], Taken]:
    """A contender on the same items and the same network that Ravine's loop gets."""

    def run(epochs: int) -> Taken:
        setup = make_setup(epochs)
        train, validation = items(setup, "train"), items(setup, "validation")
        return contender(Task(setup.model, train, validation, BATCH_SIZE, LR, epochs))

    return run


def items(setup: Setup, part: Any) -> tuple[Tensor, Tensor]:
    inputs, targets = zip(*setup.feeds[part].epoch(0), strict=True)
    return torch.cat(inputs), torch.cat(targets)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=100)
    options = parser.parse_args()
    contenders = {
        "shortest loop": on_same_task(shortest_loop),
        "ravine": ravine_loop,
        "DataLoader loop": on_same_task(loader_loop),
    }
    contenders |= {name: on_same_task(peer) for name, peer in PEERS.items() if find_spec(name)}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(options.rounds + 1):
        for name, contender in contenders.items():
            taken, steps = contender(options.epochs)
            if turn:  # the first round warms up
                seconds[name].append(taken / steps)
    middle = {name: statistics.median(taken) for name, taken in seconds.items()}
    base = middle["shortest loop"]
    for name in [*contenders, *(name for name in PEERS if name not in contenders)]:
        if name not in contenders:
            print(f"{name:<16}not installed")
            continue
        line = f"{name:<16}{middle[name] * 1e6:8.0f} µs a step   {middle[name] / base:6.2f} x"
        if name == "ravine":
            line += f"   at most {RATIO} x   {verdict(middle[name] <= RATIO * base)}"
        print(line)


if __name__ == "__main__":
    main()
