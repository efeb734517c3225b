"""The reference engine: a rule run on tensors, any device and dtype, by torch's own operators.

What happens to an element does not depend on the elements beside it.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..rule import Rule
from . import rounding
from .surroundings import Surroundings, given, surround

BLOCK = 131072
"""Elements worked on at a time: few enough that a block and its state stay in the cache from one torch
call to the next, enough that the calls themselves do not count."""


class Update(NamedTuple):
    """One step of a rule in its surroundings, with every number filled in.

    Attributes:
        rule: the rule.
        around: what is composed around it.
        t: the step that the rule sees.
        values: the rule's hyperparameters.
        counters: what the parameters' counters are after it.
    """

    rule: Rule
    around: Surroundings
    t: Any
    values: Sequence[Any]
    counters: Sequence[Any] = ()

    def fits(self, members: int) -> bool:
        """Whether each number that has one value a member has so many."""
        return all(
            len(value) == members
            for value in (*self.values, *self.around[1:])
            if isinstance(value, Tensor) and value.dim() == 1
        )

    def result(self, x: Tensor, dx: Tensor, rest: Sequence[Tensor]) -> list[Tensor]:
        """The new x, state and average, as the rule is written: new tensors, which autograd follows."""
        structure = self.around.structure()
        numbers = [_along(value, x) for value in self.around.numbers(structure)]
        values = [_along(value, x) for value in self.values]
        new = surround(self.rule, given(structure, numbers), x, dx, rest, self.t, values)
        return [torch.as_tensor(value, dtype=old.dtype) for value, old in zip(new, (x, *rest), strict=True)]


class Storage(NamedTuple):
    """How a parameter is stored.

    Attributes:
        rounding: "nearest", "stochastic" or "compensated".
        key: where the counts of its elements begin, for the random bits.
        remainder: int16, of the parameter's shape; where rounding is "compensated".
    """

    rounding: str = "nearest"
    key: int = 0
    remainder: Tensor | None = None


def compute_dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    """The dtype a rule runs in: the widest among the tensors, float32 at least.

    Rounding each intermediate value to 16 bits would lose the small terms (0.999·v + 0.001·dx²).
    """
    widest = torch.float32
    for tensor in tensors:
        widest = torch.promote_types(widest, tensor.dtype)
    return widest


def step_dense(
    update: Update, x: Tensor, dx: Tensor, rest: Sequence[Tensor], storage: Storage | None = None
) -> None:
    """Update one parameter, its state and its average in place, block by block."""
    storage = storage or Storage()
    tensors = [x.detach(), dx, *rest]
    if x.is_complex():
        tensors = [torch.view_as_real(tensor) for tensor in tensors]
    if storage.remainder is not None:
        tensors.append(storage.remainder)
    flat = None if _by_member(update) else _flat(tensors)
    blocks: Iterable[Sequence[Tensor]] = [tensors]
    if flat is not None:
        blocks = zip(*(torch.split(tensor, BLOCK) for tensor in flat), strict=True)
    wide = compute_dtype([tensors[0], *tensors[2 : 2 + len(rest)]])
    start = storage.key
    for block in blocks:
        _step_block(update, block, wide, storage._replace(key=start))
        start += block[0].numel()


def _step_block(update: Update, block: Sequence[Tensor], wide: torch.dtype, storage: Storage) -> None:
    x, remainder = block[0], None
    if storage.remainder is not None:
        *block, remainder = block
        first = rounding.widen(x, remainder).to(wide)
    else:
        first = x.to(wide)
    dx, *rest = (tensor.to(wide) for tensor in block[1:])
    new_x, *new_rest = update.result(first, dx, rest)
    if storage.rounding != "nearest":
        counts = storage.key + torch.arange(x.numel(), device=x.device)
        counts = counts.as_strided(x.shape, x.stride()) if is_dense(x) else counts.view(x.shape)
        new_x, new_remainder = rounding.narrow(new_x.float(), storage.rounding, counts)
        if remainder is not None and new_remainder is not None:
            remainder.copy_(new_remainder)
    for target, value in zip((x, *block[2:]), (new_x, *new_rest), strict=True):
        target.copy_(value)


def step_rows(update: Update, x: Tensor, dx: Tensor, rest: Sequence[Tensor]) -> None:
    """Update in place only the entries that a sparse gradient names.

    Right for rules that leave an element alone where its gradient is zero.
    """
    gradient = dx.coalesce()
    where = tuple(gradient.indices())
    wholes = (x, *rest)
    rows = [whole[where] for whole in wholes]
    step_dense(update, rows[0], gradient.values(), rows[1:])
    for whole, part in zip(wholes, rows, strict=True):
        whole[where] = part


def step_graph(update: Update, x: Tensor, dx: Tensor, rest: Sequence[Tensor]) -> list[Tensor]:
    """Update a parameter in place under autograd; the new state is returned, not written.

    The rule sees a clone of x: what autograd keeps of it must not change when x does.
    """
    tensors = [x.clone(), dx, *rest]
    if x.is_complex():
        tensors = [torch.view_as_real(tensor) for tensor in tensors]
    new = update.result(tensors[0], tensors[1], tensors[2:])
    if x.is_complex():
        new = [torch.view_as_complex(tensor) for tensor in new]
    x.copy_(new[0])
    return [value.clone() if value is dx else value for value in new[1:]]


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill one stretch of memory without gaps or overlaps, in whatever order."""
    return tensor.is_contiguous() or bool(torch.ops.aten.is_non_overlapping_and_dense(tensor))


def _by_member(update: Update) -> bool:
    values = (*update.values, *update.around[1:])
    return any(isinstance(value, Tensor) and value.dim() == 1 for value in values)


def _along(value: Any, x: Tensor) -> Any:
    """A hyperparameter of one value a member, against the leading axis of x."""
    if isinstance(value, Tensor) and value.dim() == 1:
        return value.to(x.device).view(-1, *[1] * (x.dim() - 1))
    return value


def _flat(tensors: Sequence[Tensor]) -> list[Tensor] | None:
    """The tensors as vectors in one order of memory, without copies; None where that cannot be."""
    strides = tensors[0].stride()
    if any(type(tensor) not in (Tensor, torch.nn.Parameter) for tensor in tensors):
        return None
    if not is_dense(tensors[0]) or any(tensor.stride() != strides for tensor in tensors):
        return None
    return [tensor.as_strided((tensor.numel(),), (1,)) for tensor in tensors]
