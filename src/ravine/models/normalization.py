"""Normalizations by name (T34), for vectors, maps and sequences."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ModelError
from ..registry import lookup, register

Layout = Literal["vector", "map", "sequence"]
"""(N, C); (N, C, H, W); or (N, T, C) in a network where no position may see a later one."""

_CHANNEL_SHARE = 8
_MOST_GROUPS = 32


@register("normalization", "none", "no normalization")
def none(features: int, layout: Layout) -> nn.Module:
    """Nothing."""
    return nn.Identity()


@register("normalization", "batch", "each channel over the batch", source="Ioffe & Szegedy 2015")
def batch(features: int, layout: Layout) -> nn.Module:
    """Batch normalization; fixed running statistics at test time."""
    if layout == "sequence":
        raise _leaks("batch")
    return nn.BatchNorm1d(features) if layout == "vector" else nn.BatchNorm2d(features)


@register("normalization", "layer", "all channels of each item", source="Ba et al. 2016")
def layer(features: int, layout: Layout) -> nn.Module:
    """Layer normalization: over a whole map, or over each position of a sequence."""
    return nn.GroupNorm(1, features) if layout == "map" else nn.LayerNorm(features)


@register("normalization", "instance", "each channel of each item", source="Ulyanov et al. 2016")
def instance(features: int, layout: Layout) -> nn.Module:
    """Instance normalization, with a learnt scale and shift."""
    if layout == "sequence":
        raise _leaks("instance")
    if layout == "vector":
        raise ModelError(
            "instance normalization does not fit vectors: a channel of one item is a single number, "
            "which it would turn into 0; use 'layer', 'group', 'batch' or 'none'"
        )
    return nn.InstanceNorm2d(features, affine=True)


@register("normalization", "group", "groups of channels of each item", source="Wu & He 2018")
def group(features: int, layout: Layout) -> nn.Module:
    """Group normalization in groups of about eight channels, at most 32 groups."""
    groups = group_count(features)
    return PositionGroupNorm(groups, features) if layout == "sequence" else nn.GroupNorm(groups, features)


class PositionGroupNorm(nn.GroupNorm):
    """Group normalization of each position of a sequence (..., C) by itself."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to the same shape."""
        flat = F.group_norm(x.flatten(0, -2), self.num_groups, self.weight, self.bias, self.eps)
        return flat.view(x.shape)


def group_count(features: int) -> int:
    """The largest divisor of `features` that leaves at least 8 channels a group, at most 32."""
    most = max(1, min(_MOST_GROUPS, features // _CHANNEL_SHARE))
    return next(groups for groups in range(most, 0, -1) if features % groups == 0)


def normalization(name: str, features: int, layout: Layout) -> nn.Module:
    """A new normalization module for `features` channels.

    Raises:
        ModelError: the normalization makes no sense in this layout.
        RecipeError: no normalization has that name.
    """
    part: Callable[[int, Layout], nn.Module] = lookup("normalization", name)
    return part(features, layout)


def _leaks(name: str) -> ModelError:
    return ModelError(
        f"{name} normalization does not fit a causal transformer: its statistics run over positions, so a "
        "position would see the characters it has to predict; use 'layer', 'group' or 'none'"
    )
