"""The reference engine: a rule run on tensors, any device and dtype, by torch's own operators.

What happens to an element does not depend on the elements beside it: not on how parameters are packed,
nor on the number of threads.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..rule import Rule, UpdateFunction
from .fusion import Shape, program

BLOCK = 131072
"""Elements worked on at a time: few enough that a block and its state stay in the cache from one torch
call to the next, enough that the calls themselves do not count. Measured: 16 k takes 1.9 times as long."""


class Surroundings(NamedTuple):
    """What is composed around a rule, in this order.

    Attributes:
        maximize: climb; the gradient's sign is turned.
        decay: coupled weight decay (L2), added to the gradient: dx + decay·x.
        shrink: decoupled weight decay: x is multiplied by (1 − shrink) before the rule.
        damping: the rule sees (1 − damping)·dx.
    """

    maximize: bool = False
    decay: Any = 0.0
    shrink: Any = 0.0
    damping: Any = 0.0


@functools.cache
def bind(rule: Rule) -> UpdateFunction:
    """The rule's function on tensors."""
    return rule.bind(sqrt=torch.sqrt, maximum=torch.maximum)


class Update(NamedTuple):
    """One step of a rule in its surroundings, with every number filled in."""

    rule: Rule
    around: Surroundings
    t: Any
    hyperparameters: Sequence[Any]

    def result(self, x: Tensor, dx: Tensor, *state: Tensor) -> Sequence[Tensor]:
        """The new x and state, as the rule is written: new tensors, which autograd follows."""
        around = self.around
        if around.maximize:
            dx = -dx
        if _given(around.decay):
            dx = dx + around.decay * x
        if _given(around.shrink):
            x = x * (1 - around.shrink)
        if _given(around.damping):
            dx = (1 - around.damping) * dx
        new: Sequence[Tensor] = bind(self.rule)(x, dx, *state, self.t, *self.hyperparameters)
        return new

    def write(self, x: Tensor, dx: Tensor, *state: Tensor) -> None:
        """Overwrite x and the state: the same equations in fewer passes over memory."""
        around = self.around
        numbers = (self.t, *self.hyperparameters, around.decay, around.shrink, around.damping)
        fused = None
        if not any(isinstance(value, Tensor) for value in numbers):
            shape = Shape(
                around.maximize, _given(around.decay), _given(around.shrink), _given(around.damping)
            )
            fused = program(self.rule, shape)
        if fused is not None:
            fused(x, dx, *state, *numbers)
            return
        for target, value in zip((x, *state), self.result(x, dx, *state), strict=True):
            target.copy_(value)


def compute_dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    """The dtype a rule runs in: the widest among the tensors, float32 at least.

    Rounding each intermediate value to 16 bits would lose the small terms (0.999·v + 0.001·dx²).
    """
    widest = torch.float32
    for tensor in tensors:
        widest = torch.promote_types(widest, tensor.dtype)
    return widest


def step_dense(update: Update, x: Tensor, dx: Tensor, state: Sequence[Tensor]) -> None:
    """Update one parameter and its state in place, block by block."""
    tensors = [x.detach(), dx, *state]
    if x.is_complex():
        tensors = [torch.view_as_real(tensor) for tensor in tensors]
    flat = _flat(tensors)
    blocks: Iterable[Sequence[Tensor]] = [tensors]
    if flat is not None:
        blocks = zip(*(torch.split(tensor, BLOCK) for tensor in flat), strict=True)
    wide = compute_dtype([tensors[0], *tensors[2:]])
    for block in blocks:
        values = [tensor.to(wide) for tensor in block]
        update.write(*values)
        for target, value in zip((block[0], *block[2:]), (values[0], *values[2:]), strict=True):
            if target is not value:
                target.copy_(value)


def step_rows(update: Update, x: Tensor, dx: Tensor, state: Sequence[Tensor]) -> None:
    """Update in place only the entries that a sparse gradient names.

    Right for rules that leave an element alone where its gradient is zero.
    """
    gradient = dx.coalesce()
    where = tuple(gradient.indices())
    wholes = (x, *state)
    rows = [whole[where] for whole in wholes]
    step_dense(update, rows[0], gradient.values(), rows[1:])
    for whole, part in zip(wholes, rows, strict=True):
        whole[where] = part


def step_graph(update: Update, x: Tensor, dx: Tensor, state: Sequence[Tensor]) -> list[Tensor]:
    """Update a parameter in place under autograd; the new state is returned, not written.

    The rule sees a clone of x: what autograd keeps of it must not change when x does.
    """
    tensors = [x.clone(), dx, *state]
    if x.is_complex():
        tensors = [torch.view_as_real(tensor) for tensor in tensors]
    new = list(update.result(*tensors))
    if x.is_complex():
        new = [torch.view_as_complex(tensor) for tensor in new]
    x.copy_(new[0])
    return new[1:]


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill one stretch of memory without gaps or overlaps, in whatever order."""
    return tensor.is_contiguous() or bool(torch.ops.aten.is_non_overlapping_and_dense(tensor))


def _flat(tensors: Sequence[Tensor]) -> list[Tensor] | None:
    """The tensors as vectors in one order of memory, without copies; None where that cannot be."""
    strides = tensors[0].stride()
    if any(type(tensor) not in (Tensor, torch.nn.Parameter) for tensor in tensors):
        return None
    if not is_dense(tensors[0]) or any(tensor.stride() != strides for tensor in tensors):
        return None
    return [tensor.as_strided((tensor.numel(),), (1,)) for tensor in tensors]


def _given(value: Any) -> bool:
    return isinstance(value, Tensor) or value != 0
