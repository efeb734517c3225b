"""Layers of a whole stack that know their own gradients: autograd costs more than small ones do."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .rates import DropoutByMember

# Without the search among its overloads, which takes longer than it does.
_CUT_BACK = torch.ops.aten.threshold_backward.default


class Layer(ABC):
    """A layer of all members; called as it is, autograd follows it."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Of (K, N, ...) the outputs (K, N, ...)."""

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        """The same without autograd, and what `backward` needs of it."""

    @abstractmethod
    def backward(self, kept: Any, gradient: Tensor, *, onward: bool) -> Tensor | None:
        """Add to the gradients of the layer's parameters; give the gradient of x, where it goes `onward`.

        Args:
            kept: from `forward`.
            gradient: of its outputs, of their shape.
            onward: whether anything before this layer is trained.
        """


class Rectified(Layer):
    """max(x, 0)."""

    def __call__(self, x: Tensor) -> Tensor:
        """Not in place: autograd would copy all that x is a view of, four times."""
        return torch.relu(x)

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        """The same."""
        out = torch.relu(x)
        return out, out

    def backward(self, kept: Any, gradient: Tensor, *, onward: bool) -> Tensor | None:
        """As `Layer.backward`."""
        return cut_back(gradient, kept)


class Dropped(Layer):
    """Inverted dropout, at one rate for all members or at one of each."""

    def __init__(self, module: nn.Module, rates: Tensor | float) -> None:
        """`module`: whose mode decides; `rates`: one, or a tensor (K,)."""
        self._module, self._rates = module, rates

    def __call__(self, x: Tensor) -> Tensor:
        """Noise in training, x itself otherwise."""
        if not isinstance(self._rates, Tensor):
            return functional.dropout(x, self._rates, self._module.training)
        return x * self._mask(x) if self._module.training else x

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        """The same."""
        if not self._module.training:
            return x, None
        mask = self._mask(x)
        return x * mask, mask

    def backward(self, kept: Any, gradient: Tensor, *, onward: bool) -> Tensor | None:
        """As `Layer.backward`."""
        return gradient if kept is None else gradient * kept

    def _mask(self, x: Tensor) -> Tensor:
        if not isinstance(self._rates, Tensor):
            return functional.dropout(torch.ones_like(x), self._rates)
        return DropoutByMember.mask(x, self._rates.view(-1, *[1] * (x.dim() - 1)))


class BatchNorm(Layer):
    """The channels of all members side by side: each is normalized by itself anyway."""

    def __init__(self, module: nn.BatchNorm1d, own: Callable[[str], Tensor]) -> None:
        """`module`: with an affine map and running statistics; `own`: a stacked tensor of it, by its name."""
        self._module, self._count = module, own("num_batches_tracked")
        self._weight, self._bias = own("weight"), own("bias")
        self._statistics = own("running_mean").view(-1), own("running_var").view(-1)

    def __call__(self, x: Tensor) -> Tensor:
        """Of vectors (K, N, C)."""
        module, settings = self._begin(x)
        weight, bias = self._weight.flatten(), self._bias.flatten()
        together = functional.batch_norm(
            _side_by_side(x), *self._statistics, weight, bias, module.training, *settings
        )
        return _apart(together, len(x))

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        """The same."""
        module, settings = self._begin(x)
        given = _side_by_side(x)
        weight, bias = self._weight.flatten(), self._bias.flatten()
        out, *taken = torch.native_batch_norm(
            given, weight, bias, *self._statistics, module.training, *settings
        )
        return _apart(out, len(x)), (given, weight, taken, module.training)

    def backward(self, kept: Any, gradient: Tensor, *, onward: bool) -> Tensor | None:
        """As `Layer.backward`."""
        given, weight, taken, training = kept
        wanted = [onward, self._weight.requires_grad, self._bias.requires_grad]
        below, to_weight, to_bias = torch.ops.aten.native_batch_norm_backward.default(
            _side_by_side(gradient),
            given,
            weight,
            *self._statistics,
            *taken,
            training,
            self._module.eps,
            wanted,
        )
        for parameter, found in ((self._weight, to_weight), (self._bias, to_bias)):
            if parameter.requires_grad:
                give(parameter, found.view(parameter.shape))
        return _apart(below, len(gradient)) if onward else None

    def _begin(self, x: Tensor) -> tuple[nn.BatchNorm1d, tuple[float, float]]:
        if x.dim() != 3:
            raise ValueError(f"batch normalization of a stack of vectors was given {x.dim() - 1} axes")
        module = self._module
        if module.training:
            if x.shape[1] < 2:
                raise ValueError("batch normalization takes two items or more a batch")
            self._count.add_(1)
        return module, (module.momentum or 0.0, module.eps)


def _side_by_side(x: Tensor) -> Tensor:
    """(K, N, C) as (N, K·C)."""
    return x.transpose(0, 1).flatten(1)


def _apart(x: Tensor, members: int) -> Tensor:
    """(N, K·C) as (K, N, C)."""
    apart: Tensor = x.unflatten(1, (members, -1)).transpose(0, 1)
    return apart


def cut_back(gradient: Tensor, out: Tensor) -> Tensor:
    """The gradient before negative results were cut, which left `out`."""
    before: Tensor = _CUT_BACK(gradient, out, 0.0)
    return before


def give(parameter: Tensor, gradient: Tensor) -> None:
    """Add to a parameter's gradient."""
    if parameter.grad is None:
        parameter.grad = gradient
    else:
        parameter.grad.add_(gradient)
