"""The mathematics under the matrix methods: symmetric products, roots, bases, steps of a rule."""

import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ravine.optim import rules
from ravine.optim.matrix import symmetric
from ravine.optim.matrix.eigenbasis import Bases, first_basis, next_basis, reordered
from ravine.optim.matrix.elementwise import descent
from ravine.optim.matrix.householder import orthogonal_factor
from ravine.optim.matrix.roots import inverse_root


@given(
    size=st.sampled_from([1, 5, 64, 192, 193, 256, 300]),
    columns=st.sampled_from([1, 3, 40]),
    transposed=st.booleans(),
    keep=st.sampled_from([0.0, 0.9, 1.0]),
)
@settings(max_examples=30, deadline=None)
def test_an_outer_product_and_its_lower_triangle(size, columns, transposed, keep):
    x = torch.randn(2, columns, size, dtype=torch.float64).mT
    x = x if transposed else x.contiguous()
    sums = torch.randn(2, size, size, dtype=torch.float64)
    sums = sums + sums.mT
    expected = keep * sums + 0.1 * x @ x.mT
    symmetric.add_outer_(sums, x, keep=keep, share=0.1)
    torch.testing.assert_close(sums.tril(), expected.tril(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(symmetric.fill_upper_(sums), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("exponent", [0.25, 0.5, 1.0])
def test_inverse_roots_are_scipys(exponent):
    torch.manual_seed(0)
    x = torch.randn(3, 6, 9, dtype=torch.float64)
    a = x @ x.mT
    above = torch.randn(3, 6, 6, dtype=torch.float64).triu(1)
    found = inverse_root(a.tril() + above, exponent, 1e-3)
    for each, root in zip(a, found, strict=True):
        expected = scipy.linalg.fractional_matrix_power(each.numpy() + 1e-3 * torch.eye(6).numpy(), -exponent)
        torch.testing.assert_close(root, torch.from_numpy(expected), rtol=1e-9, atol=1e-9)


def test_eigenvalues_below_rounding_are_taken_for_rounding():
    """In float32 a zero eigenvalue comes out as ±1e-7 of the largest: its root is bounded by that."""
    torch.manual_seed(0)
    x = torch.randn(1, 50, 3)
    root = inverse_root(x @ x.mT, 0.5, 1e-30)
    largest = torch.linalg.eigvalsh(x @ x.mT).max()
    assert root.isfinite().all()
    limit = (torch.finfo(torch.float32).eps * largest) ** -0.5
    assert torch.linalg.matrix_norm(root[0], 2) <= limit * 1.01


def test_eigh_that_fails_in_float32_is_taken_in_float64(monkeypatch):
    kept = torch.linalg.eigh

    def eigh(matrices):
        if matrices.dtype is torch.float32:
            raise torch.linalg.LinAlgError("it did not converge")
        return kept(matrices)

    matrix = torch.diag(torch.tensor([4.0, 16.0])).unsqueeze(0)
    monkeypatch.setattr(torch.linalg, "eigh", eigh)
    root = inverse_root(matrix, 0.5, 1e-12)
    assert root.dtype is torch.float32
    torch.testing.assert_close(root[0], torch.diag(torch.tensor([0.5, 0.25])))


@pytest.mark.parametrize("size", [1, 2, 31, 32, 33, 100, 600])
def test_the_orthogonal_factor_is_lapacks(size):
    torch.manual_seed(0)
    x = torch.randn(2, size, size, dtype=torch.float64)
    torch.testing.assert_close(orthogonal_factor(x).mT, torch.linalg.qr(x)[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rank", [0, 1, 7])
def test_it_is_orthogonal_without_full_rank(rank):
    torch.manual_seed(0)
    x = torch.randn(2, 50, rank) @ torch.randn(2, rank, 50)
    q = orthogonal_factor(x).mT
    torch.testing.assert_close(q.mT @ q, torch.eye(50).expand(2, 50, 50), rtol=0, atol=2e-6)
    r = q.mT @ x
    assert r.tril(-1).abs().max() < 1e-5


def test_the_basis_iterates_to_the_eigenvectors_in_their_order():
    torch.manual_seed(0)
    vectors = torch.linalg.qr(torch.randn(2, 5, 5, dtype=torch.float64))[0]
    values = torch.tensor([1.0, 16.0, 4.0, 0.25, 64.0], dtype=torch.float64)
    a = vectors @ torch.diag(values) @ vectors.mT
    basis = torch.linalg.qr(torch.randn(2, 5, 5, dtype=torch.float64))[0]
    for _ in range(40):
        basis, order = next_basis(a, basis)
    torch.testing.assert_close(
        basis @ a @ basis.mT, torch.diag(values.sort(descending=True)[0]).expand(2, 5, 5)
    )
    assert torch.equal(order, torch.arange(5).expand(2, 5))
    torch.testing.assert_close(first_basis(a).abs(), basis.abs())


def test_one_step_is_qr_of_the_image_in_the_order_of_its_eigenvalues():
    torch.manual_seed(1)
    x = torch.randn(4, 4, dtype=torch.float64)
    a, q = x @ x.T, torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    order = (q.T @ a @ q).diagonal().argsort(descending=True)
    expected = torch.linalg.qr(a @ q[:, order])[0]
    basis, found = next_basis(a.unsqueeze(0), q.T.unsqueeze(0))
    assert torch.equal(found[0], order)
    torch.testing.assert_close(basis[0].T, expected)


def test_there_and_back():
    torch.manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(2, n, n, dtype=torch.float64))[0] for n in (3, 4))
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    for bases in (Bases(left, right), Bases(left, None), Bases(None, right), Bases(None, None)):
        torch.testing.assert_close(bases.project_back(bases.project(x)), x)
    torch.testing.assert_close(Bases(left, right).project(x), left @ x @ right.mT)


def test_each_matrix_has_its_own_order():
    x = torch.arange(12.0).reshape(2, 2, 3)
    rows, columns = torch.tensor([[1, 0], [0, 1]]), torch.tensor([[0, 1, 2], [2, 0, 1]])
    expected = torch.stack([x[0][[1, 0]], x[1][:, [2, 0, 1]]])
    assert torch.equal(reordered(x, rows, columns), expected)
    assert torch.equal(reordered(x, None, None), x)


@pytest.mark.parametrize("engine", ["eager", "cpu", "auto"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_rules_step_alone(engine, dtype):
    torch.manual_seed(0)
    dx, m, v = (
        torch.randn(3, 4, 5, dtype=dtype),
        torch.randn(3, 4, 5, dtype=dtype),
        torch.rand(3, 4, 5, dtype=dtype),
    )
    mean, square = 0.9 * m + 0.1 * dx, 0.99 * v + 0.01 * dx * dx
    expected = mean / (1 - 0.9**3) / ((square / (1 - 0.99**3)).sqrt() + 1e-8)
    found = descent(rules.adam, dx, [m, v], 3, [0.9, 0.99, 1e-8], engine)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(m, mean)
    torch.testing.assert_close(v, square)
