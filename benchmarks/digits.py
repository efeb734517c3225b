"""`ravine train digits`: wall seconds and test accuracy, medians over seeds.

The time is the whole command's, from the start of its process to the report. The seed decides the cut
into parts too, so that each seed is scored on other test items.

    python benchmarks/digits.py [--seeds 5]
"""

import statistics

import running
from running import verdict

SECONDS = 30
ACCURACY = 0.975


def main() -> None:
    parser = running.arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    seconds, accuracies = [], []
    for seed in range(options.seeds):
        taken, result = running.train("digits", options.settings, "--seed", str(seed), quiet=True)
        seconds.append(taken)
        accuracies.append(result["test"]["accuracy"])
        print(f"seed {seed}   {taken:6.1f} s   test accuracy {accuracies[-1]:.4f}", flush=True)
    middle, accuracy = statistics.median(seconds), statistics.median(accuracies)
    print(f"median wall time      {middle:6.1f} s   at most {SECONDS} s     {verdict(middle <= SECONDS)}")
    print(f"median test accuracy  {accuracy:6.4f}     at least {ACCURACY}   {verdict(accuracy >= ACCURACY)}")


if __name__ == "__main__":
    main()
