"""The Hessian approximation of L-BFGS in compact form (Byrd, Nocedal and Schnabel 1994)."""

import torch
from torch import Tensor

from .curvature import Pair, rescaled


class CompactHessian:
    """B = θ·I - W'·M·W from the last pairs, with W of 2k rows for k pairs and M of 2k x 2k.

    Pairs are kept with steps of length 1, and W in units in which θ is 1, so that the entries of M are alike
    whatever the units of f and x: B itself does not depend on the lengths.

    Attributes:
        theta: θ, the curvature where no pair says anything.
        W: (2k, n).
    """

    def __init__(self, memory: int, like: Tensor, theta: float) -> None:
        """θ times the identity, for vectors like `like`, (n,).

        Raises:
            ValueError: no room for a pair.
        """
        if not isinstance(memory, int) or memory < 1:
            raise ValueError(f"Invalid memory: {memory!r}; it must be a whole number of at least 1")
        self._memory = memory
        self._none = like.new_zeros(0, like.numel())
        self.theta = theta
        self.clear()

    @property
    def count(self) -> int:
        """Pairs held."""
        return len(self._steps)

    def clear(self) -> None:
        """Forget the pairs; θ stays, as the best guess of the scale."""
        self._steps = self._changes = self.W = self._none

    def add(self, pair: Pair) -> None:
        """Learn from a pair; the oldest makes room."""
        known = self.count > 0
        length = torch.linalg.vector_norm(pair.s)
        self._steps = torch.cat([self._steps, (pair.s / length).unsqueeze(0)])[-self._memory :]
        self._changes = torch.cat([self._changes, (pair.y / length).unsqueeze(0)])[-self._memory :]
        self.theta = 1 / rescaled(1 / self.theta if known else None, pair)
        changes, steps = self._changes / self.theta**0.5, self._steps * self.theta**0.5
        self.W = torch.cat([changes, steps])
        self._crossed = steps @ changes.T / self.theta
        lower = self._crossed.tril(-1)
        inverse = _blocks(-self._crossed.diagonal().diag(), lower, steps @ steps.T / self.theta)
        self._factors, self._pivots, failed = torch.linalg.lu_factor_ex(inverse)
        if bool(failed) or not bool(self._factors.isfinite().all()):
            self.clear()

    def middle(self, v: Tensor) -> Tensor:
        """M times `v`, (2k, c)."""
        return torch.linalg.lu_solve(self._factors, self._pivots, v) if self.count else v

    def product(self, v: Tensor) -> Tensor:
        """B times `v`, (n,)."""
        return self.theta * v - self.middle((self.W @ v).unsqueeze(1)).squeeze(1) @ self.W

    def solve(self, right: Tensor, free: Tensor) -> Tensor:
        """The solution of B z = `right`, (n,), for the elements that are `free`, with the others 0.

        By the formula of Sherman, Morrison and Woodbury. Its inner matrix has products over all elements less
        those over the free ones: they are computed as products over the others, because differences of
        nearly equal numbers would leave little but rounding.
        """
        right = torch.where(free, right, 0.0)
        if self.count == 0:
            return right / self.theta
        k = self.count
        W, fixed = self.W * free, self.W * ~free
        inner = _blocks(
            -self._crossed.diagonal().diag() - W[:k] @ W[:k].T / self.theta,
            fixed[k:] @ fixed[:k].T / self.theta - self._crossed.triu(),
            fixed[k:] @ fixed[k:].T / self.theta,
        )
        solved, failed = torch.linalg.solve_ex(inner, W @ right)
        correction = 0.0 if bool(failed) else (solved @ W) / self.theta / self.theta
        return right / self.theta + correction


def _blocks(upper: Tensor, crossed: Tensor, lower: Tensor) -> Tensor:
    """The symmetric matrix of these blocks."""
    return torch.cat([torch.cat([upper, crossed.T], dim=1), torch.cat([crossed, lower], dim=1)])
