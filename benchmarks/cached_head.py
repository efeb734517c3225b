"""An epoch of training the head on cached features, and of fine-tuning, against the loops everyone writes.

The ImageNet MobileNet on the sign digits at 128 pixels, batches of 32, fp32, AdamW. The peers: a loop over a
network whose body is frozen (no gradients, statistics kept), and one over the whole network, both on whole
tensors in channels-last. Rounds alternate; the least disturbed of each counts.

    python benchmarks/cached_head.py [--rounds 5]
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ravine import transfer
from ravine.training.loop import Loop
from ravine.training.progress import Silent
from ravine.training.run import make_setup
from ravine.training.run_folder import RunFolder
from ravine.training.signals import StopRequest
from running import verdict
from subsets import mobilenet, signs

BATCH, LR = 32, 1e-3
FASTER, OVERHEAD = 20.0, 1.05


def ravines(data: Path, train: str, place: Path) -> Loop:
    settings = {
        "precision": "fp32",
        "augment": [],
        "data": {"batch_size": BATCH, "validation": 0.0},
        "transfer": {"source": mobilenet(), "train": train, "body": 1.0},
        "optimizer": {"name": "adamw", "lr": LR, "average": 0.0},
        "loss": {"label_smoothing": 0.0},
        "schedule": {"name": "none"},
        "stop": {"epochs": 1000, "monitor": "train.loss"},
    }
    setup = make_setup(None, data, "finetune", settings=[settings])
    return Loop(setup, RunFolder(place), Silent(), StopRequest())


def usual(images: torch.Tensor, targets: torch.Tensor, frozen: bool) -> Any:
    """An epoch of the loop over the same network, as a function."""
    model = transfer.open_model(mobilenet()).module.to(memory_format=torch.channels_last)
    transfer.replace_head(model, 10)
    if frozen:
        model.requires_grad_(False)
        model.head.requires_grad_(True)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=LR, fused=True)

    def epoch() -> None:
        model.train()
        for module in model.modules() if frozen else ():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        for chosen in torch.randperm(len(images)).split(BATCH):
            loss = functional.cross_entropy(model(images[chosen]), targets[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def seconds(work: Any) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = signs(Path(folder), None)
        for train, told in (("head", "head on cached features"), ("all", "fine-tuning all")):
            loop = ravines(data, train, Path(folder) / train)
            whole = loop.setup if train == "all" else ravines(data, "all", Path(folder) / "raw").setup
            batches: Any = whole.feeds["train"].batches
            images = batches.inputs.contiguous(memory_format=torch.channels_last)
            peer = usual(images, batches.targets, frozen=train == "head")

            def own(loop: Loop = loop) -> None:
                loop.train_epoch()
                loop.state.end_epoch()

            own(), peer()
            times = [(seconds(own), seconds(peer)) for _ in range(options.rounds)]
            mine, theirs = (min(each) for each in zip(*times, strict=True))
            if train == "head":
                fine = verdict(theirs >= FASTER * mine)
                good = f"{theirs / mine:.0f} times faster   at least {FASTER:.0f}   {fine}"
            else:
                fine = verdict(mine <= OVERHEAD * theirs)
                good = f"{mine / theirs:.2f} of its time   at most {OVERHEAD}   {fine}"
            print(
                f"{told}: {1e3 * mine:.1f} ms an epoch, the usual loop {1e3 * theirs:.1f} ms   {good}",
                flush=True,
            )


if __name__ == "__main__":
    main()
