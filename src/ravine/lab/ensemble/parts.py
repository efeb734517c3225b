"""Which items the parts of two runs share, by what their `splits.json` say."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ...training.data.dataset import PartName


def shared(mine: Mapping[str, Any], part: PartName, other: Mapping[str, Any], its: PartName) -> int:
    """How many items are in a part of one run and in a part of another, on the same data."""
    if mine["items_by"] == "name":
        return len(set(mine[part]) & set(other[its]))
    stretches = [list(_stretches(mine[part])), list(_stretches(other[its]))]
    size = max((end for found in stretches for _, end in found), default=0)
    return int((_mask(stretches[0], size) & _mask(stretches[1], size)).sum())


def _stretches(ranges: str) -> Iterator[tuple[int, int]]:
    """Of "0-3 7": (0, 4) and (7, 8)."""
    for stretch in ranges.split():
        first, _, last = stretch.partition("-")
        yield int(first), int(last or first) + 1


def _mask(stretches: list[tuple[int, int]], size: int) -> Tensor:
    mask = torch.zeros(size, dtype=torch.bool)
    for start, end in stretches:
        mask[start:end] = True
    return mask
