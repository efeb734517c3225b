import math

import pytest
import torch
from walking import rosenbrock, rotated_quadratic, saddle, walk

from ravine.optim.full_batch.minimize import minimize
from ravine.optim.full_batch.newton import Newton, newton_step
from ravine.optim.full_batch.newton_cg import NewtonCG
from ravine.optim.full_batch.objective import Objective
from ravine.optim.full_batch.result import Reason

F64 = torch.float64
EPS = 2.0**-52
PLAIN = Newton(plain=True)
METHODS = {"plain": PLAIN, "safe": Newton(), "by products": NewtonCG()}
ANY = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
SAFE = pytest.mark.parametrize("method", [Newton(), NewtonCG()], ids=["safe", "by products"])


def softmax_regression(rows=40, features=4, classes=3):
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(rows, features, dtype=F64, generator=generator)
    targets = torch.randint(classes, (rows,), generator=generator)

    def loss(x):
        weights = x.view(features, classes)
        return torch.nn.functional.cross_entropy(inputs @ weights, targets) + 1e-2 * weights.square().sum()

    return loss, torch.zeros(features * classes, dtype=F64)


# One step, no learning rate (C20)


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4, 1e6, 1e8])
@pytest.mark.parametrize("method", [PLAIN, Newton()], ids=["plain", "safe"])
def test_one_step_to_the_minimum_of_a_quadratic(method, condition):
    f, minimum, _ = rotated_quadratic(12, condition)
    found = walk(method, f, torch.zeros(12), maxiter=1)
    error = float((found.last.x - minimum).norm() / minimum.norm())
    assert error <= 100 * EPS * condition  # what a backward stable solver may leave
    assert found.last.value <= 1e4 * (EPS * condition) ** 2 * found.path[0].value + EPS**2
    assert (found.nit, found.last.step, found.objective.nfev, found.objective.nhev) == (1, 1.0, 2, 1)


@ANY
def test_a_quadratic_converges_and_says_so(method):
    f, minimum, _ = rotated_quadratic(6, 10.0)
    found = walk(method, f, torch.ones(6), grtol=1e-10)
    torch.testing.assert_close(found.last.x, minimum, rtol=0, atol=1e-8)
    assert found.reason is Reason.GRADIENT
    assert found.nit <= (8 if isinstance(method, NewtonCG) else 1)  # by products it is rough at first


def test_the_plain_step_solves_newtons_equation_whatever_the_signs():
    _, _, hessian = rotated_quadratic(5, 100.0)
    hessian -= 0.05 * torch.eye(5, dtype=F64)
    gradient = torch.arange(5, dtype=F64)
    torch.testing.assert_close(hessian @ newton_step(gradient, hessian), -gradient)


def test_convergence_is_quadratic():
    loss, x0 = softmax_regression()
    path = walk(PLAIN, loss, x0, grtol=1e-14).path
    minimum = path[-1].x
    errors = [float((iterate.x - minimum).norm()) for iterate in path[:-1]]
    orders = [
        math.log(c / b) / math.log(b / a) for a, b, c in zip(errors, errors[1:], errors[2:], strict=False)
    ]
    assert orders[-2] > 1.7 or orders[-1] > 1.7
    assert len(path) <= 8


def test_the_plain_form_is_an_option_of_minimize():
    f, minimum, _ = rotated_quadratic(12, 1e4)
    found = minimize(f, torch.zeros(12), method="newton", options={"plain": True})
    torch.testing.assert_close(found.x, minimum, rtol=0, atol=1e-9)
    assert found.success
    assert found.nit <= 2  # the second step finds that nothing is left to gain
    refused = minimize(lambda x: x.sum(), torch.zeros(2), method="newton", options={"plain": True})
    assert not refused.success
    assert "singular" in refused.message


# Saddles (C3, C20)


def test_plain_newton_goes_to_the_saddle_and_calls_it_converged():
    found = walk(PLAIN, saddle, torch.tensor([0.5, 0.2]))
    torch.testing.assert_close(found.last.x, torch.zeros(2, dtype=F64), rtol=0, atol=1e-8)
    assert found.reason is Reason.GRADIENT


