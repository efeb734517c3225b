"""Inverse roots of symmetric positive semidefinite matrices."""

import torch
from torch import Tensor

from .symmetric import add_outer_, fill_upper_


def eigen(lower: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (N, n), rising, and eigenvectors (N, n, n), a column each, of lower triangles.

    float32 that does not converge is taken in float64.
    """
    try:
        values, vectors = torch.linalg.eigh(lower)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        values, vectors = torch.linalg.eigh(lower.double())
    return values.to(lower.dtype), vectors.to(lower.dtype)


def inverse_root(lower: Tensor, exponent: float, eps: float, correction: float = 1.0) -> Tensor:
    """(A/c + εI)^(-exponent).

    An eigenvalue that is smaller than the rounding of the largest is noise, and would blow up: it is
    taken for that rounding.

    Args:
        lower: A, (N, n, n), of which only the lower triangle counts.
        exponent: above 0, such as 1/4.
        eps: ε, above 0.
        correction: c.
    """
    values, vectors = eigen(lower)
    noise = torch.finfo(values.dtype).eps * values.amax(-1, keepdim=True)
    powers = (values.maximum(noise).clamp(min=0.0) / correction + eps).pow(-exponent / 2)
    result = torch.empty_like(lower)
    add_outer_(result, vectors.mul_(powers.unsqueeze(-2)), keep=0.0)
    return fill_upper_(result)
