"""Small parts of large data sets, for the benchmarks of transfer. It is imported, not run."""

import random
from pathlib import Path

import numpy
import torch

from places import data_folder
from ravine.training.data import open_data

SIGNS_TEST = 500


def mobilenet() -> str:
    """The file of the ImageNet MobileNet."""
    return str(data_folder("weights") / "imagenet-mobilenet_v1_0.25_224.npz")


def signs(place: Path, a_class: int | None) -> Path:
    """Sign digits as a folder of links: 500 images to test on; to train on so many a class, or all others."""
    out = place / f"signs-{a_class or 'all'}"
    if out.exists():
        return out
    files = sorted(data_folder("sign-digits").glob("[0-9]/*"))
    random.Random(0).shuffle(files)
    by_class: dict[str, list[Path]] = {}
    for file in files[SIGNS_TEST:]:
        by_class.setdefault(file.parent.name, []).append(file)
    parts = {"test": files[:SIGNS_TEST], "train": [f for own in by_class.values() for f in own[:a_class]]}
    for part, chosen in parts.items():
        for file in chosen:
            folder = out / part / file.parent.name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / file.name).symlink_to(file)
    return out


def arrays(name: str, place: Path, a_class: int, most_tested: int = 2000) -> Path:
    """The first images of each class of Fashion-MNIST or CIFAR-10, and some to test on, as one file."""
    out = place / f"{name}-{a_class}.npz"
    if out.exists():
        return out
    dataset = open_data(data_folder(name))
    train, test = dataset.parts["train"], dataset.parts["test"][:most_tested]
    targets = dataset.targets[train]
    by_class = [train[targets == number][:a_class] for number in range(len(dataset.classes))]
    kept = torch.cat(by_class).sort().values
    numpy.savez(
        out,
        x_train=dataset.fetch(kept).numpy(),
        y_train=dataset.targets[kept].numpy(),
        x_test=dataset.fetch(test).numpy(),
        y_test=dataset.targets[test].numpy(),
    )
    return out