def test_plain_newton_goes_up_to_a_maximum():
    found = walk(PLAIN, lambda x: torch.cos(x).sum(), torch.tensor([0.3, -0.2]))
    torch.testing.assert_close(found.last.x, torch.zeros(2, dtype=F64), rtol=0, atol=1e-7)
    assert found.last.value == pytest.approx(2.0)


@SAFE
@pytest.mark.parametrize("offset", [0.2, 1e-3, 1e-6])
def test_the_safe_forms_leave_the_saddle(method, offset):
    found = walk(method, saddle, torch.tensor([0.5, offset]), gtol=1e-9, grtol=0.0)
    assert found.last.value == pytest.approx(-0.25, abs=1e-12)
    torch.testing.assert_close(found.last.x.abs(), torch.tensor([0.0, 1.0], dtype=F64), rtol=0, atol=1e-6)
    values = [iterate.value for iterate in found.path]
    assert values == sorted(values, reverse=True)


# Valleys and scale


@ANY
def test_rosenbrock(method):
    found = walk(method, rosenbrock, torch.tensor([-1.2, 1.0]), grtol=1e-10)
    torch.testing.assert_close(found.last.x, torch.ones(2, dtype=F64), rtol=0, atol=1e-7)


@ANY
@pytest.mark.parametrize("factor", [1e-8, 1e8])
def test_other_units_of_the_value_change_nothing(method, factor):
    x0 = torch.tensor([-1.2, 1.0])
    plain = walk(method, rosenbrock, x0)
    scaled = walk(method, lambda x: factor * rosenbrock(x), x0)
    assert (scaled.nit, scaled.objective.nfev) == (plain.nit, plain.objective.nfev)
    torch.testing.assert_close(scaled.last.x, plain.last.x, rtol=1e-5, atol=0)


@ANY
@pytest.mark.parametrize("factor", [1e-4, 1e4])
def test_other_units_of_x_change_nothing(method, factor):
    x0 = torch.tensor([-1.2, 1.0], dtype=F64)
    plain = walk(method, rosenbrock, x0)
    scaled = walk(method, lambda x: rosenbrock(x / factor), factor * x0)
    assert (scaled.nit, scaled.objective.nfev) == (plain.nit, plain.objective.nfev)
    torch.testing.assert_close(scaled.last.x / factor, plain.last.x, rtol=1e-5, atol=0)


def test_units_of_each_variable_do_not_change_plain_newton():
    units = torch.tensor([1e-5, 1e5], dtype=F64)
    x0 = torch.tensor([-1.2, 1.0], dtype=F64)
    plain = walk(PLAIN, rosenbrock, x0, maxiter=4)
    scaled = walk(PLAIN, lambda x: rosenbrock(x / units), units * x0, maxiter=4)
    torch.testing.assert_close(scaled.last.x / units, plain.last.x, rtol=1e-9, atol=0)


# Derivatives


