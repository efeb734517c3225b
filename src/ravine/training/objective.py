"""What training minimises, by task."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import ModelError
from .data.dataset import Task
from .recipe import LossSection


@dataclass(frozen=True)
class Objective:
    """The training loss as a function of a model's outputs and the targets; its value is a mean.

    Attributes:
        task: what is predicted.
        mean: the function.
        weights: of each class, (classes,); None where all items count alike.
    """

    task: Task
    mean: Callable[[Tensor, Tensor], Tensor]
    weights: Tensor | None = None

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean over one batch."""
        return self.mean(outputs, targets)

    def count(self, targets: Tensor) -> int:
        """What a batch asks for: items in a classification, positions in a text, values in a regression."""
        return len(targets) if self.task == "classification" else targets.numel()

    def mass(self, targets: Tensor) -> float:
        """What a batch counts in a mean over several: its `count`, or the sum of its targets' weights."""
        if self.weights is None:
            return float(self.count(targets))
        return float(_weight(targets, self.weights))


def objective(task: Task, settings: LossSection, counts: Tensor | None, device: torch.device) -> Objective:
    """What a recipe minimizes.

    Classification: cross-entropy of logits (N, classes) and class numbers (N,), with label smoothing and
    class weights. Mixed items have the classes' shares (N, classes) in place of numbers, and each share
    weighs as its class: what is all of one class costs as much as by its number. Language: the same over
    every position of (N, T, vocabulary). Regression: mean squared error of (N, 1) or (N,) and values (N,).

    Args:
        task: what is predicted.
        settings: the recipe's `[loss]`.
        counts: training items of each class, for balanced class weights; None where unknown.
        device: where training runs.

    Raises:
        ModelError: balanced class weights were asked for and the classes cannot be counted.
    """
    weights = None
    if settings.class_weights == "balanced":
        if task != "classification" or counts is None:
            raise ModelError("loss.class_weights = 'balanced' needs a classification data set in memory")
        weights = (counts.sum() / (len(counts) * counts.clamp(min=1))).to(device, torch.float32)
    smoothing = settings.label_smoothing

    def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
        loss = functional.cross_entropy(outputs, targets, weight=weights, label_smoothing=smoothing)
        if weights is not None and targets.is_floating_point():
            # torch divides by the sum of the weights for class numbers, and for shares by the items.
            loss = loss * (len(targets) / _weight(targets, weights)).to(loss.dtype)
        return loss

    def over_positions(outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), label_smoothing=smoothing)

    def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.mse_loss(outputs.reshape(targets.shape), targets)

    means = {"classification": cross_entropy, "language": over_positions, "regression": squared_error}
    return Objective(task, means[task], weights)


def _weight(targets: Tensor, weights: Tensor) -> Tensor:
    """The sum of the weights of class numbers (N,), or of shares of the classes (N, classes)."""
    if targets.is_floating_point():
        return (targets @ weights).sum(dtype=torch.float64)
    return weights.index_select(0, targets).sum(dtype=torch.float64)
