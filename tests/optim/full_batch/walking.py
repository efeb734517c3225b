"""A method on its own, without `minimize`: every iterate, and why it ended."""

from typing import NamedTuple

import torch

from ravine.optim.full_batch.method import Iterate, Method
from ravine.optim.full_batch.objective import Objective
from ravine.optim.full_batch.result import Reason
from ravine.optim.full_batch.stopping import Stopping


class Walk(NamedTuple):
    reason: Reason
    path: list[Iterate]
    objective: Objective

    @property
    def last(self) -> Iterate:
        return self.path[-1]

    @property
    def nit(self) -> int:
        return self.last.nit


def walk(method: Method, f, x0, maxiter=500, **stopping) -> Walk:
    """Walk until a tolerance, a budget or the method itself says stop."""
    objective = Objective(f, x0)
    rules = Stopping(maxiter=maxiter, **stopping)
    start = Iterate(objective.x0, *objective.value_and_gradient(objective.x0))
    path, reason = [start], rules.reason(None, start)
    steps = method.run(objective, start)
    while reason is None:
        try:
            path.append(next(steps))
        except StopIteration as end:
            reason = end.value
        else:
            reason = rules.reason(path[-2], path[-1])
    return Walk(reason, path, objective)


def saddle(x):
    """A saddle at the origin between two minima of -0.25 at (0, ±1): f = ½x₁² + ¼x₂⁴ − ½x₂²."""
    return 0.5 * x[0] ** 2 + 0.25 * x[1] ** 4 - 0.5 * x[1] ** 2


def rosenbrock(x):
    return 100.0 * (x[1] - x[0] ** 2) ** 2 + (1.0 - x[0]) ** 2


def rotated_quadratic(n, condition, seed=0):
    """(f, minimum, Hessian) of a quadratic whose eigenvalues span `condition`, along no axis."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator)).Q
    hessian = (
        vectors * torch.logspace(0, -torch.tensor(condition).log10(), n, dtype=torch.float64) @ vectors.T
    )
    hessian = (hessian + hessian.T) / 2
    minimum = torch.randn(n, dtype=torch.float64, generator=generator)
    return (lambda x: 0.5 * (x - minimum) @ hessian @ (x - minimum)), minimum, hessian
