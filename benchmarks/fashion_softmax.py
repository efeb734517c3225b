"""Softmax regression on Fashion-MNIST, full batch, float32: seconds to 1e-4 of the best known loss.

784x10 weights and 10 biases from zero, pixels / 255, the mean cross-entropy of the 60,000 training images
+ 1e-4 times the sum of the squared weights; done at a loss of at most (1 + 1e-4) times the best known one.

Full-batch methods minimize the same torch function, and the clock stops at the first evaluation that is low
enough. scikit-learn minimizes the same loss (C = 1 / (2 · 1e-4 · N)); as it cannot be watched, the time is
that of a fit with the fewest iterations that reach the goal, found by bisection. Ravine's Adam takes
mini-batches, its rate falling linearly to zero over the fewest epochs of 10, 20, 40, ... that reach it; the
clock stands still while the full loss is taken. The rounds alternate; medians.

    python benchmarks/fashion_softmax.py [--rounds 3] [--threads N] [--skip NAME ...]
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from minimizers import Noted, ravine, run, scipy, torch_lbfgs
from places import data_folder
from ravine.optim import Adam
from ravine.training.data import open_data
from regression import Regression
from running import verdict

DECAY = 1e-4
# By SciPy's L-BFGS-B with a history of 50 in float64, to a gradient of 1e-7.
BEST_KNOWN = 0.3960236547
GOAL = BEST_KNOWN * (1 + 1e-4)
BATCH, RATE, MOST_EPOCHS = 500, 3e-3, 320
MOST_ITERATIONS = 2000
Contender = Callable[[], float | None]
"""Seconds to the goal, or None if it was never reached."""


class Race:
    """The contenders, on one set of images."""

    def __init__(self) -> None:
        """Reads the images."""
        dataset = open_data(data_folder("fashion-mnist"))
        train = dataset.parts["train"]
        self.inputs = dataset.fetch(train).flatten(1).float() / 255
        self.targets = dataset.targets[train]
        self.problem = Regression(self.inputs, self.targets, decay=DECAY)
        self.found: dict[str, str] = {}
        self._iterations: int | None = None
        self._epochs: int | None = None

    def contenders(self) -> dict[str, Contender]:
        """Each by name."""
        return {
            "ravine lbfgs": lambda: self.full_batch("ravine lbfgs", ravine("lbfgs")),
            "scipy L-BFGS-B": lambda: self.full_batch(
                "scipy L-BFGS-B", scipy("L-BFGS-B", maxcor=10, ftol=0, maxfun=10**6)
            ),
            "torch LBFGS": lambda: self.full_batch("torch LBFGS", torch_lbfgs),
            "scikit-learn lbfgs": self.scikit_learn,
            "ravine adam": self.adam,
        }

    def full_batch(self, name: str, minimizer: Callable[[Noted, Tensor, float], object]) -> float | None:
        """One that minimizes a function it is given."""
        notes = run(minimizer, Noted(self.problem, goal=GOAL), self.problem.x0(), 0.0)
        self.found[name] = f"{len(notes.values)} evaluations"
        return notes.seconds[-1] if notes.values[-1] <= GOAL else None

    def scikit_learn(self) -> float | None:
        """LogisticRegression with the fewest iterations that do."""
        if self._iterations is None:
            self._iterations = fewest(lambda count: self.fitted(count)[1] <= GOAL, MOST_ITERATIONS)
        self.found["scikit-learn lbfgs"] = f"{self._iterations} iterations"
        return None if self._iterations is None else self.fitted(self._iterations)[0]

    def fitted(self, iterations: int) -> tuple[float, float]:
        """Seconds and loss of scikit-learn's fit."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(C=1 / (2 * DECAY * len(self.targets)), max_iter=iterations, tol=0.0)
        inputs, targets = self.inputs.numpy(), self.targets.numpy()
        started = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(inputs, targets)
        seconds = time.perf_counter() - started
        parts = (torch.from_numpy(model.coef_.T).reshape(-1), torch.from_numpy(model.intercept_))
        return seconds, float(self.problem(torch.cat(parts).float()))

    def adam(self) -> float | None:
        """Ravine's Adam with the fewest epochs that do."""
        for epochs in [self._epochs] if self._epochs else epochs_to_try():
            seconds, loss = self.trained(epochs)
            if loss <= GOAL:
                self._epochs = epochs
                self.found["ravine adam"] = f"{epochs} epochs"
                return seconds
        return None

    def trained(self, epochs: int) -> tuple[float, float]:
        """Seconds and final loss of Ravine's Adam."""
        torch.manual_seed(0)
        x = self.problem.x0().requires_grad_()
        optimizer = Adam([x], lr=RATE)
        steps = epochs * (len(self.targets) // BATCH)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
        started = time.perf_counter()
        for _ in range(epochs):
            for batch in torch.randperm(len(self.targets)).split(BATCH):
                part = Regression(self.inputs[batch], self.targets[batch], decay=DECAY)
                optimizer.zero_grad()
                part(x).backward()
                optimizer.step()
                schedule.step()
        return time.perf_counter() - started, float(self.problem(x.detach()))


def epochs_to_try() -> list[int]:
    return [10 * 2**power for power in range(12) if 10 * 2**power <= MOST_EPOCHS]


def fewest(enough: Callable[[int], bool], most: int) -> int | None:
    """The smallest count up to about `most` that is enough, by doubling and bisection."""
    high = 16
    while not enough(high):
        high *= 2
        if high > most:
            return None
    low = high // 2
    while high - low > max(1, high // 64):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--skip", nargs="*", default=[], metavar="NAME")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    race = Race()
    contenders = {name: each for name, each in race.contenders().items() if name not in options.skip}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    print(f"{options.threads} threads, goal {GOAL:.8f}")
    for turn in range(options.rounds):
        for name, contender in contenders.items():
            taken = contender()
            seconds[name].append(float("inf") if taken is None else taken)
            print(
                f"round {turn}   {name:<20}{seconds[name][-1]:8.2f} s   {race.found.get(name, 'never')}",
                flush=True,
            )
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    ours = medians.pop("ravine lbfgs")
    for name, other in medians.items():
        ratio = f"{ours:.2f} s = {ours / other:.2f} x {name:<20}"
        print(f"ravine lbfgs {ratio}at most 1.0 x   {verdict(ours <= other)}")


if __name__ == "__main__":
    main()
