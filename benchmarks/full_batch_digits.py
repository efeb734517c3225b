"""Softmax regression on the digits, full batch: evaluations and wall time to a gradient of 1e-8.

64x10 weights and 10 biases from zero, pixels / 16, the mean cross-entropy + 1e-4 times the sum of the squared
weights, float64, a history of 10; done when the gradient's largest entry is at most 1e-8. The function is the
same torch function for all, its gradient by autograd. The rounds alternate; medians (of SciPy's BFGS, one
round).

    python benchmarks/full_batch_digits.py [--rounds 5] [--threads N]
"""

import argparse
import statistics

import torch
from sklearn.datasets import load_digits

from minimizers import FIRST_ORDER, Noted, run
from regression import Regression
from running import verdict

GTOL = 1e-8
# Its update multiplies whole matrices, n³ operations each: once is enough.
SLOW = "scipy BFGS"
OURS, FEWEST, FASTEST = "ravine lbfgs", "scipy L-BFGS-B", "torch LBFGS"


def digits() -> Regression:
    """All 1,797 of them, 8x8 pixels."""
    data = load_digits()
    return Regression(torch.from_numpy(data.data) / 16, torch.from_numpy(data.target))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.threads} threads, {options.rounds} rounds\n")
    problem = digits()
    seconds: dict[str, list[float]] = {name: [] for name in FIRST_ORDER}
    notes: dict[str, Noted] = {}
    for turn in range(options.rounds):
        for name, minimizer in FIRST_ORDER.items():
            if name == SLOW and turn:
                continue
            notes[name] = run(minimizer, Noted(problem), problem.x0(), GTOL)
            seconds[name].append(notes[name].seconds[-1])
    print(f"{'':<18}{'evaluations':>12}{'seconds':>10}{'gradient':>12}{'loss':>20}")
    for name, noted in notes.items():
        middle, gradient = statistics.median(seconds[name]), problem.largest_gradient(noted.last)
        print(f"{name:<18}{len(noted.values):>12}{middle:>10.3f}{gradient:>12.1e}{min(noted.values):>20.14f}")
    counts = {name: len(noted.values) for name, noted in notes.items()}
    times = {name: statistics.median(taken) for name, taken in seconds.items()}
    fewer, faster = counts[OURS] / counts[FEWEST], times[OURS] / times[FASTEST]
    print(f"\nevaluations  {fewer:5.2f} x {FEWEST:<16}at most 1.0 x   {verdict(fewer <= 1)}")
    print(f"wall time    {faster:5.2f} x {FASTEST:<16}at most 1.0 x   {verdict(faster <= 1)}")


if __name__ == "__main__":
    main()
