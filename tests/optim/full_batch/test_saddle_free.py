import pytest
import torch
from walking import rosenbrock, saddle, walk

from ravine.optim.full_batch.newton import Newton, newton_step
from ravine.optim.full_batch.result import Reason
from ravine.optim.full_batch.saddle_free import SaddleFreeNewton
from ravine.optim.full_batch.subproblem import AbsoluteModel

F64 = torch.float64


def test_the_step_is_newtons_with_the_curvature_down_turned_round():
    gradient = torch.tensor([3.0, 4.0], dtype=F64)
    hessian = torch.diag(torch.tensor([2.0, -8.0], dtype=F64))
    step = AbsoluteModel(gradient, hessian).solve(float("inf")).step
    torch.testing.assert_close(step, torch.tensor([-1.5, -0.5], dtype=F64))
    torch.testing.assert_close(newton_step(gradient, hessian), torch.tensor([-1.5, 0.5], dtype=F64))


def test_near_a_saddle_it_is_driven_off_as_fast_as_newton_is_drawn_in():
    away = walk(SaddleFreeNewton(), saddle, torch.tensor([0.5, 1e-3]), maxiter=1).last.x
    drawn = walk(Newton(plain=True), saddle, torch.tensor([0.5, 1e-3]), maxiter=1).last.x
    assert float(drawn[1]) == pytest.approx(0.0, abs=1e-8)
    assert float(away[1]) >= 2e-3 * (1 - 1e-5)  # 1e-3 and the same again, or more where that proved right
    torch.testing.assert_close(away[0], drawn[0])


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_it_leaves_to_the_side_on_which_it_began(sign):
    found = walk(SaddleFreeNewton(), saddle, torch.tensor([0.5, sign * 1e-4]), gtol=1e-9, grtol=0.0)
    torch.testing.assert_close(found.last.x, torch.tensor([0.0, sign], dtype=F64), rtol=0, atol=1e-8)


def test_a_saddle_in_many_dimensions():
    # Of n eigenvalues half are negative: the product of double wells and bowls, turned by a rotation.
    n = 20
    turn = torch.linalg.qr(torch.randn(n, n, dtype=F64, generator=torch.manual_seed(1))).Q

    def f(x):
        y = turn @ x
        wells, bowls = y[: n // 2], y[n // 2 :]
        return (0.25 * wells**4 - 0.5 * wells**2).sum() + 0.5 * bowls.square().sum()

    x0 = 1e-3 * torch.randn(n, dtype=F64, generator=torch.manual_seed(2))
    found = walk(SaddleFreeNewton(), f, x0, gtol=1e-8, grtol=0.0)
    assert found.last.value == pytest.approx(-0.25 * n / 2, abs=1e-10)
    plain = walk(Newton(plain=True), f, x0, gtol=1e-8, grtol=0.0)
    assert plain.last.value == pytest.approx(0.0, abs=1e-10)
    assert plain.reason is Reason.GRADIENT


def test_without_negative_curvature_it_is_newton():
    def f(x):
        return torch.exp(x).sum() + x.square().sum()

    x0 = torch.tensor([0.1, -0.2, 0.3])
    a, b = walk(SaddleFreeNewton(), f, x0), walk(Newton(plain=True), f, x0)
    for ours, newtons in zip(a.path, b.path, strict=True):
        torch.testing.assert_close(ours.x, newtons.x)


def test_rosenbrock():
    found = walk(SaddleFreeNewton(), rosenbrock, torch.tensor([-1.2, 1.0]), grtol=1e-10)
    torch.testing.assert_close(found.last.x, torch.ones(2, dtype=F64), rtol=0, atol=1e-8)
