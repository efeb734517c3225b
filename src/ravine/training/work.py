"""How much arithmetic a network does: to bound work by counting, so that the bound is the same everywhere."""

import torch
from torch import Tensor, nn

from ..modes import evaluating
from .not_finite import hooked, tensors_in

BUDGET = 4e10
"""Floating-point operations: about half a second on two cores."""
TRAINING_PASSES = 3
"""A backward pass costs about two forward passes."""
_MOVING = 32  # writing a number down costs as much time as some tens of multiplications


def operations(model: nn.Module, item: Tensor) -> int:
    """Floating-point operations of one forward pass, at least 1: two for each use of a weight.

    Args:
        model: any module; it is left as it was.
        item: a batch of one.
    """
    multiplications = 0

    def count(name: str, module: nn.Module, output: object) -> None:
        nonlocal multiplications
        weight = module.weight
        if isinstance(weight, Tensor) and weight.ndim >= 2:
            cost = weight[0].numel() + _MOVING
            multiplications += cost * sum(tensor.numel() for tensor in tensors_in(output))

    layers = {name: module for name, module in model.named_modules() if hasattr(module, "weight")}
    with evaluating(model), torch.no_grad(), hooked(layers, count):
        model(item)
    return max(1, 2 * multiplications)
