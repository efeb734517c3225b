"""MobileNet of Howard et al. 2017: convolutions taken apart into one over places and one over channels."""

from collections import OrderedDict

from torch import Tensor, fx, nn
from torch.nn import functional as F

from ..errors import ModelError
from ..registry import register
from .initialization import initialize
from .pooling import GlobalAverage
from .shapes import image_shape, require_positive

# Channels out of each block at width 1, and its stride (table 1 of the paper).
_BLOCKS = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *((512, 1),) * 5,
    *((1024, 2), (1024, 1)),
)
_STEM = 32
# As in the networks that were published.
_EPSILON = 1e-3


@register("model", "mobilenet", "depthwise and pointwise convolutions in turn", source="Howard et al. 2017")
def mobilenet(
    shape: tuple[int, ...], outputs: int, *, width: float = 0.25, initialization: str = "he"
) -> nn.Module:
    """A strided 3x3 stem, thirteen blocks of a depthwise and a pointwise convolution, mean, linear head.

    Batch normalization and ReLU6 follow every convolution. Inputs (N, C, H, W), outputs (N, outputs). A map
    is halved five times; strided convolutions pad as TensorFlow does, more after the map than before it.

    Args:
        shape: (channels, height, width) of one image.
        outputs: number of classes, or 1 for a value.
        width: the paper's multiplier: channels are 32 to 1024 times this, rounded down.
        initialization: how the weights start.

    Raises:
        ModelError: no images, or a size out of range.
        RecipeError: a name is unknown.
    """
    channels, *_ = image_shape(shape, "mobilenet")
    require_positive("mobilenet", outputs=outputs)
    if not 1 / _STEM <= width <= 8:
        raise ModelError(f"model 'mobilenet': width must be from 1/{_STEM} to 8, not {width}")
    model = MobileNet(channels, outputs, width)
    initialize(model, initialization, activation="relu", head=model.head)
    return model


class MobileNet(nn.Module):
    """Stem, blocks, global mean, linear head."""

    def __init__(self, channels: int, outputs: int, width: float) -> None:
        super().__init__()
        inputs = int(_STEM * width)
        self.stem = _convolution(channels, inputs, 3, 2)
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        for number, (size, stride) in enumerate(_BLOCKS, 1):
            outs = int(size * width)
            blocks[f"block{number}"] = nn.Sequential(
                OrderedDict(
                    depthwise=_convolution(inputs, inputs, 3, stride, groups=inputs),
                    pointwise=_convolution(inputs, outs, 1, 1),
                )
            )
            inputs = outs
        self.blocks = nn.Sequential(blocks)
        self.pool = GlobalAverage()
        self.head = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, outputs)."""
        out: Tensor = self.head(self.pool(self.blocks(self.stem(x))))
        return out


class SameConv2d(nn.Conv2d):
    """A convolution whose map is ⌈size/stride⌉ large, the odd row and column of zeros after the map."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, out_channels, ⌈H/stride⌉, ⌈W/stride⌉)."""
        pads = _around(x.shape[-2], x.shape[-1], self.kernel_size[0], self.stride[0])
        return super().forward(F.pad(x, pads))


@fx.wrap  # a trace keeps the call: what it gives depends on the size
def _around(height: int, width: int, kernel: int, stride: int) -> tuple[int, ...]:
    """Zeros before and after the columns, before and after the rows."""
    sizes = (width, height)
    missing = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in sizes]
    return tuple(pad for more in missing for pad in (more // 2, more - more // 2))


def _convolution(inputs: int, outputs: int, size: int, stride: int, groups: int = 1) -> nn.Module:
    if stride == 1:
        conv = nn.Conv2d(inputs, outputs, size, padding=size // 2, groups=groups, bias=False)
    else:
        conv = SameConv2d(inputs, outputs, size, stride, groups=groups, bias=False)
    return nn.Sequential(
        OrderedDict(
            conv=conv,
            norm=nn.BatchNorm2d(outputs, eps=_EPSILON),
            activation=nn.ReLU6(),
        )
    )
