"""Noise that is not Ravine's own: torch's dropout layers, and what other libraries call stochastic depth."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from ...errors import ModelError
from ...modes import evaluating
from .dropout import Dropout, FeatureDropout
from .items import ItemAxes
from .part import NoisyPart

# Layers of other libraries that draw in training mode and do nothing else, by the name of their class.
_NAMES = ("DropPath", "StochasticDepth", "DropBlock2d", "DropBlock3d")
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


def has_noise(model: nn.Module, x: Tensor) -> bool:
    """Whether a network draws in training what `average_out` draws from.

    Args:
        model: any module; its modes stay as they are.
        x: an item or more, (N, ...): only a pass shows what the network's own code calls.
    """
    if any(isinstance(module, NoisyPart) and getattr(module, "p", 1.0) > 0 for module in model.modules()):
        return True
    if foreign_parts(model):
        return True
    functions = FunctionalDropout(ItemAxes(), drawing=False)
    with evaluating(model), torch.no_grad(), functions:
        model(x)
    return functions.seen is not None


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


class _TorchMaps(FeatureDropout):
    """torch's dropout of maps, which takes an input of too few axes for one item, and its items for maps."""

    def __init__(self, p: float, *, fewest: int) -> None:
        super().__init__(p)
        self.fewest = fewest

    def _maps(self, x: Tensor) -> tuple[int, ...]:
        if x.dim() < self.fewest:
            raise ModelError(
                f"torch's dropout of maps takes the items of a shape of {tuple(x.shape)} for maps: use "
                "torch.nn.Dropout for rows, and ravine's FeatureDropout for maps of any number of axes"
            )
        # Rows (N, C) are maps of one position.
        return tuple(x.shape) if x.dim() == 2 else super()._maps(x)


Made = Callable[[float], Dropout | FeatureDropout]
_MAPS: dict[int, Made] = {
    axes: partial(_TorchMaps, fewest=fewest) for axes, fewest in ((1, 3), (2, 2), (3, 5))
}
_LAYERS: dict[type[nn.Module], Made] = {
    nn.Dropout: Dropout,
    nn.Dropout1d: _MAPS[1],
    nn.Dropout2d: _MAPS[2],
    nn.Dropout3d: _MAPS[3],
}
# What a network's own code can call, with (input, p, training); None is drawn by torch itself.
_FUNCTIONS: dict[Any, Made | None] = {
    functional.dropout: Dropout,
    functional.dropout1d: _MAPS[1],
    functional.dropout2d: _MAPS[2],
    functional.dropout3d: _MAPS[3],
    functional.alpha_dropout: None,
    functional.feature_alpha_dropout: None,
    torch.dropout: Dropout,
    torch.feature_dropout: _MAPS[2],
    torch.alpha_dropout: None,
    torch.feature_alpha_dropout: None,
}


@contextmanager
def torch_dropout_as_ours(model: nn.Module, functions: "FunctionalDropout") -> Iterator[None]:
    """Ravine's layers in the place of `torch.nn.Dropout` and its kind, until the block ends.

    Args:
        model: what holds the layers.
        functions: what watches the passes, to be told of layers that work in place.
    """
    swapped: list[tuple[nn.Module, str, Any]] = []
    for parent in model.modules():
        for name, child in parent._modules.items():
            if type(child) in _LAYERS:
                swapped.append((parent, name, child))
    try:
        for parent, name, child in swapped:
            made = _LAYERS[type(child)](child.p).train(child.training)
            if child.inplace:
                made.register_forward_hook(lambda _, inputs, output: functions.wrote(inputs[0], output))
            parent._modules[name] = made
        yield
    finally:
        for parent, name, child in swapped:
            parent._modules[name] = child


class FunctionalDropout(TorchFunctionMode):
    """Watches for `functional.dropout` and its kind in a network's own code, and draws in their place.

    They are seen in evaluation mode as well, where they are called with `training=False`; those behind an
    `if self.training` are not called then, and not seen.

    Dropout in place draws new tensors too, which can be had side by side: where the network goes on with the
    tensor that it wrote to, it gets the new one.

    Args:
        axes: says where the items are.
        drawing: draw the noise, the same for all items but for alpha dropout's; False does as was asked.

    Attributes:
        seen: the name of the last one with a rate above 0, or None.
    """

    def __init__(self, axes: ItemAxes, *, drawing: bool) -> None:
        super().__init__()
        self.axes = axes
        self.drawing = drawing
        self.seen: str | None = None
        self._written: dict[int, tuple[Tensor, Tensor]] = {}

    def __enter__(self) -> Self:
        """For a pass."""
        self._written.clear()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def wrote(self, x: Tensor, output: Tensor) -> None:
        """Remember what is to be in x from now on."""
        self._written[id(x)] = (x, output)

    def current(self, value: Any) -> Any:
        """What the network is to see in place of a tensor that it wrote to; anything else is itself."""
        return self._written[id(value)][1] if id(value) in self._written else value

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """What the function gives, or its noise."""
        kwargs = kwargs or {}
        if self._written:
            args, kwargs = tree_map(self.current, (args, kwargs))
        if func not in _FUNCTIONS:
            return func(*args, **kwargs)
        x = args[0] if args else kwargs["input"]
        p = args[1] if len(args) > 1 else kwargs.get("p", 0.5)
        if p > 0:
            self.seen = func.__name__
        items = self.axes.next(x)
        if self.axes.learning:
            return x
        if not self.drawing:
            return func(*args, **kwargs)
        made = _FUNCTIONS[func]
        if made is None:
            output = func(x, p, True)
        else:
            part = made(p)
            part.items = items
            output = part.sampled(x)
        if args[3] if len(args) > 3 else kwargs.get("inplace", False):
            self.wrote(x, output)
        return output
