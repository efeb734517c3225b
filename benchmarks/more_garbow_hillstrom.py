"""The problems of Moré, Garbow and Hillstrom: who solves which, and with how many evaluations.

Every minimizer runs from the standard start until the gradient's largest entry is 1e-10 or it gives up. A
problem is solved if the lowest value is that of a known minimum, to the six digits published (or, for a
minimum of zero, 1e-8 times the smaller of 1 and the value at the start); which minimum a descent falls into
is nobody's merit. The cost is the evaluations of the function until the first such value, whatever the
stopping rule; evaluations with and without gradient, and those for a Hessian, count alike. The table below
the counts is the performance profile of Dolan and Moré (Mathematical Programming 91, 2002): the share of all
problems that a minimizer solves with at most τ times the evaluations of the best one.

    python benchmarks/more_garbow_hillstrom.py [--large] [--second-order] [--page FILE.html]
"""

import argparse
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from minimizers import FIRST_ORDER, SECOND_ORDER, Minimizer, Noted, run
from ravine.lab.problems import LeastSquares
from ravine.lab.problems.more_garbow_hillstrom import collection, large
from running import verdict

GTOL = 1e-10
FACTORS = (1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
MEDIAN_RATIO = 1.0
# Whose solutions count, and who is compared with whom.
RIVALS = ("scipy L-BFGS-B", "scipy BFGS")
PAIRS = (("ravine lbfgs", "scipy L-BFGS-B"), ("ravine bfgs", "scipy BFGS"))
SECOND_PAIRS = (("ravine newton-cg", "scipy Newton-CG"), ("ravine trust-exact", "scipy trust-exact"))


@dataclass(frozen=True)
class Outcome:
    """What became of one problem; `cost` is infinite where it was not solved."""

    cost: float
    total: int
    value: float

    @property
    def solved(self) -> bool:
        """Whether a known minimum was reached."""
        return math.isfinite(self.cost)

    def __str__(self) -> str:
        return f"{self.cost:.0f}/{self.total}" if self.solved else f"- {self.value:.3g}"


Outcomes = dict[str, list[Outcome]]


def outcome(problem: LeastSquares, minimizer: Minimizer) -> Outcome:
    notes = run(minimizer, Noted(problem), problem.x0(), GTOL)
    lowest = min(value for value in notes.values if not math.isnan(value))
    minimum = problem.reached(lowest)
    cost = None if minimum is None else notes.first(minimum.value + problem.slack(minimum))
    return Outcome(math.inf if cost is None else cost, len(notes.values), lowest)


def race(problems: Sequence[LeastSquares], minimizers: dict[str, Minimizer]) -> Outcomes:
    """Every minimizer on every problem, a line each as they end."""
    print("evaluations until solved/until stopped; - and the lowest value where not solved")
    print(f"{'':<34}" + "".join(f"{name:>19}" for name in minimizers))
    outcomes: Outcomes = {name: [] for name in minimizers}
    for problem in problems:
        for name, minimizer in minimizers.items():
            outcomes[name].append(outcome(problem, minimizer))
        print(
            f"{problem.label:<34}" + "".join(f"{outcomes[name][-1]!s:>19}" for name in minimizers), flush=True
        )
    return outcomes


def profile(outcomes: Outcomes, factor: float) -> dict[str, float]:
    """The share of the problems that each solves with at most `factor` times the best one's evaluations."""
    best = [min(costs) for costs in zip(*([o.cost for o in row] for row in outcomes.values()), strict=True)]
    return {
        name: statistics.fmean(o.solved and o.cost <= factor * b for o, b in zip(row, best, strict=True))
        for name, row in outcomes.items()
    }


def print_profile(outcomes: Outcomes) -> None:
    print(f"\n{'performance profile, τ =':<28}" + "".join(f"{factor:>8}" for factor in (*FACTORS, "any")))
    columns = [profile(outcomes, factor) for factor in (*FACTORS, math.inf)]
    for name in outcomes:
        print(f"{name:<28}" + "".join(f"{column[name]:>8.0%}" for column in columns))


def print_ratios(outcomes: Outcomes, pairs: Sequence[tuple[str, str]]) -> None:
    print()
    for ours, theirs in pairs:
        both = [
            (a, b) for a, b in zip(outcomes[ours], outcomes[theirs], strict=True) if a.solved and b.solved
        ]
        ratio = statistics.median(a.cost / b.cost for a, b in both)
        totals = statistics.median(a.total / b.total for a, b in both)
        print(
            f"{ours} / {theirs}: median ratio {ratio:.2f}   at most {MEDIAN_RATIO}   "
            f"{verdict(ratio <= MEDIAN_RATIO)}   (until stopped {totals:.2f}, {len(both)} problems)"
        )


def print_missed(problems: Sequence[LeastSquares], outcomes: Outcomes) -> None:
    """Problems that a rival solves and one of ours does not."""
    rivals = list(zip(*(outcomes[name] for name in RIVALS), strict=True))
    for name in (name for name in outcomes if name.startswith("ravine")):
        missed = [
            problem.label
            for problem, ours, theirs in zip(problems, outcomes[name], rivals, strict=True)
            if not ours.solved and any(rival.solved for rival in theirs)
        ]
        print(f"{name} solves what SciPy solves   {verdict(not missed)}   {'; '.join(missed)}")


def write_profile(path: Path, outcomes: Outcomes) -> None:
    """The profile as a page that works offline."""
    from ravine.show.figures.theme import HUES, blank
    from ravine.show.page import write_figure

    figure = blank(
        "Performance profile", "τ, times the best one's evaluations", "share of problems solved", wide=True
    )
    factors = [2 ** (step / 32) for step in range(32 * 5 + 1)]
    shares = [profile(outcomes, factor) for factor in factors]
    for name, color in zip(outcomes, HUES, strict=False):
        line = {"shape": "hv", "color": color, "dash": "solid" if name.startswith("ravine") else "dot"}
        figure.add_scatter(x=factors, y=[share[name] for share in shares], name=name, mode="lines", line=line)
    ticks = [*FACTORS, 20]
    figure.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])
    figure.update_yaxes(range=[0, 1.02], tickformat=".0%")
    figure.update_layout(showlegend=True)
    write_figure(path, figure, "Moré, Garbow and Hillstrom", "How often, and how nearly, each is the best.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--large", action="store_true", help="the scalable ones with 100 variables too")
    parser.add_argument("--second-order", action="store_true", help="the methods with Hessians instead")
    parser.add_argument("--page", type=Path, metavar="FILE.html", help="where to draw the profile")
    options = parser.parse_args()
    torch.set_num_threads(1)
    problems = collection() + (large() if options.large else ())
    if options.second_order:
        outcomes = race(problems, SECOND_ORDER)
        print_profile(outcomes)
        print_ratios(outcomes, SECOND_PAIRS)
    else:
        outcomes = race(problems, FIRST_ORDER)
        print_profile(outcomes)
        print_ratios(outcomes, PAIRS)
        print_missed(problems, outcomes)
    if options.page:
        write_profile(options.page, outcomes)


if __name__ == "__main__":
    main()
