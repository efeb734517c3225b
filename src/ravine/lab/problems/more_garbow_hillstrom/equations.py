"""Problems 28-31 and 35: systems of equations of any size, as sums of squares."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..problem import LeastSquares, Minimum, counting, minima


def discrete_boundary_value(n: int = 10) -> LeastSquares:
    """Problem 28."""

    def residuals(x: Tensor) -> Tensor:
        h = 1 / (n + 1)
        left, right = _neighbors(x)
        return 2 * x - left - right + h**2 * (x + h * counting(x, 1, n) + 1) ** 3 / 2

    return LeastSquares("discrete boundary value", 28, residuals, _boundary_start(n), minima(0.0))


def discrete_integral_equation(n: int = 10) -> LeastSquares:
    """Problem 29."""

    def residuals(x: Tensor) -> Tensor:
        h = 1 / (n + 1)
        t = h * counting(x, 1, n)
        cubes = (x + t + 1) ** 3
        before = (t * cubes).cumsum(-1)
        weighted = (1 - t) * cubes
        after = weighted.sum(-1, keepdim=True) - weighted.cumsum(-1)
        return x + h * ((1 - t) * before + t * after) / 2

    return LeastSquares("discrete integral equation", 29, residuals, _boundary_start(n), minima(0.0))


def broyden_tridiagonal(n: int = 10) -> LeastSquares:
    """Problem 30."""

    def residuals(x: Tensor) -> Tensor:
        left, right = _neighbors(x)
        return (3 - 2 * x) * x - left - 2 * right + 1

    return LeastSquares("broyden tridiagonal", 30, residuals, (-1.0,) * n, minima(0.0))


def broyden_banded(n: int = 10) -> LeastSquares:
    """Problem 31: five variables before and one after have a part in each equation."""

    def residuals(x: Tensor) -> Tensor:
        around = pad(x * (1 + x), (5, 1))
        others = torch.stack([around[..., k : k + n] for k in (0, 1, 2, 3, 4, 6)]).sum(0)
        return x * (2 + 5 * x**2) + 1 - others

    return LeastSquares("broyden banded", 31, residuals, (-1.0,) * n, minima(0.0))


def chebyquad(n: int = 8) -> LeastSquares:
    """Problem 35 with m = n: points whose mean of every Chebyshev polynomial is its integral.

    The minimum is zero for n up to 7 and n = 9; others are published for n = 8 and 10.
    """

    def residuals(x: Tensor) -> Tensor:
        shifted = 2 * x - 1
        polynomials = [torch.ones_like(x), shifted]
        for _ in range(n - 1):
            polynomials.append(2 * shifted * polynomials[-1] - polynomials[-2])
        i = counting(x, 1, n)
        integrals = torch.where(i % 2 == 0, -1 / (i**2 - 1), 0.0)
        return torch.stack(polynomials[1:], -2).mean(-1) - integrals

    published = {8: 3.51687e-3, 10: 6.50395e-3, **dict.fromkeys((1, 2, 3, 4, 5, 6, 7, 9), 0.0)}
    known = minima(published[n]) if n in published else ()
    # Lower than the one that the paper states for n = 10.
    others = (Minimum(4.77271e-3),) if n == 10 else ()
    start = tuple(j / (n + 1) for j in range(1, n + 1))
    return LeastSquares("chebyquad", 35, residuals, start, known, others)


def _neighbors(x: Tensor) -> tuple[Tensor, Tensor]:
    """The variables to the left and to the right of each, zero beyond the ends."""
    return pad(x[..., :-1], (1, 0)), pad(x[..., 1:], (0, 1))


def _boundary_start(n: int) -> tuple[float, ...]:
    steps = (i / (n + 1) for i in range(1, n + 1))
    return tuple(t * (t - 1) for t in steps)
