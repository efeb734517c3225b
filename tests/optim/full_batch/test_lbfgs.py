"""L-BFGS: the history against the textbook's two loops and against BFGS, and whole runs against SciPy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from ravine.lab.problems import more_garbow_hillstrom as mgh
from ravine.optim.full_batch.bfgs import InverseHessian
from ravine.optim.full_batch.curvature import Pair, observe, rescaled
from ravine.optim.full_batch.history import History
from ravine.optim.full_batch.lbfgs import LBFGS
from ravine.optim.full_batch.minimize import minimize


def pairs_of(n, count, seed, condition=1e3):
    """Steps and changes of the gradient of a random quadratic."""
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    hessian = q * torch.logspace(0, math.log10(condition), n, dtype=torch.float64) @ q.T
    for _ in range(count):
        s = torch.randn(n, generator=generator, dtype=torch.float64)
        yield observe(s, hessian @ s)


def two_loops(pairs, gamma, gradient):
    """Nocedal and Wright, algorithm 7.4, word for word."""
    q, alphas = gradient.clone(), []
    for pair in reversed(pairs):
        alpha = (pair.s @ q) / (pair.y @ pair.s)
        q = q - alpha * pair.y
        alphas.append(alpha)
    r = gamma * q
    for pair, alpha in zip(pairs, reversed(alphas), strict=True):
        beta = (pair.y @ r) / (pair.y @ pair.s)
        r = r + (alpha - beta) * pair.s
    return -r


@settings(deadline=None)
@given(memory=st.integers(1, 8), count=st.integers(0, 20), seed=st.integers(0, 1000))
def test_the_direction_is_that_of_the_two_loops(memory, count, seed):
    history = History(memory, torch.zeros(9, dtype=torch.float64), gamma=0.7)
    pairs = list(pairs_of(9, count, seed))
    for pair in pairs:
        history.add(pair)
    gradient = torch.randn(9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = two_loops(pairs[-memory:], history.gamma, gradient)
    slack = 1e-9 * expected.abs().max().item()
    torch.testing.assert_close(history.direction(gradient), expected, rtol=1e-9, atol=slack)
    assert history.count == min(memory, count)


def test_with_room_for_every_step_it_is_bfgs():
    n, gamma = 6, 0.3
    like = torch.zeros(n, dtype=torch.float64)
    history, matrix = History(20, like), InverseHessian(like, gamma)
    for step, pair in enumerate(pairs_of(n, 15, seed=3)):
        history.add(pair)
        history.gamma = gamma
        matrix.update(pair)
        gradient = torch.cos(torch.arange(n, dtype=torch.float64) + step)
        torch.testing.assert_close(
            history.direction(gradient), matrix.direction(gradient), rtol=1e-10, atol=1e-12
        )


def test_the_newest_pair_keeps_the_secant_equation():
    history = History(4, torch.zeros(5, dtype=torch.float64))
    for pair in pairs_of(5, 9, seed=1):
        history.add(pair)
        torch.testing.assert_close(history.direction(pair.y), -pair.s)


def test_gamma_is_a_running_geometric_mean_and_survives_clearing():
    history = History(3, torch.zeros(2, dtype=torch.float64), gamma=123.0)
    one = torch.ones(2, dtype=torch.float64)
    history.add(observe(one, one / 2))
    assert history.gamma == pytest.approx(1.5 * 2)
    history.add(observe(one, one / 8))
    assert history.gamma == pytest.approx(1.5 * 2**0.7 * 8**0.3)
    history.clear()
    assert history.direction(one).tolist() == pytest.approx([-history.gamma] * 2)
    history.add(observe(one, one / 5))
    assert history.gamma == pytest.approx(1.5 * 5)


def test_a_history_goes_on_from_its_state():
    pairs = list(pairs_of(7, 12, seed=5))
    whole, first = (History(4, torch.zeros(7, dtype=torch.float64)) for _ in range(2))
    for pair in pairs[:6]:
        whole.add(pair)
        first.add(pair)
    state = first.state_dict()
    first.add(pairs[0])
    second = History(4, torch.zeros(7, dtype=torch.float64))
    second.load_state_dict(state)
    for pair in pairs[6:]:
        whole.add(pair)
        second.add(pair)
        assert torch.equal(whole.direction(pair.s), second.direction(pair.s))


def test_a_state_of_another_size_is_refused():
    state = History(4, torch.zeros(7)).state_dict()
    with pytest.raises(ValueError, match=r"state is of \(4, 7\) numbers, but this history holds \(5, 7\)"):
        History(5, torch.zeros(7)).load_state_dict(state)


def test_a_history_needs_memory():
    with pytest.raises(ValueError, match="Invalid memory: 0"):
        History(0, torch.zeros(2))


@pytest.mark.parametrize("unit_f", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("unit_x", [1e-20, 1.0, 1e20])
def test_whether_a_pair_is_believed_does_not_depend_on_units(unit_f, unit_x):
    s = torch.tensor([1.0, 0.0], dtype=torch.float64) * unit_x
    straight = torch.tensor([1e-12, 1.0], dtype=torch.float64) * unit_f / unit_x
    across = torch.tensor([1e-17, 1.0], dtype=torch.float64) * unit_f / unit_x
    against = torch.tensor([-1e-3, 1.0], dtype=torch.float64) * unit_f / unit_x
    assert observe(s, straight) is not None
    assert observe(s, across) is None
    assert observe(s, against) is None


def test_negative_curvature_is_damped_to_a_fifth_of_what_was_expected():
    s = torch.tensor([1.0, 2.0], dtype=torch.float64)
    y = torch.tensor([-3.0, 0.5], dtype=torch.float64)
    bs = torch.tensor([4.0, 1.0], dtype=torch.float64)
    pair = observe(s, y, bs)
    assert pair.sy == pytest.approx(0.2 * torch.dot(s, bs).item())
    between = (pair.y - y) / (bs - y)
    assert between[0].item() == pytest.approx(between[1].item())
    assert observe(s, y, -bs) is None


def test_numbers_too_small_to_divide_are_no_pair():
    tiny = torch.full((3,), 1e-30)
    assert observe(tiny, tiny) is None
    assert observe(torch.zeros(3), torch.zeros(3)) is None


def test_rescaled_without_and_with_a_past():
    pair = Pair(torch.ones(1), torch.ones(1), 4.0, 2.0)
    assert rescaled(None, pair) == 3.0
    assert rescaled(3.0, pair) == pytest.approx(3.0)


def as_scipy(problem):
    def f(x):
        point = torch.from_numpy(x).requires_grad_()
        value = problem(point)
        return value.item(), torch.autograd.grad(value, point)[0].numpy()

    return f


def test_it_takes_no_more_evaluations_than_scipy():
    """The median ratio over all problems of Moré, Garbow and Hillstrom, to the same gradient."""
    ratios = []
    for problem in mgh.collection():
        peer = optimize.minimize(
            as_scipy(problem),
            problem.x0().numpy(),
            jac=True,
            method="L-BFGS-B",
            options={"maxcor": 10, "ftol": 0.0, "gtol": 1e-6, "maxfun": 2000},
        )
        found = minimize(problem, problem.x0(), tol=1e-6, options={"memory": 10, "maxfun": 2000})
        if found.success:
            ratios.append(found.nfev / peer.nfev)
    assert len(ratios) >= 35
    assert np.median(ratios) <= 1.0


@pytest.mark.parametrize("search", ["more-thuente", "hager-zhang"])
@pytest.mark.parametrize(
    "problem", [mgh.wood(), mgh.osborne_2(), mgh.extended_rosenbrock(100)], ids=lambda problem: problem.name
)
def test_both_line_searches_solve(problem, search):
    found = minimize(problem, problem.x0(), options={"line_search": search})
    assert found.success and problem.reached(found.fun)


def test_float32_reaches_the_precision_of_float32():
    problem = mgh.broyden_tridiagonal(50)
    found = minimize(problem, problem.x0(torch.float32), dtype=torch.float32)
    assert found.success, found.message
    assert found.x.dtype == torch.float32
    assert found.fun < 1e-5


def test_negative_curvature_on_the_way_is_no_obstacle():
    """From near a maximum of a double well, where every first pair curves the wrong way."""
    found = minimize(lambda x: ((x**2 - 1) ** 2).sum(), torch.linspace(-0.1, 0.1, 8), tol=1e-9)
    assert found.success
    assert found.x.abs().tolist() == pytest.approx([1.0] * 8)


def test_an_unknown_line_search_is_refused():
    with pytest.raises(ValueError, match="'backtracking'; valid are more-thuente, hager-zhang"):
        minimize(lambda x: x.sum(), [1.0], options={"line_search": "backtracking"})
    with pytest.raises(ValueError, match="Invalid memory: 0"):
        minimize(lambda x: x.square().sum(), [1.0], options={"memory": 0})
    assert LBFGS().memory == 10
