"""The rules against the lecture's formulas, worked out by hand, on floats and on tensors."""

import copy
import math
import pickle

import pytest
import torch

from ravine.optim import rules
from ravine.optim.rule import Rule, rule

EVERY_RULE = [part for part in vars(rules).values() if isinstance(part, Rule)]


def test_gradient_descent_by_hand():
    assert rules.gradient_descent(2.0, 0.5, 1, 0.1) == pytest.approx((1.95,))


def test_momentum_by_hand():
    x, v = rules.momentum(1.0, 2.0, 3.0, 1, 0.1, 0.9)
    assert (x, v) == pytest.approx((1 - 0.1 * 4.7, 0.9 * 3 + 2))


def test_adagrad_by_hand():
    x, s = rules.adagrad(1.0, 2.0, 5.0, 1, 0.1, 1e-7)
    assert (x, s) == pytest.approx((1 - 0.1 * 2 / (3 + 1e-7), 9.0), abs=1e-15)


def test_rmsprop_by_hand():
    x, s = rules.rmsprop(1.0, 2.0, 5.0, 1, 0.1, 0.75, 1e-7)
    assert s == pytest.approx(0.75 * 5 + 0.25 * 4)
    assert x == pytest.approx(1 - 0.1 * 2 / (math.sqrt(s) + 1e-7))


def test_centered_rmsprop_divides_by_the_standard_deviation():
    x, s, g = rules.rmsprop_centered(1.0, 2.0, 5.0, 1.0, 1, 0.1, 0.75, 0.0)
    assert x == pytest.approx(1 - 0.1 * 2 / math.sqrt(s - g**2))
    assert g == pytest.approx(0.75 + 0.5)


def test_adam_by_hand():
    x, m, v = rules.adam(1.0, 2.0, 0.3, 0.4, 3, 0.1, 0.9, 0.99, 1e-7)
    assert (m, v) == pytest.approx((0.9 * 0.3 + 0.1 * 2, 0.99 * 0.4 + 0.01 * 4))
    corrected = (m / (1 - 0.9**3), v / (1 - 0.99**3))
    assert x == pytest.approx(1 - 0.1 * corrected[0] / (math.sqrt(corrected[1]) + 1e-7))


@pytest.mark.parametrize("gradient", [1e-3, 1.0, -50.0])
def test_first_step_without_bias_correction_is_3_16_times_the_rate(gradient):
    """C13: (1−β₁)/√(1−β₂) = 3.16; the correction makes it 1."""
    almost = rules.almost_adam(0.0, gradient, 0.0, 0.0, 1, 0.01, 0.9, 0.999, 0.0)[0]
    full = rules.adam(0.0, gradient, 0.0, 0.0, 1, 0.01, 0.9, 0.999, 0.0)[0]
    assert abs(almost) / 0.01 == pytest.approx(0.1 / math.sqrt(0.001))
    assert abs(full) / 0.01 == pytest.approx(1.0)


def test_adam_tends_to_adam_without_correction():
    """After infinitely many steps the correction is 1."""
    arguments = (1.0, 2.0, 0.3, 0.4)
    late = rules.adam(*arguments, math.inf, 0.1, 0.9, 0.99, 1e-7)
    assert late == pytest.approx(rules.almost_adam(*arguments, 1, 0.1, 0.9, 0.99, 1e-7), rel=1e-14)


def test_amsgrad_never_divides_by_less():
    first = rules.amsgrad(0.0, 10.0, 0.0, 0.0, 0.0, 1, 0.1, 0.9, 0.5, 0.0)
    x, m, v, top = rules.amsgrad(first[0], 0.1, *first[1:], 2, 0.1, 0.9, 0.5, 0.0)
    assert v < top == first[3]
    assert x == pytest.approx(first[0] - 0.1 * (m / (1 - 0.81)) / math.sqrt(top / 0.75))


def test_nadam_by_hand():
    """The second step of Dozat's algorithm 2, with μ₁, μ₂ and μ₃ written out."""
    first, second, third = (0.9 * (1 - 0.5 * 0.96 ** (t * 0.004)) for t in (1, 2, 3))
    x, m, v = rules.nadam(1.0, 2.0, 0.3, 0.4, 2, 0.1, first * second, 0.004, 0.9, 0.99, 1e-7)
    assert (m, v) == pytest.approx((0.9 * 0.3 + 0.1 * 2, 0.99 * 0.4 + 0.01 * 4))
    ahead = third * m / (1 - first * second * third) + (1 - second) * 2.0 / (1 - first * second)
    assert x == pytest.approx(1 - 0.1 * ahead / (math.sqrt(v / (1 - 0.99**2)) + 1e-7))


