"""What one waits for before anything happens: `ravine --help`, and imports beside `import torch`.

Each figure is the median wall time of 11 processes of their own, interpreter start included; the
commands alternate, and a first round, which fills the caches of files and bytecode, is not counted.
`import ravine` loads torch only when a name is first used, so the honest row is `from ravine import
train`: what everyone pays who trains from Python.

    python benchmarks/startup.py [--rounds 11]
"""

import argparse
import statistics
import subprocess
import sys
import time

from running import RAVINE, verdict

COMMANDS = {
    "ravine --help": [str(RAVINE), "--help"],
    "import torch": [sys.executable, "-c", "import torch"],
    "import ravine": [sys.executable, "-c", "import ravine"],
    "from ravine import train": [sys.executable, "-c", "from ravine import train"],
}
HELP_SECONDS = 0.5
IMPORT_RATIO = 1.15


def wall_seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    rounds = parser.parse_args().rounds
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(rounds + 1):
        for name, command in COMMANDS.items():
            taken = wall_seconds(command)
            if turn:  # the first round warms up
                seconds[name].append(taken)
    middle = {name: statistics.median(taken) for name, taken in seconds.items()}
    for name, taken in middle.items():
        line = f"{name:<26}{taken * 1e3:7.0f} ms"
        if name == "ravine --help":
            line += f"             at most {HELP_SECONDS} s   {verdict(taken <= HELP_SECONDS)}"
        elif name != "import torch":
            ratio = taken / middle["import torch"]
            line += f"   {ratio:5.2f} x   at most {IMPORT_RATIO} x   {verdict(ratio <= IMPORT_RATIO)}"
        print(line)


if __name__ == "__main__":
    main()
