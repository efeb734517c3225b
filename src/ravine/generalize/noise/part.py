"""What every noisy part is: y = f(x, z) in training, E_z f(x, z) at test time (T27)."""

import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...errors import ModelError
from .items import Items


class Bits(NamedTuple):
    """What a part draws in a pass, where that is a finite number of independent coins.

    Attributes:
        shape: of the coins: each decides about what it is broadcast to.
        keep: the probability of a 1, which keeps what the coin decides about.
    """

    shape: tuple[int, ...]
    keep: float

    @property
    def number(self) -> int:
        """How many coins are tossed: none where all are sure to fall on one side."""
        return math.prod(self.shape) if 0.0 < self.keep < 1.0 else 0


class NoisyPart(nn.Module, ABC):
    """A module that draws noise in training and gives its expectation otherwise.

    `forward` is `noisy` in training mode, and `expected` in evaluation mode, unless `average_out` asks for
    samples. Noise comes from torch's random streams, so that it is as addressed as they are, and differs
    between the samples of `torch.func.vmap(..., randomness="different")`.

    Attributes:
        drawing: draw in evaluation mode too.
        given: the coins of one item to take in place of drawing, one axis of 0 and 1, or a coin without axes
            for all; None draws.
        items: where the items are in the input of the call to come, so that all share a draw; None lets each
            element have its own, as in training.
        by_item: whether each item has noise of its own in training: not where one draw goes to the whole
            batch, as of a mask of weights.
    """

    by_item = True

    def __init__(self) -> None:
        super().__init__()
        self.drawing = False
        self.given: Tensor | None = None
        self.items: Items | None = None

    @abstractmethod
    def noisy(self, x: Tensor) -> Tensor:
        """The output for one draw of the noise."""

    def expected(self, x: Tensor) -> Tensor:
        """The output for the noise's expectation, in closed form: nothing is left of most noises."""
        return x

    def bits(self, x: Tensor) -> Bits | None:
        """The coins that decide what becomes of `x`; None where they are not all there is."""
        return None

    def decided(self, x: Tensor, coins: Tensor) -> Tensor:
        """The output for these coins of 0 and 1, in the shape of `bits`, or one that is broadcast to it."""
        raise NotImplementedError(f"{type(self).__name__} draws no coins")

    def sampled(self, x: Tensor) -> Tensor:
        """The output for one draw that all items share: no answer depends on who else is in the batch."""
        bits = self.bits(x)
        if bits is None:
            return self.noisy(x)
        coins = torch.rand(self.one(bits.shape), device=x.device) < bits.keep
        return self.decided(x, self.for_all(coins))

    def one(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one item's share of a noise; the whole shape where nothing is shared."""
        return shape if self.items is None else self.items.one(shape)

    def for_all(self, noise: Tensor) -> Tensor:
        """One item's noise for all of them."""
        return noise if self.items is None else self.items.for_all(noise)

    def forward(self, x: Tensor) -> Tensor:
        """One draw of the noise, or its expectation."""
        if self.given is not None:
            return self.decided(x, self._spread(x, self.given) if self.given.dim() else self.given)
        if self.training:
            return self.noisy(x)
        return self.sampled(x) if self.drawing else self.expected(x)

    def _spread(self, x: Tensor, given: Tensor) -> Tensor:
        bits = self.bits(x)
        assert bits is not None
        shape = self.one(bits.shape)
        if given.numel() != math.prod(shape):
            raise ModelError(
                f"{type(self).__name__} takes a tensor in which the items are not found, so that its coins "
                "cannot be enumerated: use how='samples'"
            )
        return self.for_all(given.reshape(shape))


def check_rate(name: str, value: Any) -> float:
    """A probability as a number.

    Raises:
        ValueError: it is not in [0, 1].
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
        raise ValueError(f"Invalid {name}: {value!r}; a probability is in [0, 1]")
    return float(value)


def check_deviation(name: str, value: Any) -> float:
    """A standard deviation as a number.

    Raises:
        ValueError: it is negative or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value < math.inf:
        raise ValueError(f"Invalid {name}: {value!r}; a standard deviation is finite and at least 0")
    return float(value)


def scaled_mask(mask: Tensor, keep: float, dtype: torch.dtype) -> Tensor:
    """A mask of 0 and 1 as the factor of inverted dropout: 1/keep where it keeps, whose mean is 1."""
    return mask.to(dtype) / keep if keep else torch.zeros_like(mask, dtype=dtype)
