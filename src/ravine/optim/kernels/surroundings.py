"""What is composed around a rule: decay, penalties, clipping, the average. Written once for every engine.

`surround` is plain arithmetic, as a rule is: it runs on tensors (the eager engine) and on symbols (the
compiled ones), so that everything happens in the same pass over memory.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from ..rule import Rule, absolute, maximum, minimum, sign


class Surroundings(NamedTuple):
    """The numbers around a rule, in the order in which they act; None or zero is left out.

    Attributes:
        maximize: climb; the gradient's sign is turned.
        scale: the gradient times this, never left out but as None: clipping by the global norm.
        clip: each element of the gradient is cut to [-clip, clip].
        l1: L1 penalty: l1·sign(x) is added to the gradient.
        decay: coupled weight decay (L2): decay·x is added to the gradient.
        damping: the rule sees (1 − damping)·dx.
        shrink: decoupled weight decay: x is multiplied by (1 − shrink) before the rule.
        threshold: proximal L1: after the rule |x| falls by this, not below zero (soft threshold).
        contract: proximal L2: after the rule x is divided by (1 + contract).
        weight: the moving average takes this share of the new x: average + weight·(x − average).
    """

    maximize: bool = False
    scale: Any = None
    clip: Any = None
    l1: Any = None
    decay: Any = None
    damping: Any = None
    shrink: Any = None
    threshold: Any = None
    contract: Any = None
    weight: Any = None

    def structure(self) -> "Structure":
        """Which of them there are."""
        given = [value is not None and (isinstance(value, Tensor) or value != 0) for value in self[1:]]
        given[0] = self.scale is not None  # a gradient of infinite norm is scaled by zero
        return (bool(self.maximize), *given)

    def numbers(self, structure: "Structure") -> list[Any]:
        """Their values."""
        return [value for value, given in zip(self[1:], structure[1:], strict=True) if given]

    def without_gradient_part(self) -> "Surroundings":
        """Without what acts on the gradient: it is done already (`prepared`)."""
        return self._replace(maximize=False, scale=None, clip=None, l1=None, decay=None, damping=None)


Structure = tuple[bool, ...]
"""Which of the surroundings there are, in their order."""


def given(structure: Structure, numbers: Sequence[Any]) -> Surroundings:
    """The opposite of `Surroundings.numbers`."""
    rest = iter(numbers)
    return Surroundings(structure[0], *(next(rest) if there else None for there in structure[1:]))


def names(structure: Structure) -> list[str]:
    """The names of the numbers."""
    return [name for name, there in zip(Surroundings._fields[1:], structure[1:], strict=True) if there]


def surround(
    rule: Rule, around: Surroundings, x: Any, dx: Any, rest: Sequence[Any], t: Any, values: Sequence[Any]
) -> list[Any]:
    """One step of the rule inside its surroundings, for one element or for tensors.

    Args:
        rule: the rule.
        around: None for what is left out.
        x: the parameter.
        dx: its gradient.
        rest: the rule's state and, where there is a `weight`, the average.
        t: the step, counted from 1.
        values: the rule's hyperparameters.

    Returns:
        The new x, state and average.
    """
    dx = prepared(around, x, dx)
    if around.shrink is not None:
        x = (1 - around.shrink) * x
    x, *state = rule(x, dx, *rest[: len(rule.state)], t, *values)
    if around.threshold is not None:
        x = sign(x) * maximum(absolute(x) - around.threshold, 0.0)
    if around.contract is not None:
        x = x / (1 + around.contract)
    if around.weight is None:
        return [x, *state]
    average = rest[len(rule.state)]
    return [x, *state, average + around.weight * (x - average)]


def prepared(around: Surroundings, x: Any, dx: Any) -> Any:
    """The gradient as the rule sees it: turned, clipped, penalized, damped."""
    if around.maximize:
        dx = -dx
    if around.scale is not None:
        dx = around.scale * dx
    if around.clip is not None:
        dx = minimum(maximum(dx, -around.clip), around.clip)
    if around.l1 is not None:
        dx = dx + around.l1 * sign(x)
    if around.decay is not None:
        dx = dx + around.decay * x
    if around.damping is not None:
        dx = (1 - around.damping) * dx
    return dx
