"""The members' losses at once, each with its own label smoothing."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import vmap

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
        return lambda outputs, targets: item_losses(outputs, targets, smoothings[0]).mean(1)
    # Smoothing is linear: the loss without it, and that of a target spread over all classes.
    shares = torch.tensor(smoothings, dtype=torch.float64, device=first.device)

    def losses(outputs: Tensor, targets: Tensor) -> Tensor:
        own = shares.to(outputs.dtype)
        spread = -outputs.log_softmax(-1).flatten(1).mean(1)
        return (1 - own) * item_losses(outputs, targets).mean(1) + own * spread

    return losses


def item_losses(outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """The cross-entropy of every item of every member (K, items): `vmap` would take the function apart.

    With the classes first: torch's softmax over a short last axis takes ten times as long.

    Args:
        outputs: logits (K, N, ..., classes).
        targets: class numbers (K, N, ...), or shares of the classes (K, N, classes).
        smoothing: share of the target spread over all classes.
    """
    logs = outputs.flatten(0, -2).t().contiguous().log_softmax(0)
    if targets.is_floating_point():
        items = -(targets.flatten(0, -2).t() * logs).sum(0)
    else:
        items = -logs.gather(0, targets.reshape(1, -1)).squeeze(0)
    if smoothing:
        items = (1 - smoothing) * items - smoothing * logs.mean(0)
    return items.view(len(outputs), -1)


def _squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.reshape(targets.shape) - targets).square().flatten(1).mean(1)
