"""`Objective`: any f as a function of one flat vector, with exact derivatives and their count."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from ravine.optim.full_batch.objective import Budget, Objective


def rosenbrock(x):
    return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


GRADIENT = [-215.6, -88.0]
HESSIAN = [[1330.0, 480.0], [480.0, 200.0]]


@pytest.mark.parametrize(
    "x0",
    [[-1.2, 1.0], (-1.2, 1.0), np.array([-1.2, 1.0]), torch.tensor([-1.2, 1.0], dtype=torch.float64)],
    ids=["list", "numbers in a tuple", "array", "tensor"],
)
def test_numbers_become_one_tensor_of_float64(x0):
    objective = Objective(rosenbrock, x0)
    value, gradient = objective.value_and_gradient(objective.x0)
    assert value == pytest.approx(24.2)
    assert gradient.dtype == torch.float64
    assert gradient.tolist() == pytest.approx(GRADIENT)
    assert objective.unflatten(objective.x0).shape == (2,)


def test_a_single_number_is_a_start():
    objective = Objective(lambda x: (x - 3) ** 2, 1.0)
    assert objective.value_and_gradient(objective.x0) == (4.0, torch.tensor([-4.0], dtype=torch.float64))
    assert objective.unflatten(objective.x0).shape == ()


def test_a_tuple_of_tensors_is_several_arguments():
    def f(matrix, vector):
        return (matrix @ vector).square().sum()

    matrix, vector = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([5.0, -6.0])
    objective = Objective(f, (matrix, vector))
    value, gradient = objective.value_and_gradient(objective.x0)
    product = matrix @ vector
    assert value == pytest.approx(product.square().sum().item())
    of_matrix, of_vector = objective.unflatten(gradient)
    assert torch.equal(of_matrix, (2 * torch.outer(product, vector)).double())
    assert torch.equal(of_vector, (2 * matrix.T @ product).double())


def test_nested_dicts_and_lists_arrive_as_they_are():
    x0 = {"a": torch.tensor([1.0, 2.0]), "b": [torch.tensor(3.0), {"c": torch.tensor([[4.0]])}]}
    objective = Objective(lambda d: (d["a"] * d["b"][0]).sum() * d["b"][1]["c"].squeeze(), x0)
    value, gradient = objective.value_and_gradient(objective.x0)
    assert value == 36.0
    tree = objective.unflatten(gradient)
    assert tree["a"].tolist() == [12.0, 12.0]
    assert tree["b"][0].item() == 12.0
    assert tree["b"][1]["c"].tolist() == [[9.0]]


def test_what_f_does_not_use_has_a_gradient_of_zero():
    objective = Objective(lambda used, unused: used.sum(), (torch.ones(2), torch.ones(3)))
    assert objective.value_and_gradient(objective.x0)[1].tolist() == [1, 1, 0, 0, 0]


def test_a_module_is_its_parameters_that_require_gradients():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    inputs = torch.randn(5, 3)
    objective = Objective(lambda: model(inputs).square().mean(), model)
    assert objective.n == 6
    moved = objective.x0 + 1
    value, gradient = objective.value_and_gradient(moved)
    assert torch.equal(model.weight.detach().reshape(-1), moved)
    expected = torch.autograd.grad(model(inputs).square().mean(), model.weight)[0]
    assert value == model(inputs).square().mean().item()
    assert torch.equal(gradient, expected.reshape(-1))
    assert model.weight.grad is None
    assert list(objective.unflatten(moved)) == ["weight"]


def test_sparse_gradients_are_taken():
    table = nn.Embedding(4, 2, sparse=True)
    objective = Objective(lambda: table(torch.tensor([1, 1, 3])).sum(), table)
    assert objective.value_and_gradient(objective.x0)[1].tolist() == [0, 0, 2, 2, 0, 0, 1, 1]


def test_x0_is_left_as_it_was():
    x0 = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    objective = Objective(lambda x: x.square().sum(), x0)
    objective.value_and_gradient(objective.x0 * 2)
    assert x0.tolist() == [1.0, 2.0]
    assert x0.requires_grad and x0.is_leaf and x0.grad is None


def test_the_dtype():
    single = torch.ones(2)
    assert Objective(rosenbrock, single).x0.dtype == torch.float64
    assert Objective(rosenbrock, single, dtype=torch.float32).x0.dtype == torch.float32
    assert Objective(rosenbrock, torch.ones(2, dtype=torch.int64)).x0.dtype == torch.float64
    assert Objective(lambda: 0, nn.Linear(1, 1)).x0.dtype == torch.float32
    assert Objective(rosenbrock, torch.ones(2, device="meta")).structure._dtype == torch.float32


def test_data_of_another_dtype_are_explained():
    objective = Objective(lambda x: x @ torch.ones(2), torch.ones(2))
    with pytest.raises(RuntimeError, match="same dtype") as raised:
        objective.value(objective.x0)
    assert "pass dtype=torch.float32" in raised.value.__notes__[0]


def test_the_hessian_in_closed_form():
    objective = Objective(rosenbrock, [-1.2, 1.0])
    expected = torch.tensor(HESSIAN, dtype=torch.float64)
    v = torch.tensor([0.3, -2.0], dtype=torch.float64)
    torch.testing.assert_close(objective.hessian(objective.x0), expected)
    torch.testing.assert_close(objective.hessian_vector(objective.x0, v), expected @ v)
    product = objective.hessian_product(objective.x0)
    torch.testing.assert_close(product(v), expected @ v)
    torch.testing.assert_close(product(-2 * v), -2 * expected @ v)
    assert objective.nhev == 4


def test_the_hessian_of_a_module_couples_all_parameters():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    inputs = torch.randn(7, 2, dtype=torch.float64)
    objective = Objective(lambda: model(inputs).square().mean(), model)
    hessian = objective.hessian(objective.x0)
    assert torch.equal(hessian, hessian.T)
    h = 1e-6
    for i in (0, 5, 8, 12):
        e = torch.zeros(objective.n, dtype=torch.float64).index_fill(0, torch.tensor([i]), h)
        up, down = (objective.value_and_gradient(objective.x0 + sign * e)[1] for sign in (1, -1))
        torch.testing.assert_close(hessian[i], (up - down) / (2 * h), rtol=1e-5, atol=1e-8)


def test_the_hessian_of_a_linear_function_is_zero():
    objective = Objective(lambda x: 3 * x.sum(), [1.0, 2.0])
    assert not objective.hessian(objective.x0).any()
    assert not objective.hessian_vector(objective.x0, objective.x0).any()
    assert not objective.hessian_product(objective.x0)(objective.x0).any()


class _Cubed(torch.autograd.Function):
    """An operation that cannot be batched."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        if torch._C._functorch.is_batchedtensor(gradient):
            raise RuntimeError("not to be batched")
        return 3 * x**2 * gradient


