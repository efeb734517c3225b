"""A small convolutional network."""

from collections import OrderedDict
from typing import Literal

from torch import nn

from ..errors import ModelError
from ..registry import register
from .activations import activation as make_activation
from .activations import activation_expansion
from .initialization import initialize
from .normalization import normalization as make_normalization
from .pooling import GlobalAverage
from .shapes import image_shape, require_positive, require_rate


@register("model", "cnn", "small convolutional network: convolutions and pooling")
def cnn(
    shape: tuple[int, ...],
    outputs: int,
    *,
    width: int = 32,
    depth: int = 3,
    downsample: Literal["pool", "stride"] = "pool",
    ending: Literal["mean", "flatten"] = "mean",
    activation: str = "relu",
    normalization: str = "batch",
    initialization: str = "he",
    dropout: float = 0.0,
) -> nn.Module:
    """Stages of 3x3 convolution, halving, normalization, activation; then a linear head.

    Inputs (N, C, H, W), outputs (N, outputs): logits, or the value for regression, whose `outputs` is 1.
    Channels double from stage to stage. Maps that are one pixel high or wide are not halved further.

    Args:
        shape: (channels, height, width) of one image.
        outputs: number of classes, or 1 for a value.
        width: channels of the first stage, doubled with each; multiples of 16 are quickest.
        depth: number of stages.
        downsample: pool halves by 2x2 max pooling; stride in the convolution, at a quarter of the work.
        ending: the head sees each channel's mean, or flatten: every pixel of the last maps.
        activation: what ends each stage.
        normalization: what stands before each activation.
        initialization: how the weights start.
        dropout: share of the features before the head set to zero in training.

    Raises:
        ModelError: no images, a size or rate out of range, or instance normalization of single pixels.
        RecipeError: a name is unknown.
    """
    require_positive("cnn", width=width, depth=depth, outputs=outputs)
    require_rate("cnn", dropout)
    channels, high, wide = image_shape(shape, "cnn")
    stages: OrderedDict[str, nn.Module] = OrderedDict()
    strided = downsample == "stride"
    for number in range(depth):
        halve = min(high, wide) >= 2
        if halve:  # a convolution with stride rounds up, pooling rounds down
            high, wide = (high + strided) // 2, (wide + strided) // 2
        if normalization == "instance" and high * wide == 1:
            raise ModelError(
                f"model 'cnn': after {number + 1} stages an image of {shape[1]}x{shape[2]} is a single "
                f"pixel, which instance normalization would turn into 0; "
                f"lower depth to {number} or use 'batch'"
            )
        stage_width = width * 2**number
        stages[f"stage{number + 1}"] = _stage(
            channels,
            stage_width,
            2 if halve and strided else 1,
            halve and not strided,
            activation,
            normalization,
        )
        channels = stage_width
    flat = ending == "flatten"
    head = nn.Linear(channels * high * wide if flat else channels, outputs)
    top = OrderedDict(pool=nn.Flatten() if flat else GlobalAverage(), dropout=nn.Dropout(dropout), head=head)
    model = nn.Sequential(OrderedDict(**stages, **top))
    initialize(model, initialization, activation=activation, head=head)
    return model


def _stage(
    inputs: int, width: int, stride: int, pool: bool, activation: str, normalization: str
) -> nn.Module:
    wide = width * activation_expansion(activation)
    # Pooling before normalization and activation: both then touch a quarter of the memory, and for a
    # growing activation such as ReLU the largest value is the same either way.
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(inputs, wide, 3, stride, padding=1, bias=normalization == "none"),
            pool=nn.MaxPool2d(2) if pool else nn.Identity(),
            norm=make_normalization(normalization, wide, "map"),
            activation=make_activation(activation, dim=-3),
        )
    )
