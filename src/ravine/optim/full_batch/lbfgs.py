"""L-BFGS (Nocedal 1980; Liu and Nocedal 1989): quasi-Newton without a matrix."""

from dataclasses import dataclass, field

from .descent import first_scale
from .history import History
from .line_search import Wolfe
from .method import Iterate, Steps
from .objective import Objective
from .quasi_newton import LineSearchName, line_search_named, walk


@dataclass(frozen=True)
class LBFGS:
    """Steps along the direction that the last pairs of (step, change of the gradient) imply.

    Attributes:
        memory: pairs kept; each takes two vectors.
        line_search: "more-thuente" or "hager-zhang".
        wolfe: what the line search looks for.
    """

    memory: int = 10
    line_search: LineSearchName = "more-thuente"
    wolfe: Wolfe = field(default_factory=Wolfe)

    def run(self, objective: Objective, start: Iterate) -> Steps:
        """The iterates after `start`."""
        history = History(self.memory, start.x, first_scale(start))
        return walk(objective, start, history, line_search_named(self.line_search), self.wolfe)