def test_the_hessian_where_operations_cannot_be_batched():
    objective = Objective(lambda x: (_Cubed.apply(_Cubed.apply(x) * x.flip(0))).sum(), [1.0, 2.0])
    plain = Objective(lambda x: ((x**3 * x.flip(0)) ** 3).sum(), [1.0, 2.0])
    torch.testing.assert_close(objective.hessian(objective.x0), plain.hessian(plain.x0))


def test_the_users_own_gradient():
    asked = Objective(rosenbrock, [-1.2, 1.0], jac=lambda x: torch.stack([x[0] * 2, x[1] * 3]))
    assert asked.value_and_gradient(asked.x0)[1].tolist() == pytest.approx([-2.4, 3.0])
    both = Objective(lambda x: (rosenbrock(x).item(), [7.0, 8.0]), [-1.2, 1.0], jac=True)
    assert both.value_and_gradient(both.x0)[1].tolist() == [7.0, 8.0]
    assert both.value(both.x0) == pytest.approx(24.2)
    torch.testing.assert_close(asked.hessian(asked.x0), torch.tensor([2.0, 3.0], dtype=torch.float64).diag())
    for derivative in (both.hessian, both.hessian_product):
        with pytest.raises(ValueError, match="leave out jac="):
            derivative(both.x0)


def test_a_gradient_of_another_size_is_refused():
    objective = Objective(rosenbrock, [-1.2, 1.0], jac=lambda x: [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=r"x0 has tensors of \[2\] elements, but this has \[3\]"):
        objective.value_and_gradient(objective.x0)


def test_counts_and_the_budget():
    objective = Objective(rosenbrock, [-1.2, 1.0], max_evaluations=3)
    objective.value(objective.x0)
    objective.value_and_gradient(objective.x0)
    objective.value_and_gradient(objective.x0)
    with pytest.raises(Budget):
        objective.value(objective.x0)
    with pytest.raises(Budget):
        objective.value_and_gradient(objective.x0)
    assert (objective.nfev, objective.njev, objective.nhev) == (3, 2, 0)


def test_the_best_point_is_kept():
    objective = Objective(lambda x: x.square().sum(), [3.0])
    assert objective.best is None
    points = [torch.tensor([value], dtype=torch.float64) for value in (3.0, 1.0, 2.0, math.nan)]
    for point in points:
        objective.value_and_gradient(point)
    x, value, gradient = objective.best
    assert x is points[1]
    assert (value, gradient.item()) == (1.0, 2.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_returned_as_it_is(value):
    objective = Objective(lambda x: x.sum() * value, [1.0])
    found, gradient = objective.value_and_gradient(objective.x0)
    assert str(found) == str(value) and str(gradient.item()) == str(value)


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda x: x, r"not a value of shape \(2,\)"),
        (lambda x: x.sum() * 1j, "complex"),
        (lambda x: x.detach().sum(), "autograd"),
        (lambda x: float(x.detach().sum()), "autograd"),
    ],
    ids=["vector", "complex", "detached", "float"],
)
def test_values_that_cannot_be_minimized_are_refused(f, message):
    objective = Objective(f, [1.0, 2.0])
    with pytest.raises(ValueError, match=message):
        objective.value_and_gradient(objective.x0)


def test_starts_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="complex"):
        Objective(rosenbrock, torch.ones(2, dtype=torch.complex64))
    with pytest.raises(ValueError, match="no tensor to change"):
        Objective(rosenbrock, ())
    with pytest.raises(ValueError, match="no tensor to change"):
        Objective(rosenbrock, nn.Linear(1, 1).requires_grad_(False))
    with pytest.raises(ValueError, match=r"module\.double"):
        Objective(rosenbrock, nn.Linear(1, 1), dtype=torch.float64)
