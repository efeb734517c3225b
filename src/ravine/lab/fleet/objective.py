"""The members' losses at once, each with its own label smoothing."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import vmap
from torch.nn import functional

from ...training.setup import Setup

Losses = Callable[[Tensor, Tensor], Tensor]


def together(setups: Sequence[Setup]) -> Losses:
    """From outputs (K, N, ...) and targets (K, N, ...) to the members' mean losses (K,)."""
    first = setups[0]
    if first.recipe.loss.class_weights != "none":
        return vmap(first.objective.mean)
    if first.task == "regression":
        return _squared_error
    smoothings = [setup.recipe.loss.label_smoothing for setup in setups]
    if len(set(smoothings)) == 1:
        return lambda outputs, targets: _cross_entropy(outputs, targets, smoothings[0])
    # Smoothing is linear: the loss without it, and that of a target spread over all classes.
    shares = torch.tensor(smoothings, dtype=torch.float64, device=first.device)

    def losses(outputs: Tensor, targets: Tensor) -> Tensor:
        own = shares.to(outputs.dtype)
        spread = -outputs.log_softmax(-1).flatten(1).mean(1)
        return (1 - own) * _cross_entropy(outputs, targets, 0.0) + own * spread

    return losses


def _cross_entropy(outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """All items of all members as one batch: `vmap` would take the function apart."""
    wanted = targets.flatten(0, -2) if targets.is_floating_point() else targets.flatten()
    items = functional.cross_entropy(
        outputs.flatten(0, -2), wanted, reduction="none", label_smoothing=smoothing
    )
    return items.view(len(outputs), -1).mean(1)


def _squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.reshape(targets.shape) - targets).square().flatten(1).mean(1)
