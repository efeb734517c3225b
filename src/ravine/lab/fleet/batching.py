"""Functions for which a stack knows a quicker way than `torch.vmap`'s own: one call for all members."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .products import products

Dims = tuple[int | None, ...]


class _Linear(torch.autograd.Function):
    """All members' products as one batched product with the bias added in it."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.linear(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Dims, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, int]:
        members = info.batch_size
        x = _led(x, in_dims[0], members)
        weight = _led(weight, in_dims[1], members)
        own = None if bias is None else _led(bias, in_dims[2], members)
        out = products(x.reshape(members, -1, x.shape[-1]), weight, own)
        return out.view(*x.shape[:-1], -1), 0


class _Attention(torch.autograd.Function):
    """All members' heads as one batch: the kernels take any number of items, but no axis of members."""

    @staticmethod
    def forward(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: Any) -> Tensor:
        return functional.scaled_dot_product_attention(query, key, value, mask, **options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def vmap(
        info: Any, in_dims: Dims, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: Any
    ) -> tuple[Tensor, int]:
        members = info.batch_size
        query, key, value = (
            _led(given, dim, members) for given, dim in zip((query, key, value), in_dims[:3], strict=True)
        )
        if mask is not None and in_dims[3] is not None:
            mask = _led(mask, in_dims[3], members)
            mask = mask.expand(*query.shape[:-1], key.shape[-2]).flatten(0, 1)
        out = functional.scaled_dot_product_attention(
            query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1), mask, **options
        )
        return out.unflatten(0, (members, -1)), 0


def _led(tensor: Tensor, dim: int | None, members: int) -> Tensor:
    """The tensor with the members' axis first; what all members share is not copied."""
    return tensor.expand(members, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    out: Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return out


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, **options: Any,
) -> Tensor:  # fmt: skip
    options = {"dropout_p": dropout_p, "is_causal": is_causal, **options}
    out: Tensor = _Attention.apply(query, key, value, attn_mask, options)  # type: ignore[no-untyped-call]
    return out


_INSTEAD: Mapping[Callable[..., Any], Callable[..., Any]] = {
    functional.linear: _linear,
    functional.scaled_dot_product_attention: _attention,
}


class Batching(TorchFunctionMode):
    """While entered, under `vmap`, these functions go their own way."""

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The function called, or what stands for it."""
        return _INSTEAD.get(func, func)(*args, **(kwargs or {}))
