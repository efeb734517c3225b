"""L-BFGS-B: its parts against dense matrices and a walk bend by bend, and whole runs against SciPy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from torch import nn

from ravine.lab.problems import more_garbow_hillstrom as mgh
from ravine.optim.full_batch.bounds import Bounds, make_bounds
from ravine.optim.full_batch.cauchy import cauchy_point, subspace_minimum
from ravine.optim.full_batch.compact import CompactHessian
from ravine.optim.full_batch.curvature import observe
from ravine.optim.full_batch.minimize import minimize
from ravine.optim.full_batch.result import Reason
from ravine.optim.full_batch.structure import Structure

INF = math.inf


def tensor(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def random(n, count, seed):
    return torch.randn(count, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def learned(n, count, seed, memory=10):
    """A compact Hessian and the same matrix by BFGS updates, from pairs of a random quadratic."""
    factor = random(n, n, seed)
    hessian = factor @ factor.T + torch.eye(n, dtype=torch.float64)
    compact = CompactHessian(memory, hessian[0], theta=2.0)
    pairs = [observe(s, hessian @ s) for s in random(n, count, seed + 1)]
    for pair in pairs:
        compact.add(pair)
    dense = compact.theta * torch.eye(n, dtype=torch.float64)
    for pair in pairs[-memory:]:
        bs = dense @ pair.s
        dense = dense - torch.outer(bs, bs) / (pair.s @ bs) + torch.outer(pair.y, pair.y) / pair.sy
    return compact, dense


SIZES = {"n": st.integers(1, 7), "count": st.integers(0, 9), "seed": st.integers(0, 500)}


@settings(deadline=None)
@given(**SIZES, memory=st.integers(1, 5))
def test_the_compact_matrix_is_bfgs(n, count, seed, memory):
    compact, dense = learned(n, count, seed, memory)
    v = random(n, 1, seed + 2)[0]
    torch.testing.assert_close(compact.product(v), dense @ v, rtol=1e-6, atol=1e-6)


@settings(deadline=None)
@given(**SIZES)
def test_the_system_of_the_free_elements(n, count, seed):
    compact, dense = learned(n, min(count, 4), seed)
    right, free = random(n, 2, seed + 2)[0], random(n, 2, seed + 2)[1] > -0.3
    expected = torch.zeros(n, dtype=torch.float64)
    expected[free] = torch.linalg.solve(dense[free][:, free], right[free])
    slack = 1e-6 * (1 + expected.abs().max().item())
    torch.testing.assert_close(compact.solve(right, free), expected, rtol=1e-6, atol=slack)


def boxed(n, seed):
    """A point within bounds of every kind: none, one side, both, equal, and met already."""
    x, width, kind = random(n, 3, seed + 3)
    lower = torch.where(kind > 0.8, -INF, x - width.abs())
    upper = torch.where(kind < -0.8, INF, x + width.roll(1).abs())
    lower = torch.where(kind.abs() < 0.2, x, lower)
    upper = torch.where((kind > 0.1) & (kind < 0.4), x, upper)
    return x, Bounds(lower, upper)


def bend_by_bend(x, gradient, bounds, dense):
    """The generalized Cauchy point as it is defined: the first local minimum along the projected path."""
    moving = torch.ones_like(x, dtype=torch.bool)
    position = x.clone()
    while True:
        direction = torch.where(moving, -gradient, 0.0)
        blocked = ((direction < 0) & (position <= bounds.lower)) | (
            (direction > 0) & (position >= bounds.upper)
        )
        moving &= ~blocked
        direction = torch.where(moving, direction, 0.0)
        slope = direction @ (gradient + dense @ (position - x))
        if slope >= -1e-14:
            return position
        length = -slope / (direction @ dense @ direction)
        room = torch.where(direction > 0, bounds.upper - position, bounds.lower - position) / direction
        room = torch.where(direction == 0, INF, room)
        if length < room.min():
            return position + length * direction
        ends = torch.where(direction > 0, bounds.upper, bounds.lower)
        position = torch.where(room <= room.min(), ends, position + room.min() * direction)


@settings(deadline=None, max_examples=200)
@given(**SIZES)
def test_the_cauchy_point_is_found_as_by_walking_from_bend_to_bend(n, count, seed):
    compact, dense = learned(n, min(count, 4), seed)
    x, bounds = boxed(n, seed)
    gradient = random(n, 1, seed + 4)[0]
    found = cauchy_point(x, gradient, bounds, compact)
    expected = bend_by_bend(x, gradient, bounds, dense)
    torch.testing.assert_close(found.x, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(bounds.clip(found.x), found.x)
    on_bound = (found.x == bounds.lower) | (found.x == bounds.upper)
    assert not (found.free & (bounds.lower == bounds.upper)).any()
    assert (found.free | on_bound).all()


@settings(deadline=None, max_examples=200)
@given(**SIZES)
def test_the_subspace_step_minimizes_over_the_free_or_stays_within_downhill(n, count, seed):
    compact, dense = learned(n, min(count, 4), seed)
    x, bounds = boxed(n, seed)
    gradient = random(n, 1, seed + 4)[0]
    cauchy = cauchy_point(x, gradient, bounds, compact)
    found = subspace_minimum(x, gradient, bounds, compact, cauchy)
    assert torch.equal(bounds.clip(found), found)
    free, wanted = cauchy.free, cauchy.x.clone()
    reduced = (gradient + dense @ (cauchy.x - x))[free]
    wanted[free] -= torch.linalg.solve(dense[free][:, free], reduced)
    if ((wanted > bounds.lower) & (wanted < bounds.upper))[free].all():
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    moved = found - x
    if moved.abs().max() > 1e-9:
        assert gradient @ moved < 0


def test_numbers_none_pairs_and_structures_are_bounds():
    like = torch.zeros(3, dtype=torch.float64)
    flat = Structure(torch.zeros(3), None).flatten
    made = make_bounds([(0, 1), (None, 2.5), (-INF, None)], like, flat)
    assert made.lower.tolist() == [0, -INF, -INF]
    assert made.upper.tolist() == [1, 2.5, INF]
    made = make_bounds((0, None), like, flat)
    assert made.lower.tolist() == [0, 0, 0]
    assert made.upper.tolist() == [INF] * 3
    made = make_bounds((tensor(1, 2, 3), 4), like, flat)
    assert made.lower.tolist() == [1, 2, 3]
    assert made.upper.tolist() == [4, 4, 4]
    pair = make_bounds([(0, 1), (2, 3)], torch.zeros(2), flat)
    assert pair.lower.tolist() == [0, 2]
    assert pair.upper.tolist() == [1, 3]


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ([(0, 1)], "x has 3 elements, so bounds must be 3 pairs"),
        ([(0, 1), (0, 1), 5], "must be 3 pairs"),
        ([(0, 1), (2, 1), (0, 1)], "element 1 of x has a lower bound of 2, above its upper bound of 1"),
        ([(0, 1), (math.nan, 1), (0, 1)], "not a number"),
        ((torch.zeros(2), None), r"x0 has tensors of \[3\] elements, but this has \[2\]"),
    ],
)
def test_bounds_that_cannot_be_are_refused(bounds, message):
    with pytest.raises(ValueError, match=message):
        minimize(lambda x: x.square().sum(), [1.0, 2.0, 3.0], bounds=bounds)


def test_methods_without_bounds_refuse_them():
    with pytest.raises(ValueError, match="'bfgs' takes no bounds: use 'lbfgs'"):
        minimize(lambda x: x.square().sum(), [1.0], "bfgs", bounds=[(0, 1)])
    with pytest.raises(ValueError, match="Invalid memory: 0"):
        minimize(lambda x: x.square().sum(), [0.5], bounds=[(0, 1)], options={"memory": 0})


@pytest.mark.parametrize("seed", range(6))
def test_box_constrained_least_squares_as_scipy_solves_them(seed):
    n = 12
    matrix, target = random(n, 20, seed), random(20, 1, seed + 9)[0]
    low, high = -0.1 - random(n, 1, seed + 7)[0].abs() / 3, 0.2 * torch.ones(n, dtype=torch.float64)
    peer = optimize.lsq_linear(matrix.numpy(), target.numpy(), (low.numpy(), high.numpy()), tol=1e-14)
    found = minimize(lambda x: (matrix @ x - target).square().sum() / 2, torch.zeros(n), bounds=(low, high))
    assert found.success
    assert found.x.numpy() == pytest.approx(peer.x, abs=1e-6)
    gradient = matrix.T @ (matrix @ found.x - target)
    at_low, at_high = found.x == low, found.x == high
    assert (gradient[at_low] > 0).all() and (gradient[at_high] < 0).all()
    assert gradient[~at_low & ~at_high].abs().max() < 1e-5


def test_no_trial_ever_leaves_the_bounds_and_the_work_is_that_of_scipy():
    ratios = []
    for seed, problem in enumerate(mgh.collection()):
        start = problem.x0()
        center, width = random(problem.n, 2, seed)
        low = torch.where(width > 1, -INF, start + center - width.abs() - 0.1)
        high = torch.where(width < -1, INF, start + center + width.roll(1).abs() + 0.1)

        def inside(x, problem=problem, low=low, high=high):
            assert ((x >= low) & (x <= high)).all()
            return problem(x)

        def f(x, problem=problem):
            point = torch.from_numpy(x).requires_grad_()
            value = problem(point)
            return value.item(), torch.autograd.grad(value, point)[0].numpy()

        peer = optimize.minimize(
            f,
            start.clamp(low, high).numpy(),
            jac=True,
            method="L-BFGS-B",
            bounds=list(zip(low.tolist(), high.tolist(), strict=True)),
            options={"ftol": 0.0, "gtol": 1e-6, "maxfun": 1000},
        )
        found = minimize(inside, start, bounds=(low, high), tol=1e-6, options={"maxfun": 1000})
        if found.success and found.fun == pytest.approx(peer.fun, rel=1e-5, abs=1e-9):
            ratios.append(found.nfev / peer.nfev)
    assert len(ratios) >= 30
    assert np.median(ratios) <= 1.0


@pytest.mark.parametrize("of_f", [1e-8, 1e8])
@pytest.mark.parametrize("of_x", [1e-4, 1e4])
def test_other_units_take_the_same_evaluations(of_f, of_x):
    problem, low, high = mgh.wood(), tensor(-INF, -INF, -2, 0.5), tensor(0.8, INF, INF, INF)
    start = tensor(-3, -1, -1.5, 2)
    plain = minimize(problem, start, bounds=(low, high))
    scaled = minimize(lambda x: of_f * problem(x / of_x), start * of_x, bounds=(low * of_x, high * of_x))
    assert plain.success and scaled.success
    assert scaled.fun / of_f == pytest.approx(plain.fun, rel=1e-8)
    assert 0.8 * plain.nfev <= scaled.nfev <= 1.2 * plain.nfev


def test_bounds_that_hold_nothing_change_nothing():
    problem = mgh.rosenbrock()
    free = minimize(problem, problem.x0())
    within = minimize(problem, problem.x0(), bounds=(None, None))
    assert within.success and problem.reached(within.fun)
    assert within.nfev <= 1.1 * free.nfev


def test_an_element_with_equal_bounds_stays_where_it_is():
    found = minimize(
        lambda x: (x - tensor(1, 2, 3)).square().sum(),
        [0.0, 0.5, 0.0],
        bounds=[(None, 0), (0.5, 0.5), (0, 9)],
    )
    assert found.success
    assert found.x.tolist() == pytest.approx([0.0, 0.5, 3.0], abs=1e-7)
    assert found.x[1] == 0.5 and found.x[0] == 0.0


def test_all_elements_fixed_is_a_solution_at_once():
    found = minimize(lambda x: x.sum(), [1.0, 2.0], bounds=[(1, 1), (2, 2)])
    assert (found.reason, found.nfev) == (Reason.GRADIENT, 1)


def test_a_start_in_the_corner_that_solves_it_is_left_alone():
    found = minimize(lambda x: x.sum(), [0.0, 0.0], bounds=(0, 1))
    assert (found.reason, found.nfev) == (Reason.GRADIENT, 1)


def test_a_linear_function_ends_in_the_corner():
    found = minimize(lambda x: (x * tensor(1, -2, 3)).sum(), [0.3, 0.4, 0.5], bounds=(0.1, 0.7))
    assert found.success
    assert found.x.tolist() == [0.1, 0.7, 0.1]


def test_a_linear_function_with_a_way_out_is_unbounded():
    found = minimize(lambda x: (x * tensor(1, -2)).sum(), [0.3, 0.4], bounds=[(0, None), (0, None)])
    assert found.reason is Reason.UNBOUNDED


def test_a_start_outside_is_moved_within_and_told():
    seen = []

    def f(x):
        seen.append(x.tolist())
        return (x - 5).square().sum()

    found = minimize(f, [9.0, -3.0], bounds=(0, 4))
    assert seen[0] == [4.0, 0.0]
    assert found.x.tolist() == [4.0, 4.0]
    assert found.message.endswith("(x0 was outside the bounds and was moved to them)")


def test_a_module_is_kept_within_bounds():
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    inputs = torch.randn(32, 4)
    targets = inputs @ torch.tensor([1.0, -1.0, 0.5, -0.5]) + 2
    found = minimize(lambda: (model(inputs).squeeze(1) - targets).square().mean(), model, bounds=(0, None))
    assert found.success
    assert (model.weight >= 0).all() and model.weight[0, 1] == 0 and model.weight[0, 3] == 0
    assert torch.equal(found.x["weight"], model.weight.detach())


def test_a_pole_on_a_bound_is_never_evaluated_beyond():
    """-log x with x at least 0: the value at the bound is infinite."""
    found = minimize(lambda x: (x - x.log()).sum(), [5.0, 0.01], bounds=(0, None), tol=1e-8)
    assert found.success
    assert found.x.tolist() == pytest.approx([1.0, 1.0])


LOW, HIGH = [0.0, 1.0], [5.0, 9.0]


@pytest.mark.parametrize(
    "bounds",
    [
        list(zip(LOW, HIGH, strict=True)),
        list(zip(np.array(LOW), np.array(HIGH), strict=True)),
        list(zip(np.array(LOW, dtype=np.float32), np.array(HIGH, dtype=np.float32), strict=True)),
        list(zip(np.array([0, 1]), np.array([5, 9]), strict=True)),
        list(zip(tensor(*LOW), tensor(*HIGH), strict=True)),
        np.array([LOW, HIGH]).T,
        tensor(*LOW, *HIGH).reshape(2, 2).T,
        optimize.Bounds(LOW, HIGH),
        (tensor(*LOW), tensor(*HIGH)),
        iter(zip(LOW, HIGH, strict=True)),
    ],
)
def test_bounds_in_every_form_are_the_same(bounds):
    """Two pairs for two elements could be read as one pair of vectors: then x would end at (1, 5)."""
    found = minimize(lambda x: (x - 3).square().sum(), [1.0, 2.0], bounds=bounds)
    assert found.x.tolist() == pytest.approx([3.0, 3.0])


@pytest.mark.parametrize("bounds", [3, [1, 2, 3], [("a", 1), (0, 1), (0, 1)]])
def test_what_is_no_bounds_is_refused(bounds):
    with pytest.raises(ValueError, match="bounds must be"):
        minimize(lambda x: x.square().sum(), [1.0, 2.0, 3.0], bounds=bounds)


def test_values_too_small_to_square_are_no_failure():
    found = minimize(lambda x: x.abs().sum(), [1.0, 2.0], bounds=(-200.0, 150.0))
    assert found.fun < 1e-6
