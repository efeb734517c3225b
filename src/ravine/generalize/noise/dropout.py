"""Dropout of single activations and of whole feature maps (T19, T20, T21)."""

import torch
from torch import Tensor
from torch.nn import functional

from .part import Bits, NoisyPart, check_rate, scaled_mask


class Dropout(NoisyPart):
    """Each activation is set to zero with probability p in training (Hinton et al. 2012; Srivastava 2014).

    Args:
        p: the probability of dropping, in [0, 1].
        inverted: divide by the probability of keeping in training, and do nothing at test time (the usual
            form). False is the plain form: nothing in training, and at test time a multiplication by the
            probability of keeping. Both have the same expectation but for that factor (C33).

    Raises:
        ValueError: p is not in [0, 1].
    """

    def __init__(self, p: float = 0.5, *, inverted: bool = True) -> None:
        super().__init__()
        self.p = check_rate("p", p)
        self.inverted = inverted

    def noisy(self, x: Tensor) -> Tensor:
        """The activations that are kept, in the shape of x."""
        if self.inverted:
            return functional.dropout(x, self.p, training=True)
        return x * (torch.rand_like(x) >= self.p)

    def expected(self, x: Tensor) -> Tensor:
        """What comes in; of the plain form (1 − p) times it."""
        return x if self.inverted else x * (1.0 - self.p)

    def bits(self, x: Tensor) -> Bits:
        """A coin an activation."""
        return Bits(tuple(x.shape), 1.0 - self.p)

    def decided(self, x: Tensor, coins: Tensor) -> Tensor:
        """The activations whose coin is 1."""
        keep = 1.0 - self.p if self.inverted else 1.0
        return x * scaled_mask(coins, keep, x.dtype)

    def extra_repr(self) -> str:
        """The settings, as in torch."""
        return f"p={self.p}" + ("" if self.inverted else ", inverted=False")


class FeatureDropout(NoisyPart):
    """Whole feature maps are set to zero with probability p, the others divided by 1 − p (Tompson 2015).

    Neighbours in a map tell the same, so dropping one of them drops nothing (C35).

    Args:
        p: the probability of dropping, in [0, 1].

    Raises:
        ValueError: p is not in [0, 1]; in `forward`: x has no maps.
    """

    def __init__(self, p: float = 0.1) -> None:
        super().__init__()
        self.p = check_rate("p", p)

    def noisy(self, x: Tensor) -> Tensor:
        """The maps that are kept, in the shape of x: (N, C, ...) with one to three axes of positions."""
        return x * scaled_mask(torch.rand(self._maps(x), device=x.device) >= self.p, 1.0 - self.p, x.dtype)

    def bits(self, x: Tensor) -> Bits:
        """A coin a map."""
        return Bits(self._maps(x), 1.0 - self.p)

    def decided(self, x: Tensor, coins: Tensor) -> Tensor:
        """The maps whose coin is 1."""
        return x * scaled_mask(coins, 1.0 - self.p, x.dtype)

    def _maps(self, x: Tensor) -> tuple[int, ...]:
        if not 3 <= x.dim() <= 5:
            raise ValueError(
                f"FeatureDropout takes maps (N, C, ...) of one to three axes, not a shape of {tuple(x.shape)}"
            )
        return (*x.shape[:2], *(1 for _ in x.shape[2:]))

    def extra_repr(self) -> str:
        """The settings, as in torch."""
        return f"p={self.p}"
