import numpy
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.optimize import brentq

from ravine.optim.full_batch.damping import magnitude
from ravine.optim.full_batch.subproblem import AbsoluteModel, Eigen, ExactModel

F64 = torch.float64


def rotation(n, seed=0):
    return torch.linalg.qr(torch.randn(n, n, dtype=F64, generator=torch.manual_seed(seed))).Q


def matrix_of(values, vectors):
    matrix = vectors * values @ vectors.T
    return (matrix + matrix.T) / 2


def made(values, coefficients, seed=0):
    """A gradient and a Hessian of which eigenvalues and the gradient's parts along eigenvectors are known."""
    values = torch.tensor(values, dtype=F64)
    vectors = rotation(len(values), seed)
    return vectors @ torch.tensor(coefficients, dtype=F64), matrix_of(values, vectors)


def model_value(gradient, hessian, step):
    return float(gradient @ step + 0.5 * step @ hessian @ step)


def secular_root(values, coefficients, radius):
    """An independent solution: SciPy's root finder on the length of the step, in float64."""
    values, coefficients = numpy.array(values), numpy.array(coefficients)

    def excess(shift):
        return numpy.linalg.norm(coefficients / (values + shift)) - radius

    lowest = max(0.0, -values.min())
    if values.min() > 0 and excess(0.0) <= 0:
        return 0.0
    near = lowest + 1e-14 * max(lowest, 1.0)
    return brentq(excess, near, lowest + numpy.linalg.norm(coefficients) / radius, xtol=1e-14, rtol=1e-14)


SOLVERS = {
    "cholesky": lambda gradient, hessian, radius: ExactModel(gradient, hessian).solve(radius),
    "eigh": lambda gradient, hessian, radius: Eigen(*torch.linalg.eigh(hessian)).solve(gradient, radius),
}
SPECTRA = {
    "convex": [0.1, 1.0, 2.0, 50.0],
    "ill-conditioned": [1e-8, 1e-3, 1.0, 2.0],
    "saddle": [-1.0, -1e-3, 2.0, 3.0],
    "maximum": [-5.0, -2.0, -1.0, -0.1],
    "equal": [-2.0, -2.0, -2.0, 1.0],
}


@pytest.mark.parametrize("radius", [1e-6, 0.1, 1.0, 30.0, 1e6])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_against_an_independent_root_finder(spectrum, radius):
    coefficients = [1.0, -2.0, 0.5, 3.0]
    gradient, hessian = made(SPECTRA[spectrum], coefficients)
    multiplier = secular_root(SPECTRA[spectrum], coefficients, radius)
    step, found = SOLVERS["eigh"](gradient, hessian, radius)
    assert found == pytest.approx(multiplier, rel=1e-9, abs=1e-13)
    expected = -torch.linalg.solve(hessian + multiplier * torch.eye(4, dtype=F64), gradient)
    if multiplier == 0 or radius < 1e5:  # beyond it the last digits of the multiplier decide
        torch.testing.assert_close(step, expected, rtol=1e-6, atol=1e-7 * radius)

    exact = model_value(gradient, hessian, step)
    proposal = SOLVERS["cholesky"](gradient, hessian, radius)
    assert proposal.reduction == pytest.approx(-model_value(gradient, hessian, proposal.step), rel=1e-6)
    assert proposal.reduction >= 0.9 * -exact * (1 - 1e-9)  # a tenth off the radius costs no more
    assert proposal.on_boundary == (multiplier > 0)


@given(
    st.lists(st.tuples(st.floats(-10, 10), st.floats(-10, 10)), min_size=1, max_size=8),
    st.floats(1e-3, 1e3),
    st.integers(0, 3),
)
def test_the_optimality_conditions_hold(parts, radius, seed):
    values, coefficients = zip(*parts, strict=True)
    gradient, hessian = made(values, coefficients, seed)
    size = magnitude(hessian)
    assume(float(gradient.norm()) > 1e-6 and size > 1e-6)
    proposal = ExactModel(gradient, hessian).solve(radius)
    length, multiplier = float(proposal.step.norm()), proposal.multiplier
    small = 1e-8 * (size + multiplier) * max(length, radius) + 1e-9 * float(gradient.norm())
    residual = hessian @ proposal.step + multiplier * proposal.step + gradient
    assert float(residual.abs().max()) <= small
    assert multiplier >= 0
    assert float(torch.linalg.eigvalsh(hessian)[0]) + multiplier >= -1e-9 * (size + multiplier)
    if proposal.on_boundary:
        assert 0.9 * radius * (1 - 1e-9) <= length <= 1.1 * radius * (1 + 1e-9)
    else:
        assert length <= radius * (1 + 1e-12) and multiplier == 0
    assert proposal.reduction >= 0


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("along", [0.0, 1e-300, 1e-17, 1e-9])
def test_the_hard_case(solver, along):
    gradient, hessian = made([-1.0, 2.0, 3.0], [along, 1.0, -1.0])
    step, multiplier = SOLVERS[solver](gradient, hessian, 5.0)[:2] if solver == "eigh" else (None, None)
    if solver == "cholesky":
        proposal = SOLVERS[solver](gradient, hessian, 5.0)
        step, multiplier = proposal.step, proposal.multiplier
    parts = rotation(3).T @ step
    # Off the lowest eigenvector the step is -g/(values + 1); along it, whatever leads to the boundary.
    assert multiplier == pytest.approx(1.0, abs=1e-8)
    torch.testing.assert_close(parts[1:], torch.tensor([-1 / 3, 1 / 4], dtype=F64), rtol=1e-7, atol=0)
    assert float(step.norm()) == pytest.approx(5.0)
    assert float(parts[0].abs()) == pytest.approx((25 - 1 / 9 - 1 / 16) ** 0.5)


