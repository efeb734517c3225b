"""Every optimizer beside its peers, and beside what is asked of it.

The measuring is `ravine bench`'s: Ravine's step, every implementation of the same rule that torch,
pytorch_optimizer and optax (jitted, its arguments donated) have, and a copy as large as the parameters,
in rounds that alternate; medians. The fastest implementation of each peer stands in the table. Asked are:

    a rule that torch has fused      at most 1.0 times torch's time
    any other elementwise rule       at most 1.1 times the time of Ravine's Adam, timed in the same rounds
    bandwidth on the large set       at least 85 % of the copy's

    pip install -c constraints.txt -r benchmarks/requirements.txt
    python benchmarks/optimizers.py [NAME ...] [--set large|many] [--rounds 21] [--threads N]
"""

import argparse

from ravine.lab.bench import (
    SETS,
    Configuration,
    ProblemSet,
    Table,
    chosen,
    configurations,
    measure,
    using_threads,
)
from ravine.lab.bench.measure import Result
from running import verdict

FUSED_RATIO = 1.0
ADAM_RATIO = 1.1
BANDWIDTH = 0.85


def judged(result: Result) -> list[str]:
    """What is asked of a result, the figure, and whether it holds."""
    lines = []
    ratio = result.ratio
    if "torch fused" in result.seconds and ratio is not None:
        lines.append(f"{ratio:.2f} x torch   at most {FUSED_RATIO} x   {verdict(ratio <= FUSED_RATIO)}")
    elif result.configuration.elementwise:
        ratio = result.ravine / result.seconds["beside adam"]
        lines.append(f"{ratio:.2f} x adam    at most {ADAM_RATIO} x   {verdict(ratio <= ADAM_RATIO)}")
    share = result.share
    if result.problem is SETS["large"] and share is not None:
        lines.append(f"{share:.0%} of copy    at least {BANDWIDTH:.0%}    {verdict(share >= BANDWIDTH)}")
    return lines


def compare(wanted: list[Configuration], problem: ProblemSet, rounds: int) -> None:
    table = Table(wanted)
    adam = configurations()["adam"]
    results = []
    print(f"{problem.description}\n{table.head()}")
    for configuration in wanted:
        beside = () if configuration.name == "adam" else (adam,)
        results.append(measure(configuration, problem, rounds=rounds, beside=beside))
        print(table.line(results[-1]), flush=True)
    print("\nasked of them")
    for result in results:
        for line in judged(result):
            print(f"{result.configuration.name:<28}{line}")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--set", choices=list(SETS), dest="on")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    wanted = list(chosen(options.names))
    with using_threads(options.threads) as threads:
        print(f"{threads} threads, {options.rounds} rounds\n")
        for problem in [SETS[options.on]] if options.on else SETS.values():
            compare(wanted, problem, options.rounds)


if __name__ == "__main__":
    main()
