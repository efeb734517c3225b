"""What the matrix methods share: they turn gradients, and the base steps along what comes out."""

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from .. import rules, sharding
from ..base import RuleOptimizer
from ..kernels.surroundings import Surroundings, given
from ..optimizers.decay import decoupled
from ..options import Group, as_number, number
from ..rule import Rule
from .batch import Batch, stacked
from .elementwise import descent


class MatrixOptimizer(RuleOptimizer):
    """Base of the optimizers whose step is gradient descent along a direction found by matrix products.

    Weight decay is decoupled. Gradients are clipped, penalized and turned before the direction is found.
    Parameters of one shape at one step are worked on together, (N, m, n), with m the leading axis and n all
    others together: a convolution's kernels are the rows of its matrix.
    """

    redirects = True

    def rule(self, group: Group) -> Rule:
        """X ← x − α·(direction)."""
        return rules.gradient_descent

    def hyperparameters(self, group: Group, t: Any, *others: Any) -> Sequence[Any]:
        """The rate."""
        return [number(group, "lr")]

    def surroundings(self, group: Group, lr: Any, *, first: bool) -> Surroundings:
        """Weight decay is decoupled."""
        return decoupled(group, lr)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's.

        Raises:
            ValueError: a hyperparameter has one value a member.
        """
        super().add_param_group(param_group)
        if self.members > 1:
            del self.param_groups[-1]
            raise ValueError(
                f"{type(self).__name__} takes no hyperparameter of one value a member, so a Tensor must be "
                "1-element: it works on a parameter as one matrix"
            )

    def _around(self, group: Group, lr: Any, scale: Any, *, first: bool, fresh: bool) -> Surroundings:
        # What is zero is left out: it would cost passes over the gradients, and complex ones have no sign.
        around = super()._around(group, lr, scale, first=first, fresh=fresh)
        structure = around.structure()
        return given(structure, around.numbers(structure))

    @abstractmethod
    def direct(self, group: Group, batch: Batch) -> Sequence[Tensor]:
        """The directions of a batch, in the parameters' shape; its states are brought up to date."""

    def check_gradients(self, live: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Refuse, before anything is changed, gradients that the method cannot take."""
        for parameter in live:
            if parameter.is_complex():
                raise RuntimeError(f"{type(self).__name__} does not support complex parameters")

    def directions(self, group: Group, live: Sequence[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """What gradient descent is to follow in place of the gradients."""
        whole = [sharding.whole(gradient) for gradient in gradients]
        self.check_gradients(live, whole)
        found = list(gradients)
        alike: defaultdict[tuple[Any, ...], list[int]] = defaultdict(list)
        for place, (parameter, gradient) in enumerate(zip(live, whole, strict=True)):
            if gradient.numel():
                steps = int(self.state[parameter].get("step", 0))
                wide = torch.promote_types(parameter.dtype, torch.float32)
                alike[gradient.shape, gradient.device, wide, steps].append(place)
        for (_, _, wide, steps), places in alike.items():
            entries = [self.state[live[place]] for place in places]
            batch = Batch(entries, [whole[place] for place in places], steps, wide)
            for place, direction in zip(places, self.direct(group, batch), strict=True):
                found[place] = sharding.as_sharded(direction, live[place])
        return found

    def adam_direction(self, batch: Batch, betas: Sequence[Any], eps: float) -> Tensor:
        """Where Adam goes, element by element."""
        state = [batch.zeros(key, *batch.shape) for key in rules.adam.state]
        values = [*betas, eps]
        gradients = stacked(batch.gradients, batch.dtype)
        return descent(rules.adam, gradients, state, batch.steps + 1, values, self.engine)


def check_finite(name: str, gradients: Sequence[Tensor]) -> None:
    """Refuse gradients that would spoil averages of GGᵀ for good.

    Raises:
        RuntimeError: a gradient is not finite, or its square is not.
    """
    if not gradients or torch.nn.utils.get_total_norm(gradients).isfinite():
        return
    for number_, gradient in enumerate(gradients):
        if not torch.linalg.vector_norm(gradient).isfinite():
            raise RuntimeError(
                f"{name}: gradient {number_} of its group, of shape {tuple(gradient.shape)}, is not finite. "
                "No parameter and no statistics of this group were changed: zero the gradients and go on, "
                "or lower the learning rate"
            )


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of a parameter as a matrix; a vector is one column."""
    return (shape[0], prod(shape[1:])) if shape else (1, 1)


def leaks(group: Group, name: str = "betas") -> list[Any]:
    """β₁ and β₂ as numbers."""
    return [as_number(group, beta) for beta in group[name]]
