"""Many models trained as one, against the loop over models that everyone writes.

The loop: one model after the other, torch's fused Adam, whole tensors in memory and one gather a batch,
images with the channels last; on as many threads as suit it best. The fleet: `ravine.lab.Fleet` as it comes,
with all that it records, choosing by itself how it runs. Both do the same steps on the same items; neither is
evaluated. Rounds alternate; the least disturbed of each counts, as the work is the same.

    python benchmarks/fleet.py [--members 32] [--rounds 3] [--only mlp64 mlp784 cnn]
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy
import torch
from torch import nn

import loop_over_models
from loop_over_models import perceptron
from ravine.lab import Fleet
from running import verdict

BATCH, CLASSES = 64, 10


@dataclass(frozen=True)
class Study:
    """A network, its inputs and epochs, and how many times the loop's throughput is asked of 32 members."""

    shape: tuple[int, ...]
    items: int
    epochs: int
    make: Callable[[], nn.Module]
    least: float


def convolutional() -> nn.Sequential:
    """Two convolutions of 16 and 32 channels, each halved, and a linear head."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * 7 * 7, CLASSES)),
    )


STUDIES = {
    "mlp64": Study((64,), 4096, 60, partial(perceptron, 64, 64, 64, CLASSES), 5.0),
    "mlp784": Study((784,), 2048, 20, partial(perceptron, 784, 256, 256, CLASSES), 1.5),
    "cnn": Study((1, 28, 28), 512, 20, convolutional, 1.0),
}


def items(study: Study) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 256, (study.items, *study.shape), generator=drawn).float() / 255
    return inputs, torch.randint(CLASSES, (study.items,), generator=drawn)


def fleet(study: Study, members: int, place: Path) -> tuple[float, str]:
    """Seconds of the fleet, and how it ran."""
    settings = {
        "precision": "fp32",
        "augment": [],
        "data": {"batch_size": BATCH, "validation": 0.0, "test": 0.0, "preprocess": "none"},
        "optimizer": {"name": "adam", "lr": 1e-3, "average": 0.0, "weight_decay": 0.0},
        "loss": {"label_smoothing": 0.0},
        "stop": {"epochs": study.epochs},
    }
    made = Fleet(study.make, place, members, settings=[settings])
    started = time.perf_counter()
    made.run()
    taken = time.perf_counter() - started
    choice = next(iter(made.choices.values()))
    return taken, f"{choice.how}, {choice.why}"


def measure(name: str, study: Study, members: int, rounds: int, place: Path) -> None:
    path = place / f"{name}.npz"
    inputs, targets = items(study)
    data = (inputs * 255).byte() if inputs.dim() == 4 else inputs
    numpy.savez(path, x=data.numpy(), y=targets.numpy())
    taken: dict[str, list[float]] = {"loop, 1 thread": [], "loop, 2 threads": [], "fleet": []}
    for _ in range(rounds):
        for threads in (1, 2):
            taken[f"loop, {threads} thread{'s' * (threads > 1)}"].append(
                loop_over_models.seconds(
                    study.make, [1e-3] * members, inputs, targets, study.epochs, BATCH, threads
                )
            )
        seconds, how = fleet(study, members, path)
        taken["fleet"].append(seconds)
    best = {way: min(seconds) for way, seconds in taken.items()}
    steps = members * study.epochs * -(-study.items // BATCH)
    for way, seconds in best.items():
        print(f"{name:<8}{members:4} members  {way:<17}{steps / seconds:10,.0f} steps/s", flush=True)
    ratio = min(best["loop, 1 thread"], best["loop, 2 threads"]) / best["fleet"]
    told = f"at least {study.least:g}   {verdict(ratio >= study.least)}" if members == 32 else ""
    print(f"{name:<8}{members:4} members  ratio {ratio:.2f}   {how}   {told}\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--members", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(STUDIES), default=list(STUDIES))
    options: argparse.Namespace = parser.parse_args()
    chosen: Sequence[str] = options.only
    with tempfile.TemporaryDirectory() as place:
        for name in chosen:
            for members in options.members:
                measure(name, STUDIES[name], members, options.rounds, Path(place))


if __name__ == "__main__":
    main()
