"""What a step of BFGS, L-BFGS and Newton costs beside its function, over the number of parameters n.

BFGS: learning from a step and the next direction, O(n²). L-BFGS: the same, O(m·n) for m remembered pairs.
Newton: a factorization of the exact Hessian, tested for being positive definite, and its step, O(n³). Each
against the bare matrix products or factorizations that it consists of, in turn. The work of all rounds is the
same, so the least disturbed one counts; exponents are fitted to the logarithms.

    python benchmarks/newton_costs.py [--rounds 7] [--threads 1] [--draw costs.html]
"""

import argparse
import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ravine.lab.bench import using_threads
from ravine.lab.bench.timing import clock_for, interleaved
from ravine.optim.full_batch.bfgs import InverseHessian
from ravine.optim.full_batch.curvature import observe
from ravine.optim.full_batch.damping import damped
from ravine.optim.full_batch.history import History
from running import verdict

AT_MOST = 2.0
# A fitted exponent may be off by this much. Sizes are such that all or none of a study is in the caches, or
# their edge would count as growth.
SLACK = 0.35
F64 = torch.float64


@dataclass(frozen=True)
class Work:
    """A step of a method, or its bare matrix work, as a contender of `interleaved`."""

    step: Callable[[], object]

    def prepare(self) -> None:
        """Nothing changes between steps."""


@dataclass(frozen=True)
class Study:
    """One method over sizes.

    Attributes:
        name: what is printed.
        exponent: of the growth with `sizes`.
        sizes: of what grows.
        make: from a size to the method's step and its bare work.
    """

    name: str
    exponent: int
    sizes: Sequence[int]
    make: Callable[[int], tuple[Work, Work]]


def curved(n: int, pairs: int) -> list[tuple[Tensor, Tensor]]:
    """Steps and changes of the gradient of a quadratic with curvatures from 1 to 10."""
    curvatures = torch.linspace(1, 10, n, dtype=F64)
    steps = [torch.randn(n, dtype=F64) for _ in range(pairs)]
    return [(s, curvatures * s) for s in steps]


def bfgs(n: int) -> tuple[Work, Work]:
    pairs = itertools.cycle(curved(n, 3))
    gradient = torch.randn(n, dtype=F64)
    learned = InverseHessian(gradient)

    def step() -> None:
        learned.add(observe(*next(pairs)))
        learned.direction(gradient)

    matrix, two = torch.eye(n, dtype=F64), 1e-9 * torch.randn(n, 2, dtype=F64)

    def bare() -> None:
        torch.mv(matrix, gradient)
        matrix.addmm_(two, two.T)
        torch.mv(matrix, gradient)

    return Work(step), Work(bare)


def lbfgs(n: int, memory: int) -> tuple[Work, Work]:
    # Few vectors, because those of a real step have just been computed and are in the caches.
    pairs = itertools.cycle(curved(n, 3))
    gradient = torch.randn(n, dtype=F64)
    history = History(memory, gradient)
    for _ in range(memory):
        history.add(observe(*next(pairs)))

    def step() -> None:
        history.add(observe(*next(pairs)))
        history.direction(gradient)

    steps, changes = torch.randn(2, memory, n, dtype=F64)
    few = torch.randn(memory, dtype=F64)

    def bare() -> None:
        torch.mv(steps, gradient)  # to learn; the others are the direction's two loops
        torch.mv(steps, gradient)
        torch.mv(changes.T, few)
        torch.mv(changes, gradient)
        torch.mv(steps.T, few)

    return Work(step), Work(bare)


def newton(n: int) -> tuple[Work, Work]:
    half = torch.randn(n, n, dtype=F64) / math.sqrt(n)
    hessian = half @ half.T
    hessian.diagonal().add_(0.1)
    gradient = torch.randn(n, dtype=F64)

    def step() -> None:
        damped(hessian).solve(-gradient)

    def bare() -> None:
        lower, _ = torch.linalg.cholesky_ex(hessian)
        torch.cholesky_solve(gradient.unsqueeze(1), lower)

    return Work(step), Work(bare)


STUDIES = (
    Study("BFGS, n²", 2, (4000, 5000, 6300, 8000), bfgs),
    Study("L-BFGS of 10 pairs, n", 1, (400_000, 800_000, 1_600_000, 3_200_000), lambda n: lbfgs(n, 10)),
    Study("L-BFGS at n = 500,000, m", 1, (5, 10, 20, 40), lambda m: lbfgs(500_000, m)),
    Study("Newton, n³", 3, (700, 1000, 1400, 2000), newton),
)


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """The slope of the line through the logarithms."""
    return statistics.linear_regression([math.log(n) for n in sizes], [math.log(t) for t in seconds]).slope


def measure(study: Study, rounds: int) -> list[list[float]]:
    """Seconds of the steps and of the bare work, at each size; prints them."""
    print(f"{study.name:<26}{'step':>12}{'bare work':>12}{'ratio':>8}")
    taken: list[list[float]] = [[], []]
    for size in study.sizes:
        turns = interleaved(study.make(size), rounds, clock_for(torch.device("cpu")))
        for series, seconds in zip(taken, turns, strict=True):
            series.append(min(seconds))
        step, bare = taken[0][-1], taken[1][-1]
        print(f"{size:>26,}{step * 1e3:9.3f} ms{bare * 1e3:9.3f} ms{step / bare:8.2f}")
    worst = max(step / bare for step, bare in zip(*taken, strict=True))
    grown = [exponent(study.sizes, series) for series in taken]
    print(f"{'fitted exponent':<26}{grown[0]:12.2f}{grown[1]:12.2f}")
    print(f"  grows with exponent {study.exponent}: {verdict(abs(grown[0] - study.exponent) <= SLACK)}")
    print(f"  at most {AT_MOST:g} times the bare work: {verdict(worst <= AT_MOST)}\n")
    return taken


def draw(path: Path, measured: Sequence[list[list[float]]]) -> None:
    """The costs over n, both axes logarithmic: the growth is the slope."""
    from ravine.show.figures.theme import HUES, blank, line, log_axis
    from ravine.show.page import write_figure

    figure = blank("Cost of a step", "parameters n (logarithmic)", "seconds (logarithmic)", height=460)
    of_n = [(study, taken) for study, taken in zip(STUDIES, measured, strict=True) if study.sizes[0] > 100]
    for (study, (steps, bare)), color in zip(of_n, HUES, strict=False):
        figure.add_trace(line(study.sizes, steps, study.name, color, mode="lines+markers"))
        style = {"color": color, "width": 1, "dash": "dot"}
        figure.add_trace(line(study.sizes, bare, "its bare work", color, line=style, showlegend=False))
    log_axis(figure, [n for study, _ in of_n for n in study.sizes], "x")
    log_axis(figure, [seconds for _, taken in of_n for seconds in taken[0] + taken[1]])
    figure.update_layout(showlegend=True)
    write_figure(path, figure, "What a step costs", "Solid: the whole step. Dotted: its bare matrix work.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--draw", type=Path, metavar="HTML")
    options = parser.parse_args()
    torch.manual_seed(0)
    with using_threads(options.threads) as threads:
        print(f"float64, {threads} threads, {options.rounds} rounds\n")
        measured = [measure(study, options.rounds) for study in STUDIES]
    if options.draw:
        draw(options.draw, measured)


if __name__ == "__main__":
    main()
