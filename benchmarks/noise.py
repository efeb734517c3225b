"""What noise costs: parts beside torch's own, branches left out, samples beside passes one by one.

Forward and backward of each part and its peer on maps 64x64x16x16 (dropout on 256x4096 too), float32. A
residual network of nine blocks whose branches are left out batch by batch with probability 0.5, beside the
same network with all of them. `average_out(..., "samples", n=16)` on a small CNN at batch 64, whose noise is
in its last third, beside sixteen passes in training mode. Rounds alternate; medians.

    python benchmarks/noise.py [--rounds 15] [--threads N]
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ravine.generalize import Dropout, FeatureDropout, FractionalMaxPool, StochasticDepth, average_out
from ravine.lab.bench import using_threads
from ravine.lab.bench.timing import clock_for, interleaved
from running import verdict

MAPS, ROWS = (64, 64, 16, 16), (256, 4096)
SAMPLES, BATCH = 16, 64
# A ratio of the same work varies by so much from run to run.
ALIKE = 1.05


@dataclass
class Work:
    """A contender of `interleaved`."""

    step: Callable[[], object]

    def prepare(self) -> None:
        """Nothing changes between steps."""


class Pass(Work):
    """Forward and backward of a module."""

    def __init__(self, module: nn.Module, shape: tuple[int, ...]) -> None:
        x, gradient = torch.randn(shape, requires_grad=True), None

        def step() -> None:
            nonlocal gradient
            out = module(x)
            if gradient is None:
                gradient = torch.randn_like(out)
            torch.autograd.grad(out, x, gradient)

        super().__init__(step)


class Block(nn.Module):
    """x + branch(x), with the branch in stochastic depth's hands."""

    def __init__(self, width: int, p: float) -> None:
        super().__init__()
        branch = nn.Sequential(
            *(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))
        )
        self.branch = StochasticDepth(p, "batch", branch)

    def forward(self, x: Tensor) -> Tensor:
        """The block of a residual network without normalization."""
        return torch.relu(x + self.branch(x))


def blocks(p: float) -> Work:
    torch.manual_seed(0)
    network = nn.Sequential(*(Block(32, p) for _ in range(9)))
    return Pass(network, (32, 32, 16, 16))


def fractional(*, overlapping: bool = False) -> tuple[Work, Work]:
    """Regions with sides of 1 and 2, or 2 and 3, beside torch's windows, which all have the larger size."""
    ours = FractionalMaxPool(1.5, overlapping=overlapping)
    theirs = nn.FractionalMaxPool2d(3 if overlapping else 2, output_size=(10, 10))
    return Pass(ours, MAPS), Pass(theirs, MAPS)


def small_cnn() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(FeatureDropout(0.2), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(64 * 16, 128), nn.ReLU(), Dropout(0.5), nn.Linear(128, 10)),
    )


def samples() -> tuple[Work, Work]:
    network, x = small_cnn(), torch.randn(BATCH, 3, 32, 32)

    @torch.no_grad()
    def one_by_one() -> Tensor:
        network.train()
        return torch.stack([network(x) for _ in range(SAMPLES)]).mean(0)

    return Work(lambda: average_out(network, x, "samples", SAMPLES)), Work(one_by_one)


COMPARISONS: dict[str, tuple[Callable[[], tuple[Work, Work]], float]] = {
    "Dropout, rows": (lambda: (Pass(Dropout(0.5), ROWS), Pass(nn.Dropout(0.5), ROWS)), ALIKE),
    "Dropout, maps": (lambda: (Pass(Dropout(0.5), MAPS), Pass(nn.Dropout(0.5), MAPS)), ALIKE),
    "FeatureDropout": (lambda: (Pass(FeatureDropout(0.5), MAPS), Pass(nn.Dropout2d(0.5), MAPS)), ALIKE),
    "FractionalMaxPool": (fractional, ALIKE),
    "FractionalMaxPool, overlapping": (lambda: fractional(overlapping=True), ALIKE),
    "stochastic depth 0.5 / none": (lambda: (blocks(0.5), blocks(0.0)), 0.65),
    "samples / one by one": (samples, 0.5),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    with using_threads(options.threads) as threads:
        print(f"{threads} threads, {options.rounds} rounds\n")
        print(f"{'':<30}{'ravine':>11}{'peer':>12}{'ratio':>9}")
        for name, (make, most) in COMPARISONS.items():
            taken = interleaved(make(), options.rounds, clock_for(torch.device("cpu")))
            ours, theirs = (statistics.median(seconds) * 1e3 for seconds in taken)
            asked = f"   at most {most} x   {verdict(ours / theirs <= most)}"
            print(f"{name:<30}{ours:8.3f} ms{theirs:9.3f} ms{ours / theirs:7.2f} x{asked}")


if __name__ == "__main__":
    main()