def test_adamax_by_hand():
    x, m, u = rules.adamax(1.0, -2.0, 0.3, 5.0, 3, 0.1, 0.9, 0.5, 1e-7)
    assert (m, u) == pytest.approx((0.9 * 0.3 - 0.1 * 2, 2.5))
    assert x == pytest.approx(1 - 0.1 / (1 - 0.9**3) * m / u)
    assert rules.adamax(1.0, -2.0, 0.3, 3.0, 3, 0.1, 0.9, 0.5, 0.5)[2] == 2.5


def test_adadelta_by_hand():
    x, s, u = rules.adadelta(1.0, 2.0, 5.0, 0.25, 1, 0.5, 0.75, 0.01)
    assert s == pytest.approx(0.75 * 5 + 0.25 * 4)
    delta = math.sqrt(0.26) / math.sqrt(s + 0.01) * 2
    assert (x, u) == pytest.approx((1 - 0.5 * delta, 0.75 * 0.25 + 0.25 * delta**2))


def test_nesterov_follows_the_look_ahead_path():
    """C8: the lecture's two forms, on a quadratic with another curvature in each direction.

    Look-ahead: v ← ρv − α∇f(y + ρv); y ← y + v. The rearranged x is the point looked at, y + ρv.
    """
    curvature = torch.tensor([1.0, 7.0, 30.0], dtype=torch.float64)
    rate, rho = 0.01, 0.9
    y = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    x, ahead, velocity = y.clone(), torch.zeros_like(y), torch.zeros_like(y)
    for step in range(1000):
        torch.testing.assert_close(x, y + rho * ahead, rtol=1e-12, atol=1e-13)
        x, velocity = rules.nesterov(x, curvature * x, velocity, step + 1, rate, rho)
        ahead = rho * ahead - rate * curvature * (y + rho * ahead)
        y = y + ahead
    assert y.abs().max() < 1e-3


def test_nesterov_is_the_lectures_rearrangement():
    """x + v⁺ + ρ(v⁺ − v) with v⁺ = ρv − α·dx, where the lecture's v is −α times ours."""
    x, dx, velocity, rate, rho = 1.0, 2.0, 3.0, 0.1, 0.9
    old = -rate * velocity
    new = rho * old - rate * dx
    assert rules.nesterov(x, dx, velocity, 1, rate, rho)[0] == pytest.approx(x + new + rho * (new - old))


@pytest.mark.parametrize("each", EVERY_RULE, ids=lambda each: each.name)
def test_floats_and_tensors_agree(each):
    generator = torch.Generator().manual_seed(3)
    values = torch.rand(2 + len(each.state), 7, dtype=torch.float64, generator=generator) + 0.1
    if "grad_avg" in each.state:
        values[2 + each.state.index("grad_avg")] *= 0.1
    numbers = [0.5] * len(each.hyperparameters)
    together = each(*values, 3.0, *numbers)
    for column in range(7):
        alone = each(*values[:, column].tolist(), 3.0, *numbers)
        assert alone == pytest.approx([float(result[column]) for result in together], rel=1e-14)


def test_signature_is_read():
    assert rules.adam.state == ("exp_avg", "exp_avg_sq")
    assert rules.adam.hyperparameters == ("lr", "beta1", "beta2", "eps")
    assert rules.gradient_descent.state == ()


def test_wrong_signature_is_refused():
    with pytest.raises(TypeError, match=r"must take \(x, dx, v, t, lr, \.\.\.\), not \(x, dx, t, lr\)"):

        @rule(state=("v",))
        def forgetful(x, dx, t, lr):
            return x, dx


def test_only_arguments_by_position_are_taken():
    with pytest.raises(TypeError, match=r"must take \(x, dx, t, lr, \.\.\.\).*beta.*by position"):

        @rule()
        def by_name(x, dx, t, lr, *, beta=0.9):
            return (x,)


def test_defaults_are_those_of_the_signature():
    assert rules.adam.defaults == {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}

    @rule()
    def own(x, dx, t, lr=0.5, power=2):
        return (x - lr * dx,)

    assert own.defaults == {"lr": 0.5, "power": 2}


@pytest.mark.parametrize(
    ("returned", "told"), [((1.0,), "1 values"), (1.0, "a float"), ([1.0, 2.0], "a list")]
)
def test_a_rule_that_returns_something_else_is_refused(returned, told):
    @rule(state=("v",))
    def forgetful(x, dx, v, t, lr):
        return returned

    with pytest.raises(TypeError, match=rf"'forgetful' must return \(x, v\), not {told}"):
        forgetful(1.0, 1.0, 1.0, 1, 0.1)


def test_a_rule_is_found_again_by_its_name():
    """As functions are pickled, copied and documented."""
    assert pickle.loads(pickle.dumps(rules.adam)) is rules.adam
    assert copy.deepcopy(rules.adam) is copy.copy(rules.adam) is rules.adam
    assert rules.adam.__doc__.startswith("T7")
    assert rules.adam.__module__ == "ravine.optim.rules.lecture"
