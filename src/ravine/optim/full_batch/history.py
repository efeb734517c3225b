"""What L-BFGS remembers: the last m steps and changes of the gradient, in place of a matrix."""

from typing import Any

import torch
from torch import Tensor

from .curvature import Pair, rescaled


class History:
    """The last m pairs (s, y) and the product of the inverse Hessian they imply with any vector.

    The two loops over the pairs (Nocedal 1980; Nocedal and Wright, algorithm 7.4) are written as four
    products with an (m, n) matrix and two triangular systems of m unknowns: the first loop solves R a = S g,
    the second R' c = D a - gamma Y (g - Y'a), with R the upper triangle of S Y' and D its diagonal. The
    arithmetic is that of the loops, in 10 calls instead of 4 m, with no value crossing to the host.

    Attributes:
        gamma: the initial inverse Hessian is gamma I; each pair changes it.
        count: pairs held, at most m.
    """

    def __init__(self, memory: int, like: Tensor, gamma: float = 1.0) -> None:
        """Memory for `memory` pairs of vectors like `like`, (n,).

        Raises:
            ValueError: no room for a pair.
        """
        if not isinstance(memory, int) or memory < 1:
            raise ValueError(f"Invalid memory: {memory!r}; it must be a whole number of at least 1")
        self._steps = like.new_zeros(memory, like.numel())
        self._changes = like.new_zeros(memory, like.numel())
        self._triangle = like.new_zeros(memory, memory)
        self.gamma = gamma
        self.count = self._next = 0

    @property
    def memory(self) -> int:
        """The most pairs it can hold."""
        return len(self._steps)

    def clear(self) -> None:
        """Forget the pairs; gamma stays, as the best guess of the scale."""
        self.count = self._next = 0

    def add(self, pair: Pair) -> None:
        """Remember a step and its change of the gradient; the oldest pair makes room."""
        row, memory = self._next, len(self._steps)
        self._steps[row].copy_(pair.s)
        self._changes[row].copy_(pair.y)
        if self.count == memory:
            self._triangle[:-1, :-1] = self._triangle[1:, 1:].clone()
        self.gamma = rescaled(self.gamma if self.count else None, pair)
        self.count = k = min(self.count + 1, memory)
        self._next = (row + 1) % memory
        self._triangle[:k, k - 1] = self._in_time(self._steps[:k] @ pair.y)

    def _in_time(self, rows: Tensor) -> Tensor:
        """From the order of the rows, in which new pairs overwrite old ones, to the order of time."""
        return rows if self.count < len(self._steps) else rows.roll(-self._next)

    def _in_rows(self, times: Tensor) -> Tensor:
        return times if self.count < len(self._steps) else times.roll(self._next)

    def direction(self, gradient: Tensor) -> Tensor:
        """Minus the inverse Hessian times `gradient`, (n,)."""
        k = self.count
        if k == 0:
            return gradient * -self.gamma
        steps, changes, triangle = self._steps[:k], self._changes[:k], self._triangle[:k, :k]
        a = _solve(triangle, self._in_time(steps @ gradient), upper=True)
        q = torch.addmv(gradient, changes.T, self._in_rows(a), alpha=-1)
        right = torch.addcmul(self._in_time(changes @ q) * -self.gamma, triangle.diagonal(), a)
        c = _solve(triangle.T, right, upper=False)
        return torch.addmv(q, steps.T, self._in_rows(c), beta=-self.gamma, alpha=-1)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next direction depends on; its tensors are copies."""
        return {
            "steps": self._steps.clone(),
            "changes": self._changes.clone(),
            "triangle": self._triangle.clone(),
            "gamma": self.gamma,
            "count": self.count,
            "next": self._next,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`.

        Raises:
            ValueError: it is of another memory or number of parameters.
        """
        if state["steps"].shape != self._steps.shape:
            raise ValueError(
                f"the state is of {tuple(state['steps'].shape)} numbers, but this history holds "
                f"{tuple(self._steps.shape)}"
            )
        self._steps.copy_(state["steps"])
        self._changes.copy_(state["changes"])
        self._triangle.copy_(state["triangle"])
        self.gamma, self.count, self._next = state["gamma"], state["count"], state["next"]


def _solve(triangle: Tensor, right: Tensor, upper: bool) -> Tensor:
    solution: Tensor = torch.linalg.solve_triangular(triangle, right.unsqueeze(1), upper=upper)
    return solution.squeeze(1)
