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
        return CrossEntropy(smoothings[0])
    # Smoothing is linear: the loss without it, and that of a target spread over all classes.
    shares = torch.tensor(smoothings, dtype=torch.float64, device=first.device)

    def losses(outputs: Tensor, targets: Tensor) -> Tensor:
        own = shares.to(outputs.dtype)
        spread = -outputs.log_softmax(-1).flatten(1).mean(1)
        return (1 - own) * item_losses(outputs, targets).mean(1) + own * spread

    return losses


class CrossEntropy:
    """The members' mean cross-entropies, with one label smoothing: for autograd, or with their gradient."""

    def __init__(self, smoothing: float) -> None:
        self._smoothing = smoothing

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """As `together`."""
        return item_losses(outputs, targets, self._smoothing).mean(1)

    def with_gradient(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The losses (K,) and the gradient of their sum, like outputs: what they expect less what they saw.

        Args:
            outputs: logits (K, N, ..., classes), which need no gradient.
            targets: class numbers (K, N, ...).
        """
        wanted = targets.reshape(1, -1)
        logs = _by_class(outputs).log_softmax(0)
        losses = _items(logs, wanted, self._smoothing).view(len(outputs), -1).mean(1)
        share = len(outputs) / wanted.numel()
        gradient = logs.exp_().mul_(share)
        if self._smoothing:
            gradient.sub_(share * self._smoothing / len(gradient))
        seen = gradient.new_full((), (self._smoothing - 1) * share).expand(wanted.shape)
        return losses, gradient.scatter_add_(0, wanted, seen).t().view(outputs.shape)


def answered(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The cross-entropy of every item of every member, and whether its first guess is right: (K, items) each.

    As `evaluate.count_right`; the arguments are those of `item_losses`.
    """
    logits, wanted = _by_class(outputs), _wanted(targets)
    classes = wanted.argmax(0) if wanted.is_floating_point() else wanted.squeeze(0)
    right = logits.max(0).indices == classes  # a third of what argmax takes over a short last axis
    losses = _items(logits.log_softmax(0), wanted, 0.0)
    return losses.view(len(outputs), -1), right.view(len(outputs), -1)


def item_losses(outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """The cross-entropy of every item of every member (K, items): `vmap` would take the function apart.

    With the classes first: torch's softmax over a short last axis takes ten times as long.

    Args:
        outputs: logits (K, N, ..., classes).
        targets: class numbers (K, N, ...), or shares of the classes (K, N, classes).
        smoothing: share of the target spread over all classes.
    """
    logs = _by_class(outputs).log_softmax(0)
    return _items(logs, _wanted(targets), smoothing).view(len(outputs), -1)


def _by_class(outputs: Tensor) -> Tensor:
    """(classes, all items of all members)."""
    return outputs.flatten(0, -2).t().contiguous()


def _wanted(targets: Tensor) -> Tensor:
    """Class numbers (1, items), or shares of the classes (classes, items)."""
    return targets.flatten(0, -2).t() if targets.is_floating_point() else targets.reshape(1, -1)


def _items(logs: Tensor, wanted: Tensor, smoothing: float) -> Tensor:
    """Of log-probabilities (classes, items): against class numbers (1, items), or shares of the classes."""
    items = -((wanted * logs).sum(0) if wanted.is_floating_point() else logs.gather(0, wanted).squeeze(0))
    return (1 - smoothing) * items - smoothing * logs.mean(0) if smoothing else items


def _squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.reshape(targets.shape) - targets).square().flatten(1).mean(1)
