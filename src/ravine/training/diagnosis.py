"""When numbers go bad: which tensor was first, and what to try."""

import torch
from torch import Tensor

from ..errors import NotFiniteError
from . import watch
from .setup import Setup

ADVICE = (
    "The last good weights are in model.safetensors. Try a lower optimizer.lr, a longer schedule.warmup, "
    "optimizer.clip_norm = 1, or precision = 'fp32'; look for odd values in the data with `ravine inspect`."
)


def bad_loss(setup: Setup, inputs: Tensor, epoch: int, step: int, value: float) -> NotFiniteError:
    """The training loss is not finite: look for the first bad input, weight or activation."""
    if inputs.is_floating_point() and not bool(torch.isfinite(inputs).all()):
        first = "the inputs of this batch hold values that are not finite"
    elif name := watch.first_not_finite(setup.model.named_parameters()):
        first = f"the parameter {name} was the first to go bad"
    elif name := watch.first_bad_activation(setup.model, inputs):
        first = f"the output of {name} was the first to go bad"
    else:
        first = "weights and activations are finite, the loss itself overflowed"
    return NotFiniteError(f"the training loss became {value} {_where(epoch, step)}: {first}. {ADVICE}")


def bad_gradient(setup: Setup, epoch: int, step: int) -> NotFiniteError | None:
    """The gradient's length is not finite; None where its entries are, and only their squares overflow."""
    gradients = (
        (name, weight.grad) for name, weight in setup.model.named_parameters() if weight.grad is not None
    )
    name = watch.first_not_finite(gradients)
    if name is None:
        return None
    return NotFiniteError(
        f"the gradient of {name} is not finite {_where(epoch, step)}, though the loss is. {ADVICE}"
    )


def bad_evaluation(setup: Setup, epoch: int, step: int, what: str) -> NotFiniteError:
    """The validation loss, or a weight where there is no validation part, is not finite."""
    name = watch.first_not_finite(watch.state_and_gradients(setup.judged))
    first = f"the {name} was the first to go bad" if name else "its inputs or activations overflow"
    return NotFiniteError(f"{what} {_where(epoch, step)}: {first}. {ADVICE}")


def _where(epoch: int, step: int) -> str:
    return f"in epoch {epoch + 1}, at step {step + 1}"
