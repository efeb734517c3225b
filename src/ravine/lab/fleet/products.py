"""The products of matrices of a whole stack: its linear layers, and what cuts their results at 0."""

from typing import Any

import torch
from torch import Tensor

from .layers import Layer, cut_back, give

# Outputs so few that a product of matrices takes longer to begin its rows than to fill them.
FEW = 32


def _products(rows: Tensor, weight: Tensor, bias: Tensor | None, rectified: bool) -> Tensor:
    """Rows (K, N, I) times weights (K, O, I), a bias (K, O) added, negative results cut where `rectified`.

    The results are cut in place, and of few outputs the items come last, which is twice as quick.
    """
    if bias is None:
        out = torch.bmm(rows, weight.mT)
    elif weight.shape[1] < FEW:
        out = torch.baddbmm(bias.unsqueeze(2), weight, rows.mT).mT
    else:
        out = torch.baddbmm(bias.unsqueeze(1), rows, weight.mT)
    return out.clamp_min_(0.0) if rectified else out


class _Products(torch.autograd.Function):
    """`_products` for autograd; the weights' gradient comes in their own layout, which saves a copy."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, rectified: bool) -> Tensor:
        out = _products(rows, weight, bias, rectified)
        ctx.rectified = rectified
        ctx.save_for_backward(rows, weight, out if rectified else None)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, out = ctx.saved_tensors
        if ctx.rectified:
            gradient = cut_back(gradient, out)
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


class Products(Layer):
    """The members' linear layers, cut at 0 where `rectified`."""

    def __init__(self, weight: Tensor, bias: Tensor | None, rectified: bool) -> None:
        self._weight, self._bias, self._rectified = weight, bias, rectified
        # Where gradients lie, always the same: the optimizer need not look for them.
        self._gradients = [torch.empty_like(each) for each in (weight, bias) if each is not None]

    def __call__(self, x: Tensor) -> Tensor:
        """Of (K, N, ..., I) the outputs (K, N, ..., O)."""
        return _like(x, products(_rows(x), self._weight, self._bias, rectified=self._rectified))

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        """The same."""
        out = _like(x, _products(_rows(x), self._weight, self._bias, self._rectified))
        return out, (x, out)

    def backward(self, kept: Any, gradient: Tensor, *, onward: bool) -> Tensor | None:
        """As `Layer.backward`."""
        x, out = kept
        rows, gradient = _rows(x), _rows(gradient)
        if self._rectified:
            gradient = cut_back(gradient, _rows(out))
        if self._weight.requires_grad:
            place = self._gradients[0] if self._weight.grad is None else None
            give(self._weight, torch.bmm(gradient.mT, rows, out=place))
        if self._bias is not None and self._bias.requires_grad:
            place = self._gradients[1] if self._bias.grad is None else None
            give(self._bias, torch.sum(gradient, 1, out=place))
        return _like(x, torch.bmm(gradient, self._weight)) if onward else None


def _rows(x: Tensor) -> Tensor:
    """(K, N, ..., I) as (K, rows, I)."""
    return x if x.dim() == 3 else x.flatten(1, -2)


def _like(x: Tensor, rows: Tensor) -> Tensor:
    """(K, rows, O) as (K, N, ..., O)."""
    return rows if x.dim() == 3 else rows.reshape(*x.shape[:-1], -1)
