"""`ravine train fashion-mnist` with the default recipe: wall minutes and test accuracy.

The time is the whole command's, from the start of its process to the report; the accuracy is the one on
the given test images, scored once at the end, with its 95 % interval.

    python benchmarks/fashion_default.py [--seed 0]
"""

import running
from places import data_folder
from running import verdict

MINUTES = 8
ACCURACY = 0.935


def main() -> None:
    parser = running.arguments(__doc__)
    parser.add_argument("--seed", default="0")
    options = parser.parse_args()
    taken, result = running.train(data_folder("fashion-mnist"), options.settings, "--seed", options.seed)
    minutes, accuracy = taken / 60, result["test"]["accuracy"]
    low, high = result["test"]["accuracy_interval"]
    print(f"wall time      {minutes:6.2f} min   at most {MINUTES} min   {verdict(minutes <= MINUTES)}")
    print(f"test accuracy  {accuracy:6.4f}       at least {ACCURACY}   {verdict(accuracy >= ACCURACY)}")
    print(f"95% interval   {low:.4f} to {high:.4f}")


if __name__ == "__main__":
    main()
