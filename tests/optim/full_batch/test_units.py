"""`minimize` in other units: f times 1e±8 or x times 1e±4 is the same problem, and takes the same work."""

from functools import cache

import pytest
import torch

from ravine.lab.problems import more_garbow_hillstrom as mgh
from ravine.optim.full_batch.minimize import minimize

PROBLEMS = [
    *(mgh.rosenbrock(), mgh.freudenstein_roth(), mgh.helical_valley(), mgh.bard(), mgh.gulf(), mgh.wood()),
    *(mgh.brown_dennis(), mgh.biggs_exp6(), mgh.osborne_2(), mgh.broyden_banded()),
]
# Where rounding, which other units change, decides: a few evaluations to an exact minimum and then none to
# some, and Hessians that are singular but for rounding.
BY_ROUNDING = ("linear", "watson", "chebyquad (9)", "penalty 2 (10)", "brown almost-linear")
# What the last line search may take, in which nothing is left but rounding.
LAST_SEARCH = 6
WITHOUT_POWERS = ["bfgs", "newton", "newton-cg", "trust-exact", "saddle-free-newton"]
METHODS = ["lbfgs", *WITHOUT_POWERS]
EVERY = pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.label)


UNITS = pytest.mark.parametrize(("of_f", "of_x"), [(1e-8, 1.0), (1e8, 1.0), (1.0, 1e-4), (1.0, 1e4)])


@UNITS
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


@pytest.mark.slow
@UNITS
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("problem", mgh.collection(), ids=lambda problem: problem.label)
def test_the_whole_set_in_other_units(problem, method, of_f, of_x):
    plain = in_its_own_units(problem, method)
    scaled = minimize(lambda x: of_f * problem(x / of_x), problem.x0() * of_x, method)
    assert scaled.success == plain.success
    if not problem.label.startswith(BY_ROUNDING):
        assert problem.reached(scaled.fun / of_f) is problem.reached(plain.fun)
        assert abs(scaled.nfev - plain.nfev) <= 0.2 * plain.nfev + LAST_SEARCH


@cache
def in_its_own_units(problem, method):
    return minimize(problem, problem.x0(), method)