@pytest.mark.parametrize("f", [rosenbrock, saddle, lambda x: torch.exp(x[0]) * torch.sin(x[1]) + x[0] ** 3])
def test_second_derivatives_against_differences(f):
    x = torch.tensor([0.7, -1.3], dtype=F64)
    objective = Objective(f, x)
    hessian, width = objective.hessian(x), 1e-5
    for axis in range(2):
        unit = torch.eye(2, dtype=F64)[axis]
        ahead, behind = (objective.value_and_gradient(x + sign * width * unit)[1] for sign in (1, -1))
        column = (ahead - behind) / (2 * width)
        torch.testing.assert_close(hessian[:, axis], column, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(objective.hessian_product(x)(unit), hessian[:, axis])


def test_a_hessian_of_many_rows_against_torch():
    loss, _ = softmax_regression(features=35)  # of 105 weights: more than are differentiated together
    x = torch.randn(105, dtype=F64, generator=torch.Generator().manual_seed(5))
    objective = Objective(loss, x)
    hessian = objective.hessian(x)
    torch.testing.assert_close(hessian, torch.autograd.functional.hessian(loss, x))
    torch.testing.assert_close(hessian, hessian.T, rtol=0, atol=0)
    assert objective.nhev == 1


class _Square(torch.autograd.Function):
    """A derivative that leaves torch for plain numbers, so that no two can be computed at once."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return torch.tensor(grad.tolist(), dtype=x.dtype) * 2.0 * x


class _Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * 3.0 * _Square.apply(x)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_derivatives_that_cannot_be_batched_are_computed_one_by_one():
    x = torch.tensor([1.0, -2.0, 0.5], dtype=F64)
    hessian = Objective(lambda x: _Cube.apply(x).sum(), x).hessian(x)
    torch.testing.assert_close(hessian, torch.diag(6.0 * x))


def test_by_products_the_minimum_is_the_same():
    loss, x0 = softmax_regression()
    exact, products = walk(Newton(), loss, x0, grtol=1e-10), walk(NewtonCG(), loss, x0, grtol=1e-10)
    torch.testing.assert_close(products.last.x, exact.last.x, rtol=0, atol=1e-9)
    assert products.nit <= 3 * exact.nit


@pytest.mark.parametrize("method", ["newton", "newton-cg", "trust-exact", "saddle-free-newton"])
def test_the_parameters_of_a_module(method):
    inputs = torch.randn(20, 3, dtype=F64, generator=torch.Generator().manual_seed(1))
    targets = inputs @ torch.tensor([[1.0], [-2.0], [0.5]], dtype=F64) + 3.0
    model = torch.nn.Linear(3, 1).double()
    found = minimize(lambda: (model(inputs) - targets).square().mean(), model, method)
    assert found.success
    expected = torch.tensor([[1.0, -2.0, 0.5]], dtype=F64)
    torch.testing.assert_close(model.weight.detach(), expected, rtol=0, atol=1e-6)
    assert float(model.bias.detach()) == pytest.approx(3.0, abs=1e-6)


# Functions that cannot be minimized


@ANY
def test_a_constant_function_has_converged(method):
    found = walk(method, lambda x: 3.0 + 0.0 * x.sum(), torch.ones(2))
    assert (found.reason, found.nit) == (Reason.GRADIENT, 0)


def test_plain_newton_has_no_step_on_a_linear_function():
    found = walk(PLAIN, lambda x: 2.0 * x[0] - x[1], torch.zeros(2))
    assert (found.reason, found.nit) == (Reason.SINGULAR, 0)
    assert "singular" in found.reason.message and not found.reason.success


def test_plain_newton_has_no_step_where_curvature_is_missing():
    found = walk(PLAIN, lambda x: (x[0] + x[1] - 1.0) ** 2, torch.zeros(2))
    assert found.reason is Reason.SINGULAR


@SAFE
def test_a_linear_function_is_unbounded(method):
    found = walk(method, lambda x: 2.0 * x[0] - x[1], torch.zeros(2))
    assert found.reason is Reason.UNBOUNDED


@SAFE
def test_a_flat_valley_has_a_minimum_all_the_same(method):
    found = walk(method, lambda x: (x[0] + x[1] - 1.0) ** 2, torch.zeros(2))
    assert found.reason is Reason.GRADIENT
    assert float(found.last.x.sum()) == pytest.approx(1.0, abs=1e-7)
    assert float(found.last.x.norm()) < 2.0  # it did not run along the valley


@SAFE
def test_a_function_without_a_lowest_value_ends(method):
    found = walk(method, lambda x: -(x**2).sum(), torch.tensor([1.0, 2.0]))
    assert found.reason is Reason.UNBOUNDED


@ANY
def test_a_hessian_that_is_not_finite_ends_it(method):
    found = walk(method, lambda x: x.abs().pow(1.5).sum() + x.sum(), torch.zeros(2))
    assert (found.reason, found.nit) == (Reason.NOT_FINITE, 0)


def test_plain_newton_that_leaves_the_domain_says_so():
    found = walk(PLAIN, lambda x: x[0] - torch.log(x[0]), torch.tensor([3.0]))  # the step goes to -3
    assert (found.reason, found.nit) == (Reason.NOT_FINITE, 1)


@SAFE
def test_the_safe_forms_stay_in_the_domain(method):
    found = walk(method, lambda x: x[0] - torch.log(x[0]), torch.tensor([3.0]))
    assert found.reason is Reason.GRADIENT
    assert float(found.last.x) == pytest.approx(1.0)


@SAFE
def test_at_the_limit_of_precision_it_ends_as_converged(method):
    loss, x0 = softmax_regression()
    found = walk(method, loss, x0, gtol=0.0, grtol=0.0)
    assert found.reason in (Reason.PRECISION, Reason.GRADIENT)
    assert found.last.largest() < 1e-13
    assert found.nit < 30
