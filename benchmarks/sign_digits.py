"""Sign-language digits from an ImageNet MobileNet: `ravine finetune` as a user runs it.

500 photographs are held out for the test. With 20 images a class at least 95 % and 30 points above training
from scratch for as many epochs, in at most a minute; with the other 1,562 images at least 99 % in at most
two; and `--how auto` within a point of both. The time is that of the whole command with `--how all`, but for
training from scratch, which it does to compare. With 200 photographs the mean of three seeds counts, with the
recipe's 30 epochs and with 20: what is learned by more of them is learned from scratch, too.

    python benchmarks/sign_digits.py [--cases short few all]
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from running import RAVINE, verdict
from subsets import mobilenet, signs

LEAD, BEHIND = 0.30, 0.01


class Case(NamedTuple):
    """Images a class, epochs (None: the recipe's), seeds; the least accuracy and the most seconds."""

    a_class: int | None
    epochs: int | None
    seeds: int
    least: float
    most: float


CASES = {
    "short": Case(20, 20, 3, 0.95, 60.0),
    "few": Case(20, None, 3, 0.95, 60.0),
    "all": Case(None, None, 1, 0.99, 120.0),
}


def finetune(data: Path, how: str, seed: int, epochs: int | None, out: Path) -> tuple[float, float, float]:
    """Test accuracy, that from scratch, and seconds of the command but for those; printed, too."""
    command = [str(RAVINE), "finetune", str(data), "--from", mobilenet(), "--how", how, "--seed", str(seed)]
    command += ["--set", f"stop.epochs={epochs}"] if epochs else []
    started = time.perf_counter()
    subprocess.run([*command, "--out", str(out)], check=True, stdout=subprocess.DEVNULL)
    taken = time.perf_counter() - started
    result, record, scratch = (
        json.loads((out / name).read_text())
        for name in ("result.json", "transfer.json", "scratch/result.json")
    )
    accuracy, other = result["test"]["accuracy"], scratch["test"]["accuracy"]
    seconds = taken - scratch["seconds"]
    trained = f"trained {record['train']}, {record['body']:g} of the head's rate below"
    told = f"{trained}, {result['epochs']} epochs, {seconds:.0f} s"
    print(f"seed {seed}  {how:<4}  {accuracy:.1%}, from scratch {other:.1%}   {told}", flush=True)
    return accuracy, other, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name in options.cases:
            a_class, epochs, seeds, least, most = CASES[name]
            data = signs(place, a_class)
            print(f"{len(list((data / 'train').glob('*/*')))} training images")
            found = {}
            for how in ("all", "auto"):
                runs = [
                    finetune(data, how, seed, epochs, place / f"{name}-{how}-{seed}") for seed in range(seeds)
                ]
                found[how] = [mean(column) for column in zip(*runs, strict=True)]
            accuracy, scratch, seconds = found["all"]
            print(f"all   {accuracy:.1%}   at least {least:.0%}   {verdict(accuracy >= least)}")
            print(f"all   {seconds:.0f} s   at most {most:.0f} s   {verdict(seconds <= most)}")
            lead = accuracy - scratch
            asked = "" if a_class is None else f"   at least {100 * LEAD:.0f}   {verdict(lead >= LEAD)}"
            print(f"all   {100 * lead:.1f} points above from scratch{asked}")
            near = verdict(found["auto"][0] >= accuracy - BEHIND)
            print(f"auto  {found['auto'][0]:.1%} in {found['auto'][2]:.0f} s   within a point   {near}\n")


if __name__ == "__main__":
    main()
