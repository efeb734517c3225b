"""How sure is a score: the Wilson interval of a share, and the bootstrap of anything else."""

import math

import torch
from torch import Tensor

from ..randomness import generator

RESAMPLES = 1_000
MOST_GROUPS = 10_000
"""More items than this are resampled in so many random groups: the interval is the same to within
about 1 %, and the cost no longer grows with the data."""


def wilson_interval(successes: float, count: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """The score interval of a share of independent items; 95 % by default.

    Unlike the textbook's p ± z·s it stays within [0, 1] and is honest near both ends.
    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    if count == 0:
        return math.nan, math.nan
    share = successes / count
    center = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (center - spread) / scale), min(1.0, (center + spread) / scale)


def bootstrap_means(sums: Tensor, counts: Tensor, seed: int) -> Tensor:
    """Means over items, under `RESAMPLES` resamples of blocks of items.

    A resample draws as many blocks as there are, with replacement (Efron 1979); a block is one item
    where items are independent. Its mean is the drawn blocks' sum over their number of items.

    Args:
        sums: (blocks, K) float64, sums over the items of each block.
        counts: (blocks,) items in each block.
        seed: addresses the draws.

    Returns:
        (RESAMPLES, K) float64.
    """
    blocks = len(sums)
    weighed = torch.cat((sums, counts.to(torch.float64).unsqueeze(1)), dim=1)
    draw = generator(seed, "bootstrap")
    rows = max(1, min(RESAMPLES, 1_000_000 // blocks))
    pieces = []
    for start in range(0, RESAMPLES, rows):
        size = min(rows, RESAMPLES - start)
        chosen = torch.randint(blocks, (size, blocks), generator=draw)
        chosen += torch.arange(size).unsqueeze(1) * blocks
        times = torch.bincount(chosen.flatten(), minlength=size * blocks).view(size, blocks)
        pieces.append(times.to(torch.float64) @ weighed)
    drawn = torch.cat(pieces)
    return drawn[:, :-1] / drawn[:, -1:]


def random_groups(values: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Independent items (N, K) as at most `MOST_GROUPS` blocks: their sums and counts."""
    count = len(values)
    if count <= MOST_GROUPS:
        return values, torch.ones(count, dtype=torch.int64)
    group = torch.arange(count) % MOST_GROUPS
    order = torch.randperm(count, generator=generator(seed, "bootstrap", "groups"))
    sums = torch.zeros(MOST_GROUPS, values.shape[1], dtype=torch.float64).index_add_(0, group, values[order])
    return sums, torch.bincount(group)


def percentile_interval(draws: Tensor, coverage: float = 0.95) -> tuple[float, float]:
    """The central part of the draws (R,); draws that are not a number are left out."""
    tail = (1 - coverage) / 2
    low, high = torch.nanquantile(draws, torch.tensor([tail, 1 - tail], dtype=draws.dtype)).tolist()
    return low, high
