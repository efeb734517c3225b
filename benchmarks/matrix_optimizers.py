"""Muon, Shampoo and SOAP beside their peers: SOAP and Shampoo of pytorch_optimizer, torch's Muon.

64 matrices of 512×512 and 64 vectors of 512; Muon has the matrices alone. Bases and roots are worked out
anew every ten steps on both sides. A round is such a cycle of ten steps of the one and then of the other;
medians over the rounds of the time a step, the whole cycle counted, and of the steps without a refresh.
Asked: SOAP and Shampoo take at most 0.7 times the peer's time, Muon no more than torch's.

    pip install -c constraints.txt -r benchmarks/requirements.txt
    python benchmarks/matrix_optimizers.py [NAME ...] [--matrices 64] [--rounds 5] [--threads N]
"""

import argparse
import importlib.util
import time
from collections.abc import Callable
from statistics import mean, median
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from ravine.optim.matrix import SOAP, Muon, Shampoo
from running import verdict

CYCLE = 10
SIZE = 512
MATRIX_RATIO = 0.7
MUON_RATIO = 1.0

Make = Callable[[list[Tensor]], Optimizer]


class Contest(NamedTuple):
    """Two optimizers that do the same, and the ratio that is asked."""

    ours: Make
    peer: str
    theirs: Make
    vectors: bool
    asked: float


def peer(name: str, **options: object) -> Make:
    def make(params: list[Tensor]) -> Optimizer:
        import pytorch_optimizer

        return getattr(pytorch_optimizer, name)(params, **options)

    return make


CONTESTS = {
    "soap": Contest(
        lambda params: SOAP(params, precondition_frequency=CYCLE),
        "pytorch_optimizer",
        peer("SOAP", precondition_frequency=CYCLE),
        True,
        MATRIX_RATIO,
    ),
    # As the peer has it: sums in place of averages, no momentum, no grafting; vectors have a side, too.
    "shampoo": Contest(
        lambda params: Shampoo(
            params, betas=(0.0, 1.0), eps=1e-6, grafting=None, precondition_frequency=CYCLE
        ),
        "pytorch_optimizer",
        peer("Shampoo", preconditioning_compute_steps=CYCLE),
        True,
        MATRIX_RATIO,
    ),
    "muon": Contest(Muon, "torch", torch.optim.Muon, False, MUON_RATIO),
}


class Times(NamedTuple):
    """Seconds a step: the mean of a cycle, and the median of its steps without a refresh."""

    cycle: float
    plain: float


def parameters(matrices: int, vectors: bool) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(SIZE, SIZE)] * matrices + [(SIZE,)] * (matrices if vectors else 0)
    params = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    for parameter in params:
        parameter.grad = 1e-2 * torch.randn(parameter.shape, generator=generator)
    return params


def cycle(optimizer: Optimizer) -> Times:
    """Ten steps; the slowest is the one with the refresh, or is no slower than the others."""
    seconds = []
    for _ in range(CYCLE):
        started = time.perf_counter()
        optimizer.step()
        seconds.append(time.perf_counter() - started)
    return Times(mean(seconds), median(sorted(seconds)[:-1]))


def compare(name: str, matrices: int, rounds: int) -> None:
    contest = CONTESTS[name]
    sides = [make(parameters(matrices, contest.vectors)) for make in (contest.ours, contest.theirs)]
    for optimizer in sides:  # the first bases, the compilation, and what allocation there is
        for _ in range(2):
            optimizer.step()
    found: list[list[Times]] = [[], []]
    for _ in range(rounds):
        for times, optimizer in zip(found, sides, strict=True):
            times.append(cycle(optimizer))
    for label, field in (("whole cycle", 0), ("no refresh", 1)):
        ours, theirs = (1e3 * median(each[field] for each in times) for times in found)
        line = f"{name:10}{label:14}{ours:9.1f} ms{contest.peer:>20}{theirs:9.1f} ms{ours / theirs:8.2f} x"
        judged = field == 0
        print(
            line
            + (f"   at most {contest.asked} x   {verdict(ours / theirs <= contest.asked)}" if judged else "")
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="soap, shampoo, muon; all of them by default"
    )
    parser.add_argument("--matrices", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.threads} threads, {options.rounds} rounds of {CYCLE} steps, {options.matrices} matrices")
    for name in options.names or CONTESTS:
        if CONTESTS[name].peer != "torch" and importlib.util.find_spec(CONTESTS[name].peer) is None:
            print(f"{name:10}{CONTESTS[name].peer} is not installed")
            continue
        compare(name, options.matrices, options.rounds)


if __name__ == "__main__":
    main()
