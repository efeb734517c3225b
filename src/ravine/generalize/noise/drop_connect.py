"""DropConnect (T24): weights, not activations, are set to zero at random."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parameter import is_lazy

from ...errors import ModelError
from .part import Bits, NoisyPart, check_rate, scaled_mask


class DropConnect(NoisyPart):
    """A layer whose weights are set to zero with probability p, the others divided by 1 − p (Wan 2013).

    One mask is drawn a pass, for all items. The parameters are the layer's own, under the layer's own names:
    a checkpoint fits with and without it. Its expectation is the layer with all its weights, which is exact,
    because an output is linear in the weights.

    Args:
        layer: any linear or convolution layer, or another module with a parameter `weight`.
        p: the probability of dropping a weight, in [0, 1].

    Raises:
        ValueError: p is not in [0, 1].
        ModelError: the layer has no `weight`, none yet, one that is computed from other parameters, or parts
            or buffers of its own.
    """

    weight: nn.Parameter
    by_item = False

    def __init__(self, layer: nn.Module, p: float = 0.5) -> None:
        super().__init__()
        self.p = check_rate("p", p)
        kind, weight = type(layer).__name__, getattr(layer, "weight", None)
        if not isinstance(weight, Tensor):
            raise ModelError(f"DropConnect needs a layer with a weight, not {kind}")
        if not isinstance(weight, nn.Parameter):
            others = [name for name, _ in layer.named_parameters() if name != "bias"]
            names = " and ".join(others) or "its buffers"
            raise ModelError(
                f"DropConnect needs a plain layer: the weight of this {kind} is computed from {names}, as by "
                "a normalization of weights or by pruning; take that off the layer first"
            )
        if any(is_lazy(parameter) for parameter in layer.parameters()):
            raise ModelError(
                f"this {kind} has no weights yet, which its first input makes: run a batch through the "
                "network before DropConnect is put in"
            )
        if next(layer.children(), None) is not None or next(layer.buffers(), None) is not None:
            raise ModelError(
                f"DropConnect needs a plain layer: this {kind} has parts or buffers of its own, such as "
                "another's noise"
            )
        self._names = [name for name, _ in layer.named_parameters()]
        for name, parameter in layer.named_parameters():
            self.register_parameter(name, parameter)
        # A list, so that it is no submodule: its parameters are this module's.
        self._layer = [layer]

    @property
    def layer(self) -> nn.Module:
        """The layer, with this module's parameters."""
        layer = self._layer[0]
        for name in self._names:
            setattr(layer, name, getattr(self, name))
        return layer

    def __getattr__(self, name: str) -> Any:
        """What the layer has, such as `out_features`, where this module has none of that name."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_") or name in self._names:
                raise
            return getattr(self._layer[0], name)

    def noisy(self, x: Tensor) -> Tensor:
        """The layer's output without the weights that are dropped."""
        return self._masked(x, torch.rand_like(self.weight) >= self.p)

    def expected(self, x: Tensor) -> Tensor:
        """The layer's output."""
        return self._called(x, {})

    def bits(self, x: Tensor) -> Bits:
        """A coin a weight."""
        return Bits(tuple(self.weight.shape), 1.0 - self.p)

    def decided(self, x: Tensor, coins: Tensor) -> Tensor:
        """The layer's output without the weights of the coins that are 0."""
        return self._masked(x, coins)

    def _masked(self, x: Tensor, mask: Tensor) -> Tensor:
        return self._called(x, {"weight": self.weight * scaled_mask(mask, 1.0 - self.p, self.weight.dtype)})

    def _called(self, x: Tensor, changed: dict[str, Tensor]) -> Tensor:
        own = {name: getattr(self, name) for name in self._names}
        out: Tensor = functional_call(self._layer[0], {**own, **changed}, (x,))
        return out

    def extra_repr(self) -> str:
        """The settings, as in torch, and the layer."""
        return f"{self._layer[0]!r}, p={self.p}"
