"""Chains of well-known layers on a whole stack, without `vmap`: it costs more than small layers do."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...generalize.noise import Dropout
from ...generalize.regularize import BEFORE, noise_before
from .rates import DropoutByMember

Step = Callable[[Tensor], Tensor]
Tensors = Mapping[str, Tensor]
"""The stack's tensors by name, each with the members' axis first."""

# What changes each element by itself does so whatever the axes mean.
_ELEMENTWISE = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus),
    *(nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Softsign, nn.Identity),
    *(nn.Dropout, Dropout),
)


def chain(network: nn.Module, tensors: Tensors) -> list[Step] | None:
    """What the layers of a network do to a stack, in their order; None where one of them is not known.

    Args:
        network: whose layers are asked for their settings and their mode at each step.
        tensors: what the steps take in place of the network's own, looked at again at each step.
    """
    return _steps(network, "", tensors)


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
        return _sequence(list(module.named_children()), prefix, tensors)
    if isinstance(module, _ELEMENTWISE) and type(module) in _ELEMENTWISE:
        return [_out_of_place(module)]
    make = _KNOWN.get(type(module))
    step = None if make is None else make(module, prefix, tensors)
    return None if step is None else [step]


def _out_of_place(module: nn.Module) -> Step:
    """The same function, without changing a view: autograd would copy all that the view is of, four times."""
    if getattr(module, "inplace", False) and not isinstance(module, nn.Dropout):  # whose mode changes
        alike: Any = copy.copy(module)
        alike.inplace = False
        module = alike
    return module


def _hooked(module: nn.Module) -> bool:
    """Whether a layer has hooks: whatever they do, they do it to one member."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


# Outputs so few that a product of matrices takes longer to begin its rows than to fill them.
FEW = 32


class _Products(torch.autograd.Function):
    """Rows (K, N, I) times weights (K, O, I), a bias (K, O) added, negative results cut where `rectified`.

    As autograd would have it, but the weights' gradient comes in the weights' own layout, which saves a copy,
    the results are cut in place, and of few outputs the items come last, which is twice as quick.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, rectified: bool) -> Tensor:
        if bias is None:
            out = torch.bmm(rows, weight.mT)
        elif weight.shape[1] < FEW:
            out = torch.baddbmm(bias.unsqueeze(2), weight, rows.mT).mT
        else:
            out = torch.baddbmm(bias.unsqueeze(1), rows, weight.mT)
        if rectified:
            out.clamp_min_(0.0)
        ctx.rectified = rectified
        ctx.save_for_backward(rows, weight, out if rectified else None)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, out = ctx.saved_tensors
        if ctx.rectified:
            gradient = torch.ops.aten.threshold_backward(gradient, out, 0.0)
        needs = ctx.needs_input_grad
        return (
            torch.bmm(gradient, weight) if needs[0] else None,
            torch.bmm(gradient.mT, rows) if needs[1] else None,
            gradient.sum(1) if needs[2] else None,
            None,
        )


def products(rows: Tensor, weight: Tensor, bias: Tensor | None, *, rectified: bool = False) -> Tensor:
    """The members' linear layers at once: rows (K, N, I), weight (K, O, I) and bias (K, O) to (K, N, O)."""
    device = rows.device.type
    if torch.is_autocast_enabled(device):  # which would change the types within the forward pass alone
        low = torch.get_autocast_dtype(device)
        rows, weight = rows.to(low), weight.to(low)
        bias = None if bias is None else bias.to(low)
    out: Tensor = _Products.apply(rows, weight, bias, rectified)  # type: ignore[no-untyped-call]
    return out


def _linear(module: nn.Linear, prefix: str, tensors: Tensors, *, rectified: bool = False) -> Step:
    weight, bias = tensors[f"{prefix}weight"], tensors.get(f"{prefix}bias")

    def step(x: Tensor) -> Tensor:
        out = products(x.flatten(1, -2), weight, bias, rectified=rectified)
        return out.reshape(*x.shape[:-1], -1)

    return step


def _sequence(children: Sequence[tuple[str, nn.Module]], prefix: str, tensors: Tensors) -> list[Step] | None:
    found: list[Step] = []
    children = [(name, child) for name, child in children if type(child) is not nn.Identity or _hooked(child)]
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


def _flatten(module: nn.Flatten, prefix: str, tensors: Tensors) -> Step | None:
    if (module.start_dim, module.end_dim) != (1, -1):
        return None
    return lambda x: x.flatten(2)


def _dropout(module: DropoutByMember, prefix: str, tensors: Tensors) -> Step:
    rates = tensors[f"{prefix}p"]
    return lambda x: module.dropped(x, rates.view(-1, *[1] * (x.dim() - 1)))


def _batch_norm(module: nn.BatchNorm1d, prefix: str, tensors: Tensors) -> Step | None:
    """The channels of all members side by side: each is normalized by itself anyway."""
    if not module.affine or not module.track_running_stats or module.momentum is None:
        return None
    own = {name: tensors[f"{prefix}{name}"] for name in ("weight", "bias", "running_mean", "running_var")}
    count = tensors[f"{prefix}num_batches_tracked"]

    def step(x: Tensor) -> Tensor:
        if x.dim() != 3:
            raise ValueError(f"batch normalization of a stack of vectors was given {x.dim() - 1} axes")
        if module.training:
            count.add_(1)
        side_by_side = x.transpose(0, 1).flatten(1)
        out = functional.batch_norm(
            side_by_side,
            own["running_mean"].flatten(),
            own["running_var"].flatten(),
            own["weight"].flatten(),
            own["bias"].flatten(),
            module.training,
            module.momentum or 0.0,
            module.eps,
        )
        apart: Tensor = out.unflatten(1, (len(x), -1)).transpose(0, 1)
        return apart

    return step


def _layer_norm(module: nn.LayerNorm, prefix: str, tensors: Tensors) -> Step:
    weight, bias = tensors.get(f"{prefix}weight"), tensors.get(f"{prefix}bias")

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
    DropoutByMember: _dropout,
    nn.BatchNorm1d: _batch_norm,
    nn.LayerNorm: _layer_norm,
}
