"""How good is an ensemble of the first one, two, three members?"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ...randomness import generator
from ...training.data.dataset import Task
from ...training.evaluate import Outputs

EXACT = 10
"""Up to so many members every subset is looked at."""
ORDERS = 200
"""Of more members, so many orders are drawn."""


def by_number(
    averaged: Tensor, weights: Tensor, score: Callable[[Tensor], float], seed: int
) -> tuple[list[float], list[float]]:
    """The score of ensembles of 1, 2, ..., K members: its mean over the orders they may come in, and spread.

    The first m members of a random order are a random subset: up to `EXACT` members the mean is over all
    subsets of each size, of more over `ORDERS` drawn orders.

    Args:
        averaged: (K, ...), what the ensemble averages.
        weights: (K,), positive.
        score: of a mean (...).
        seed: addresses the draws.

    Returns:
        for each number of members the mean and the standard deviation over subsets.
    """
    size = len(averaged)
    shares = weights.to(averaged.dtype)
    parts = averaged * shares.view(-1, *[1] * (averaged.dim() - 1))
    found: list[list[float]] = [[] for _ in range(size)]
    for count, total, share in (
        _subsets(parts, shares) if size <= EXACT else _orders(parts, shares, generator(seed, "orders"))
    ):
        found[count - 1].append(score(total / share))
    means = [sum(scores) / len(scores) for scores in found]
    spreads = [
        math.sqrt(sum((each - mean) ** 2 for each in scores) / len(scores))
        for scores, mean in zip(found, means, strict=True)
    ]
    return means, spreads


Sum = tuple[int, Tensor, Tensor]
"""How many members, the sum of their weighted parts, and of their weights."""


def _subsets(parts: Tensor, shares: Tensor, before: Sum | None = None) -> Iterator[Sum]:
    """Every subset but the empty one; each costs one sum more than the one that it adds to."""
    count, total, share = before or (0, torch.zeros_like(parts[0]), torch.zeros_like(shares[0]))
    for place in range(len(parts)):
        grown = (count + 1, total + parts[place], share + shares[place])
        yield grown
        yield from _subsets(parts[place + 1 :], shares[place + 1 :], grown)


def _orders(parts: Tensor, shares: Tensor, draw: torch.Generator) -> Iterator[Sum]:
    for _ in range(ORDERS):
        total, share = torch.zeros_like(parts[0]), torch.zeros_like(shares[0])
        for count, place in enumerate(torch.randperm(len(parts), generator=draw).tolist(), 1):
            total, share = total + parts[place], share + shares[place]
            yield count, total, share


def score_of_mean(task: Task, truth: Outputs, deviation: float = 1.0) -> Callable[[Tensor], float]:
    """The score of `ranking.SCORES` as a function of the mean of `Answers.averaged`.

    Args:
        task: decides which.
        truth: its targets are read.
        deviation: of regression targets, in their own units.
    """
    if task == "classification":
        return lambda mean: float((mean.argmax(1) == truth.targets).double().mean())
    if task == "regression":
        return lambda mean: float((mean - truth.targets).square().mean().sqrt()) * deviation
    return lambda mean: float(-mean.log2().mean())
