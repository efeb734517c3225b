"""How much memory a step must move, and how fast this machine moves it at all."""

from collections.abc import Iterable

import torch
from torch import Tensor

from ...optim.base import RuleOptimizer


def traffic(optimizer: RuleOptimizer) -> int:
    """Bytes that an elementwise step cannot but move: parameters and states both ways, gradients read.

    To be asked after a first step, when the states are there.
    """
    moved = 0
    for group in optimizer.param_groups:
        keys = optimizer.rule(group).state
        for parameter in group["params"]:
            if parameter.grad is not None:
                states = sum(optimizer.state[parameter][key].nbytes for key in keys)
                moved += 2 * parameter.nbytes + parameter.grad.nbytes + 2 * states
    return moved


class Copy:
    """`copy_` of one buffer as large as the parameters: the bandwidth to measure steps by."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.source = torch.cat([parameter.detach().flatten() for parameter in parameters])
        self.target = torch.zeros_like(self.source)

    @property
    def traffic(self) -> int:
        """Bytes read and written."""
        return self.source.nbytes + self.target.nbytes

    def prepare(self) -> None:
        """Nothing."""

    def step(self) -> None:
        """The copy."""
        self.target.copy_(self.source)
