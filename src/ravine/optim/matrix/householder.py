"""The orthogonal factor of QR, by matrix products over whole batches."""

import torch
from torch import Tensor

PANEL = 32
"""Reflectors applied at a time, at least; a sixteenth of all in larger matrices."""


def orthogonal_factor(x: Tensor) -> Tensor:
    """Q of X = QR, transposed: (N, n, n), a column of Q in each row.

    `torch.geqrf` factors well; to form Q from its reflectors LAPACK takes as long again on one core, and
    hardly less on two: at 512×512 4.7 ms on one, and 3.4 in the way taken here. The product of a panel's
    reflectors is I − V·S⁻¹·Vᵀ, with S the upper triangle of VᵀV, its diagonal 1/τ (Puglisi, "Modification of
    the Householder method based on the compact WY representation", 1992), and is applied by matrix products.

    Args:
        x: (N, n, n), fastest where each column lies in one stretch.
    """
    reflectors, factors = torch.geqrf(x)
    size = x.shape[-1]
    rows = torch.zeros(x.shape, dtype=x.dtype, device=x.device)
    rows.diagonal(dim1=-2, dim2=-1).fill_(1.0)
    width = max(PANEL, size // 16)
    for start in reversed(range(0, size, width)):
        v, s = _panel(reflectors, factors, slice(start, min(start + width, size)))
        identity = torch.eye(s.shape[-1], dtype=x.dtype, device=x.device).expand_as(s)
        vt = v @ torch.linalg.solve_triangular(s, identity, upper=True)
        block = rows[:, start:, start:]
        block.baddbmm_(block @ v, vt.mT, alpha=-1)
    return rows


def _panel(reflectors: Tensor, factors: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
    """V and S of some reflectors."""
    tau = factors[:, columns]
    v = reflectors[:, columns.start :, columns].tril(-1)
    # A reflector that LAPACK left out has τ = 0: its vector is nothing, and its 1/τ does not matter.
    v.diagonal(dim1=-2, dim2=-1).copy_(tau != 0)
    s = (v.mT @ v).triu(1)
    s.diagonal(dim1=-2, dim2=-1).copy_(torch.where(tau != 0, tau, 1.0).reciprocal())
    return v, s
