import pytest
import torch
from scipy.sparse.linalg import cg

from ravine.optim.full_batch.truncated_cg import truncated_cg

F64 = torch.float64


def symmetric(eigenvalues):
    n = len(eigenvalues)
    vectors = torch.linalg.qr(torch.randn(n, n, dtype=F64, generator=torch.manual_seed(0))).Q
    return vectors * torch.tensor(eigenvalues, dtype=F64) @ vectors.T, vectors


GRADIENT = torch.tensor([1.0, -2.0, 3.0, 0.5, -1.5], dtype=F64)
CONVEX, _ = symmetric([0.1, 0.5, 1.0, 3.0, 10.0])


@pytest.mark.parametrize("products", [1, 2, 3, 4])
def test_each_iterate_against_scipy(products):
    found = truncated_cg(GRADIENT, CONVEX.mv, 0.0, products)
    expected, _ = cg(CONVEX.numpy(), -GRADIENT.numpy(), rtol=0, maxiter=products)
    torch.testing.assert_close(found.step, torch.from_numpy(expected), rtol=1e-10, atol=0)
    assert (found.curved_down, found.products) == (False, products)


def test_the_solution_after_n_products():
    found = truncated_cg(GRADIENT, CONVEX.mv, 1e-10, 10)
    torch.testing.assert_close(found.step, -torch.linalg.solve(CONVEX, GRADIENT), rtol=1e-9, atol=0)
    assert found.products == 5


def test_it_ends_at_the_tolerance():
    found = truncated_cg(GRADIENT, CONVEX.mv, 0.1, 10)
    limit = 0.1 * float(GRADIENT.norm())
    assert float((CONVEX @ found.step + GRADIENT).norm()) <= limit
    before = truncated_cg(GRADIENT, CONVEX.mv, 0.0, found.products - 1)
    assert float((CONVEX @ before.step + GRADIENT).norm()) > limit


@pytest.mark.parametrize("factor", [1e-300, 1e300])
def test_a_gradient_whose_square_is_no_number(factor):
    found = truncated_cg(factor * GRADIENT, CONVEX.mv, 1e-10, 10)
    torch.testing.assert_close(found.step / factor, -torch.linalg.solve(CONVEX, GRADIENT), rtol=1e-9, atol=0)


def test_negative_curvature_at_once_gives_the_step_of_its_absolute_value():
    hessian = torch.diag(torch.tensor([-2.0, -8.0], dtype=F64))
    gradient = torch.tensor([0.0, 4.0], dtype=F64)
    found = truncated_cg(gradient, hessian.mv, 0.0, 5)
    torch.testing.assert_close(found.step, torch.tensor([0.0, -0.5], dtype=F64))
    assert (found.curved_down, found.products) == (True, 1)


def test_negative_curvature_further_on_is_followed_down():
    hessian, vectors = symmetric([-1.0, 1.0, 2.0])
    gradient = vectors @ torch.tensor([1e-3, 1.0, 1.0], dtype=F64)
    found = truncated_cg(gradient, hessian.mv, 1e-12, 10)
    before = truncated_cg(gradient, hessian.mv, 0.0, found.products - 1)
    assert (found.curved_down, before.curved_down) == (True, False)
    last = found.step - before.step
    # The model's slope along the last part is what its curvature takes away again, were it positive.
    slope = float((gradient + hessian @ before.step) @ last)
    assert slope == pytest.approx(float(last @ hessian @ last), rel=1e-9)
    assert slope < 0
    assert float(gradient @ last) < 0


def test_without_curvature_it_is_the_negative_gradient():
    found = truncated_cg(GRADIENT, torch.zeros_like, 0.0, 5)
    torch.testing.assert_close(found.step, -GRADIENT)
    assert found.curved_down


def test_a_product_that_is_not_finite_gives_no_direction():
    assert truncated_cg(GRADIENT, lambda v: v * float("nan"), 0.0, 5) is None


def test_the_gradient_is_left_as_it_was():
    gradient = GRADIENT.clone()
    truncated_cg(gradient, CONVEX.mv, 0.0, 5)
    torch.testing.assert_close(gradient, GRADIENT, rtol=0, atol=0)
