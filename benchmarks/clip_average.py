"""Clipping by norm, AdamW and a moving average of the parameters: one pass against three.

Ravine's `AdamW(params, clip_norm=1.0, average=0.999)` against what one writes with torch: clip_grad_norm_,
AdamW(fused=True) and AveragedModel with get_ema_multi_avg_fn, on modules that hold the tensors of both
sets. clip_grad_norm_ is timed with and without `foreach`, and the faster one counts. Rounds alternate;
medians.

    python benchmarks/clip_average.py [--rounds 21] [--threads N]
"""

import argparse
import statistics

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ravine.lab.bench import SETS, ProblemSet, problems, using_threads
from ravine.lab.bench.timing import clock_for, interleaved
from ravine.optim import AdamW
from running import verdict

CLIP_NORM = 1.0
AVERAGE = 0.999
RATIOS = {"large": 0.5, "many": 0.35}
CPU = torch.device("cpu")


class Clipped:
    """A module with the parameters of a set."""

    def __init__(self, problem: ProblemSet) -> None:
        self.model = nn.ParameterList(problems.parameters(problem, CPU))
        self._feed = problems.GradientFeed(problems.gradients(problem, CPU))

    def prepare(self) -> None:
        """Give every parameter its next gradient, not clipped yet."""
        self._feed(self.model)


class OnePass(Clipped):
    """Ravine's way."""

    def __init__(self, problem: ProblemSet) -> None:
        super().__init__(problem)
        self.optimizer = AdamW(self.model.parameters(), clip_norm=CLIP_NORM, average=AVERAGE)

    def step(self) -> None:
        """All three at once."""
        self.optimizer.step()


class ThreePasses(Clipped):
    """The way with torch."""

    def __init__(self, problem: ProblemSet, *, foreach: bool) -> None:
        super().__init__(problem)
        self.foreach = foreach
        self.optimizer = torch.optim.AdamW(self.model.parameters(), fused=True)
        self.averaged = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(AVERAGE))

    def step(self) -> None:
        """Clip, step, average."""
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM, foreach=self.foreach)
        self.optimizer.step()
        self.averaged.update_parameters(self.model)


def compare(problem: ProblemSet, rounds: int) -> None:
    contenders = {
        "ravine": OnePass(problem),
        "torch": ThreePasses(problem, foreach=False),
        "torch, clipping by foreach": ThreePasses(problem, foreach=True),
    }
    taken = interleaved(list(contenders.values()), rounds, clock_for(CPU))
    seconds = dict(zip(contenders, map(statistics.median, taken), strict=True))
    print(problem.description)
    for name, middle in seconds.items():
        print(f"  {name:<28}{middle * 1e3:9.3f} ms")
    ratio = seconds["ravine"] / min(middle for name, middle in seconds.items() if name != "ravine")
    asked = RATIOS[problem.name]
    print(f"  {'ratio':<28}{ratio:9.2f} x    at most {asked} x   {verdict(ratio <= asked)}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    with using_threads(options.threads) as threads:
        print(f"{threads} threads, {options.rounds} rounds\n")
        for problem in SETS.values():
            compare(problem, options.rounds)


if __name__ == "__main__":
    main()
