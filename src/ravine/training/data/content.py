"""What every data set is checked for and known by, whatever its format."""

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ...errors import DataError
from .dataset import Dataset, PartName, no_positions

PARTS: tuple[PartName, ...] = ("train", "validation", "test")


def consecutive_parts(lengths: Mapping[PartName, int]) -> dict[PartName, Tensor]:
    """Positions of parts that lie one after another, in the order of `lengths`."""
    parts: dict[PartName, Tensor] = {}
    start = 0
    for part, length in lengths.items():
        parts[part] = torch.arange(start, start + length)
        start += length
    return parts


def part_positions(dataset: Dataset, part: PartName) -> Tensor:
    """Positions of a part as the source gives it; empty where it does not."""
    return dataset.parts.get(part, no_positions())


def digest(dataset: Dataset) -> str:
    """A fingerprint of a data set in memory: of its items, answers, given parts and meaning."""
    hasher = hashlib.blake2b(digest_size=16)
    meaning = (dataset.kind, dataset.task, dataset.item_shape, dataset.classes, dataset.columns)
    hasher.update(repr(meaning).encode())
    tensors = [dataset.targets, *(part_positions(dataset, part) for part in PARTS)]
    if isinstance(dataset.inputs, Tensor):
        tensors.append(dataset.inputs)
    for tensor in tensors:
        hasher.update(repr((tuple(tensor.shape), str(tensor.dtype))).encode())
        if tensor.numel():
            hasher.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def check(dataset: Dataset) -> None:
    """Refuse answers that nothing can be learned from.

    Raises:
        DataError: no items to train on; fewer than two classes, or a constant value; a class that
            only items outside the training part have.
    """
    train = part_positions(dataset, "train")
    if len(train) == 0:
        raise DataError(f"{dataset.name} has no items to train on.")
    if dataset.task == "classification":
        _check_classes(dataset, train)
    elif dataset.task == "regression":
        values = dataset.targets[train]
        if values.min() == values.max():
            raise DataError(
                f"the target {dataset.target_name!r} of {dataset.name} is {values[0].item():g} for every "
                f"item: there is nothing to learn. Name another target."
            )


def _check_classes(dataset: Dataset, train: Tensor) -> None:
    counts = torch.bincount(dataset.targets[train], minlength=len(dataset.classes))
    present = [name for name, count in zip(dataset.classes, counts.tolist(), strict=True) if count]
    if len(present) < 2:
        raise DataError(
            f"{dataset.name} has {some(present, 'one class') if present else 'no class'} to train on: "
            f"telling classes apart needs at least two. Check the target {dataset.target_name!r}."
        )
    for part in PARTS[1:]:
        positions = part_positions(dataset, part)
        unknown = positions[counts[dataset.targets[positions]] == 0]
        if len(unknown):
            first = int(unknown[0])
            raise DataError(
                f"label out of range: {dataset.item_name(first)} of the {part} part of {dataset.name} has "
                f"the class {dataset.classes[int(dataset.targets[first])]!r}, which no training item has "
                f"({len(unknown)} such items in all). Correct the labels, or add such items for training."
            )


def some(names: Iterable[object], what: str, most: int = 3) -> str:
    """`"3 rows (1, 2, 3)"` or `"9 rows (1, 2, 3, ...)"`: a list that stays readable.

    `what` is taken as it is for one name: "one class ('a')".
    """
    listed = list(names)
    shown = ", ".join(map(str, listed[:most])) + (", ..." if len(listed) > most else "")
    return f"{what} ({shown})"
