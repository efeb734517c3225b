"""Residual networks in the style of the CIFAR experiments of He et al. 2016."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ModelError
from ..registry import register
from .activations import activation as make_activation
from .activations import activation_expansion
from .initialization import initialize
from .normalization import normalization as make_normalization
from .pooling import GlobalAverage
from .shapes import image_shape, require_positive


@register(
    "model",
    "resnet",
    "residual network, CIFAR style",
    source="He et al. 2016, section 4.2",
)
def resnet(
    shape: tuple[int, ...],
    outputs: int,
    *,
    width: int = 32,
    blocks: tuple[int, ...] = (0, 2, 2),
    stem_stride: int = 2,
    activation: str = "relu",
    normalization: str = "batch",
    initialization: str = "he",
    zero_branches: bool = True,
    shortcut: Literal["projection", "pad"] = "projection",
) -> nn.Module:
    """A 3x3 stem, stages of residual blocks at half the size and twice the channels, mean, linear head.

    Inputs (N, C, H, W), outputs (N, outputs): logits, or the value for regression, whose `outputs` is 1.

    Args:
        shape: (channels, height, width) of one image.
        outputs: number of classes, or 1 for a value.
        width: channels of the first stage; they double with each stage.
        blocks: residual blocks of each stage, 0 to go on at once; (n, n, n) at width 16 is the paper's.
        stem_stride: stride of the first convolution; 2 costs a quarter of the time.
        activation: what follows each normalization and each sum.
        normalization: what follows each convolution.
        initialization: how the weights start.
        zero_branches: each branch starts at zero, each block as its shortcut (Goyal et al. 2017).
        shortcut: where shapes change: a projection, or the map thinned out and padded (the paper's option A).

    Raises:
        ModelError: no images, a size out of range, or images too small for so many stages.
        RecipeError: a name is unknown.
    """
    channels, *size = image_shape(shape, "resnet")
    blocks = tuple(blocks)
    require_positive("resnet", outputs=outputs, width=width, stem_stride=stem_stride, blocks=sum(blocks))
    if min(blocks) < 0:
        raise ModelError(f"model 'resnet': blocks must not be negative, not {list(blocks)}")
    shrinks = stem_stride * 2 ** sum(count > 0 for count in blocks[1:])
    if min(size) <= shrinks // 2:
        raise ModelError(
            f"model 'resnet': images of {size[0]}x{size[1]} are too small to be divided by {shrinks} "
            f"(stem_stride {stem_stride}, {len(blocks)} stages); lower stem_stride, give fewer stages, "
            "or use 'cnn'"
        )
    if normalization == "instance" and max(size) <= shrinks:
        raise ModelError(
            f"model 'resnet': images of {size[0]}x{size[1]} become single pixels, which instance "
            "normalization would turn into 0; lower stem_stride, give fewer stages, or use 'batch'"
        )
    if shortcut == "pad" and activation_expansion(activation) > 1:
        raise ModelError(f"model 'resnet': {activation} widens the sum, which shortcut = 'pad' does not")
    model = ResNet(channels, outputs, width, blocks, stem_stride, activation, normalization, shortcut)
    branches = list(model.blocks())
    plain = normalization == "none"
    ends = [block.branch_end for block in branches] if plain else []
    initialize(model, initialization, activation=activation, head=model.head, branch_ends=ends)
    if zero_branches and not plain:
        for block in branches:
            nn.init.zeros_(block.branch_norm.get_parameter("weight"))
    return model


class ResNet(nn.Module):
    """Stem, stages of residual blocks, global mean, linear head."""

    def __init__(
        self,
        channels: int,
        outputs: int,
        width: int,
        blocks: tuple[int, ...],
        stem_stride: int,
        activation: str,
        normalization: str,
        shortcut: str,
    ) -> None:
        super().__init__()
        self.stem = _convolution(channels, width, stem_stride, activation, normalization)
        stages: OrderedDict[str, nn.Module] = OrderedDict()
        inputs = width
        for stage, count in enumerate(blocks):
            outs = width * 2**stage
            made: OrderedDict[str, nn.Module] = OrderedDict()
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                made[f"block{block + 1}"] = ResidualBlock(
                    inputs, outs, stride, activation, normalization, shortcut
                )
                inputs = outs
            stages[f"stage{stage + 1}"] = nn.Sequential(made)
        self.stages = nn.Sequential(stages)
        self.pool = GlobalAverage()
        self.head = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, outputs)."""
        out: Tensor = self.head(self.pool(self.stages(self.stem(x))))
        return out

    def blocks(self) -> "Iterator[ResidualBlock]":
        """Every residual block, from the first to the last."""
        return (module for module in self.modules() if isinstance(module, ResidualBlock))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: the identity, or what brings it to another shape."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, activation: str, normalization: str, shortcut: str
    ) -> None:
        super().__init__()
        # An activation that takes more channels than it gives (maxout) needs a wider sum before it.
        wide = outputs * activation_expansion(activation)
        bias = normalization == "none"
        self.first = _convolution(inputs, outputs, stride, activation, normalization)
        self.branch_end = nn.Conv2d(outputs, wide, 3, padding=1, bias=bias)
        self.branch_norm = make_normalization(normalization, wide, "map")
        self.shortcut: nn.Module = nn.Identity()
        if (stride != 1 or inputs != wide) and shortcut == "pad":
            self.shortcut = Pad(stride, wide - inputs)
        elif stride != 1 or inputs != wide:
            self.shortcut = nn.Sequential(
                OrderedDict(
                    conv=nn.Conv2d(inputs, wide, 1, stride, bias=bias),
                    norm=make_normalization(normalization, wide, "map"),
                )
            )
        self.activation = make_activation(activation, dim=-3)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, outputs, H/stride, W/stride)."""
        out: Tensor = self.branch_norm(self.branch_end(self.first(x)))
        out += self.shortcut(x)
        activated: Tensor = self.activation(out)
        return activated


class Pad(nn.Module):
    """Every `stride`-th place of a map, with `more` channels of zeros, half of them before the others."""

    def __init__(self, stride: int, more: int) -> None:
        super().__init__()
        self.stride, self.more = stride, more

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C + more, ⌈H/stride⌉, ⌈W/stride⌉)."""
        before = self.more // 2
        thinned = x[:, :, :: self.stride, :: self.stride]
        return F.pad(thinned, (0, 0, 0, 0, before, self.more - before))

    def extra_repr(self) -> str:
        """What tells it from others."""
        return f"stride={self.stride}, more={self.more}"


def _convolution(inputs: int, outputs: int, stride: int, activation: str, normalization: str) -> nn.Module:
    wide = outputs * activation_expansion(activation)
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(inputs, wide, 3, stride, padding=1, bias=normalization == "none"),
            norm=make_normalization(normalization, wide, "map"),
            activation=make_activation(activation, dim=-3),
        )
    )
