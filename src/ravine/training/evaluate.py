"""A model's outputs over a whole part, without noise."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from .data.dataset import Task
from .feed import Feed

LOSS_UNIT = 2.0**-24


@dataclass(frozen=True)
class Outputs:
    """What a model gave for a part, on the CPU in float32.

    Attributes:
        outputs: logits (N, classes), values (N,), or for language each character's loss (windows, T).
        targets: class numbers (N,), values (N,), or for language whether each character was the model's
            first guess (windows, T).
    """

    outputs: Tensor
    targets: Tensor


@torch.inference_mode()
def outputs_over(
    model: nn.Module, feed: Feed, task: Task, poll: Callable[[], None] = lambda: None
) -> Outputs:
    """Run a part through the model in evaluation mode; the model's mode is as before afterwards.

    Args:
        model: on the feed's device.
        feed: the part.
        task: decides what is kept.
        poll: called before each batch; may raise to stop.
    """
    training = model.training
    model.eval()
    given, wanted = [], []
    try:
        for inputs, targets in feed.epoch(0):
            poll()
            left, right = _kept(task, model(inputs).float(), targets)
            given.append(left.cpu())
            wanted.append(right.cpu())
    finally:
        model.train(training)
    if task == "language":  # the last window of a stretch may be shorter
        return Outputs(_pad(given, float("nan")), _pad(wanted, float("nan")))
    return Outputs(torch.cat(given), torch.cat(wanted))


def class_numbers(targets: Tensor) -> Tensor:
    """Class numbers (N,); of shares (N, classes) the class with the greatest, of equal ones the first."""
    return targets.argmax(1) if targets.is_floating_point() else targets


def count_right(outputs: Tensor, targets: Tensor) -> tuple[int, int]:
    """Of logits (N, classes): the plain cross-entropy in units of `LOSS_UNIT`, and how many are right.

    Without label smoothing or class weights, so that it compares with the validation loss; in whole numbers,
    because it must not matter how the items are cut into calls. Of mixed items, whose targets are shares
    (N, classes), the cross-entropy is that against the shares, and right is the class with the greatest one.
    """
    losses = functional.cross_entropy(outputs, targets, reduction="none").double()
    right = outputs.argmax(1) == class_numbers(targets)
    return int((losses / LOSS_UNIT).round().long().sum()), int(right.sum())


def _kept(task: Task, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    if task == "language":
        losses = functional.cross_entropy(outputs.transpose(1, 2), targets, reduction="none")
        return losses, (outputs.argmax(-1) == targets).float()
    if task == "regression":  # every value is an item, whatever the shape it comes in
        return outputs.reshape(-1), targets.reshape(-1)
    return outputs, targets


def _pad(pieces: list[Tensor], value: float) -> Tensor:
    length = max(piece.shape[1] for piece in pieces)
    return torch.cat([functional.pad(piece, (0, length - piece.shape[1]), value=value) for piece in pieces])
