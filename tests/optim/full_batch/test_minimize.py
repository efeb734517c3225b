"""`minimize`: what it takes, what it returns, when it stops, and what is left when something breaks."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import nn

from ravine.errors import MemoryLimitError
from ravine.lab.problems.more_garbow_hillstrom import kowalik_osborne
from ravine.optim.full_batch import room
from ravine.optim.full_batch.minimize import METHODS, minimize
from ravine.optim.full_batch.result import Reason, Result

EVERY = pytest.mark.parametrize("method", list(METHODS))


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def bowl(x):
    return (x - torch.arange(1, x.numel() + 1, dtype=x.dtype)).square().sum()


@EVERY
def test_every_method_finds_the_minimum_of_scipy(method):
    start = np.array([1.3, 0.7, 0.8])
    peer = optimize.minimize(optimize.rosen, start, jac=optimize.rosen_der, method="BFGS", tol=1e-10)
    found = minimize(rosenbrock, start, method, options={"maxfun": 100_000})
    assert found.success, found.message
    assert found.x.numpy() == pytest.approx(peer.x, abs=1e-4 if method == "gd" else 1e-6)
    assert found.fun == rosenbrock(found.x).item()


def test_the_result_is_in_the_structure_of_x0():
    x0 = {"a": torch.zeros(2, 3), "b": [torch.tensor(1.0)]}
    found = minimize(lambda d: (d["a"] - 2).square().sum() + (d["b"][0] + 1) ** 4, x0)
    assert found.x["a"].shape == found.jac["a"].shape == (2, 3)
    assert found.x["a"].flatten().tolist() == pytest.approx([2.0] * 6)
    assert found.x["b"][0].item() == pytest.approx(-1.0, abs=0.01)
    assert x0["a"].count_nonzero() == 0


def test_the_result_has_scipys_names():
    found = minimize(rosenbrock, [-1.2, 1.0], "newton")
    assert isinstance(found, Result)
    assert found.success is True and found.status == 0
    assert found.message == Reason.GRADIENT.message
    assert found.nfev == found.njev > found.nhev > 0
    assert found.nit > 0
    assert found.path is None
    assert not found.x.requires_grad


def test_a_module_ends_at_the_best_point():
    torch.manual_seed(0)
    model = nn.Linear(3, 1).double()
    inputs = torch.randn(20, 3, dtype=torch.float64)
    targets = inputs @ torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64) - 4
    found = minimize(lambda: (model(inputs).squeeze(1) - targets).square().mean(), model)
    assert found.success
    assert model.weight[0].tolist() == pytest.approx([1, 2, 3])
    assert model.bias.item() == pytest.approx(-4)
    assert torch.equal(found.x["weight"], model.weight.detach())
    assert model.weight.requires_grad and model.weight.grad is None


def test_two_copies_of_a_parameter_are_one():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = self.b = nn.Parameter(torch.zeros(2))

    model = Tied()
    found = minimize(lambda: (model.a + model.b - 6).square().sum(), model)
    assert list(found.x) == ["a"]
    assert model.b.tolist() == pytest.approx([3.0, 3.0])


@EVERY
def test_the_budget_of_iterations(method):
    found = minimize(rosenbrock, [-1.2, 1.0], method, options={"maxiter": 3})
    assert (found.reason, found.nit, found.success) == (Reason.ITERATIONS, 3, False)


@EVERY
@pytest.mark.parametrize("most", [1, 2, 7])
def test_the_budget_of_evaluations(method, most):
    found = minimize(rosenbrock, [-1.2, 1.0], method, options={"maxfun": most})
    assert (found.reason, found.nfev) == (Reason.EVALUATIONS, most)
    assert found.fun <= 24.2
    assert found.fun == rosenbrock(found.x).item()


def test_no_evaluation_at_all():
    found = minimize(rosenbrock, [-1.2, 1.0], options={"maxfun": 0})
    assert found.reason is Reason.EVALUATIONS
    assert found.x.tolist() == [-1.2, 1.0] and math.isnan(found.fun)


def test_tol_is_the_absolute_tolerance_of_the_gradient():
    for tol in (1e-2, 1e-6):
        found = minimize(rosenbrock, [-1.2, 1.0], tol=tol, options={"return_path": True})
        assert found.reason is Reason.GRADIENT
        largest = [iterate.gradient.abs().max().item() for iterate in found.path]
        assert largest[-1] <= tol < min(largest[:-1])
    both = minimize(rosenbrock, [-1.2, 1.0], tol=1e-2, options={"gtol": 1e-6})
    assert both.nfev == found.nfev


def test_the_relative_tolerances():
    def valley(x):
        return 1 + (x[0] - 3) ** 2 + 20 * (x[1] - 4) ** 2

    def run(**options):
        return minimize(valley, [5.0, 6.0], "gd", options={**options, "return_path": True, "gtol": 0})

    found = run(grtol=1e-3)
    largest = [iterate.gradient.abs().max().item() for iterate in found.path]
    assert found.reason is Reason.GRADIENT
    assert largest[-1] <= 1e-3 * max(largest)
    found = run(ftol=1e-4)
    values = [iterate.value for iterate in found.path]
    assert found.reason is Reason.VALUE
    assert values[-2] - values[-1] <= 1e-4 * values[-2]
    assert all(a - b > 1e-4 * a for a, b in pairwise(values[:-1]))
    found = run(xtol=1e-3)
    last = (found.path[-1].x - found.path[-2].x).abs().max()
    assert found.reason is Reason.STEP
    assert last <= 1e-3 * found.x.abs().max()


@pytest.mark.parametrize("method", ["lbfgs", "bfgs"])
@pytest.mark.parametrize("height", [0.0, 1.0, -10.0])
def test_a_tolerance_out_of_reach_ends_where_rounding_is_all_that_is_left(method, height):
    problem = kowalik_osborne()
    found = minimize(lambda x: problem(x) + height, problem.x0(), method, options={"gtol": 0})
    assert found.reason is Reason.PRECISION
    assert found.success
    assert problem.reached(problem(found.x).item())
    assert found.nfev < 2000


def test_the_path_goes_from_x0_to_x():
    found = minimize(rosenbrock, [-1.2, 1.0], options={"return_path": True})
    assert found.path[0].x.tolist() == [-1.2, 1.0]
    assert torch.equal(found.path[-1].x, found.x)
    assert [iterate.nit for iterate in found.path] == list(range(found.nit + 1))
    for iterate in found.path:
        assert iterate.value == rosenbrock(iterate.x).item()


def test_a_callback_with_scipys_keyword_gets_results():
    seen = []

    def callback(*, intermediate_result):
        seen.append(intermediate_result)

    found = minimize(rosenbrock, [-1.2, 1.0], callback=callback)
    assert [result.nit for result in seen] == list(range(1, found.nit + 1))
    assert seen[-1].fun == found.fun and torch.equal(seen[-1].x, found.x)
    assert seen[0].status == -1 and seen[0].message == "running" and not seen[0].success


def test_a_callback_of_anything_else_gets_x_and_cannot_disturb():
    plain = minimize(rosenbrock, [-1.2, 1.0])
    found = minimize(rosenbrock, [-1.2, 1.0], callback=lambda x: x.zero_())
    assert found.nfev == plain.nfev
    assert torch.equal(found.x, plain.x)


def test_a_callback_stops():
    def callback(intermediate_result):
        if intermediate_result.nit == 4:
            raise StopIteration

    found = minimize(rosenbrock, [-1.2, 1.0], callback=callback)
    assert (found.reason, found.nit, found.success) == (Reason.CALLBACK, 4, False)


def test_what_f_raises_passes_and_a_module_keeps_the_best():
    model = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-1.2, 1.0]]))
    values = {}

    def loss():
        if len(values) == 9:
            raise KeyError("the data went away")
        value = rosenbrock(model.weight[0])
        values[tuple(model.weight[0].tolist())] = value.item()
        return value

    with pytest.raises(KeyError, match="the data went away"):
        minimize(loss, model)
    assert tuple(model.weight[0].tolist()) == min(values, key=values.get)


def test_what_a_callback_raises_passes():
    def callback(x):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        minimize(rosenbrock, [-1.2, 1.0], callback=callback)


def test_a_walk_that_diverges_returns_the_lowest_point():
    found = minimize(bowl, [0.0, 0.0], "gd", options={"lr": 1.5, "maxiter": 20})
    assert found.reason is Reason.ITERATIONS
    assert found.x.tolist() == [0.0, 0.0]
    found = minimize(bowl, [0.0, 0.0], "gd", options={"lr": 1.5})
    assert found.reason is Reason.NOT_FINITE
    assert found.fun == 5.0


def test_gradient_descent_with_a_learning_rate_is_plain():
    found = minimize(bowl, [0.0, 0.0], "gd", options={"lr": 0.1, "maxiter": 7})
    assert found.x.tolist() == pytest.approx([1 - 0.8**7, 2 * (1 - 0.8**7)])


def test_float32_stays_float32():
    found = minimize(rosenbrock, torch.tensor([-1.2, 1.0]), dtype=torch.float32)
    assert found.success
    assert found.x.dtype == found.jac.dtype == torch.float32
    assert found.x.tolist() == pytest.approx([1.0, 1.0], abs=1e-2)


def test_float64_is_what_float32_becomes():
    found = minimize(rosenbrock, torch.tensor([-1.2, 1.0]))
    assert found.x.dtype == torch.float64
    assert found.x.tolist() == pytest.approx([1.0, 1.0], abs=1e-7)


def test_the_line_search_takes_its_constants():
    careful = minimize(rosenbrock, [-1.2, 1.0], options={"c1": 1e-3, "c2": 0.01})
    plain = minimize(rosenbrock, [-1.2, 1.0])
    assert careful.success and careful.nit < plain.nit and careful.nfev > plain.nfev


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "lbgfs"}, r"Invalid method: 'lbgfs' \(did you mean 'lbfgs'\?\)"),
        ({"options": {"memroy": 3}}, r"'lbfgs' has no option 'memroy' \(did you mean 'memory'\?\)"),
        ({"method": "trust-exact", "options": {"c1": 0.1}}, "'trust-exact' has no option 'c1'"),
        ({"options": {"maxfum": 3}}, r"did you mean 'maxfun'\?"),
        ({"options": {"wolfe": 3}}, "has no option 'wolfe'"),
        ({"options": {"c1": 0.9, "c2": 0.1}}, "Invalid c1, c2: 0.9, 0.1"),
        ({"method": None}, "Invalid method: None"),
        ({"tol": -1.0}, "Invalid gtol: -1.0; it must be a number of at least 0"),
        ({"tol": "a"}, "Invalid gtol: 'a'"),
        ({"options": {"ftol": None}}, "Invalid ftol: None"),
        ({"options": {"maxiter": -1}}, "Invalid maxiter"),
        ({"options": {"maxfun": -1}}, "Invalid maxfun: -1; it must be a whole number"),
        ({"options": {"maxfun": "5"}}, "Invalid maxfun: '5'"),
        ({"options": {"memory": 2.5}}, "Invalid memory: 2.5; it must be a whole number"),
        ({"jac": "2-point"}, "Invalid jac: '2-point'"),
        ({"dtype": torch.bfloat16}, r"x would be torch\.bfloat16, .* float32 or float64"),
        ({"dtype": torch.int64}, r"x would be torch\.int64"),
        ({"method": "gd", "options": {"lr": 0.0}}, "Invalid lr: 0.0; it must be above 0"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        minimize(rosenbrock, [-1.2, 1.0], **arguments)


@pytest.mark.parametrize(("x0", "message"), [(None, "not None"), ("abc", "not 'abc'"), ([], "no tensor")])
def test_a_start_that_is_no_numbers_is_refused(x0, message):
    with pytest.raises(ValueError, match=message):
        minimize(rosenbrock, x0)


def test_a_function_without_a_value_is_refused():
    with pytest.raises(ValueError, match="f returned nothing"):
        minimize(lambda x: None, [1.0])


@pytest.mark.parametrize("method", ["lbfgs", "newton"])
def test_a_function_of_other_tensors_is_refused(method):
    other = torch.nn.Linear(2, 1)
    with pytest.raises(ValueError, match="does not depend on x"):
        minimize(lambda: other.weight.square().sum(), torch.nn.Linear(2, 1), method)


def test_no_jac_is_autograd_as_in_scipy():
    assert minimize(rosenbrock, [-1.2, 1.0], jac=False).success


def test_a_callback_that_hides_its_parameters_is_given_x():
    assert minimize(rosenbrock, [-1.2, 1.0], callback=max).success


def test_a_start_that_is_not_a_number_says_nothing_of_bounds():
    assert "bounds" not in minimize(rosenbrock, [math.nan, 1.0]).message


@pytest.mark.parametrize("method", ["bfgs", "newton", "trust-exact", "saddle-free-newton"])
def test_matrices_that_do_not_fit_are_refused(method, monkeypatch):
    monkeypatch.setattr(room, "free_bytes", lambda _: 2**20)
    with pytest.raises(MemoryLimitError, match=f"the method '{method}' keeps a matrix of 300 x 300 numbers"):
        minimize(rosenbrock, torch.zeros(300), method)
    assert minimize(rosenbrock, torch.zeros(300), "lbfgs").success
