"""`minimize` where there is nothing to find: it says so, and does not go on for ever."""

import math

import pytest
import torch

from ravine.optim.full_batch.minimize import minimize
from ravine.optim.full_batch.result import Reason

METHODS = ["lbfgs", "bfgs", "newton", "newton-cg", "trust-exact", "saddle-free-newton", "gd"]
EVERY = pytest.mark.parametrize("method", METHODS)
START = torch.tensor([0.7, -1.3, 2.0], dtype=torch.float64)


@EVERY
def test_a_constant_has_converged_at_the_start(method):
    found = minimize(lambda x: 3.0 + 0.0 * x.sum(), START, method)
    assert (found.reason, found.nfev, found.nit) == (Reason.GRADIENT, 1, 0)
    assert torch.equal(found.x, START)


@EVERY
def test_a_start_at_the_minimum_stays_there(method):
    found = minimize(lambda x: (x - START).square().sum() + 5, START, method)
    assert (found.reason, found.nfev) == (Reason.GRADIENT, 1)


@EVERY
@pytest.mark.parametrize("height", [0.0, 1.0, 1e6])
def test_a_plateau_with_a_slope_below_rounding_has_converged(method, height):
    found = minimize(lambda x: height + 1e-300 * x.square().sum(), START, method)
    assert found.success, found.message
    assert found.nfev < 100


@EVERY
def test_a_linear_function_is_unbounded(method):
    found = minimize(lambda x: x.sum(), START, method)
    assert found.reason is Reason.UNBOUNDED
    assert found.nfev < 500


@EVERY
@pytest.mark.parametrize(
    "fall",
    [
        lambda x: -x.square().sum(),
        lambda x: x.pow(3).sum(),
        lambda x: -x.exp().sum(),
        lambda x: x[0] ** 2 - x[1] ** 2 + x[2] ** 2,
        lambda x: -x.abs().pow(1.5).sum(),
    ],
    ids=["paraboloid", "cubic", "exponential", "saddle", "power"],
)
def test_a_function_that_falls_for_ever_is_unbounded(method, fall):
    found = minimize(fall, START, method)
    assert found.reason is Reason.UNBOUNDED, found.message
    assert not found.success
    assert found.nfev < 1000


WITHOUT_GD = pytest.mark.parametrize("method", METHODS[:-1])
F32, F64 = torch.float32, torch.float64


@WITHOUT_GD
@pytest.mark.parametrize("dtype", [F32, F64])
def test_a_fall_that_becomes_linear_is_no_minimum(method, dtype):
    """log Σ exp falls along (−1, −1) for ever, and its Hessian is singular in that direction."""
    found = minimize(lambda x: x.logsumexp(0), [1.0, 2.0], method, dtype=dtype, options={"maxfun": 500})
    assert not found.success, found.message
    expected = (Reason.UNBOUNDED, Reason.EVALUATIONS) if method == "trust-exact" else (Reason.UNBOUNDED,)
    assert found.reason in expected


def test_a_fall_that_becomes_linear_is_no_minimum_within_bounds_above():
    found = minimize(lambda x: x.logsumexp(0), [1.0, 2.0], bounds=(None, 5.0))
    assert found.reason is Reason.UNBOUNDED and found.nfev < 500


@EVERY
@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize(
    "f",
    [
        lambda x: x.sum(),
        lambda x: torch.nn.functional.softplus(x).sum() - 2 * x.sum(),
        lambda x: x.abs().sum(),
        lambda x: x.norm(),
        lambda x: x.log().sum(),
        lambda x: -x.log().sum(),
        lambda x: (1 / x).sum(),
    ],
    ids=["linear", "softplus", "abs", "norm", "log", "-log", "1/x"],
)
def test_overflow_and_underflow_end_with_a_reason(method, dtype, f):
    found = minimize(f, [1.0, 2.0], method, dtype=dtype, options={"maxfun": 3000})
    assert isinstance(found.reason, Reason)


def poisson(x):
    """The mean negative log-likelihood of counts, convex, and as steep as exp far from its minimum."""
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 3, generator=draw, dtype=F64)
    rates = (inputs @ torch.tensor([0.5, -0.3, 0.2], dtype=F64)).exp()
    counts = torch.poisson(rates, generator=draw)
    return ((inputs @ x).exp() - counts * (inputs @ x)).mean()


@WITHOUT_GD
@pytest.mark.parametrize("start", [5.0, 10.0, 20.0])
def test_a_start_of_any_steepness_is_no_reason_to_stop_early(method, start):
    best = minimize(poisson, torch.zeros(3), "newton", tol=1e-12)
    found = minimize(poisson, torch.full((3,), start), method)
    assert found.success and found.fun == pytest.approx(best.fun, abs=1e-8)


@WITHOUT_GD
def test_a_valley_far_away_is_followed_to_its_end(method):
    """Rosenbrock's, where single steps are small after a fall of 10¹⁰."""
    found = minimize(lambda x: 100 * (x[1] - x[0] ** 2).square() + (1 - x[0]).square(), [-50.0, 80.0], method)
    assert found.success and found.fun < 1e-10


