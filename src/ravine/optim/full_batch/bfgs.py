"""BFGS (Broyden, Fletcher, Goldfarb, Shanno 1970): the inverse Hessian, learned by low-rank updates."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .curvature import Pair
from .descent import first_scale
from .line_search import Wolfe
from .method import Iterate, Steps
from .objective import Objective
from .quasi_newton import LineSearchName, line_search_named, walk


class InverseHessian:
    """An approximation H of the inverse Hessian, symmetric and positive definite.

    Attributes:
        matrix: H, (n, n).
        gamma: what H is times the identity before it has learned.
        count: the pairs it learned from.
    """

    def __init__(self, like: Tensor, gamma: float = 1.0) -> None:
        """`gamma` times the identity, for vectors like `like`, (n,)."""
        self.matrix = torch.eye(like.numel(), dtype=like.dtype, device=like.device)
        self.gamma = gamma
        self.clear()

    def clear(self) -> None:
        """Forget the pairs; gamma stays, as the best guess of the scale."""
        self.count = 0
        self.matrix.zero_().diagonal().fill_(self.gamma)

    def add(self, pair: Pair) -> None:
        """H <- (I - s y'/s'y) H (I - y s'/s'y) + s s'/s'y, as an update of rank two: O(n^2).

        The first pair sets the scale of H before it (Nocedal and Wright, eq. 6.20).
        """
        self.gamma = pair.scale
        if self.count == 0:
            self.clear()
        self.update(pair)

    def update(self, pair: Pair) -> None:
        """The update alone, with no scaling before the first."""
        s, u = pair.s, self.matrix @ pair.y
        w = torch.add(u, s, alpha=-(1 + torch.dot(pair.y, u).item() / pair.sy) / 2) / -pair.sy
        self.matrix.addmm_(torch.stack([s, w], dim=1), torch.stack([w, s]))
        self.count += 1

    def direction(self, gradient: Tensor) -> Tensor:
        """-H times `gradient`, (n,)."""
        return torch.mv(self.matrix, gradient).neg_()

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next direction depends on; the matrix is a copy."""
        return {"matrix": self.matrix.clone(), "gamma": self.gamma, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`.

        Raises:
            ValueError: it is of another number of parameters.
        """
        if state["matrix"].shape != self.matrix.shape:
            raise ValueError(
                f"the state is of {len(state['matrix'])} parameters, but this matrix of {len(self.matrix)}"
            )
        self.matrix.copy_(state["matrix"])
        self.gamma, self.count = state["gamma"], state["count"]


@dataclass(frozen=True)
class BFGS:
    """Steps along -H g, with H learned from all steps: n^2 numbers and O(n^2) work an iteration.

    Attributes:
        line_search: "more-thuente" or "hager-zhang".
        wolfe: what the line search looks for.
    """

    line_search: LineSearchName = "more-thuente"
    wolfe: Wolfe = field(default_factory=Wolfe)

    def run(self, objective: Objective, start: Iterate) -> Steps:
        """The iterates after `start`."""
        matrix = InverseHessian(start.x, first_scale(start))
        return walk(objective, start, matrix, line_search_named(self.line_search), self.wolfe)
