"""Parameters stored in bfloat16 against float32: tiny Shakespeare, the same model, batches and steps.

Three ways to store a bfloat16 weight (nearest, stochastic, compensated) and float32, each with several
seeds. Prints the validation loss of each run in nats a character, worked out in float32 from the stored
weights, with the mean, the seeds' spread and the bytes that the parameters take.

    python benchmarks/bfloat16.py [--seeds 3] [--steps 1200]
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from places import data_folder
from ravine.models.transformer import transformer
from ravine.optim import AdamW, schedules

CONTEXT, BATCH = 64, 32
STORED = {
    "float32": (torch.float32, "nearest"),
    "bfloat16 nearest": (torch.bfloat16, "nearest"),
    "bfloat16 stochastic": (torch.bfloat16, "stochastic"),
    "bfloat16 compensated": (torch.bfloat16, "compensated"),
}


def text(folder: Path) -> tuple[Tensor, int]:
    """The characters as numbers, and how many different ones there are."""
    letters = "".join(path.read_text() for path in sorted(folder.glob("*.txt")))
    known = sorted(set(letters))
    places = {letter: place for place, letter in enumerate(known)}
    return torch.tensor([places[letter] for letter in letters]), len(known)


def batch(tokens: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random stretches, and the characters that follow."""
    starts = torch.randint(len(tokens) - CONTEXT - 1, (BATCH,), generator=generator)
    stretches = tokens[starts[:, None] + torch.arange(CONTEXT + 1)]
    return stretches[:, :-1], stretches[:, 1:]


def loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """The mean cross-entropy, from float32 logits."""
    return functional.cross_entropy(model(inputs).float().flatten(0, 1), targets.flatten())


def run(train: Tensor, test: Tensor, letters: int, stored: str, seed: int, steps: int) -> tuple[float, int]:
    """Train once; the validation loss and the parameters' bytes."""
    torch.manual_seed(seed)
    dtype, rounding = STORED[stored]
    model = transformer((), letters, context=CONTEXT, width=128, depth=3).to(dtype)
    optimizer = AdamW(
        model.parameters(), lr=2e-3, betas=(0.9, 0.99), weight_decay=0.1, clip_norm=1.0, rounding=rounding
    )
    schedule = schedules.Cosine(optimizer, total_steps=steps, steps_per_epoch=steps, warmup="8%", final=0.02)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        loss(model, *batch(train, generator)).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    held = sum(parameter.nbytes for parameter in model.parameters())
    model.float().eval()
    with torch.no_grad():
        stretches = [batch(test, torch.Generator().manual_seed(number)) for number in range(50)]
        return statistics.fmean(loss(model, *stretch).item() for stretch in stretches), held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1200)
    options = parser.parse_args()
    tokens, letters = text(data_folder("tinyshakespeare"))
    cut = int(0.9 * len(tokens))
    print(f"{'stored as':22s}{'bytes':>10s}{'mean':>9s}{'spread':>9s}   validation loss by seed")
    for stored in STORED:
        started = time.perf_counter()
        found = [
            run(tokens[:cut], tokens[cut:], letters, stored, seed, options.steps)
            for seed in range(options.seeds)
        ]
        losses = [value for value, _ in found]
        spread = max(losses) - min(losses)
        each = "  ".join(f"{value:.4f}" for value in losses)
        print(
            f"{stored:22s}{found[0][1]:10,d}{statistics.fmean(losses):9.4f}{spread:9.4f}   {each}"
            f"   ({time.perf_counter() - started:.0f} s)",
            flush=True,
        )


if __name__ == "__main__":
    main()
