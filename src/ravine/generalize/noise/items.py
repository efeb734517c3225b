"""Where the items of a network's input are in what its noise takes: on axis 0 of most, but not of all."""

from collections.abc import Callable, Collection
from typing import NamedTuple

import torch
from torch import Tensor

# Copies of one item come out alike but for rounding, and other positions of the item do not: as a share of
# the largest value.
_ALIKE = 0.02


class Items(NamedTuple):
    """Where the items are in a tensor.

    Attributes:
        number: how many there are, 2 or more.
        axis: along which they lie. If it is longer than `number`, an item has several positions along it,
            such as the heads of an attention or the pixels of an image.
        outermost: whether the positions of an item lie together, as of (N·H·W, C); else the items of a
            position do, as of (T·N, C).
    """

    number: int
    axis: int
    outermost: bool = True

    def one(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """What a noise of this shape is for one item; an axis of 1 is shared already."""
        size = max(1, shape[self.axis] // self.number)
        return (*shape[: self.axis], size, *shape[self.axis + 1 :])

    def for_all(self, noise: Tensor) -> Tensor:
        """One item's noise as the same noise of each: it broadcasts against what all items have."""
        if noise.shape[self.axis] == 1:
            return noise
        axis = self.axis if self.outermost else self.axis + 1
        repeated = noise.unsqueeze(axis)
        shape = (*repeated.shape[:axis], self.number, *repeated.shape[axis + 1 :])
        return repeated.expand(shape).flatten(self.axis, self.axis + 1)


class ItemAxes:
    """Finds the items in what the noise of a network takes, call by call.

    A pass of another number of items tells: the axis that grows with their number holds them. Those items are
    copies of one, so that where an item has several positions along the axis, the values that come again tell
    their order. Nothing is known where the passes' calls differ otherwise, as where the network decides by
    what it sees; where the positions have another order than the two; and where the pass fails, as in a
    network for batches of one size alone.

    Attributes:
        learning: whether the present pass is the one that tells. Noise must not be drawn in it.
    """

    def __init__(self) -> None:
        self.learning = False
        self._copies = 0
        self._learned: list[Tensor] = []
        self._number = self._turn = 0

    def learn(self, call: Callable[[Tensor], Tensor], item: Tensor, numbers: Collection[int]) -> None:
        """Make the pass.

        Args:
            call: runs the network on a batch, and calls `begin` before.
            item: one item, (1, ...).
            numbers: of the items of the passes to come. Where none is above 1 there is nothing to share.
        """
        self._learned = []
        if max(numbers, default=0) < 2:
            return
        self._copies = next(number for number in range(2, 5) if number not in numbers)
        self.learning = True
        try:
            call(torch.cat([item] * self._copies))
        except (RuntimeError, TypeError, ValueError, IndexError):  # what fails for any number fails again
            self._learned = []
        finally:
            self.learning = False

    def begin(self, number: int) -> None:
        """A pass of as many items begins."""
        self._number, self._turn = number, 0

    def next(self, x: Tensor) -> Items | None:
        """Where the items are in what the next call of a noise takes; None where that is not known."""
        turn, self._turn = self._turn, self._turn + 1
        if self.learning:
            self._learned.append(x.detach().clone())
            return None
        if self._number < 2 or turn >= len(self._learned):
            return None
        learned = self._learned[turn]
        if learned.dim() != x.dim():
            return None
        grown = [axis for axis, size in enumerate(x.shape) if size != learned.shape[axis]]
        if len(grown) != 1:
            return None
        axis = grown[0]
        positions = x.shape[axis] // self._number
        if (x.shape[axis], learned.shape[axis]) != (positions * self._number, positions * self._copies):
            return None
        outermost = True if positions == 1 else _outermost(learned, axis, self._copies)
        return None if outermost is None else Items(self._number, axis, outermost)


def _outermost(copies: Tensor, axis: int, number: int) -> bool | None:
    """Whether the positions of each of so many copies of an item lie together; None for another order."""
    together = copies.unflatten(axis, (number, -1))
    apart = copies.unflatten(axis, (-1, number))
    gaps = [
        (values - values.narrow(own, 0, 1)).abs().max()
        for values, own in ((together, axis), (apart, axis + 1))
    ]
    limit = _ALIKE * copies.abs().max()
    if gaps[0] <= torch.minimum(gaps[1], limit):
        return True
    return False if gaps[1] <= limit else None
