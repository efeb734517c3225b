"""CIFAR-10 and CIFAR-100 in their binary and Python layouts (Krizhevsky 2009).

Binary: records of a label byte (CIFAR-100: coarse, then fine) and 3,072 bytes, the planes R, G, B of
32×32 pixels. Python: pickled dicts of `data` (N, 3072) and `labels` or `fine_labels`. Batches may be
partial and need not all be there.
"""

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError
from ...registry import register
from . import safe_pickle
from .content import consecutive_parts
from .dataset import Dataset, PartName
from .options import DataOptions

IMAGE_BYTES = 3 * 32 * 32
LARGEST = torch.iinfo(torch.int64).max
TRAIN = re.compile(r"data_batch.*|train(\.bin)?$")
TEST = re.compile(r"test_batch.*|test(\.bin)?$")
Batch = tuple[Tensor, Tensor]


def is_cifar_folder(folder: Path) -> bool:
    """Whether a folder has CIFAR's files: data_batch*, or CIFAR-100's train with its meta."""
    files = {path.name for path in folder.iterdir() if path.is_file()}
    hundred = ("train" in files and "meta" in files) or (
        "train.bin" in files and "fine_label_names.txt" in files
    )
    return hundred or any(re.match(r"(data|test)_batch", name) for name in files)


def is_python_batch(path: Path) -> bool:
    """Whether a file is pickled, as the batches of the Python layout are."""
    with path.open("rb") as file:
        return file.read(1) == pickle.PROTO


@register("data", "cifar", "a folder of CIFAR-10 or CIFAR-100 in the binary or the Python layout")
def read_cifar(folder: Path, options: DataOptions) -> Dataset:
    """Read the batches of a CIFAR folder in the order of their names; test* is the test part.

    Raises:
        DataError: a batch is damaged or has a wrong length, a label is out of range, or there is no
            batch to train on.
    """
    classes = _class_names(folder)
    hundred = len(classes) > 10 or (folder / "fine_label_names.txt").exists()
    parts: dict[PartName, list[Batch]] = {"train": [], "test": []}
    for path in sorted(folder.iterdir()):
        part: PartName | None = (
            "train" if TRAIN.match(path.name) else "test" if TEST.match(path.name) else None
        )
        if part is None or not path.is_file():
            continue
        batch = read_binary(path, hundred) if path.suffix == ".bin" else read_python(path)
        _check_labels(batch[1], classes or tuple(map(str, range(10))), path)
        parts[part].append(batch)
    if not parts["train"]:
        raise DataError(f"{folder} has no data_batch file to train on.")
    batches = parts["train"] + parts["test"]
    lengths = {part: sum(len(labels) for _, labels in group) for part, group in parts.items() if group}
    return Dataset(
        name=folder.resolve().name,
        kind="image",
        task="classification",
        inputs=torch.cat([images for images, _ in batches]),
        targets=torch.cat([labels for _, labels in batches]),
        parts=consecutive_parts(lengths),
        classes=classes or tuple(map(str, range(10))),
        target_name="label",
        options={"reader": "cifar"},
    )


def read_binary(path: Path, hundred: bool = False) -> Batch:
    """Images uint8 (N, 3, 32, 32) and labels int64 (N,) of one binary batch.

    Raises:
        DataError: the length is not a whole number of records.
    """
    size = IMAGE_BYTES + (2 if hundred else 1)
    content = np.fromfile(path, np.uint8)
    if not len(content) or len(content) % size:
        raise DataError(
            f"{path} has the wrong length: {len(content)} bytes are not a whole number of records of "
            f"{size} bytes. The file is not whole, or no CIFAR batch."
        )
    records = torch.from_numpy(content).reshape(-1, size)
    labels = records[:, size - IMAGE_BYTES - 1].long()
    return records[:, -IMAGE_BYTES:].reshape(-1, 3, 32, 32), labels


def read_python(path: Path) -> Batch:
    """Images uint8 (N, 3, 32, 32) and labels int64 (N,) of one batch of the Python layout.

    Raises:
        DataError: the pickle is damaged or refused, or holds something else.
    """
    content = _dict(path)
    data = content.get("data")
    labels = content.get("fine_labels", content.get("labels"))
    whole = isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.shape[1:] == (IMAGE_BYTES,)
    if data is None or not whole or not isinstance(labels, list | np.ndarray):
        raise DataError(f"{path} is no CIFAR batch: it needs data, bytes (N, {IMAGE_BYTES}), and labels.")
    if len(labels) != len(data) or not all(isinstance(label, int | np.integer) for label in labels):
        raise DataError(f"{path}: {len(data)} images need as many whole-number labels, not {len(labels)}.")
    numbers = [int(label) for label in labels]
    if any(abs(number) > LARGEST for number in numbers):
        raise DataError(
            f"label out of range: {path} has {max(numbers, key=abs)}. The file is damaged or no such batch."
        )
    return torch.from_numpy(np.array(data)).reshape(-1, 3, 32, 32), torch.tensor(numbers, dtype=torch.int64)


def _check_labels(labels: Tensor, classes: tuple[str, ...], path: Path) -> None:
    bad = ((labels < 0) | (labels >= len(classes))).nonzero()
    if len(bad):
        first = int(bad[0])
        raise DataError(
            f"label out of range: record {first + 1} of {path} has {int(labels[first])}, but there are "
            f"{len(classes)} classes, 0 to {len(classes) - 1}. The file is damaged or no such batch."
        )


def _class_names(folder: Path) -> tuple[str, ...]:
    """The classes by the names that lie with the data; empty where none do."""
    for name in ("batches.meta.txt", "fine_label_names.txt"):
        if (folder / name).is_file():
            lines = (folder / name).read_text("utf-8", "replace").splitlines()
            return tuple(line.strip() for line in lines if line.strip())
    for name in ("batches.meta", "meta"):
        if (folder / name).is_file():
            content = _dict(folder / name)
            names = content.get("fine_label_names", content.get("label_names", []))
            if not isinstance(names, list | tuple):
                raise DataError(f"{folder / name} is no CIFAR file: its names of the classes are no list.")
            return tuple(map(_text, names))
    return ()


def _dict(path: Path) -> dict[str, Any]:
    content = safe_pickle.load(path)
    if not isinstance(content, dict):
        raise DataError(f"{path} is no CIFAR file: it holds no dict.")
    return {_text(key): value for key, value in content.items()}


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
