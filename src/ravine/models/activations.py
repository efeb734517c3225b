"""Activations by name (T31)."""

from functools import reduce

import torch
from torch import Tensor, nn

from ..registry import lookup, register

# In-place versions stand where the gradient needs only the activation's output. They are safe behind
# linear, convolution and normalization layers, whose gradients do not need their own outputs, and that is
# where every network here puts them. GELU and SiLU need their input for the gradient.


@register("activation", "sigmoid", "1/(1 + exp(-x)); saturates on both sides")
def sigmoid() -> nn.Module:
    """The logistic function."""
    return nn.Sigmoid()


@register("activation", "tanh", "hyperbolic tangent; zero-centred, saturates on both sides")
def tanh() -> nn.Module:
    """The hyperbolic tangent."""
    return nn.Tanh()


@register("activation", "relu", "max(0, x)", source="Nair & Hinton 2010")
def relu() -> nn.Module:
    """The rectified linear unit."""
    return nn.ReLU(inplace=True)


@register("activation", "leaky_relu", "x, or 0.01 x where negative: cannot die", source="Maas et al. 2013")
def leaky_relu() -> nn.Module:
    """The leaky rectified linear unit."""
    return nn.LeakyReLU(0.01, inplace=True)


@register("activation", "elu", "x, or exp(x) - 1 where negative", source="Clevert et al. 2015")
def elu() -> nn.Module:
    """The exponential linear unit."""
    return nn.ELU(inplace=True)


@register(
    "activation", "gelu", "x Φ(x): a smooth ReLU, usual in transformers", source="Hendrycks & Gimpel 2016"
)
def gelu() -> nn.Module:
    """The Gaussian error linear unit."""
    return nn.GELU()


@register("activation", "silu", "x sigmoid(x), also called swish", source="Elfwing et al. 2017")
def silu() -> nn.Module:
    """The sigmoid linear unit."""
    return nn.SiLU()


@register("activation", "maxout", "the largest of two linear pieces", source="Goodfellow et al. 2013")
class Maxout(nn.Module):
    """The largest of `pieces` linear functions (Goodfellow et al. 2013, equation 1).

    Takes `pieces` times as many channels as it gives: piece i of every unit is in the i-th block of
    channels, so the layer before it must be that much wider (`activation_expansion`).
    """

    def __init__(self, pieces: int = 2, dim: int = -1) -> None:
        """`dim`: the channel axis, counted from the end so that a missing batch axis does not move it."""
        super().__init__()
        self.pieces = pieces
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """(..., pieces·C, ...) to (..., C, ...)."""
        # maximum() of views is several times faster in bfloat16 and channels-last than max() over an axis.
        return reduce(torch.maximum, x.chunk(self.pieces, self.dim))

    def extra_repr(self) -> str:
        """What printing the module says of it."""
        return f"pieces={self.pieces}, dim={self.dim}"


def activation(name: str, *, dim: int = -1) -> nn.Module:
    """A new activation module; `dim` is the channel axis: -1 in vectors and sequences, -3 in maps.

    Raises:
        RecipeError: no activation has that name.
    """
    part = lookup("activation", name)
    made: nn.Module = part(dim=dim) if part is Maxout else part()
    return made


def activation_expansion(name: str) -> int:
    """How many times as many channels the activation takes as it gives: 1, except for maxout.

    Raises:
        RecipeError: no activation has that name.
    """
    made = activation(name)
    return made.pieces if isinstance(made, Maxout) else 1
