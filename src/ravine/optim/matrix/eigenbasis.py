"""Eigenbases of slowly changing symmetric matrices, and the way there and back.

A basis is kept as an orthogonal matrix E whose rows are the eigenvectors: A = EᵀΛE.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .householder import orthogonal_factor
from .roots import eigen
from .symmetric import fill_upper_


class Bases(NamedTuple):
    """What turns matrices (N, m, n) into their eigenbases: one on either side, or None for none there."""

    left: Tensor | None
    right: Tensor | None

    def project(self, x: Tensor) -> Tensor:
        """E·X·Fᵀ."""
        if self.left is not None:
            x = self.left @ x
        return x if self.right is None else x @ self.right.mT

    def project_back(self, x: Tensor) -> Tensor:
        """Eᵀ·X·F."""
        if self.left is not None:
            x = self.left.mT @ x
        return x if self.right is None else x @ self.right


def first_basis(lower: Tensor) -> Tensor:
    """The eigenvectors of lower triangles (N, n, n), that of the largest eigenvalue first."""
    _, vectors = eigen(lower)
    return vectors.mT.flip(-2)


def next_basis(sums: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """One step of orthogonal iteration from an earlier basis: QR of A·Eᵀ, the largest eigenvalues first.

    Args:
        sums: A, (N, n, n), as `add_outer_` leaves it; it is made whole.
        basis: E, (N, n, n).

    Returns:
        The new basis, and in which order it takes the earlier one's vectors, (N, n).
    """
    image = basis @ fill_upper_(sums)
    order = (image * basis).sum(-1).argsort(dim=-1, descending=True, stable=True)
    # The rows of `image` are the columns that LAPACK is to have, in the order in which it takes them.
    image = torch.stack([rows.index_select(0, each) for rows, each in zip(image, order, strict=True)])
    return orthogonal_factor(image.mT), order


def reordered(x: Tensor, rows: Tensor | None, columns: Tensor | None) -> Tensor:
    """Matrices (N, m, n) with their rows and columns in another order, each its own; None leaves them."""
    parts = []
    for number, each in enumerate(x):
        part = each if rows is None else each.index_select(0, rows[number])
        parts.append(part if columns is None else part.index_select(1, columns[number]))
    return torch.stack(parts)
