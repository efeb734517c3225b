"""Transfer on text: a language model of the other parts of tiny Shakespeare, trained on to speak as one.

The text is cut by who speaks. A transformer learns the speeches of all parts but one; then `ravine finetune`
trains it on what that part says, and trains one from scratch for as long. Losses in nats a character, on the
last tenth of the part's speeches.

    python benchmarks/play_parts.py [--part GLOUCESTER] [--effort 0.3]
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

from places import data_folder
from running import RAVINE, train_command, verdict


def cut(part: str, place: Path) -> tuple[Path, Path]:
    """The speeches of all other parts, and those of the part, as two files."""
    speeches = (data_folder("tinyshakespeare") / "input.txt").read_text().split("\n\n")
    own = [speech for speech in speeches if speech.startswith(f"{part}:\n")]
    others = [speech for speech in speeches if not speech.startswith(f"{part}:\n")]
    paths = place / "others.txt", place / "part.txt"
    for path, chosen in zip(paths, (others, own), strict=True):
        path.write_text("\n\n".join(chosen))
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--part", default="GLOUCESTER")
    parser.add_argument("--effort", default="0.3", help="of the training on the other parts, stop.effort")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        others, part = cut(options.part, place)
        print(f"{others.stat().st_size:,} characters of others, {part.stat().st_size:,} of {options.part}")
        source, out = place / "source", place / "run"
        subprocess.run(train_command(others, source, [f"stop.effort={options.effort}"]), check=True)
        held_out = ["--set", "data.validation=0.1", "--set", "data.test=0.1"]
        command = [str(RAVINE), "finetune", str(part), "--from", str(source), "--out", str(out), *held_out]
        subprocess.run(command, check=True)
        result = json.loads((out / "result.json").read_text())
        scratch = json.loads((out / "transfer.json").read_text())["scratch"]
        own, other = result["test"]["loss"], scratch["loss"]
        print(f"from the other parts  {own:.4f} nats after {result['timing']['training']:.0f} s")
        print(f"from scratch          {other:.4f} nats after {scratch['seconds']:.0f} s")
        print(f"better by             {other - own:.4f} nats   {verdict(own < other)}")


if __name__ == "__main__":
    main()
