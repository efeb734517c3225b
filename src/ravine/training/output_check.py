"""Does a model's output fit its target? Asked once, before any time is spent."""

import copy

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..modes import evaluating
from .data.dataset import Task


def check(model: nn.Module, inputs: Tensor, outputs: int, task: Task) -> None:
    """Run a few preprocessed items through the model, in evaluation mode, and look at what comes out.

    Args:
        model: any module; it is left as it was.
        inputs: a few items, (N, ...), where the model is.
        outputs: classes, 1 for regression, or the size of the vocabulary.
        task: outputs must be (N, outputs); for "language" (N, T, outputs).

    Raises:
        ModelError: the model fails on them, or its output has the wrong type or shape or is not finite.
    """
    told = f"for inputs of shape {tuple(inputs.shape)}"
    with evaluating(model), torch.no_grad():
        try:
            given = model(inputs)
        except ModelError:
            raise
        except Exception as error:
            text = str(error).strip().split("\n")[0]
            raise ModelError(f"the model failed {told}: {type(error).__name__}: {text}") from error
    if not isinstance(given, Tensor):
        raise ModelError(f"the model gave a {type(given).__name__} {told}, but one tensor is needed")
    if not given.is_floating_point():
        raise ModelError(f"the model gave numbers of type {given.dtype} {told}, but floating point is needed")
    leading = inputs.shape[:2] if task == "language" else inputs.shape[:1]
    wanted = (*leading, outputs)
    if tuple(given.shape) != wanted:
        raise ModelError(
            f"the model's output does not fit the target: {told} it must be {wanted} "
            f"({_meaning(task, outputs)}), but it is {tuple(given.shape)}"
            f"{_advice(tuple(given.shape), wanted)}"
        )
    if not torch.isfinite(given).all():
        raise ModelError(
            f"the model's output is infinite or not-a-number {told} before any training: "
            "its weights start too large, or the inputs are not finite"
        )


def check_single(model: nn.Module, item: Tensor) -> None:
    """Refuse a network that cannot be trained on one item a batch.

    Args:
        model: any module; it is left as it was.
        item: (1, ...), where the model is.

    Raises:
        ModelError: it normalizes over the items of a batch.
    """
    try:
        copy.deepcopy(model).train()(item)
    except ValueError as error:
        if "more than 1 value per channel" in str(error):
            raise ModelError(
                "data.batch_size = 1: batch normalization takes two items or more a batch"
            ) from error


def _meaning(task: Task, outputs: int) -> str:
    if task == "regression":
        return "one value an item"
    return f"a logit for each of {outputs} {'tokens' if task == 'language' else 'classes'}"


def _advice(given: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    if wanted == (*given, 1):
        return "; add .unsqueeze(-1)"
    if len(given) == len(wanted) and given[:-1] == wanted[:-1]:
        return f"; give its last layer {wanted[-1]} outputs"
    return ""
