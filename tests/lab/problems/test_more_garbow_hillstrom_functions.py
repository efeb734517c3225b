"""The problems against what was published of them, and against SciPy's own least squares."""

import math

import pytest
import torch
from scipy import optimize

from ravine.lab.problems import more_garbow_hillstrom as mgh
from ravine.lab.problems.more_garbow_hillstrom import collection, large

PROBLEMS = collection()
EVERY = pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.label)

# Of a central difference, times the size of the entry: the cube root of float64's relative rounding.
STEP = 6e-6
# The norms of the residuals at the standard start that the test drivers of MINPACK print.
START_NORMS = [
    (mgh.rosenbrock(), 4.9193496),
    (mgh.freudenstein_roth(), 20.012496),
    (mgh.powell_badly_scaled(), 1.0654866),
    (mgh.jennrich_sampson(), 64.585650),
    (mgh.helical_valley(), 50.0),
    (mgh.bard(), 6.4561363),
    (mgh.meyer(), 41153.467),
    (mgh.box(), 32.111584),
    (mgh.powell_singular(), 14.662878),
    (mgh.kowalik_osborne(), 7.2891510e-2),
    (mgh.brown_dennis(), 2815.4384),
    (mgh.osborne_1(), 0.93756402),
    (mgh.osborne_2(), 1.4468654),
    *((mgh.watson(n), 5.4772256) for n in (6, 9, 12)),
    (mgh.trigonometric(), 8.4117534e-2),
    (mgh.brown_almost_linear(10), 16.530216),
    (mgh.brown_almost_linear(40), 128.02636),
    (mgh.discrete_boundary_value(), 2.8080582e-2),
    (mgh.discrete_integral_equation(1), 0.12792969),
    (mgh.discrete_integral_equation(10), 0.25182701),
    (mgh.broyden_tridiagonal(), 4.5825757),
    (mgh.broyden_banded(), 18.973666),
    *((mgh.linear_full_rank(5, m), norm) for m, norm in ((10, 5.0), (50, 8.0622577))),
    *((mgh.linear_rank_1(5, m), norm) for m, norm in ((10, 291.52187), (50, 3101.6004))),
    *((mgh.linear_rank_1_with_zeros(5, m), norm) for m, norm in ((10, 126.03968), (50, 1748.9500))),
    (mgh.chebyquad(5), 0.22570657),
    (mgh.chebyquad(8), 0.19651386),
    (mgh.chebyquad(9), 0.16994993),
    (mgh.chebyquad(10), 0.18374783),
]
# The values at the start that an interface to TOMS Algorithm 566 prints, to three digits.
START_VALUES = [
    (mgh.gaussian(), 3.89e-6),
    (mgh.brown_badly_scaled(), 1.00e12),
    (mgh.beale(), 1.42e1),
    (mgh.gulf(), 1.21e1),
    (mgh.wood(), 1.92e4),
    (mgh.biggs_exp6(), 7.79e-1),
    (mgh.extended_rosenbrock(40), 4.84e2),
    (mgh.extended_powell_singular(60), 3.23e3),
    (mgh.penalty_1(60), 5.45e9),
    (mgh.penalty_2(65), 2.87e5),
    (mgh.variably_dimensioned(40), 9.39e10),
    (mgh.trigonometric(40), 2.01e-3),
    (mgh.chebyquad(50), 1.39e-2),
]


@pytest.mark.parametrize(("problem", "norm"), START_NORMS, ids=lambda case: getattr(case, "label", ""))
def test_residuals_at_the_start_have_the_norm_that_minpack_prints(problem, norm):
    assert problem.residuals(problem.x0()).norm().item() == pytest.approx(norm, rel=1e-7)


@pytest.mark.parametrize(("problem", "value"), START_VALUES, ids=lambda case: getattr(case, "label", ""))
def test_the_value_at_the_start_is_that_of_algorithm_566(problem, value):
    assert problem(problem.x0()).item() == pytest.approx(value, rel=5e-3)


def test_the_collection_is_the_papers_35():
    assert sorted({problem.number for problem in PROBLEMS}) == list(range(1, 36))
    assert all(problem.minima for problem in (*PROBLEMS, *large()))


@EVERY
def test_known_minimizers_have_the_known_values(problem):
    for minimum in problem.minima:
        if minimum.point is not None:
            at = problem(torch.tensor(minimum.point, dtype=torch.float64)).item()
            # Some points are published to four digits.
            assert at == pytest.approx(minimum.value, rel=2e-5, abs=1e-14)


@EVERY
def test_least_squares_from_the_start_ends_at_a_known_minimum(problem):
    assert problem.reached(least_squares_value(problem, problem.x0())) is not None


