"""The penalties on the weights of a stack, each member's with its own strengths."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ...training.penalties import penalized
from .member import Member
from .stack import Stack


class Penalties:
    """Each member's l1·Σ|w| + l2·Σw² over its weights, as `training.penalties` has it for one network."""

    def __init__(self, members: Sequence[Member], stack: Stack) -> None:
        settings = [member.setup.recipe.regularize for member in members]
        self._weights = [stack.trained[name] for name in penalized(members[0].setup.model)]
        self._l1 = torch.tensor([own.l1 for own in settings]).to(self._weights[0])
        self._l2 = torch.tensor([own.l2 for own in settings]).to(self._weights[0])

    def __call__(self) -> Tensor:
        """(K,), differentiable."""
        total = torch.zeros_like(self._l1)
        for weight in self._weights:
            flat = weight.flatten(1)
            total = total + self._l1 * flat.abs().sum(1) + self._l2 * flat.square().sum(1)
        return total
