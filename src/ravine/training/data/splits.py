"""Cutting a data set into training, validation and test parts."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ...errors import DataError
from ...randomness import generator
from .content import PARTS, part_positions
from .dataset import Dataset, PartName, Splits


def cut(dataset: Dataset, *, validation: float, test: float, seed: int) -> Splits:
    """Cut the parts that the source does not give out of its training part.

    Both shares are of the items that the source gives for training; a part that the source gives is
    taken as it is and never touched. Classes keep their shares in every part, and every class has an
    item in every part where it has items enough. Text is cut into contiguous stretches: training,
    validation, test. The test part does not depend on `validation`.

    Args:
        dataset: what to cut.
        validation: share of the validation part, at least 0.
        test: share of the test part, at least 0; those of the parts to cut are together less than 1.
        seed: the cut is a function of the data's order and this number.

    Raises:
        DataError: the shares are impossible, or a part that was asked for stays empty.
    """
    shares: dict[PartName, float] = {"test": test, "validation": validation}
    cut_here = [share for part, share in shares.items() if not len(part_positions(dataset, part))]
    if not (validation >= 0 and test >= 0 and sum(cut_here) < 1):
        raise DataError(
            f"the shares of the validation part ({validation}) and the test part ({test}) must be at "
            f"least 0, and those that are cut here together less than 1."
        )
    whole = part_positions(dataset, "train")
    given_test = len(part_positions(dataset, "test")) > 0
    parts: dict[PartName, Tensor] = {"train": whole}
    for part in ("test", "validation"):  # the test part first, so that it is the same for any validation
        given = part_positions(dataset, part)
        count = round(shares[part] * len(whole))
        if len(given) or not shares[part]:
            parts[part] = given.sort().values
        elif dataset.kind == "text":
            parts["train"], parts[part] = parts["train"].tensor_split([len(parts["train"]) - count])
        else:
            parts["train"], parts[part] = _draw(dataset, parts["train"], count, seed, part)
        if shares[part] and not len(parts[part]):
            raise DataError(f"{dataset.name} has too few items ({len(whole)}) to cut a {part} part out of.")
    if not len(parts["train"]):
        raise DataError(f"{dataset.name} has too few items ({len(whole)}): none are left to train on.")
    return Splits(parts["train"].sort().values, parts["validation"], parts["test"], given_test)


def _draw(dataset: Dataset, pool: Tensor, count: int, seed: int, part: PartName) -> tuple[Tensor, Tensor]:
    """Draw `count` of the positions in `pool`: what stays and what was drawn, sorted."""
    random = generator(seed, "split", part)
    shuffled = pool[torch.randperm(len(pool), generator=random)]
    if dataset.task != "classification":
        return shuffled[count:].sort().values, shuffled[:count].sort().values
    labels = dataset.targets[shuffled]
    quotas = _quotas(torch.bincount(labels, minlength=len(dataset.classes)), count)
    # A stable sort by class keeps the shuffled order within each class: the first of each are drawn.
    by_class = torch.argsort(labels, stable=True)
    ordered = labels[by_class]
    starts = torch.searchsorted(ordered, torch.arange(len(quotas)))
    rank = torch.arange(len(ordered)) - starts[ordered]
    drawn = rank < quotas[ordered]
    positions = shuffled[by_class]
    return positions[~drawn].sort().values, positions[drawn].sort().values


def _quotas(counts: Tensor, count: int) -> Tensor:
    """How many of each class to draw: in proportion, by largest remainders, about `count` in all.

    A class of two items or more gives at least one and keeps at least one.
    """
    exact = counts.double() * count / max(1, int(counts.sum()))
    quotas = exact.floor().long()
    short = count - int(quotas.sum())
    quotas[torch.argsort(exact - quotas, descending=True, stable=True)[:short]] += 1
    least = (counts >= 2).long() if count else torch.zeros_like(counts)
    return torch.maximum(torch.minimum(quotas, (counts - 1).clamp(min=0)), least)


def to_json(dataset: Dataset, splits: Splits) -> dict[str, Any]:
    """The record of a cut: the items of each part by name, in the order of their positions.

    Items without names of their own are recorded as ranges of positions, "0-3 7 9-12".
    """
    named = dataset.item_name is not str
    record: dict[str, Any] = {
        "items_by": "name" if named else "position",
        "given_test": splits.given_test,
        "counts": {part: len(splits.of(part)) for part in PARTS},
    }
    for part in PARTS:
        positions = splits.of(part)
        record[part] = (
            [dataset.item_name(position) for position in positions.tolist()] if named else ranges(positions)
        )
    return record


def ranges(positions: Tensor) -> str:
    """Sorted positions, written short: "0-3 7 9-12"."""
    if not len(positions):
        return ""
    breaks = (positions.diff() != 1).nonzero().flatten() + 1
    runs: Iterable[Tensor] = positions.tensor_split(breaks)
    ends = ((int(run[0]), int(run[-1])) for run in runs)
    return " ".join(str(first) if first == last else f"{first}-{last}" for first, last in ends)
