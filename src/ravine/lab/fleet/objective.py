"""The members' losses at once, each with its own label smoothing."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import vmap

from ...training.objective import objective
from ...training.recipe import LossSection
from ...training.setup import Setup

Losses = Callable[[Tensor, Tensor], Tensor]


def together(setups: Sequence[Setup]) -> Losses:
    """From outputs (K, N, ...) and targets (K, N, ...) to the members' mean losses (K,)."""
    smoothings = [setup.recipe.loss.label_smoothing for setup in setups]
    if len(set(smoothings)) == 1:
        return vmap(setups[0].objective.mean)
    # Smoothing is linear: the loss without it, and that of a target spread over all classes.
    shares = torch.tensor(smoothings, dtype=torch.float64, device=setups[0].device)
    plain = vmap(objective(setups[0].task, LossSection(), None, setups[0].device).mean)

    def losses(outputs: Tensor, targets: Tensor) -> Tensor:
        spread = -outputs.log_softmax(-1).flatten(1).mean(1)
        own = shares.to(outputs.dtype)
        return (1 - own) * plain(outputs, targets) + own * spread

    return losses
