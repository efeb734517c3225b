"""Moving averages of the members of a stack, as `training.averaging` has them for one network."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from ...training.averaging import weight_of
from .member import Member
from .stack import Stack


class Averages:
    """The averages of all members, each with its own decay."""

    def __init__(self, members: Sequence[Member], stack: Stack) -> None:
        """`stack`: of the networks that are followed."""
        self._models = [_averaged(member) for member in members]
        self._decays = [member.setup.recipe.optimizer.average for member in members]
        self._count = int(self._models[0].n_averaged)
        own = Stack([model.module for model in self._models])
        averages = {**own.trained, **own.others}
        followed = {**stack.trained, **stack.others}
        self._pairs = [(averages[name].detach(), followed[name].detach()) for name in averages]

    @torch.no_grad()
    def follow(self) -> None:
        """Take the weights after a step into the averages."""
        shares = torch.tensor([weight_of(decay, self._count) for decay in self._decays], dtype=torch.float64)
        for average, current in self._pairs:
            if self._count == 0 or not average.is_floating_point():
                average.copy_(current)
            else:
                average.lerp_(current, _as(shares, average))
        self._count += 1

    def hand_back(self) -> None:
        """Tell the members' own averages how many steps they hold."""
        for model in self._models:
            model.n_averaged.fill_(self._count)


def _averaged(member: Member) -> AveragedModel:
    assert member.setup.averaged is not None
    return member.setup.averaged


def _as(shares: Tensor, average: Tensor) -> Tensor:
    return shares.to(average).view(-1, *[1] * (average.dim() - 1))
