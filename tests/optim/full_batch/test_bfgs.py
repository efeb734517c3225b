"""BFGS: the update against its definition, and what is proved of it on quadratics."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from torch.utils._python_dispatch import TorchDispatchMode

from ravine.lab.problems import more_garbow_hillstrom as mgh
from ravine.optim.full_batch.bfgs import InverseHessian
from ravine.optim.full_batch.curvature import observe
from ravine.optim.full_batch.minimize import minimize
from ravine.optim.full_batch.result import Reason


def quadratic(n, seed, condition=100.0):
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    return q * torch.linspace(1.0, condition, n, dtype=torch.float64) @ q.T


def vectors(n, count, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, n, generator=generator, dtype=torch.float64)


@settings(deadline=None)
@given(n=st.integers(1, 8), seed=st.integers(0, 1000))
def test_the_update_is_its_definition(n, seed):
    hessian, one = quadratic(n, seed), torch.eye(n, dtype=torch.float64)
    learned, expected = InverseHessian(one[0], 0.1), 0.1 * one
    for s in vectors(n, 5, seed):
        pair = observe(s, hessian @ s)
        rho = 1 / pair.sy
        left = one - rho * torch.outer(s, pair.y)
        expected = left @ expected @ left.T + rho * torch.outer(s, s)
        learned.update(pair)
        torch.testing.assert_close(learned.matrix, expected, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(learned.matrix @ pair.y, s, rtol=1e-8, atol=1e-10)
        assert torch.linalg.eigvalsh(learned.matrix)[0] > 0


@pytest.mark.parametrize("n", [1, 2, 5, 12])
@pytest.mark.parametrize("seed", [0, 1])
def test_exact_steps_on_a_quadratic_end_in_n_and_leave_the_inverse(n, seed):
    hessian, minimum = quadratic(n, seed), vectors(n, 1, seed)[0]
    x = torch.zeros_like(minimum)
    learned = InverseHessian(x, 1.0)
    for _ in range(n):
        gradient = hessian @ (x - minimum)
        direction = learned.direction(gradient)
        alpha = -(gradient @ direction) / (direction @ hessian @ direction)
        step = alpha * direction
        learned.update(observe(step, hessian @ step))
        x = x + step
    torch.testing.assert_close(x, minimum, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(learned.matrix, torch.linalg.inv(hessian), rtol=1e-7, atol=1e-9)


def test_minimize_with_a_nearly_exact_line_search_ends_in_n_iterations():
    n = 8
    hessian, minimum = quadratic(n, 4), vectors(n, 1, 5)[0]

    def f(x):
        return (x - minimum) @ hessian @ (x - minimum) / 2

    found = minimize(f, torch.zeros(n), "bfgs", options={"c1": 1e-12, "c2": 1e-9, "grtol": 1e-7})
    assert found.reason is Reason.GRADIENT
    assert found.nit <= n
    torch.testing.assert_close(found.x, minimum, rtol=1e-6, atol=1e-6)


class Work(TorchDispatchMode):
    """Counts multiplications: of products by their shapes, of anything else one for each element."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
        if func.overloadpacket.__name__ in ("mm", "mv", "addmm", "addmm_", "addmv"):
            left, right = tensors[-2:]
            self.total += left.numel() * (right.shape[1] if right.dim() == 2 else 1)
        elif isinstance(result, torch.Tensor):
            self.total += result.numel()
        return result


def work(n):
    learned = InverseHessian(torch.zeros(n), 1.0)
    pair = observe(torch.ones(n), torch.ones(n))
    learned.add(pair)
    with Work() as counted:
        learned.add(pair)
        learned.direction(pair.y)
    return counted.total


def test_an_update_costs_the_square_of_n():
    """Two products of the matrix with a vector and one update of rank two."""
    for n in (64, 256):
        assert 4 * n**2 <= work(n) <= 5 * n**2 + 50 * n


def test_the_first_pair_sets_the_scale():
    learned = InverseHessian(torch.zeros(3, dtype=torch.float64), 1e6)
    learned.add(observe(torch.tensor([1.0, 0, 0]).double(), torch.tensor([4.0, 0, 0]).double()))
    torch.testing.assert_close(learned.matrix, torch.eye(3, dtype=torch.float64) / 4)


def test_it_goes_on_from_its_state():
    hessian = quadratic(4, 0)
    steps = vectors(4, 6, 1)
    whole, first = (InverseHessian(steps[0], 1.0) for _ in range(2))
    for s in steps[:3]:
        whole.add(observe(s, hessian @ s))
        first.add(observe(s, hessian @ s))
    state = first.state_dict()
    first.clear()
    second = InverseHessian(steps[0], 7.0)
    second.load_state_dict(state)
    for s in steps[3:]:
        whole.add(observe(s, hessian @ s))
        second.add(observe(s, hessian @ s))
    assert torch.equal(whole.matrix, second.matrix)
    with pytest.raises(ValueError, match="of 4 parameters, but this matrix of 3"):
        InverseHessian(torch.zeros(3)).load_state_dict(state)


@pytest.mark.parametrize(
    "problem", [mgh.helical_valley(), mgh.kowalik_osborne(), mgh.osborne_1(), mgh.chebyquad(8)]
)
def test_it_finds_the_minima_of_scipy(problem):
    def f(x):
        point = torch.from_numpy(x).requires_grad_()
        value = problem(point)
        return value.item(), torch.autograd.grad(value, point)[0].numpy()

    peer = optimize.minimize(f, problem.x0().numpy(), jac=True, method="BFGS", options={"gtol": 1e-8})
    found = minimize(problem, problem.x0(), "bfgs", tol=1e-8)
    assert found.success
    assert found.fun == pytest.approx(peer.fun, rel=1e-8, abs=1e-14)