@pytest.mark.parametrize("radius", [0.01, 0.3, 1.0])
def test_an_exactly_symmetric_gradient_within_a_small_radius(radius):
    hessian = torch.diag(torch.tensor([-1.0, 2.0, 3.0], dtype=F64))
    gradient = torch.tensor([0.0, 4.0, -4.0], dtype=F64)  # nothing along the lowest curvature
    step, multiplier = Eigen(*torch.linalg.eigh(hessian)).solve(gradient, radius)
    assert multiplier >= 1.0
    assert float(step.norm()) == pytest.approx(radius)
    torch.testing.assert_close(step[1:], -gradient[1:] / (torch.tensor([2.0, 3.0]) + multiplier))


def test_without_a_gradient_the_step_follows_the_lowest_curvature():
    gradient, hessian = made([-1.0, 2.0, 3.0], [0.0, 0.0, 0.0])
    proposal = ExactModel(gradient, hessian).solve(2.0)
    torch.testing.assert_close((rotation(3).T @ proposal.step).abs(), torch.tensor([2.0, 0, 0], dtype=F64))
    assert proposal.reduction == pytest.approx(2.0)  # ½·1·2²


def test_a_linear_model_goes_straight_down_to_the_boundary():
    gradient = torch.tensor([3.0, 4.0], dtype=F64)
    for model in (ExactModel, AbsoluteModel):
        linear = model(gradient, torch.zeros(2, 2, dtype=F64))
        assert linear.natural_radius == linear.gain == float("inf")
        proposal = linear.solve(10.0)
        torch.testing.assert_close(proposal.step, torch.tensor([-6.0, -8.0], dtype=F64))
        assert proposal.reduction == pytest.approx(50.0)
        assert proposal.on_boundary


def test_a_singular_model_with_a_minimum_goes_there():
    gradient, hessian = made([0.0, 1.0, 4.0], [1e-16, 1.0, 2.0])  # along the first: rounding
    proposal = ExactModel(gradient, hessian).solve(10.0)
    parts = rotation(3).T @ proposal.step
    torch.testing.assert_close(parts, torch.tensor([0.0, -1.0, -0.5], dtype=F64), rtol=1e-9, atol=1e-5)
    assert not proposal.on_boundary


def test_one_model_serves_radii_in_any_order():
    gradient, hessian = made([-1.0, 0.5, 3.0], [1.0, 1.0, 1.0])
    model = ExactModel(gradient, hessian)
    for radius in (1.0, 0.1, 100.0, 1e-3):
        fresh = ExactModel(gradient, hessian).solve(radius)
        assert model.solve(radius).reduction == pytest.approx(fresh.reduction, rel=0.1)


@given(
    st.lists(st.tuples(st.floats(-10, 10), st.floats(-10, 10)), min_size=1, max_size=8), st.floats(1e-3, 1e3)
)
def test_the_absolute_model_drops_the_signs_of_eigenvalues(parts, radius):
    values, coefficients = zip(*parts, strict=True)
    assume(min(abs(value) for value in values) > 1e-3 and max(abs(c) for c in coefficients) > 1e-3)
    gradient, hessian = made(values, coefficients)
    _, positive = made([abs(value) for value in values], coefficients)
    proposal = AbsoluteModel(gradient, hessian).solve(radius)
    step, multiplier = Eigen(*torch.linalg.eigh(positive)).solve(gradient, radius)
    torch.testing.assert_close(proposal.step, step, rtol=1e-8, atol=1e-10)
    assert proposal.multiplier == pytest.approx(multiplier, rel=1e-8, abs=1e-10)
    assert proposal.reduction == pytest.approx(-model_value(gradient, positive, step), rel=1e-8)


def test_float32():
    gradient, hessian = (part.float() for part in made([-1.0, 0.5, 3.0], [1.0, 1.0, 1.0]))
    proposal = ExactModel(gradient, hessian).solve(1.0)
    assert proposal.step.dtype == torch.float32
    assert 0.9 <= float(proposal.step.norm()) <= 1.1
