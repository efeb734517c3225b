"""Foreign layouts of weights: recognised by their names, and turned into those of Ravine's networks."""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor

from ...errors import ModelError
from .card import Card

Weights = Mapping[str, Tensor]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Layout(NamedTuple):
    """A family of files.

    Attributes:
        told: what it is, in words.
        keys: names that only these have together.
        dimensions: of the weights that `card` reads, by their names.
        card: of a file's own network, without what only people know.
        renamed: the weights by the names and in the shapes of that network.
    """

    told: str
    keys: tuple[str, ...]
    dimensions: Mapping[str, int]
    card: Callable[[Weights, str], Card]
    renamed: Callable[[Weights], dict[str, Tensor]]


def recognised(weights: Weights) -> Layout | None:
    """The layout of a file, if it is a known one."""
    return next((layout for layout in LAYOUTS if weights.keys() >= set(layout.keys)), None)


def require_whole(layout: Layout, weights: Weights, where: str) -> None:
    """A file has what the card of its layout is read from.

    Raises:
        ModelError: some of it is missing, or has another number of dimensions: each is told.
    """
    problems = [
        f"{name} is missing"
        if name not in weights
        else f"{name} has {weights[name].dim()} dimensions and must have {count}"
        for name, count in layout.dimensions.items()
        if name not in weights or weights[name].dim() != count
    ]
    if problems:
        raise ModelError(f"{where} has the names of {layout.told}, but {', '.join(problems)}")


def _cifar_resnet_card(weights: Weights, name: str) -> Card:
    blocks = [
        len({match[1] for key in weights if (match := re.match(rf"layer{stage}\.(\d+)\.", key))})
        for stage in (1, 2, 3)
    ]
    stem = weights["conv1.weight"]
    settings = {"width": len(stem), "blocks": blocks, "stem_stride": 1, "shortcut": "pad"}
    return Card(
        name=name,
        architecture="resnet",
        settings=settings,
        shape=(stem.shape[1], 32, 32),
        outputs=len(weights["linear.weight"]),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


def _cifar_resnet(weights: Weights) -> dict[str, Tensor]:
    rules = (
        (r"^conv1\.", "stem.conv."),
        (r"^bn1\.", "stem.norm."),
        (r"^linear\.", "head."),
        (r"^layer(\d+)\.(\d+)\.", lambda m: f"stages.stage{m[1]}.block{int(m[2]) + 1}."),
        (r"\.conv1\.", ".first.conv."),
        (r"\.bn1\.", ".first.norm."),
        (r"\.conv2\.", ".branch_end."),
        (r"\.bn2\.", ".branch_norm."),
    )
    renamed = {}
    for name, tensor in weights.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed


def _keras_mobilenet_card(weights: Weights, name: str) -> Card:
    stem, head = weights["conv1/kernel"], weights["conv_preds/kernel"]
    return Card(
        name=name,
        architecture="mobilenet",
        settings={"width": stem.shape[3] / 32},
        shape=(stem.shape[2], 224, 224),
        mean=(0.5,) * stem.shape[2],
        std=(0.5,) * stem.shape[2],
        outputs=head.shape[3],
    )


# Keras keeps kernels as (height, width, in, out), and depthwise ones as (height, width, in, 1).
_KERAS_PARTS = {
    "kernel": ("conv.weight", (3, 2, 0, 1)),
    "depthwise_kernel": ("conv.weight", (2, 3, 0, 1)),
    "gamma": ("norm.weight", None),
    "beta": ("norm.bias", None),
    "moving_mean": ("norm.running_mean", None),
    "moving_variance": ("norm.running_var", None),
}


def _keras_mobilenet(weights: Weights) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in weights.items():
        layer, _, part = name.partition("/")
        if layer == "conv_preds":
            matrix = tensor.flatten(0, 2).mT if part == "kernel" else tensor
            renamed[f"head.{'weight' if part == 'kernel' else part}"] = matrix.contiguous()
            continue
        layer = re.sub(r"_bn$", "", layer)
        layer = re.sub(r"^conv1$", "stem", layer)
        layer = re.sub(r"^conv_dw_(\d+)$", r"blocks.block\1.depthwise", layer)
        layer = re.sub(r"^conv_pw_(\d+)$", r"blocks.block\1.pointwise", layer)
        known, order = _KERAS_PARTS.get(part, (part, None))
        # One of other dimensions stays as it is, for the list of those that do not fit.
        if order is not None and tensor.dim() == len(order):
            tensor = tensor.permute(order).contiguous()
        renamed[f"{layer}.{known}"] = tensor
    return renamed


LAYOUTS = (
    Layout(
        "a residual network for CIFAR with padded shortcuts",
        ("layer1.0.conv1.weight", "linear.weight"),
        {"conv1.weight": 4, "linear.weight": 2},
        _cifar_resnet_card,
        _cifar_resnet,
    ),
    Layout(
        "Keras' MobileNet",
        ("conv_dw_1/depthwise_kernel", "conv_preds/kernel"),
        {"conv1/kernel": 4, "conv_preds/kernel": 4},
        _keras_mobilenet_card,
        _keras_mobilenet,
    ),
)
