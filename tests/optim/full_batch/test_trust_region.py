import numpy
import pytest
import scipy.optimize
import torch
from walking import rosenbrock, rotated_quadratic, saddle, walk

from ravine.optim.full_batch.result import Reason
from ravine.optim.full_batch.saddle_free import SaddleFreeNewton
from ravine.optim.full_batch.trust_exact import TrustExact

F64 = torch.float64
# What holds for every trust-region method here; test_saddle_free.py has what is special to that one.
ANY = pytest.mark.parametrize("method", [TrustExact(), SaddleFreeNewton()], ids=["exact", "saddle-free"])


@ANY
@pytest.mark.parametrize("condition", [1.0, 1e4, 1e8])
def test_one_step_to_the_minimum_of_a_quadratic(method, condition):
    f, minimum, _ = rotated_quadratic(8, condition)
    found = walk(method, f, torch.zeros(8), maxiter=1)
    assert float((found.last.x - minimum).norm()) <= 1e-13 * condition
    assert (found.objective.nfev, found.objective.nhev) == (2, 1)


@ANY
@pytest.mark.parametrize("offset", [0.2, 1e-3, 1e-6])
def test_saddles_are_left(method, offset):
    found = walk(method, saddle, torch.tensor([0.5, offset]), gtol=1e-9, grtol=0.0)
    assert found.last.value == pytest.approx(-0.25, abs=1e-12)
    torch.testing.assert_close(found.last.x.abs(), torch.tensor([0.0, 1.0], dtype=F64), rtol=0, atol=1e-6)


@ANY
def test_the_value_never_rises(method):
    for start in ([-1.2, 1.0], [3.0, -40.0], [-0.1, 0.0]):
        values = [iterate.value for iterate in walk(method, rosenbrock, torch.tensor(start)).path]
        assert values == sorted(values, reverse=True)


def test_rosenbrock_takes_no_more_hessians_than_scipy():
    derivatives = {"jac": scipy.optimize.rosen_der, "hess": scipy.optimize.rosen_hess}
    for start in ([-1.2, 1.0], [3.0, -40.0], [1.3, 0.7, 0.8, 1.9, 1.2]):
        peer = scipy.optimize.minimize(
            scipy.optimize.rosen, start, method="trust-exact", tol=1e-8, **derivatives
        )

        def f(x):
            return (100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2).sum()

        found = walk(TrustExact(), f, torch.tensor(start), gtol=1e-8, grtol=0.0)
        assert found.objective.nhev <= peer.nhev
        torch.testing.assert_close(found.last.x, torch.ones(len(start), dtype=F64), rtol=0, atol=1e-7)


@ANY
@pytest.mark.parametrize("factor", [1e-8, 1e8])
def test_other_units_of_the_value_change_nothing(method, factor):
    x0 = torch.tensor([-1.2, 1.0])
    plain, scaled = walk(method, rosenbrock, x0), walk(method, lambda x: factor * rosenbrock(x), x0)
    assert (scaled.nit, scaled.objective.nfev) == (plain.nit, plain.objective.nfev)
    torch.testing.assert_close(scaled.last.x, plain.last.x, rtol=1e-5, atol=0)


@ANY
@pytest.mark.parametrize("factor", [1e-4, 1e4])
def test_other_units_of_x_change_nothing(method, factor):
    x0 = torch.tensor([-1.2, 1.0], dtype=F64)
    plain, scaled = walk(method, rosenbrock, x0), walk(method, lambda x: rosenbrock(x / factor), factor * x0)
    assert (scaled.nit, scaled.objective.nfev) == (plain.nit, plain.objective.nfev)
    torch.testing.assert_close(scaled.last.x / factor, plain.last.x, rtol=1e-5, atol=0)


@ANY
def test_a_model_that_keeps_its_word_is_followed_beyond_the_radius(method):
    # Falls as its model says, to 1000 times the first radius: one Hessian, and values at doubled radii.
    found = walk(method, lambda x: torch.tensor([1.0, -2.0], dtype=F64) @ x, torch.ones(2), maxiter=1)
    assert found.objective.nhev == 1
    assert found.last.value < -1e3 or found.last.value == -float("inf")


@ANY
def test_a_linear_function_is_unbounded(method):
    found = walk(method, lambda x: 2.0 * x[0] - x[1], torch.zeros(2))
    assert found.reason is Reason.UNBOUNDED


@ANY
def test_a_function_without_a_lowest_value_is_unbounded(method):
    found = walk(method, lambda x: -(x**2).sum(), torch.tensor([1.0, 2.0]))
    assert found.reason is Reason.UNBOUNDED


@ANY
def test_a_constant_function_has_converged(method):
    found = walk(method, lambda x: 3.0 + 0.0 * x.sum(), torch.ones(2))
    assert (found.reason, found.nit) == (Reason.GRADIENT, 0)


@ANY
def test_a_flat_valley_has_a_minimum_all_the_same(method):
    found = walk(method, lambda x: (x[0] + x[1] - 1.0) ** 2, torch.zeros(2))
    assert found.reason is Reason.GRADIENT
    assert float(found.last.x.sum()) == pytest.approx(1.0, abs=1e-7)
    assert float(found.last.x.norm()) < 2.0


@ANY
def test_a_hessian_that_is_not_finite_ends_it(method):
    found = walk(method, lambda x: x.abs().pow(1.5).sum() + x.sum(), torch.zeros(2))
    assert (found.reason, found.nit) == (Reason.NOT_FINITE, 0)


@ANY
def test_trial_points_outside_the_domain_are_taken_back(method):
    found = walk(method, lambda x: x[0] - torch.log(x[0]), torch.tensor([3.0]))  # Newton's step goes to -3
    assert found.reason is Reason.GRADIENT
    assert float(found.last.x) == pytest.approx(1.0)


@ANY
def test_a_kink_is_no_minimum_and_ends_it(method):
    found = walk(method, lambda x: x.abs().sum() + 1.0, torch.tensor([0.3, -0.7]))
    assert found.reason is Reason.LINE_SEARCH
    assert found.last.value == pytest.approx(1.0, abs=0.05)


@ANY
def test_at_the_limit_of_precision_it_ends_as_converged(method):
    found = walk(method, lambda x: torch.exp(x).sum() - x.sum(), torch.tensor([0.3, -2.0]), gtol=0, grtol=0)
    assert found.reason in (Reason.PRECISION, Reason.GRADIENT)
    assert found.last.largest() < 1e-14
    assert found.nit < 20


@ANY
def test_float32(method):
    x0 = torch.tensor([-1.2, 1.0], dtype=torch.float32)

    def f(x):
        return rosenbrock(x.float())

    found = walk(method, f, x0)
    assert found.reason.success
    numpy.testing.assert_allclose(found.last.x.numpy(), 1.0, atol=1e-3)
