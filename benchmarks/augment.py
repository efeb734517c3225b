"""Augmentation of whole batches against kornia's own sequences, at the same settings.

Float batches of 256 × 3 × 32 × 32. Kornia's transforms are timed as `torch.nn.Sequential` and as its
`AugmentationSequential`, and the faster one counts. Rounds alternate; medians. A last line has larger images,
for which nothing is asked.

    python benchmarks/augment.py [--rounds 11] [--threads 2]
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import kornia.augmentation as kornia
import torch
from torch import Tensor, nn

from ravine.generalize.augment import (
    ColorJitter,
    Draws,
    Elastic,
    Flip,
    Lens,
    PaddedCrop,
    Perspective,
    RandomResizedCrop,
    Rotate,
    Shear,
    Stretch,
    Transform,
    Translate,
    compose,
)
from ravine.lab.bench import using_threads
from ravine.lab.bench.timing import clock_for, interleaved
from running import verdict


@dataclass(frozen=True)
class Comparison:
    """A chain of transforms, ours and kornia's; how many times as fast ours must be, None asks nothing."""

    title: str
    ours: list[Transform]
    theirs: Callable[[], list[nn.Module]]
    asked: float | None = None
    count: int = 256
    side: int = 32


def pixels(low: float, high: float) -> Tensor:
    return torch.tensor([low, high])


def geometry(side: int) -> list[nn.Module]:
    sigma = 0.12 * side
    kernel = 2 * round(3 * sigma) + 1
    return [
        kornia.RandomAffine(15.0, (0.1, 0.1), (0.8, 1.2, 0.8, 1.2), (-10.0, 10.0, -10.0, 10.0), p=1.0),
        kornia.RandomPerspective(0.3, p=1.0),
        kornia.RandomFisheye(pixels(-0.01, 0.01), pixels(-0.01, 0.01), pixels(0.8, 1.2), p=1.0),
        kornia.RandomElasticTransform((kernel, kernel), (sigma, sigma), (0.1, 0.1), p=1.0),
    ]


GEOMETRY: list[Transform] = [
    Translate(0.1),
    Rotate(15.0),
    Stretch(0.2),
    Shear(10.0),
    Perspective(0.3),
    Lens(0.2),
    Elastic(),
]

COMPARISONS = [
    Comparison(
        "flip, padded crop, colour jitter",
        [Flip(0.5), PaddedCrop(4), ColorJitter(0.4, 0.4, 0.4, 0.1)],
        lambda: [
            kornia.RandomHorizontalFlip(p=0.5),
            kornia.RandomCrop((32, 32), padding=4),
            kornia.ColorJitter(0.4, 0.4, 0.4, 0.1, p=1.0),
        ],
        asked=5.0,
    ),
    Comparison("the full geometric mix", GEOMETRY, lambda: geometry(32), asked=1.0),
    Comparison("flip", [Flip(0.5)], lambda: [kornia.RandomHorizontalFlip(p=0.5)]),
    Comparison("resized crop", [RandomResizedCrop(32)], lambda: [kornia.RandomResizedCrop((32, 32))]),
    Comparison(
        "colour jitter",
        [ColorJitter(0.4, 0.4, 0.4, 0.1)],
        lambda: [kornia.ColorJitter(0.4, 0.4, 0.4, 0.1, p=1.0)],
    ),
    Comparison(
        "the full geometric mix, 16 × 3 × 224 × 224", GEOMETRY, lambda: geometry(224), count=16, side=224
    ),
]


class Ours:
    """Ravine's chain on one batch; each step is another epoch's draws."""

    def __init__(self, transforms: list[Transform], images: Tensor) -> None:
        self._transform, self._images = compose(transforms), images
        self._items = torch.arange(len(images))
        self._epoch = 0

    def prepare(self) -> None:
        """The next epoch."""
        self._epoch += 1

    def step(self) -> None:
        """The whole batch."""
        self._transform(self._images, Draws(0, self._epoch, self._items))


class Theirs:
    """Kornia's chain on the same batch."""

    def __init__(self, transform: nn.Module, images: Tensor) -> None:
        self._transform, self._images = transform, images

    def prepare(self) -> None:
        """Nothing."""

    def step(self) -> None:
        """The whole batch."""
        self._transform(self._images)


def compare(case: Comparison, rounds: int) -> None:
    images = torch.rand(case.count, 3, case.side, case.side, generator=torch.Generator().manual_seed(0))
    contenders = {
        "ravine": Ours(case.ours, images),
        "kornia, Sequential": Theirs(nn.Sequential(*case.theirs()), images),
        "kornia, AugmentationSequential": Theirs(
            kornia.AugmentationSequential(*case.theirs(), data_keys=["input"]), images
        ),
    }
    taken = interleaved(list(contenders.values()), rounds, clock_for(images.device))
    seconds = dict(zip(contenders, map(statistics.median, taken), strict=True))
    print(case.title)
    for name, middle in seconds.items():
        print(f"  {name:<32}{middle * 1e3:9.2f} ms{case.count / middle:14,.0f} images/s")
    ratio = min(middle for name, middle in seconds.items() if name != "ravine") / seconds["ravine"]
    asked = "" if case.asked is None else f"    at least {case.asked} x   {verdict(ratio >= case.asked)}"
    print(f"  {'times as fast':<32}{ratio:9.1f} x{asked}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    with using_threads(options.threads) as threads:
        print(f"{threads} threads, {options.rounds} rounds\n")
        for case in COMPARISONS:
            compare(case, options.rounds)


if __name__ == "__main__":
    main()