@pytest.mark.parametrize("method", ["lbfgs", "bfgs", "newton"])
def test_slopes_whose_square_is_too_large_for_float32(method):
    found = minimize(lambda x: 1e25 * (x - 1).square().sum(), [1.0, 3.0], method, dtype=F32)
    assert found.success and found.x.tolist() == pytest.approx([1.0, 1.0], abs=1e-5)


@WITHOUT_GD
@pytest.mark.parametrize(
    ("dtype", "start", "within"), [(F32, (100.0, -50.0), 1e-2), (F64, (1e4, -5e3), 1e-9)]
)
def test_a_steep_quartic_is_followed_to_its_end(method, dtype, start, within):
    found = minimize(lambda x: (x * x - 1).square().sum(), list(start), method, dtype=dtype)
    assert found.success and found.fun < within


@pytest.mark.parametrize("method", ["newton", "trust-exact", "newton-cg"])
@pytest.mark.parametrize(("dtype", "waves"), [(F32, 1e4), (F64, 1e9)])
def test_a_curvature_that_dwarfs_another_hides_nothing(method, dtype, waves):
    """At a maximum of the cosine, whose curvature is −waves², the other variable is still far from 1."""

    def f(x):
        return (x[0] - 1).square() + torch.cos(waves * x[1])

    found = minimize(f, [3.0, 0.0], method, dtype=dtype, options={"maxfun": 3000})
    assert found.fun < 1.1


@EVERY
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_start_that_is_not_finite_ends_there(method, value):
    found = minimize(lambda x: value * x.square().sum(), START, method)
    assert (found.reason, found.nfev) == (Reason.NOT_FINITE, 1)
    assert torch.equal(found.x, START)


@EVERY
def test_a_gradient_that_is_not_finite_at_the_start_ends_there(method):
    found = minimize(lambda x: x.abs().sqrt().sum(), torch.tensor([0.0, 1.0]), method)
    assert (found.reason, found.nfev) == (Reason.NOT_FINITE, 1)


@EVERY
@pytest.mark.parametrize("beyond", [math.nan, math.inf])
def test_a_cliff_beyond_which_nothing_is_finite_is_stepped_back_from(method, beyond):
    """The minimum, x = 1, lies close to where the function ends, x = 1.05."""

    def edged(x):
        value = (x - 1).square().sum() + 0.1 * (x - 1).pow(4).sum()
        return beyond * value if (x > 1.05).any() else value

    found = minimize(edged, torch.tensor([-9.0, -3.0, -1.0]), method, tol=1e-7)
    assert found.success, found.message
    assert found.x.tolist() == pytest.approx([1.0] * 3, abs=1e-3 if method == "gd" else 1e-6)


@EVERY
def test_a_barrier_is_never_crossed(method):
    """x - log x, not a number from 0 on, with its minimum at 1."""
    seen = []

    def barrier(x):
        value = (x - x.log()).sum()
        seen.append((x.detach().clone(), value.item()))
        return value

    found = minimize(barrier, torch.tensor([1e-3, 0.5, 20.0]), method, tol=1e-8)
    assert found.success, found.message
    assert found.x.tolist() == pytest.approx([1.0] * 3, abs=1e-6)


@EVERY
def test_overflow_on_the_way_is_stepped_back_from(method):
    found = minimize(
        lambda x: torch.exp(x.square()).sum() - x.sum(), torch.full((2,), 12.0), method, tol=1e-8
    )
    root = 0.4193648  # of 2·x·exp(x²) = 1
    assert found.success, found.message
    assert found.x.tolist() == pytest.approx([root] * 2, abs=1e-5)


@EVERY
def test_an_infimum_at_infinity_ends_with_a_small_gradient_or_by_precision(method):
    found = minimize(lambda x: torch.exp(-x).sum(), torch.zeros(2), method)
    assert found.fun < 1e-6
    assert found.nfev < 1000
    assert found.reason in (Reason.GRADIENT, Reason.PRECISION, Reason.UNBOUNDED)


@EVERY
def test_a_kink_ends(method):
    """|x| has no gradient at its minimum that could be small: the line search or the radius gives up."""
    found = minimize(lambda x: x.abs().sum() + 0.1 * x.square().sum(), START, method, options={"maxfun": 500})
    assert found.nfev <= 500
    assert found.fun < 2.0 if method == "gd" else found.fun < 0.5


@EVERY
def test_a_value_that_is_noise_ends(method):
    generator = torch.Generator().manual_seed(0)

    def noisy(x):
        noise = torch.rand((), generator=generator, dtype=torch.float64)
        return x.square().sum() + 1e-3 * noise

    found = minimize(noisy, START, method, options={"maxfun": 500})
    assert found.nfev <= 500
    assert found.fun < 0.5


@pytest.mark.parametrize("method", ["lbfgs", "bfgs", "gd"])
def test_a_gradient_of_the_wrong_sign_ends_where_it_began(method):
    found = minimize(lambda x: x.square().sum(), START, method, jac=lambda x: -2 * x)
    assert found.reason is Reason.LINE_SEARCH
    assert torch.equal(found.x, START)
    assert found.nfev < 100
