"""Newton-Schulz: the nearest orthogonal matrix by matrix products alone."""

import torch
from torch import Tensor

Coefficients = tuple[float, float, float]


def orthogonalized(matrices: Tensor, coefficients: Coefficients, eps: float, steps: int) -> Tensor:
    """Move all singular values of each matrix towards one: UΣVᵀ becomes U·p(Σ)·Vᵀ.

    Each step is X ← a·X + b·(XXᵀ)X + c·(XXᵀ)²X, from X divided by its Frobenius norm. With the usual
    coefficients five steps bring singular values above some 0.5 % of that norm to between 0.7 and 1.2.
    Keller Jordan, "Muon: An optimizer for hidden layers in neural networks", 2024.

    Args:
        matrices: (N, m, n), float32 or float64.
        coefficients: a, b and c.
        eps: the norm is taken for this at least.
        steps: how many.

    Returns:
        (N, m, n), a new tensor. float32 is worked on in bfloat16, as torch does: the iteration itself
        is coarser than that, and takes half the time.
    """
    a, b, c = coefficients
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True).clamp(min=eps)
    x = x.to(torch.float64 if matrices.dtype is torch.float64 else torch.bfloat16).contiguous()
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)
