"""Problems 23-27 and 32-34: penalties, sums over all variables, and linear functions, of any size."""

import math

import torch
from torch import Tensor

from ..problem import LeastSquares, Minimum, counting, minima

_WEIGHT = 1e-5


def penalty_1(n: int = 10) -> LeastSquares:
    """Problem 23; minima are published for n = 4 and 10."""

    def residuals(x: Tensor) -> Tensor:
        outside = (x**2).sum(-1, keepdim=True) - 0.25
        return torch.cat((math.sqrt(_WEIGHT) * (x - 1), outside), -1)

    published = {4: 2.24997e-5, 10: 7.08765e-5}
    start = tuple(float(i) for i in range(1, n + 1))
    return LeastSquares("penalty 1", 23, residuals, start, minima(published[n]) if n in published else ())


def penalty_2(n: int = 10) -> LeastSquares:
    """Problem 24; minima are published for n = 4 and 10."""

    def residuals(x: Tensor) -> Tensor:
        exponentials, i = torch.exp(x / 10), counting(x, 1, n)
        y = torch.exp(i[1:] / 10) + torch.exp(i[:-1] / 10)
        pairs = math.sqrt(_WEIGHT) * (exponentials[..., 1:] + exponentials[..., :-1] - y)
        singles = math.sqrt(_WEIGHT) * (exponentials[..., 1:] - math.exp(-0.1))
        outside = ((n - i + 1) * x**2).sum(-1, keepdim=True) - 1
        return torch.cat((x[..., :1] - 0.2, pairs, singles, outside), -1)

    published = {4: 9.37629e-6, 10: 2.93660e-4}
    return LeastSquares(
        "penalty 2", 24, residuals, (0.5,) * n, minima(published[n]) if n in published else ()
    )


def variably_dimensioned(n: int = 10) -> LeastSquares:
    """Problem 25."""

    def residuals(x: Tensor) -> Tensor:
        total = (counting(x, 1, n) * (x - 1)).sum(-1, keepdim=True)
        return torch.cat((x - 1, total, total**2), -1)

    start = tuple(1 - i / n for i in range(1, n + 1))
    return LeastSquares("variably dimensioned", 25, residuals, start, (Minimum(0.0, (1.0,) * n),))


def trigonometric(n: int = 10) -> LeastSquares:
    """Problem 26; descents from the start at n = 10 mostly end in a minimum above zero."""

    def residuals(x: Tensor) -> Tensor:
        cosine = torch.cos(x)
        return n - cosine.sum(-1, keepdim=True) + counting(x, 1, n) * (1 - cosine) - torch.sin(x)

    others = minima(2.79506e-5) if n == 10 else ()
    return LeastSquares("trigonometric", 26, residuals, (1 / n,) * n, (Minimum(0.0, (0.0,) * n),), others)


def brown_almost_linear(n: int = 10) -> LeastSquares:
    """Problem 27; zero also at (α, ..., α, α^(1-n)) for the roots α of n·αⁿ - (n + 1)·αⁿ⁻¹ + 1."""

    def residuals(x: Tensor) -> Tensor:
        linear = x[..., :-1] + x.sum(-1, keepdim=True) - (n + 1)
        return torch.cat((linear, x.prod(-1, keepdim=True) - 1), -1)

    known = (Minimum(0.0, (1.0,) * n), Minimum(1.0, (*(0.0,) * (n - 1), n + 1.0)))
    return LeastSquares("brown almost-linear", 27, residuals, (0.5,) * n, known)


def linear_full_rank(n: int = 10, m: int = 20) -> LeastSquares:
    """Problem 32, m ≥ n."""
    _at_least_as_many(m, n)

    def residuals(x: Tensor) -> Tensor:
        common = -2 / m * x.sum(-1, keepdim=True) - 1
        return torch.cat((x + common, common.expand(*x.shape[:-1], m - n)), -1)

    known = (Minimum(float(m - n), (-1.0,) * n),)
    return LeastSquares("linear full rank", 32, residuals, (1.0,) * n, known)


def linear_rank_1(n: int = 10, m: int = 20) -> LeastSquares:
    """Problem 33, m ≥ n: every x with Σ j·xⱼ = 3 / (2m + 1) is a minimum."""
    _at_least_as_many(m, n)

    def residuals(x: Tensor) -> Tensor:
        return counting(x, 1, m) * (counting(x, 1, n) * x).sum(-1, keepdim=True) - 1

    point = (3 / (2 * m + 1), *(0.0,) * (n - 1))
    known = (Minimum(m * (m - 1) / (2 * (2 * m + 1)), point),)
    return LeastSquares("linear rank 1", 33, residuals, (1.0,) * n, known)


def linear_rank_1_with_zeros(n: int = 10, m: int = 20) -> LeastSquares:
    """Problem 34, m ≥ n ≥ 3: as 33, but the first and last columns and rows are zero."""
    _at_least_as_many(m, n)

    def residuals(x: Tensor) -> Tensor:
        total = (counting(x, 2, n - 1) * x[..., 1:-1]).sum(-1, keepdim=True)
        inner = counting(x, 1, m - 2) * total - 1
        edge = -torch.ones_like(total)
        return torch.cat((edge, inner, edge), -1)

    point = (0.0, 3 / (2 * (2 * m - 3)), *(0.0,) * (n - 2))
    known = (Minimum((m**2 + 3 * m - 6) / (2 * (2 * m - 3)), point),)
    return LeastSquares("linear rank 1 with zeros", 34, residuals, (1.0,) * n, known)


def _at_least_as_many(m: int, n: int) -> None:
    if m < n:
        raise ValueError(f"a linear function of the collection has m of at least n, not {m} for n = {n}")
