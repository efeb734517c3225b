"""`minimize` on the problems of Moré, Garbow and Hillstrom, beside SciPy's minimizers."""

import contextlib
import statistics
import warnings

import pytest
import torch
from scipy import optimize

from ravine.lab.problems.more_garbow_hillstrom import collection, large
from ravine.optim.full_batch.minimize import minimize

PROBLEMS = collection()
METHODS = ["lbfgs", "bfgs", "newton", "newton-cg", "trust-exact", "saddle-free-newton"]
# Below any gradient at which a problem of the collection is solved: what is compared is the way there.
GTOL = 1e-10


class EnoughError(Exception):
    pass


class Counted:
    """A problem that counts its evaluations and raises EnoughError at the one that solves it."""

    def __init__(self, problem):
        self.problem, self.count = problem, 0

    def __call__(self, x):
        self.count += 1
        value = self.problem(x)
        if self.problem.reached(value.item()):
            raise EnoughError
        return value


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.label)
def test_every_problem_is_solved(problem, method):
    found = minimize(problem, problem.x0(), method, options={"gtol": GTOL})
    assert problem.reached(found.fun) is not None, found.message
    assert found.fun == problem(found.x).item()


@pytest.mark.parametrize("problem", large(), ids=lambda problem: problem.label)
def test_a_hundred_variables_are_no_harder(problem):
    found = minimize(problem, problem.x0(), "newton-cg", options={"gtol": GTOL})
    assert problem.reached(found.fun) is not None, found.message


@pytest.mark.parametrize(
    ("method", "rival", "options"),
    [
        ("lbfgs", "L-BFGS-B", {"ftol": 0, "maxcor": 10, "maxfun": 10**5, "maxiter": 10**5}),
        ("bfgs", "BFGS", {}),
    ],
)
def test_solving_takes_no_more_evaluations_than_scipy_needs(method, rival, options):
    ratios = []
    for problem in PROBLEMS:
        ours, theirs = Counted(problem), Counted(problem)
        with contextlib.suppress(EnoughError):
            minimize(ours, problem.x0(), method, options={"gtol": GTOL})
            pytest.fail(f"{problem.label} was not solved")
        with contextlib.suppress(EnoughError), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            optimize.minimize(
                with_gradient(theirs),
                problem.start,
                jac=True,
                method=rival,
                options={"gtol": GTOL, **options},
            )
            continue
        ratios.append(ours.count / theirs.count)
    assert len(ratios) > 35
    assert statistics.median(ratios) <= 1.0


def with_gradient(function):
    def both(x):
        point = torch.tensor(x, requires_grad=True)
        value = function(point)
        return value.item(), torch.autograd.grad(value, point)[0].numpy()

    return both
