"""Seconds to 90.0 % test accuracy on Fashion-MNIST: `--recipe fast` against the usual script.

The usual script: a DataLoader over a TensorDataset, batches of 128, Adam at 1e-3, three blocks of 3x3
convolution, batch norm, ReLU and 2x2 max pooling with 32, 64 and 128 channels, a linear head; float32 and
the default memory format, all 60,000 images an epoch. Ravine: its own loop with everything on, on what it
keeps for training after cutting a validation part off.

Both clocks run from the first step to the first end of an epoch at which the test accuracy, taken in float32
by the same function, is high enough. Both stand still during evaluation (Ravine's of the validation part,
and for both that of the test part); Ravine's records and checkpoints are inside. Reading and normalising
the images come before the first step for both. The rounds alternate, each with its own seed.

    python benchmarks/fashion_fast.py [--rounds 3] [--goal 0.9]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from places import data_folder
from ravine.training import run as runs
from ravine.training.data import open_data
from ravine.training.data.batches import TensorBatches
from ravine.training.evaluate import outputs_over
from ravine.training.feed import Feed
from ravine.training.loop import Loop
from ravine.training.run_folder import RunFolder
from ravine.training.signals import StopRequest

RATIO = 10
# The usual script gives up after as many; 90 % takes it a few.
MOST_EPOCHS = 30
Taken = tuple[float, int, float]


class Clock:
    """Seconds since it was made, without those inside `stopped`."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._started = time.perf_counter()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """What is done inside is not counted."""
        self.seconds += time.perf_counter() - self._started
        yield
        self._started = time.perf_counter()


def accuracy(model: nn.Module, feed: Feed) -> float:
    found = outputs_over(model, feed, "classification")
    return (found.outputs.argmax(1) == found.targets).float().mean().item()


class ReachedError(Exception):
    """The test accuracy is high enough."""


class TimedLoop(Loop):
    """Ravine's loop under a clock, ended by the first evaluation that is good enough."""

    goal: float
    score: float
    clock: Clock

    def run(self) -> str:
        """As `Loop.run`; the clock starts."""
        self.clock = Clock()
        return super().run()

    def evaluate(self) -> dict[str, Any]:
        """As `Loop.evaluate`, and the test part, beside the clock."""
        with self.clock.stopped():
            row = super().evaluate()
            self.score = accuracy(self.setup.judged, self.setup.feeds["test"])
            if self.score >= self.goal:
                raise ReachedError
        return row


def ravine_fast(seed: int, goal: float) -> Taken | None:
    setup = runs.make_setup(None, data_folder("fashion-mnist"), "fast", settings=[{"seed": seed}])
    with tempfile.TemporaryDirectory() as place, RunFolder.making(Path(place) / "run") as folder:
        loop = TimedLoop(setup, folder, runs.SILENT, StopRequest())
        loop.goal = goal
        try:
            loop.run()
        except ReachedError:
            return loop.clock.seconds, loop.state.epoch + 1, loop.score
        return None


def usual_script(seed: int, goal: float) -> Taken | None:
    dataset = open_data(data_folder("fashion-mnist"))
    inputs = (dataset.fetch(torch.arange(len(dataset.targets))) / 255 - 0.2860) / 0.3530
    given = (dataset.parts["train"], dataset.parts["test"])
    train, test = (TensorDataset(inputs[part], dataset.targets[part]) for part in given)
    judged = Feed(TensorBatches(*test.tensors, 512, shuffle=False), torch.device("cpu"))
    torch.manual_seed(seed)
    loader = DataLoader(train, batch_size=128, shuffle=True)
    model = nn.Sequential(*block(1, 32), *block(32, 64), *block(64, 128), nn.Flatten(), nn.Linear(1152, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    clock = Clock()
    for epoch in range(1, MOST_EPOCHS + 1):
        model.train()
        for images, labels in loader:
            optimizer.zero_grad()
            functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
        with clock.stopped():
            score = accuracy(model, judged)
            if score >= goal:
                return clock.seconds, epoch, score
    return None


def block(channels: int, width: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--goal", type=float, default=0.9, help="test accuracy")
    options = parser.parse_args()
    contenders: dict[str, Callable[[int, float], Taken | None]] = {
        "usual script": usual_script,
        "ravine fast": ravine_fast,
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for seed in range(options.rounds):
        for name, contender in contenders.items():
            taken = contender(seed, options.goal)
            if taken is None:
                print(f"round {seed}   {name:<14}never reached {options.goal}", flush=True)
                seconds[name].append(float("inf"))
                continue
            spent, epochs, score = taken
            seconds[name].append(spent)
            print(f"round {seed}   {name:<14}{spent:8.2f} s   {epochs:3d} epochs   {score:.4f}", flush=True)
    usual, fast = (statistics.median(taken) for taken in seconds.values())
    print(f"medians: usual script {usual:.2f} s, ravine fast {fast:.2f} s")
    print(f"ratio {usual / fast:.1f} x   at least {RATIO} x   {'pass' if usual >= RATIO * fast else 'FAIL'}")


if __name__ == "__main__":
    main()
