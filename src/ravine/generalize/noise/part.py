"""What every noisy part is: y = f(x, z) in training, E_z f(x, z) at test time (T27)."""

import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Bits(NamedTuple):
    """What a part draws for one item, where that is a finite number of independent coins.

    Attributes:
        number: of coins.
        keep: the probability of a 1, which keeps what the coin decides about.
    """

    number: int
    keep: float


class NoisyPart(nn.Module, ABC):
    """A module that draws noise in training and gives its expectation otherwise.

    `forward` is `noisy` in training mode, and `expected` in evaluation mode, unless `average_out` asks for
    samples. Noise comes from torch's random streams, so that it is as addressed as they are, and differs
    between the samples of `torch.func.vmap(..., randomness="different")`.

    Attributes:
        drawing: draw in evaluation mode too.
        given: the coins to take in place of drawing, (bits.number,) of 0 and 1; None draws.
    """

    def __init__(self) -> None:
        super().__init__()
        self.drawing = False
        self.given: Tensor | None = None

    @abstractmethod
    def noisy(self, x: Tensor) -> Tensor:
        """The output for one draw of the noise."""

    def expected(self, x: Tensor) -> Tensor:
        """The output for the noise's expectation, in closed form: nothing is left of most noises."""
        return x

    def bits(self, x: Tensor) -> Bits | None:
        """The coins that decide what becomes of one item of `x`; None where they are not all there is."""
        return None

    def decided(self, x: Tensor, coins: Tensor) -> Tensor:
        """The output for these coins, (bits.number,) of 0 and 1, the same ones for every item."""
        raise NotImplementedError(f"{type(self).__name__} draws no coins")

    def sampled(self, x: Tensor) -> Tensor:
        """The output for one draw that all items share: no answer depends on who else is in the batch."""
        bits = self.bits(x)
        if bits is None:
            return self.noisy(x)
        return self.decided(x, torch.rand(bits.number, device=x.device) < bits.keep)

    def forward(self, x: Tensor) -> Tensor:
        """One draw of the noise, or its expectation."""
        if self.given is not None:
            return self.decided(x, self.given)
        if self.training:
            return self.noisy(x)
        return self.sampled(x) if self.drawing else self.expected(x)


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