@pytest.mark.parametrize(
    ("problem", "start", "value"),
    [
        (mgh.freudenstein_roth(), (6.0, 5.0), 0.0),
        (mgh.bard(), (10.0, 10.0, 10.0), 17.4286),
        (mgh.kowalik_osborne(), (2.5, 3.9, 4.15, 3.9), 1.02734e-3),
        (mgh.box(), (10.0, 0.0, -2.0), 0.0),
        (mgh.chebyquad(10), (0.07, 0.15, 0.29, 0.29, 0.5, 0.5, 0.71, 0.71, 0.85, 0.93), 4.77271e-3),
    ],
    ids=lambda case: getattr(case, "label", ""),
)
def test_least_squares_from_elsewhere_ends_at_the_other_minimum(problem, start, value):
    found = least_squares_value(problem, torch.tensor(start, dtype=torch.float64))
    assert found == pytest.approx(value, rel=1e-5, abs=1e-20)
    assert problem.reached(found).value == value


def test_the_higher_minimum_of_biggs_exp6_is_where_bfgs_of_scipy_ends():
    problem = mgh.biggs_exp6()
    found = optimize.minimize(value_and_gradient(problem), problem.start, jac=True, method="BFGS")
    assert problem.reached(found.fun).value == 5.65565e-3


def test_the_higher_minimum_of_brown_almost_linear_has_no_gradient_and_no_negative_curvature():
    problem = mgh.brown_almost_linear()
    x = torch.tensor(problem.minima[1].point, dtype=torch.float64, requires_grad=True)
    gradient = torch.autograd.grad(problem(x), x)[0]
    assert gradient.abs().max() == 0
    assert torch.linalg.eigvalsh(torch.func.jacrev(torch.func.grad(problem))(x.detach())).min() > -1e-12


@EVERY
def test_autograd_agrees_with_central_differences(problem):
    x = problem.x0() + 0.01
    jacobian = torch.func.jacrev(problem.residuals)(x)
    differences = central_differences(problem.residuals, x)
    scale = jacobian.abs().amax(0, keepdim=True)
    assert torch.all((jacobian - differences).abs() <= 1e-7 * scale + 1e-9)


@EVERY
def test_the_hessian_agrees_with_central_differences(problem):
    x = problem.x0() + 0.01
    gradient = torch.func.grad(problem)
    hessian = torch.func.jacrev(gradient)(x)
    rounding = torch.finfo(x.dtype).eps * gradient(x).abs().max() / STEP
    error = (hessian - central_differences(gradient, x)).abs()
    assert torch.all(error <= 1e-6 * hessian.abs().max() + rounding)


@EVERY
def test_a_batch_gives_the_value_of_each_point(problem):
    points = problem.x0() + 0.1 * torch.arange(6, dtype=torch.float64).view(3, 2, 1)
    each = [problem(point).item() for point in points.flatten(0, 1)]
    assert problem(points).shape == (3, 2)
    assert problem(points).flatten().tolist() == pytest.approx(each, rel=1e-12)


@EVERY
def test_values_have_the_dtype_of_the_point(problem):
    value = problem(problem.x0(torch.float32))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(problem(problem.x0()).item(), rel=2e-4)


@pytest.mark.parametrize("angle", [-1.4, -0.1, 0.1, 1.6, 3.0, 3.3, 4.6])
def test_the_angle_of_the_helical_valley_runs_from_minus_a_quarter_to_three_quarters(angle):
    x = torch.tensor([math.cos(angle), math.sin(angle), 0.0], dtype=torch.float64)
    assert mgh.helical_valley().residuals(x)[0].item() == pytest.approx(-100 * angle / (2 * math.pi))


def test_a_value_is_of_a_minimum_to_six_digits_and_not_to_four():
    problem = mgh.meyer()
    assert problem.reached(87.94586) is problem.minima[0]
    assert problem.reached(87.95) is None
    assert mgh.rosenbrock().reached(1e-9) is not None
    assert mgh.rosenbrock().reached(1e-7) is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mgh.extended_rosenbrock(5), "even n, not 5"),
        (lambda: mgh.extended_powell_singular(10), "multiple of 4, not 10"),
        (lambda: mgh.gulf(101), "3 to 100, not 101"),
        (lambda: mgh.watson(32), "2 to 31, not 32"),
        (lambda: mgh.brown_dennis(3), "at least 4, not 3"),
        (lambda: mgh.linear_rank_1(10, 9), "not 9 for n = 10"),
    ],
)
def test_sizes_that_a_problem_does_not_have_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def least_squares_value(problem, start):
    jacobian = torch.func.jacrev(problem.residuals)
    found = optimize.least_squares(
        lambda x: problem.residuals(torch.from_numpy(x)).numpy(),
        start.numpy(),
        jac=lambda x: jacobian(torch.from_numpy(x)).numpy(),
        method="lm",
        x_scale="jac",
        max_nfev=2000,
        **dict.fromkeys(("ftol", "xtol", "gtol"), 1e-15),
    )
    return 2 * found.cost


def value_and_gradient(problem):
    def both(x):
        point = torch.from_numpy(x).requires_grad_()
        value = problem(point)
        return value.item(), torch.autograd.grad(value, point)[0].numpy()

    return both


def central_differences(function, x):
    columns = []
    for i in range(len(x)):
        step = torch.zeros_like(x)
        step[i] = STEP * max(1.0, abs(x[i].item()))
        columns.append((function(x + step) - function(x - step)) / (2 * step[i]))
    return torch.stack(columns, -1)
