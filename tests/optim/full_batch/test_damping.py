import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from ravine.optim.full_batch.damping import damped, factor, least_curvature, magnitude, shifted

F64 = torch.float64


def symmetric(eigenvalues, seed=0):
    noise = torch.randn(len(eigenvalues), len(eigenvalues), dtype=F64, generator=torch.manual_seed(seed))
    vectors = torch.linalg.qr(noise).Q
    matrix = vectors * torch.tensor(eigenvalues, dtype=F64) @ vectors.T
    return (matrix + matrix.T) / 2


@pytest.mark.parametrize("smallest", [1.0, 1e-4, 1e-8, 1e-10])
def test_positive_definite_matrices_are_not_shifted(smallest):
    matrix = symmetric([smallest, 0.3, 0.7, 1.0])
    lower, shift = damped(matrix)
    assert shift == 0.0
    torch.testing.assert_close(lower @ lower.T, matrix, rtol=0, atol=1e-15)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=12), st.integers(0, 5), st.floats(-8, 8))
def test_the_shift_is_at_most_twice_the_smallest(eigenvalues, seed, decade):
    matrix = 10.0**decade * symmetric(eigenvalues, seed)
    assume(magnitude(matrix) > 1e-290)
    lower, shift = damped(matrix)
    lowest = float(torch.linalg.eigvalsh(matrix)[0])
    slack = 1e-13 * magnitude(matrix)
    assert shift + lowest >= -slack
    assert shift <= max(-2.0 * lowest, 2.0 * least_curvature(matrix)) + slack
    torch.testing.assert_close(lower @ lower.T, shifted(matrix, shift), rtol=0, atol=10 * slack)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=12), st.integers(0, 5), st.floats(0, 5))
def test_a_failed_factorization_bounds_the_lowest_eigenvalue(eigenvalues, seed, shift):
    matrix = symmetric(eigenvalues, seed)
    lower, bound = factor(matrix, shift)
    if lower is None:
        assert (
            shift <= bound <= max(shift, -float(torch.linalg.eigvalsh(matrix)[0])) + 1e-13 * magnitude(matrix)
        )


def test_the_bound_of_a_failed_factorization_is_the_rayleigh_quotient_of_its_vector():
    matrix = torch.tensor(
        [[1.0, 2.0, 5.0], [2.0, 1.0, 0.0], [5.0, 0.0, 1.0]], dtype=F64
    )  # fails at the second
    vector = torch.tensor([-2.0, 1.0, 0.0], dtype=F64)
    assert factor(matrix)[1] == pytest.approx(-float(vector @ matrix @ vector) / 5.0)


def test_units_of_the_variables_do_not_make_a_matrix_singular():
    units = torch.tensor([1e-9, 1.0, 1e9], dtype=F64)  # Powell's badly scaled function has such Hessians
    matrix = units[:, None] * symmetric([0.5, 1.0, 2.0]) * units
    assert damped(matrix).shift == 0.0


def test_a_semidefinite_matrix_is_shifted_by_little():
    matrix = symmetric([0.0, 1.0, 1.0, 1.0])
    assert 0.0 < damped(matrix).shift <= 4 * least_curvature(matrix) < 1e-9


def test_zeros_become_the_identity():
    lower, shift = damped(torch.zeros(3, 3, dtype=F64))
    assert shift == 1.0
    torch.testing.assert_close(lower, torch.eye(3, dtype=F64))


def test_solving():
    matrix = symmetric([-1.0, 2.0, 3.0])
    found = damped(matrix)
    right = torch.tensor([1.0, -2.0, math.pi], dtype=F64)
    expected = torch.linalg.solve(shifted(matrix, found.shift), right)
    torch.testing.assert_close(found.solve(right), expected)
