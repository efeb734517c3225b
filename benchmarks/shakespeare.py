"""`ravine train tinyshakespeare` with the default recipe: wall minutes and best validation loss.

The time is the whole command's, from the start of its process to the report. The loss is that of the
weights that are kept, the best ones, in nats a character over the whole validation part.

    python benchmarks/shakespeare.py [--seed 0]
"""

import running
from places import data_folder
from running import verdict

MINUTES = 5
LOSS = 1.80


def main() -> None:
    parser = running.arguments(__doc__)
    parser.add_argument("--seed", default="0")
    options = parser.parse_args()
    taken, result = running.train(data_folder("tinyshakespeare"), options.settings, "--seed", options.seed)
    minutes, loss = taken / 60, result["validation"]["loss"]
    print(f"wall time        {minutes:6.2f} min    at most {MINUTES} min       {verdict(minutes <= MINUTES)}")
    print(f"validation loss  {loss:6.4f} nats   at most {LOSS:.2f} nats   {verdict(loss <= LOSS)}")


if __name__ == "__main__":
    main()
