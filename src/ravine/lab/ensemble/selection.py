"""Which of many runs go together best: greedy selection with replacement (Caruana et al. 2004)."""

from collections.abc import Callable

import torch
from torch import Tensor

from .answers import Answers
from .ranking import WORST, Rank

ROUNDS = 50
"""How often a member is added: more only refines the weights."""


def select(ranked: Callable[[Tensor], Rank], members: int, rounds: int = ROUNDS) -> Tensor:
    """Add, round by round, the member that makes the ensemble best; a member may be added again.

    Of all ensembles on the way the best is kept, of equal ones the first, and of equally good members the one
    that stands first.
    Source: Caruana et al. 2004, "Ensemble selection from libraries of models", sections 2 and 2.1.

    Args:
        ranked: how good an ensemble is in which each member counts as (K,) weights say, which sum to 1: on
            items that no member was trained on; lower is better.
        members: how many there are, K.
        rounds: how often one is added.

    Returns:
        weights (K,), float64, which sum to 1; 0 for members that were left out.
    """
    counts = torch.zeros(members, dtype=torch.float64)
    one = torch.eye(members, dtype=torch.float64)
    best, kept = WORST, counts
    for added in range(1, rounds + 1):
        ranks = [ranked((counts + each) / added) for each in one]
        chosen = min(range(members), key=ranks.__getitem__)
        counts = counts + one[chosen]
        if ranks[chosen] < best:
            best, kept = ranks[chosen], counts / added
    return kept


def rank_of_weights(answers: Answers) -> Callable[[Tensor], Rank]:
    """How good members are together as a function of their weights (K,): as `ranking.rank` orders them."""
    truth, averaged = answers.together.targets, answers.averaged
    flat = averaged.flatten(1)
    least = torch.finfo(torch.float64).tiny

    def ranked(weights: Tensor) -> Rank:
        mean = (weights @ flat).view(averaged.shape[1:])
        if answers.task == "regression":
            error = float((mean - truth).square().mean())
            return error, error
        if answers.task == "language":
            loss = float(-mean.clamp_min(least).log().mean())
            return loss, loss
        own = mean.gather(1, truth.unsqueeze(1)).clamp_min(least)
        return -float((mean.argmax(1) == truth).double().mean()), float(-own.log().mean())

    return ranked


def weights_by_validation(answers: Answers) -> Tensor:
    """The weights that `select` finds for members by their answers for the validation part."""
    return select(rank_of_weights(answers), len(answers.members))
