"""A rule run for its step alone, inside a matrix method."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..engines import engine_of
from ..kernels.eager import Update, step_dense
from ..kernels.lane import lane_of
from ..kernels.llvm import Layout
from ..kernels.surroundings import Surroundings
from ..kernels.table import Table
from ..kernels.trace import trace
from ..rule import Rule


def descent(
    rule: Rule, dx: Tensor, state: Sequence[Tensor], t: int, values: Sequence[Any], engine: str
) -> Tensor:
    """Where a rule goes from zero at the rate −1: what gradient descent at any rate may follow in its place.

    Args:
        rule: such as Adam.
        dx: the gradients, contiguous.
        state: the rule's, of the same shape; it is updated in place.
        t: the step, counted from 1.
        values: the rule's hyperparameters after the rate.
        engine: the optimizer's.

    Returns:
        A new tensor of the same shape.
    """
    x = torch.zeros_like(dx)
    columns = [x, dx, *state]
    update = Update(rule, Surroundings(), t, [-1.0, *values])
    name = engine_of(columns, 1, engine) if dx.numel() else "eager"
    if name == "eager":
        step_dense(update, x, dx, state)
        return x
    program = trace(rule, update.around.structure())
    layout = Layout(tuple(each.dtype for each in columns))
    kind = lane_of(name)
    table = Table(layout, [[x], *([each] for each in state)], [0], [1], kind.chunk)
    table.point(0, [x.data_ptr()])
    table.point(1, [dx.data_ptr()])
    lane = kind(program, layout, table, 1, dx.device)
    lane.fill(0, 1, program.scalars(t, *update.values))
    lane.run()
    return x
