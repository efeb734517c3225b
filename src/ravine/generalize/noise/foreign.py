"""Noise that is not Ravine's own: torch's dropout layers, and what other libraries call stochastic depth."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from .dropout import Dropout, FeatureDropout
from .part import NoisyPart

# Layers of other libraries that draw in training mode and do nothing else, by the name of their class.
_NAMES = ("DropPath", "StochasticDepth", "DropBlock2d", "DropBlock3d")
_MAPS = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_OTHERS = (nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)


def foreign_parts(model: nn.Module) -> list[nn.Module]:
    """Noisy layers whose noise is their own affair: they can be drawn from, and not be enumerated."""
    return [
        module
        for module in model.modules()
        if not isinstance(module, NoisyPart)
        and (isinstance(module, _OTHERS) or type(module).__name__ in _NAMES or _drops(module))
    ]


def _drops(module: nn.Module) -> bool:
    """Whether it is a dropout that is not put in ours' place, or has one inside its own arithmetic."""
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0
    return isinstance(module, nn.MultiheadAttention | nn.RNNBase) and module.dropout > 0


def has_noise(model: nn.Module) -> bool:
    """Whether a module draws in training; a `functional.dropout` in a network's own code is not seen."""
    ours = any(isinstance(module, NoisyPart) and getattr(module, "p", 1.0) > 0 for module in model.modules())
    return ours or bool(foreign_parts(model))


@contextmanager
def drawing_foreign(parts: list[nn.Module]) -> Iterator[None]:
    """Training mode for these layers alone: then they draw."""
    for part in parts:
        part.training = True
    try:
        yield
    finally:
        for part in parts:
            part.training = False


@contextmanager
def torch_dropout_as_ours(model: nn.Module) -> Iterator[None]:
    """Ravine's layers in the place of `torch.nn.Dropout` and its kind, until the block ends."""
    swapped: list[tuple[nn.Module, str, Any]] = []
    for parent in model.modules():
        for name, child in parent._modules.items():
            if type(child) in (nn.Dropout, *_MAPS):
                swapped.append((parent, name, child))
    try:
        for parent, name, child in swapped:
            ours = Dropout(child.p) if type(child) is nn.Dropout else FeatureDropout(child.p)
            parent._modules[name] = ours.train(child.training)
        yield
    finally:
        for parent, name, child in swapped:
            parent._modules[name] = child
