"""What the training loop costs on a tiny model: Ravine against the shortest loop that one can write.

A digits MLP (64-64-64-10) at batch 64, 100 epochs a round. The shortest loop takes
whole-tensor batches and torch's fused Adam, and does nothing else; Ravine's loop has its metrics,
evaluation every epoch, logging and checkpoints on, and the first loss and tiny subset are not counted. The
rounds alternate; a figure is the median over rounds of (seconds / steps).

    python benchmarks/loop_overhead.py [--rounds 7]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ravine.training import run as runs
from ravine.training.loop import Loop
from ravine.training.run_folder import RunFolder
from ravine.training.signals import StopRequest

EPOCHS = 100
SETTINGS = {
    "augment": [],
    "precision": "fp32",
    "data": {"batch_size": 64},
    "model": {"name": "mlp", "width": 64, "depth": 2, "normalization": "none"},
    "optimizer": {"name": "adam", "lr": 1e-3, "average": 0.0},
    "schedule": {"name": "none"},
    "stop": {"epochs": EPOCHS},
}


def ravine_loop() -> tuple[float, int]:
    setup = runs.make_setup(None, "digits", None, settings=[SETTINGS])
    with tempfile.TemporaryDirectory() as place, RunFolder.making(Path(place) / "run") as folder:
        loop = Loop(setup, folder, runs.SILENT, StopRequest())
        started = time.perf_counter()
        loop.run()
        return time.perf_counter() - started, loop.state.step


def digits() -> tuple[Tensor, Tensor, Callable[[], nn.Module]]:
    """The same items and the same network that Ravine's loop gets."""
    setup = runs.make_setup(None, "digits", None, settings=[SETTINGS])
    inputs, targets = zip(*setup.feeds["train"].epoch(0), strict=True)
    return torch.cat(inputs), torch.cat(targets), lambda: setup.model


def shortest_loop() -> tuple[float, int]:
    inputs, targets, make = digits()
    model = make()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    steps = 0
    started = time.perf_counter()
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(inputs)).split(64):
            loss = functional.cross_entropy(model(inputs[batch]), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1
    return time.perf_counter() - started, steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    contenders = {"shortest loop": shortest_loop, "ravine": ravine_loop}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, contender in contenders.items():
            taken, steps = contender()
            if turn:  # the first round warms up
                seconds[name].append(taken / steps)
    base = statistics.median(seconds["shortest loop"])
    for name, taken in seconds.items():
        middle = statistics.median(taken)
        print(f"{name:<16}{middle * 1e6:8.0f} µs a step   {middle / base:5.2f} x")


if __name__ == "__main__":
    main()
