"""Initial weights by name (T32), with the gain that fits the activation."""

import math
from collections.abc import Callable, Collection
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..registry import lookup, register
from .activations import activation as make_activation
from .activations import activation_expansion

HEAD_GAIN = 0.1
"""The last layer starts small, so that the first predictions commit to nothing and the first loss is
what chance gives."""

Method = Callable[[Tensor, float], object]


@register("initialization", "small", "N(0, 0.01²): signals vanish through many layers")
def small(weight: Tensor, gain: float) -> None:
    """Too small, whatever the layer's size."""
    nn.init.normal_(weight, std=0.01)


@register("initialization", "large", "N(0, 1): units saturate or signals explode")
def large(weight: Tensor, gain: float) -> None:
    """Too large, whatever the layer's size."""
    nn.init.normal_(weight, std=1.0)


@register(
    "initialization",
    "xavier",
    "variance 2/(fan in + fan out), times the activation's gain²",
    source="Glorot & Bengio 2010, equation 16",
)
def xavier(weight: Tensor, gain: float) -> None:
    """A compromise between keeping the size of signals and that of gradients."""
    nn.init.xavier_normal_(weight, gain)


@register(
    "initialization",
    "he",
    "variance 1/(fan in), times the activation's gain² (2 for ReLU)",
    source="He et al. 2015, equation 10",
)
def he(weight: Tensor, gain: float) -> None:
    """Keeps the size of signals from layer to layer."""
    fan_in = weight[0].numel()
    nn.init.normal_(weight, std=gain / math.sqrt(fan_in))


@register(
    "initialization",
    "orthogonal",
    "orthogonal rows or columns, times the activation's gain",
    source="Saxe et al. 2013",
)
def orthogonal(weight: Tensor, gain: float) -> None:
    """A random orthogonal matrix; with more outputs than inputs, scaled so that variances still stay."""
    rows, columns = weight.shape[0], weight[0].numel()
    nn.init.orthogonal_(weight, gain * math.sqrt(max(1.0, rows / columns)))


@register("initialization", "gpt2", "N(0, 0.02²), as GPT-2 and BERT", source="Radford et al. 2019")
def gpt2(weight: Tensor, gain: float) -> None:
    """The usual choice for transformers."""
    nn.init.normal_(weight, std=0.02)


@register("initialization", "torch", "each layer as PyTorch makes it")
def torch_default(weight: Tensor, gain: float) -> None:
    """Leaves the weights as they are."""


def initialize(
    module: nn.Module,
    name: str,
    *,
    activation: str,
    head: nn.Module | None = None,
    branch_ends: Collection[nn.Module] = (),
) -> None:
    """Set the weights of every linear and convolution layer in `module`, in place.

    Biases become zero; normalization layers stay as they are. Embeddings are drawn from N(0, 0.02²),
    except under "small" and "large": their size does not depend on how many rows there are.

    Args:
        module: the network.
        name: the registered initialization; "torch" changes nothing at all.
        activation: what follows the layers; it decides the gain.
        head: the last layer, which no activation follows; its gain is `HEAD_GAIN`.
        branch_ends: the last layer of each residual branch whose sum is not normalized. Their weights
            are divided by the square root of their number, so that the sum of all branches keeps the
            size of one (as in GPT-2: Radford et al. 2019, section 2.3).

    Raises:
        RecipeError: no initialization or activation has that name.
    """
    method: Method = lookup("initialization", name)
    usual, pieces = gain(activation), activation_expansion(activation)
    if method is torch_default:
        return
    for layer in module.modules():
        if layer is head:
            method(head.get_parameter("weight"), HEAD_GAIN)
        elif isinstance(layer, nn.Linear | _ConvNd):
            # Each piece of a maxout layer is a layer of its own: n outputs, not pieces times n.
            for piece in layer.weight.detach().chunk(pieces):
                method(piece, usual)
        if isinstance(layer, nn.Linear | _ConvNd):
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Embedding):
            embed = method if method in (small, large) else gpt2
            embed(layer.weight, 1.0)
    with torch.no_grad():
        for layer in branch_ends:
            layer.get_parameter("weight").div_(math.sqrt(len(branch_ends)))


@lru_cache
def gain(name: str) -> float:
    """The factor 1/√E[f(z)²], z ~ N(0, 1), that keeps the variance of what goes into activation f.

    A layer of variance gain²/(fan in) makes from f(z) pre-activations of variance 1 again (He et al.
    2015, equation 8, for any f): √2 for ReLU, 1 for maxout of two pieces.

    Raises:
        RecipeError: no activation has that name.
    """
    pieces = activation_expansion(name)
    z = torch.linspace(-12.0, 12.0, 24_001, dtype=torch.float64)
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    if pieces > 1:
        values = z
        density = pieces * density * torch.special.ndtr(z) ** (pieces - 1)  # of the largest of them
    else:
        values = make_activation(name)(z.clone())
    return 1.0 / math.sqrt(torch.trapezoid(values.square() * density, z).item())
