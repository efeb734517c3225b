"""Soups: the weights of several networks averaged into one network (Wortsman et al. 2022, arXiv:2203.05482).

One network's cost at test time. It works where the networks lie in one valley, as fine-tuned ones do and
snapshots of one run; networks trained from different initial weights mostly average to nothing.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ...errors import ModelError
from .ranking import Rank

Weights = Mapping[str, Tensor]


def soup(members: Sequence[Weights]) -> dict[str, Tensor]:
    """The mean of networks of one architecture, tensor by tensor: a uniform soup.

    Counters and other whole numbers are the first one's. Statistics of batch normalization are averaged like
    all else, and are not those of the averaged weights: `generalize.noise.batch_norm.reestimate` sets them.

    Args:
        members: state dicts, at least one.

    Raises:
        ModelError: their names or shapes differ.
    """
    first = members[0]
    for other in members[1:]:
        for name in [*first, *other]:
            shapes = [tuple(each[name].shape) if name in each else None for each in (first, other)]
            if shapes[0] != shapes[1]:
                told = " and ".join("none" if shape is None else str(shape) for shape in shapes)
                raise ModelError(
                    f"only networks of one shape can be averaged: {name} is {told}. An ensemble takes "
                    "networks of any shape"
                )
    return {
        # In float64, so that the mean of equal weights is that weight.
        name: torch.stack([each[name].double() for each in members]).mean(0).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in first.items()
    }


def greedy(ranked: Callable[[Sequence[int]], Rank], members: int) -> list[int]:
    """Which networks to average: from the best on, each one that does not make the soup worse (recipe 1).

    Args:
        ranked: how good the soup of some of them is, by their numbers, on items that none was trained on;
            lower is better.
        members: how many there are.

    Returns:
        the numbers of those taken, the best one first.
    """
    alone = [ranked([number]) for number in range(members)]
    order = sorted(range(members), key=alone.__getitem__)
    taken, best = order[:1], alone[order[0]]
    for number in order[1:]:
        tried = ranked([*taken, number])
        if tried <= best:
            taken, best = [*taken, number], tried
    return taken
