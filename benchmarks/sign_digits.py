"""Sign-language digits from an ImageNet MobileNet: `ravine finetune` as a user runs it.

500 photographs are held out for the test. With 20 images a class at least 95 % and 30 points above training
from scratch for as long, in at most a minute; with the other 1,562 images at least 99 % in at most two; and
`--how auto` within a point of both. The time is that of the whole command with `--how all`, but for training
from scratch, which it does to compare.

    python benchmarks/sign_digits.py
"""

import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from running import RAVINE, verdict
from subsets import mobilenet, signs

CASES: list[tuple[int | None, float, float]] = [(20, 0.95, 60.0), (None, 0.99, 120.0)]
LEAD, BEHIND = 0.30, 0.01


def finetune(data: Path, how: str, out: Path) -> tuple[float, dict[str, Any], dict[str, Any]]:
    """Seconds of the command without those from scratch; `result.json` and `transfer.json`."""
    command = [str(RAVINE), "finetune", str(data), "--from", mobilenet(), "--how", how, "--out", str(out)]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    taken = time.perf_counter() - started
    result, record = (json.loads((out / name).read_text()) for name in ("result.json", "transfer.json"))
    scratch = json.loads((out / "scratch" / "result.json").read_text())
    return taken - scratch["seconds"], result, record


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for a_class, least, most in CASES:
            data = signs(place, a_class)
            seconds, result, record = finetune(data, "all", place / f"all-{a_class}")
            accuracy = result["test"]["accuracy"]
            print(f"{result['items']['train'] + result['items']['validation']} training images")
            print(f"all   {accuracy:.1%}   at least {least:.0%}   {verdict(accuracy >= least)}")
            print(f"all   {seconds:.0f} s   at most {most:.0f} s   {verdict(seconds <= most)}")
            scratch = record["scratch"]["accuracy"]
            told = ""
            if a_class is not None:
                told = f"   at least {100 * LEAD:.0f} points below   {verdict(accuracy - scratch >= LEAD)}"
            print(f"from scratch for as long   {scratch:.1%}{told}")
            seconds, result, record = finetune(data, "auto", place / f"auto-{a_class}")
            measured = result["test"]["accuracy"]
            near = verdict(measured >= accuracy - BEHIND)
            told = f"auto  {measured:.1%} in {seconds:.0f} s, trained {record['train']}"
            print(f"{told}   within a point   {near}\n")


if __name__ == "__main__":
    main()
