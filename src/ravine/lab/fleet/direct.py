"""Chains of well-known layers on a whole stack, without `vmap`: it costs more than small layers do."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from ...generalize.noise import Dropout
from ...generalize.regularize import BEFORE, noise_before
from .layers import BatchNorm, Dropped, Rectified
from .products import Products
from .rates import DropoutByMember

Step = Callable[[Tensor], Tensor]
Tensors = Mapping[str, Tensor]
"""The stack's tensors by name, each with the members' axis first."""

# What changes each element by itself does so whatever the axes mean.
_ELEMENTWISE = (
    *(nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus),
    *(nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Softsign, nn.Identity),
)


def chain(network: nn.Module, tensors: Tensors) -> list[Step] | None:
    """What the layers of a network do to a stack, in their order; None where one of them is not known.

    Args:
        network: whose layers are asked for their mode at each step.
        tensors: what the steps take in place of the network's own, looked at again at each step.
    """
    try:
        return _steps(network, "", tensors)
    except KeyError:  # a layer's tensor is another's too, who has it under its own name
        return None


def _steps(module: nn.Module, prefix: str, tensors: Tensors) -> list[Step] | None:
    noise = noise_before(module)
    if noise is not None:
        first = _steps(noise, f"{prefix}{BEFORE}.", tensors)
        own = _bare(module, prefix, tensors)
        return None if first is None or own is None else [*first, *own]
    return None if _hooked(module) else _bare(module, prefix, tensors)


def _bare(module: nn.Module, prefix: str, tensors: Tensors) -> list[Step] | None:
    """What a layer does without its hooks."""
    if type(module) is nn.Sequential:
        return _sequence(list(module._modules.items()), prefix, tensors)  # one may stand in two places
    if isinstance(module, _ELEMENTWISE) and type(module) in _ELEMENTWISE:
        return [_out_of_place(module)]
    make = _KNOWN.get(type(module))
    step = None if make is None else make(module, prefix, tensors)
    return None if step is None else [step]


def _out_of_place(module: nn.Module) -> Step:
    """The same function, without changing a view: autograd would copy all that the view is of, four times."""
    if getattr(module, "inplace", False):
        alike: Any = copy.copy(module)
        alike.inplace = False
        module = alike
    return module


def _hooked(module: nn.Module) -> bool:
    """Whether a layer has hooks, or a forward pass of its own: whatever they do, they do it to one member."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def _linear(module: nn.Linear, prefix: str, tensors: Tensors, *, rectified: bool = False) -> Step:
    return Products(tensors[f"{prefix}weight"], _own(module, "bias", prefix, tensors), rectified)


def _own(module: nn.Module, name: str, prefix: str, tensors: Tensors) -> Tensor | None:
    """A stacked tensor that a layer may be without."""
    return None if getattr(module, name) is None else tensors[f"{prefix}{name}"]


def _sequence(children: Sequence[tuple[str, nn.Module]], prefix: str, tensors: Tensors) -> list[Step] | None:
    found: list[Step] = []
    children = [(name, child) for name, child in children if not _is_nothing(child)]
    at = 0
    while at < len(children):
        name, child = children[at]
        steps = _steps(child, f"{prefix}{name}.", tensors)
        if steps is None:
            return None
        following = children[at + 1][1] if at + 1 < len(children) else None
        if type(child) is nn.Linear and type(following) is nn.ReLU and not _hooked(following):
            steps[-1] = _linear(child, f"{prefix}{name}.", tensors, rectified=True)
            at += 1
        found += steps
        at += 1
    return found


def _is_nothing(module: nn.Module) -> bool:
    """Whether a layer lets all through: as is, or in a network with dropout whose rate is 0."""
    dropped = type(module) is nn.Dropout and module.p == 0.0
    return (dropped or type(module) is nn.Identity) and not _hooked(module)


def _flatten(module: nn.Flatten, prefix: str, tensors: Tensors) -> Step | None:
    if (module.start_dim, module.end_dim) != (1, -1):
        return None
    return lambda x: x.flatten(2)


def _rectified(module: nn.ReLU, prefix: str, tensors: Tensors) -> Step:
    return Rectified()


def _dropout(module: nn.Dropout | Dropout, prefix: str, tensors: Tensors) -> Step:
    if isinstance(module, Dropout) and not module.inverted:
        return module
    return Dropped(module, module.p)


def _dropout_by_member(module: DropoutByMember, prefix: str, tensors: Tensors) -> Step:
    return Dropped(module, tensors[f"{prefix}p"])


def _batch_norm(module: nn.BatchNorm1d, prefix: str, tensors: Tensors) -> Step | None:
    if not module.affine or not module.track_running_stats or module.momentum is None:
        return None
    return BatchNorm(module, lambda name: tensors[f"{prefix}{name}"])


def _layer_norm(module: nn.LayerNorm, prefix: str, tensors: Tensors) -> Step:
    weight, bias = (_own(module, name, prefix, tensors) for name in ("weight", "bias"))

    def beside(own: Tensor, x: Tensor) -> Tensor:
        """A member's values before all of its items."""
        return own.view(len(x), *[1] * (x.dim() - own.dim()), *own.shape[1:])

    def step(x: Tensor) -> Tensor:
        out = functional.layer_norm(x, module.normalized_shape, eps=module.eps)
        if weight is not None:
            out = out * beside(weight, x)
        return out if bias is None else out + beside(bias, x)

    return step


_KNOWN: dict[type, Callable[..., Step | None]] = {
    nn.Linear: _linear,
    nn.Flatten: _flatten,
    nn.ReLU: _rectified,
    nn.Dropout: _dropout,
    Dropout: _dropout,
    DropoutByMember: _dropout_by_member,
    nn.BatchNorm1d: _batch_norm,
    nn.LayerNorm: _layer_norm,
}
