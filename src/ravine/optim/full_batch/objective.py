"""The function being minimized, as a function of one flat vector, with its derivatives and their count."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .structure import Structure

# Rows of a Hessian computed together. All at once, what lies between would fill n copies of the activations
# and leave the caches: 32 s in place of 3.4 s for an MLP of 1,810 parameters, with 8 to 32 rows alike.
_TOGETHER = 32


UNRELATED = (
    "the value of f does not depend on x by operations that autograd sees "
    "(detach, item and NumPy break the chain); pass jac= for a gradient of your own"
)


class Budget(Exception):  # noqa: N818 - an end that was agreed on, no error
    """The budget of evaluations is used up."""


class Objective:
    """A scalar function on a flat vector x of n numbers.

    Values and gradients that are not finite are returned as they are: what to do is the method's to decide.
    A vector handed in is kept, never changed, and must not be changed afterwards.

    Attributes:
        x0: the start, (n,).
        nfev: values computed so far. njev: gradients. nhev: Hessians and products with one.
        best: (x, value, gradient) of the smallest value at which a gradient was computed; None before.
    """

    def __init__(
        self,
        f: Callable[..., Any],
        x0: Any,
        *,
        jac: Callable[..., Any] | bool | None = None,
        dtype: torch.dtype | None = None,
        max_evaluations: int | None = None,
    ) -> None:
        """The objective at no point yet.

        Args:
            f: of one tensor, where x0 is a tensor, an array, a number or a list of numbers; of several, where
                x0 is a tuple of tensors; of a dict or a list of tensors, nested as x0 is;
                of nothing, where x0 is a module: then x are its parameters that require gradients.
            x0: the start. It is not changed, unless it is a module.
            jac: the gradient: None by autograd; a function with the arguments of f that returns it in the
                structure of x0; True if f returns (value, gradient).
            dtype: of x. None: float64 on the CPU, else as in x0; a module keeps its own.
            max_evaluations: of the value; the next one raises `Budget`. None: any number.

        Raises:
            ValueError: as `Structure`; a jac that is none of these.
        """
        if not (jac is None or isinstance(jac, bool) or callable(jac)):
            raise ValueError(f"Invalid jac: {jac!r}; it must be a function, True, or None for autograd")
        self._f = f
        self._jac = None if jac is False else jac
        self._budget = max_evaluations
        self.structure = Structure(x0, dtype)
        self.x0 = self.structure.start()
        self.nfev = self.njev = self.nhev = 0
        self.best: tuple[Tensor, float, Tensor] | None = None

    @property
    def n(self) -> int:
        """How many numbers x has."""
        return self.x0.numel()

    def unflatten(self, x: Tensor) -> Any:
        """`x`, (n,), in the structure of x0: views of it (of a module: a dict of its parameters by name)."""
        return self.structure.unflatten(x)

    def restore(self, x: Tensor) -> None:
        """Put `x` into the module's parameters, if there is a module."""
        self.structure.write(x)

    def value(self, x: Tensor) -> float:
        """f(x).

        Raises:
            Budget: no evaluation is left.
            ValueError: f did not return a scalar.
        """
        self._spend()
        with torch.no_grad():
            value = self._call(self.structure.leaves(x))
        return float(self._scalar(value[0] if self._jac is True else value))

    def value_and_gradient(self, x: Tensor) -> tuple[float, Tensor]:
        """f(x) and its gradient, (n,), a tensor of its own.

        Raises:
            Budget: no evaluation is left.
            ValueError: f did not return a scalar, or one that does not depend on x.
        """
        self._spend()
        self.njev += 1
        with torch.enable_grad():
            leaves = self.structure.leaves(x)
            value, gradient = self._differentiate(leaves, create_graph=False)
        found = value.item()
        if found < (math.inf if self.best is None else self.best[1]):
            self.best = (x, found, gradient)
        return found, gradient

    def hessian(self, x: Tensor) -> Tensor:
        """The exact Hessian at x, (n, n), symmetric.

        Raises:
            ValueError: as `value_and_gradient`; the gradient is no differentiable function.
        """
        self.nhev += 1
        with torch.enable_grad():
            leaves = self.structure.leaves(x)
            _, gradient = self._differentiate(leaves, create_graph=True)
            if not gradient.requires_grad:
                return self._without_curvature(x.new_zeros(self.n, self.n))
            rows = _rows(gradient, leaves)
        return (rows + rows.T) / 2

    def hessian_vector(self, x: Tensor, v: Tensor) -> Tensor:
        """The product of the Hessian at `x` with `v`, (n,).

        Raises:
            ValueError: as `hessian`.
        """
        self.nhev += 1
        with torch.enable_grad():
            leaves = self.structure.leaves(x)
            _, gradient = self._differentiate(leaves, create_graph=True)
            if not gradient.requires_grad:
                return self._without_curvature(torch.zeros_like(v))
            return _flat(_gradients(gradient, leaves, grad_outputs=v))

    def hessian_product(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """The product of the Hessian at `x` with any v, as a function of v: f is run only once.

        Raises:
            ValueError: as `hessian`.
        """
        with torch.enable_grad():
            leaves = self.structure.leaves(x)
            _, gradient = self._differentiate(leaves, create_graph=True)
        if not gradient.requires_grad:
            self._without_curvature(x)

        def product(v: Tensor) -> Tensor:
            self.nhev += 1
            if not gradient.requires_grad:
                return torch.zeros_like(v)
            return _flat(_gradients(gradient, leaves, grad_outputs=v, retain_graph=True))

        return product

    def _spend(self) -> None:
        if self._budget is not None and self.nfev >= self._budget:
            raise Budget
        self.nfev += 1

    def _call(self, leaves: Sequence[Tensor]) -> Any:
        try:
            return self._f(*self.structure.arguments(leaves))
        except RuntimeError as error:
            if self.structure.widened and "dtype" in str(error):
                error.add_note(
                    "x is float64 unless a dtype is given: pass dtype=torch.float32 for float32 data"
                )
            raise

    def _scalar(self, value: Any) -> Tensor:
        if value is None:
            raise ValueError("f returned nothing; it must return the value")
        tensor = value if isinstance(value, Tensor) else torch.as_tensor(value)
        if tensor.numel() != 1 or tensor.is_complex():
            kind = "complex" if tensor.is_complex() else f"of shape {tuple(tensor.shape)}"
            raise ValueError(f"f must return one real number, not a value {kind}")
        return tensor.reshape(())

    def _differentiate(self, leaves: Sequence[Tensor], create_graph: bool) -> tuple[Tensor, Tensor]:
        result = self._call(leaves)
        if self._jac is None:
            value = self._scalar(result)
            if not value.requires_grad:
                raise ValueError(UNRELATED)
            gradients = torch.autograd.grad(value, leaves, create_graph=create_graph, allow_unused=True)
            if all(gradient is None for gradient in gradients):
                raise ValueError(UNRELATED)
            return value, _flat(_filled(gradients, leaves))
        if self._jac is True:
            value, gradient = result
        else:
            assert callable(self._jac)
            value, gradient = result, self._jac(*self.structure.arguments(leaves))
        flat = self.structure.flatten(gradient)
        return self._scalar(value), flat if create_graph else flat.detach()

    def _without_curvature(self, zeros: Tensor) -> Tensor:
        """Of a linear function; with the user's own gradient it means that autograd cannot see through it."""
        if self._jac is not None:
            raise ValueError(
                "second derivatives need a gradient that autograd can differentiate: leave out jac="
            )
        return zeros


def _gradients(output: Tensor, leaves: Sequence[Tensor], **how: Any) -> Sequence[Tensor]:
    return torch.autograd.grad(output, leaves, allow_unused=True, materialize_grads=True, **how)


def _filled(gradients: Sequence[Tensor | None], leaves: Sequence[Tensor]) -> Sequence[Tensor]:
    return [
        torch.zeros_like(leaf) if gradient is None else gradient
        for gradient, leaf in zip(gradients, leaves, strict=True)
    ]


def _flat(gradients: Sequence[Tensor]) -> Tensor:
    dense = [gradient.to_dense() if gradient.is_sparse else gradient for gradient in gradients]
    return dense[0].reshape(-1) if len(dense) == 1 else torch.cat([part.reshape(-1) for part in dense])


def _rows(gradient: Tensor, leaves: Sequence[Tensor]) -> Tensor:
    """Derivatives of each entry of `gradient`: many at once where every operation can be batched."""
    n = gradient.numel()
    try:
        return torch.cat([_block(gradient, leaves, first) for first in range(0, n, _TOGETHER)])
    except RuntimeError:
        basis = torch.eye(n, dtype=gradient.dtype, device=gradient.device)
        rows = [_flat(_gradients(gradient, leaves, grad_outputs=row, retain_graph=True)) for row in basis]
        return torch.stack(rows)


def _block(gradient: Tensor, leaves: Sequence[Tensor], first: int) -> Tensor:
    n = gradient.numel()
    basis = gradient.new_zeros(min(_TOGETHER, n - first), n)
    basis.diagonal(first).fill_(1.0)
    parts = _gradients(gradient, leaves, grad_outputs=basis, is_grads_batched=True, retain_graph=True)
    return torch.cat([part.reshape(len(basis), -1) for part in parts], dim=1)
