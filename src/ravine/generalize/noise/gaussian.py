"""Gaussian noise, added or multiplied."""

import math

import torch
from torch import Tensor

from .part import NoisyPart, check_deviation, check_rate


class GaussianNoise(NoisyPart):
    """x + ε with ε ~ N(0, σ²) for each activation: of an input, Tikhonov regularization (Bishop 1995).

    Args:
        sigma: σ, at least 0, in the units of x.

    Raises:
        ValueError: sigma is negative or not finite.
    """

    def __init__(self, sigma: float = 0.1) -> None:
        super().__init__()
        self.sigma = check_deviation("sigma", sigma)

    def noisy(self, x: Tensor) -> Tensor:
        """Noisy activations, in the shape of x."""
        return torch.add(x, torch.randn_like(x), alpha=self.sigma)

    def sampled(self, x: Tensor) -> Tensor:
        """With the same noise for every item."""
        return torch.add(x, _normal(self, x), alpha=self.sigma)

    def extra_repr(self) -> str:
        """The settings, as in torch."""
        return f"sigma={self.sigma}"


class GaussianDropout(NoisyPart):
    """x·ε with ε ~ N(1, p/(1 − p)): dropout's mean and variance, no zeros (Srivastava et al. 2014, §10).

    Args:
        p: the rate of the dropout whose variance it has, in [0, 1).

    Raises:
        ValueError: p is not in [0, 1).
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = check_rate("p", p)
        if self.p == 1.0:
            raise ValueError("Invalid p: 1.0; the variance p/(1 − p) must be finite")

    def noisy(self, x: Tensor) -> Tensor:
        """Noisy activations, in the shape of x."""
        deviation = math.sqrt(self.p / (1.0 - self.p))
        return x * torch.randn_like(x).mul(deviation).add(1.0)

    def sampled(self, x: Tensor) -> Tensor:
        """With the same noise for every item."""
        return x * _normal(self, x).mul(math.sqrt(self.p / (1.0 - self.p))).add(1.0)

    def extra_repr(self) -> str:
        """The settings, as in torch."""
        return f"p={self.p}"


def _normal(part: NoisyPart, x: Tensor) -> Tensor:
    """Standard normal numbers that all items of x share."""
    return part.for_all(torch.randn(part.one(tuple(x.shape)), dtype=x.dtype, device=x.device))
