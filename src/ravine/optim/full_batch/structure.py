"""From what a user calls x (tensors, nested, or a module) to one flat vector and back."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

PRECISIONS = (torch.float32, torch.float64)


class Structure:
    """The shape of x0.

    Attributes:
        widened: whether x has a wider type than x0 had.
    """

    def __init__(self, x0: Any, dtype: torch.dtype | None) -> None:
        """As `Objective` says.

        Raises:
            ValueError: x0 has no parameters, complex ones, or what is no number; a dtype for a module, or one
                that is neither float32 nor float64.
        """
        self.module = x0 if isinstance(x0, nn.Module) else None
        if isinstance(x0, nn.Module):
            if dtype is not None:
                raise ValueError("a module keeps its own dtype: convert it before, as by module.double()")
            tree: Any = {name: p for name, p in x0.named_parameters() if p.requires_grad}
        else:
            tree = _tensor(x0) if _numbers(x0) else x0
        self._spread = isinstance(tree, tuple)
        leaves, self._spec = pytree.tree_flatten(tree)
        self._originals = [_tensor(leaf) for leaf in leaves]
        if not self._originals:
            raise ValueError("x0 holds no tensor to change")
        if any(leaf.is_complex() for leaf in self._originals):
            raise ValueError("x0 is complex; minimize over the real and the imaginary part instead")
        self._shapes = [leaf.shape for leaf in self._originals]
        self._sizes = [leaf.numel() for leaf in self._originals]
        self._dtype = dtype or self._common_type()
        if self._dtype not in PRECISIONS:
            raise ValueError(
                f"x would be {self._dtype}, but curvature needs the digits of float32 or float64: convert "
                "the module, or give dtype=torch.float32"
            )
        self.widened = dtype is None and any(leaf.dtype != self._dtype for leaf in self._originals)

    def _common_type(self) -> torch.dtype:
        if self.module is None and self._originals[0].device.type == "cpu":
            return torch.float64
        common = self._originals[0].dtype
        for leaf in self._originals[1:]:
            common = torch.promote_types(common, leaf.dtype)
        return common if common.is_floating_point else torch.get_default_dtype()

    def start(self) -> Tensor:
        """x0 as a flat vector of its own, (n,)."""
        return torch.cat([leaf.detach().reshape(-1).to(self._dtype) for leaf in self._originals])

    def flatten(self, tree: Any) -> Tensor:
        """A tree like x0 as a flat vector, (n,), by operations that autograd sees.

        Raises:
            ValueError: another number of elements than x0 has.
        """
        leaves = [_tensor(tree)] if _numbers(tree) else pytree.tree_leaves(tree)
        device = self._originals[0].device
        parts = [_tensor(leaf).to(device, self._dtype).reshape(-1) for leaf in leaves]
        if [part.numel() for part in parts] != self._sizes:
            raise ValueError(
                f"x0 has tensors of {self._sizes} elements, but this has {[part.numel() for part in parts]}"
            )
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def unflatten(self, x: Tensor) -> Any:
        """`x`, (n,), in the structure of x0: views of it."""
        return pytree.tree_unflatten(self._views(x), self._spec)

    def leaves(self, x: Tensor) -> Sequence[Tensor]:
        """`x` as the tensors to differentiate by; a module's parameters take its values."""
        if self.module is not None:
            self.write(x)
            return self._originals
        return [view.detach().requires_grad_() for view in self._views(x)]

    def arguments(self, leaves: Sequence[Tensor]) -> Sequence[Any]:
        """What f is called with."""
        if self.module is not None:
            return ()
        tree = pytree.tree_unflatten(leaves, self._spec)
        return tree if self._spread else (tree,)

    @torch.no_grad()
    def write(self, x: Tensor) -> None:
        """Put `x` into the module's parameters, if there is a module."""
        if self.module is not None:
            for parameter, view in zip(self._originals, self._views(x), strict=True):
                parameter.copy_(view)

    def _views(self, x: Tensor) -> list[Tensor]:
        parts = [x] if len(self._sizes) == 1 else x.split(self._sizes)
        return [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]


def _tensor(leaf: Any) -> Tensor:
    """A leaf as a tensor; numbers keep all the digits that Python has of them, whatever torch's default."""
    if isinstance(leaf, Tensor):
        return leaf
    try:
        made = torch.as_tensor(leaf)
    except (TypeError, RuntimeError, ValueError) as error:
        raise ValueError(f"x0 must hold tensors or numbers, not {leaf!r}") from error
    plain = isinstance(leaf, int | float | list | tuple) and not made.is_complex()
    return torch.tensor(leaf, dtype=torch.float64) if plain else made


def _numbers(x: Any) -> bool:
    """Whether x is one array, or what would be made one: a number, or lists of numbers."""
    if isinstance(x, list | tuple):
        return bool(x) and all(_numbers(item) and not isinstance(item, Tensor) for item in x)
    return isinstance(x, int | float | complex | Tensor) or hasattr(x, "__array__")
