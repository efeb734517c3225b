"""The smallest shift that makes a symmetric matrix positive definite (Levenberg 1944), by Cholesky alone.

A Cholesky factorization that breaks down at pivot k is not wasted: from its first k rows comes a vector
along which the matrix curves downwards, and so a number that every sufficient shift exceeds (Moré and
Sorensen 1983, section 3). Nothing here is absolute: shifts follow the size of the matrix.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Factor(NamedTuple):
    """A positive definite matrix H + shift·I, factored.

    Attributes:
        lower: L, (n, n) lower triangular, with L·Lᵀ = H + shift·I.
        shift: what was added to the diagonal, 0 where H is positive definite itself.
    """

    lower: Tensor
    shift: float

    def solve(self, right: Tensor) -> Tensor:
        """(H + shift·I)⁻¹·right, for a vector of n."""
        return torch.cholesky_solve(right.unsqueeze(1), self.lower).squeeze(1)


def magnitude(matrix: Tensor) -> float:
    """The largest row sum of absolute values: no eigenvalue of a symmetric matrix is larger."""
    return float(torch.linalg.matrix_norm(matrix, math.inf))


def least_curvature(matrix: Tensor) -> float:
    """What stands in for the curvature of a direction that has none.

    A gradient is wrong by rounding, by eps times the terms it was summed from. Divided by eps^⅔ of the
    matrix's size, an error along such a direction remains a small share of the steps that the matrix asks
    for, and condition numbers up to 1e10 (in float64) are still taken as they are.
    """
    share: float = torch.finfo(matrix.dtype).eps ** (2 / 3)
    return share * magnitude(matrix)


def factor(matrix: Tensor, shift: float = 0.0) -> tuple[Tensor | None, float]:
    """The Cholesky factor of matrix + shift·I, or None and what every sufficient shift exceeds.

    Args:
        matrix: (n, n), symmetric and finite.
        shift: added to the diagonal.

    Returns:
        (L, 0.0) where the sum is positive definite beyond rounding; otherwise None and a bound that is at
        least `shift`: the matrix plus so much or less is not positive definite.
    """
    total = shifted(matrix, shift)
    lower, info = torch.linalg.cholesky_ex(total)
    failed = int(info)
    if not failed:
        # What is left of each diagonal entry; measured so, the units of the variables do not matter.
        left = float((lower.diagonal().square() / total.diagonal()).min())
        sound = left > len(matrix) * torch.finfo(matrix.dtype).eps
        return (lower, 0.0) if sound else (None, shift)
    return None, shift + _missing(total, failed)


def damped(matrix: Tensor) -> Factor:
    """Factor H, or H + shift·I with at most twice the smallest shift that makes it positive definite.

    Twice, because the smallest one leaves the matrix singular; so the lowest eigenvalue −a becomes about a.
    A matrix of zeros says nothing of size: its shift is 1.

    Args:
        matrix: H, (n, n), symmetric and finite.
    """
    size = magnitude(matrix)
    if size <= torch.finfo(matrix.dtype).tiny:
        return Factor(torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device), 1.0)
    shift, least = 0.0, least_curvature(matrix)
    while True:
        lower, bound = factor(matrix, shift)
        if lower is not None:
            return Factor(lower, shift)
        # Above the largest absolute eigenvalue the sum is positive definite: there the search ends at last.
        shift = min(max(2.0 * bound, least), 2.0 * size)


def shifted(matrix: Tensor, shift: float) -> Tensor:
    """The sum of `matrix` and shift·I; the matrix itself where shift is 0."""
    if not shift:
        return matrix
    total = matrix.clone()
    total.diagonal().add_(shift)
    return total


def _missing(matrix: Tensor, failed: int) -> float:
    """How far below 0 the Rayleigh quotient of a vector found in a failed factorization lies.

    `failed` (from 1) is the order of the first leading minor that is not positive. With A the leading
    block before it, v = (−A⁻¹·c, 1) has vᵀ·M·v = pivot ≤ 0.
    """
    last = failed - 1
    column = matrix[:last, last]
    lower = torch.linalg.cholesky_ex(matrix[:last, :last])[0]
    half = torch.linalg.solve_triangular(lower, column.unsqueeze(1), upper=False)
    pivot = float(matrix[last, last] - half.square().sum())
    upper = torch.linalg.solve_triangular(lower.mT, half, upper=True)
    return max(0.0, -pivot / (1.0 + float(upper.square().sum())))
