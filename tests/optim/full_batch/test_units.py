"""`minimize` in other units: f times 1e±8 or x times 1e±4 is the same problem, and takes the same work."""

from functools import cache

import pytest
import torch

from ravine.lab.problems import more_garbow_hillstrom as mgh
from ravine.optim.full_batch.minimize import minimize

# Not those where rounding alone, which other units change, moves the count by a fifth.
PROBLEMS = [
    *(mgh.rosenbrock(), mgh.freudenstein_roth(), mgh.helical_valley(), mgh.bard(), mgh.gulf(), mgh.wood()),
    *(mgh.brown_dennis(), mgh.biggs_exp6(), mgh.osborne_2(), mgh.broyden_banded()),
]
WITHOUT_POWERS = ["bfgs", "newton", "newton-cg", "trust-exact", "saddle-free-newton"]
METHODS = ["lbfgs", *WITHOUT_POWERS]
EVERY = pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.label)


@pytest.mark.parametrize(("of_f", "of_x"), [(1e-8, 1.0), (1e8, 1.0), (1.0, 1e-4), (1.0, 1e4)])
@pytest.mark.parametrize("method", METHODS)
@EVERY
def test_other_units_take_the_same_evaluations_within_a_fifth(problem, method, of_f, of_x):
    plain = in_its_own_units(problem, method)
    scaled = minimize(lambda x: of_f * problem(x / of_x), problem.x0() * of_x, method)
    assert plain.success and scaled.success
    assert problem.reached(scaled.fun / of_f) is problem.reached(plain.fun) is not None
    assert 0.8 * plain.nfev <= scaled.nfev <= 1.2 * plain.nfev


@pytest.mark.parametrize(("of_f", "of_x"), [(2.0**26, 1.0), (1.0, 2.0**-13)])
@pytest.mark.parametrize("method", WITHOUT_POWERS)
@EVERY
def test_powers_of_two_change_nothing_at_all(problem, method, of_f, of_x):
    plain = in_its_own_units(problem, method)
    scaled = minimize(lambda x: of_f * problem(x / of_x), problem.x0() * of_x, method)
    assert scaled.nfev == plain.nfev
    assert torch.equal(scaled.x / of_x, plain.x)
    assert scaled.fun / of_f == plain.fun


@cache
def in_its_own_units(problem, method):
    return minimize(problem, problem.x0(), method)
