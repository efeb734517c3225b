"""The line searches: the strong Wolfe conditions, walls, rounding, and functions that fall for ever."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ravine.optim.full_batch.line_search import (
    Line,
    Outcome,
    Point,
    Wolfe,
    hager_zhang,
    more_thuente,
)
from ravine.optim.full_batch.objective import Objective

BOTH = pytest.mark.parametrize("search", [more_thuente, hager_zhang])


def line(phi, dtype=torch.float64, trials=None):
    """phi(alpha) as a line from x = 0 along d = 1; `trials` collects where it is evaluated."""

    def f(x):
        if trials is not None:
            trials.append(x.item())
        return phi(x.squeeze())

    objective = Objective(f, torch.zeros(1, dtype=dtype), dtype=dtype)
    value, gradient = objective.value_and_gradient(objective.x0)
    if trials is not None:
        trials.clear()
    start = Point(0.0, value, gradient.item(), objective.x0, gradient)
    return Line(objective, start, torch.ones(1, dtype=dtype)), objective


def assert_wolfe(found, along, wolfe):
    assert found.outcome is Outcome.WOLFE
    start, point = along.start, found.point
    assert point.value <= start.value + wolfe.c1 * point.alpha * start.slope
    assert abs(point.slope) <= wolfe.c2 * abs(start.slope)


def first_function(alpha):
    return -alpha / (alpha**2 + 2)


def second_function(alpha):
    return (alpha + 0.004) ** 5 - 2 * (alpha + 0.004) ** 4


def third_function(alpha):
    beta, waves = 0.01, 39
    if alpha <= 1 - beta:
        bent = 1 - alpha
    elif alpha >= 1 + beta:
        bent = alpha - 1
    else:
        bent = (alpha - 1) ** 2 / (2 * beta) + beta / 2
    half = waves * math.pi / 2
    return bent + 2 * (1 - beta) / (waves * math.pi) * torch.sin(half * alpha)


def yanai(beta1, beta2):
    def gamma(beta):
        return (1 + beta**2) ** 0.5 - beta

    def phi(alpha):
        left = gamma(beta1) * ((1 - alpha) ** 2 + beta2**2) ** 0.5
        return left + gamma(beta2) * (alpha**2 + beta1**2) ** 0.5

    return phi


@pytest.mark.parametrize(
    ("phi", "wolfe", "first", "evaluations", "alpha"),
    [
        *(
            (first_function, Wolfe(1e-3, 0.1), *row)
            for row in ((1e-3, 6, 1.4), (0.1, 3, 1.4), (10.0, 1, 10.0))
        ),
        (first_function, Wolfe(1e-3, 0.1), 1e3, 4, 37.0),
        *(
            (second_function, Wolfe(0.1, 0.1), *row)
            for row in ((1e-3, 12, 1.6), (0.1, 8, 1.6), (10.0, 8, 1.6))
        ),
        (second_function, Wolfe(0.1, 0.1), 1e3, 11, 1.6),
        *(
            (third_function, Wolfe(0.1, 0.1), *row)
            for row in ((1e-3, 12, 1.0), (0.1, 12, 1.0), (10.0, 10, 1.0))
        ),
        (third_function, Wolfe(0.1, 0.1), 1e3, 13, 1.0),
        *((yanai(1e-3, 1e-3), Wolfe(1e-3, 1e-3), *row) for row in ((1e-3, 4, 0.085), (0.1, 1, 0.10))),
        *((yanai(1e-3, 1e-3), Wolfe(1e-3, 1e-3), *row) for row in ((10.0, 3, 0.35), (1e3, 4, 0.83))),
        *((yanai(1e-2, 1e-3), Wolfe(1e-3, 1e-3), *row) for row in ((1e-3, 6, 0.075), (0.1, 3, 0.078))),
        *((yanai(1e-2, 1e-3), Wolfe(1e-3, 1e-3), *row) for row in ((10.0, 7, 0.073), (1e3, 8, 0.076))),
        *((yanai(1e-3, 1e-2), Wolfe(1e-3, 1e-3), *row) for row in ((1e-3, 13, 0.93), (0.1, 11, 0.93))),
        *((yanai(1e-3, 1e-2), Wolfe(1e-3, 1e-3), *row) for row in ((10.0, 8, 0.92), (1e3, 11, 0.92))),
    ],
)
def test_more_thuente_makes_the_trials_of_the_paper(phi, wolfe, first, evaluations, alpha):
    """Tables I to VI of Moré and Thuente (1994)."""
    along, objective = line(phi)
    found = more_thuente(along, first, wolfe)
    assert_wolfe(found, along, wolfe)
    assert objective.nfev - 1 == evaluations
    assert found.point.alpha == pytest.approx(alpha, rel=0.03)


@BOTH
@settings(deadline=None)
@given(
    roots=st.lists(st.floats(-3, 30), min_size=1, max_size=3),
    first=st.floats(1e-4, 1e4),
    c2=st.floats(0.05, 0.95),
)
def test_polynomials_with_a_minimum_ahead(search, roots, first, c2):
    def phi(alpha):
        value = 0.1 * alpha**2 - alpha
        for root in roots:
            value = value + (alpha - root) ** 4 / (1 + root**4)
        return value

    along, _ = line(phi)
    if not along.start.slope < -1e-8:
        return
    wolfe = Wolfe(1e-4, c2)
    assert_wolfe(search(along, first, wolfe), along, wolfe)


@BOTH
@pytest.mark.parametrize("first", [1e-12, 1e-3, 0.7, 30.0, 1e6])
@pytest.mark.parametrize("c2", [0.1, 0.9])
def test_a_wall_is_stepped_back_from(search, first, c2):
    """Beyond 1.2 there is nothing: the minimum of 0.01 / (1.2 - a) - a is at 1.1."""
    along, objective = line(lambda alpha: -0.01 * (1 - alpha / 1.2).log() - alpha)
    found = search(along, first, Wolfe(1e-4, c2))
    assert_wolfe(found, along, Wolfe(1e-4, c2))
    assert objective.nfev < 40


@BOTH
def test_a_wall_at_the_start_is_told(search):
    along, objective = line(lambda alpha: torch.where(alpha > 0, math.nan * alpha, -alpha))
    found = search(along, 1.0, Wolfe())
    assert found.outcome is Outcome.NOT_FINITE
    assert found.point is along.start
    assert objective.nfev < 100


@BOTH
@pytest.mark.parametrize("phi", [lambda alpha: -alpha, lambda alpha: -alpha - alpha**2, torch.Tensor.neg])
def test_a_function_that_keeps_falling_is_unbounded(search, phi):
    along, objective = line(phi)
    assert search(along, 1.0, Wolfe()).outcome is Outcome.UNBOUNDED
    assert objective.nfev < 50


@BOTH
def test_minus_infinity_is_unbounded(search):
    along, _ = line(lambda alpha: torch.where(alpha > 3, -math.inf, -alpha))
    assert search(along, 1.0, Wolfe()).outcome is Outcome.UNBOUNDED


@BOTH
@pytest.mark.parametrize("longest", [0.25, 1.0, 7.0])
def test_no_trial_is_longer_than_allowed(search, longest):
    trials = []
    along, _ = line(lambda alpha: (alpha - 10) ** 2, trials=trials)
    found = search(along, 5.0, Wolfe(1e-4, 0.1), longest)
    assert max(trials) <= longest
    assert found.outcome is Outcome.IMPROVED
    assert found.point.alpha == longest


@BOTH
def test_where_values_are_equal_but_for_rounding_slopes_decide(search):
    """The fall of 1e-12 is lost beside 1e6; the slope still tells where the minimum is."""
    along, _ = line(lambda alpha: 1e6 + 1e-12 * (alpha - 1) ** 2)
    found = search(along, 0.5, Wolfe(1e-4, 0.1))
    assert found.outcome is Outcome.WOLFE
    assert found.point.alpha == pytest.approx(1.0, abs=0.11)


@BOTH
def test_a_first_step_too_long_by_far_costs_few_trials(search):
    along, objective = line(lambda alpha: (alpha - 1) ** 2 + 3)
    assert_wolfe(search(along, 1e100, Wolfe(1e-4, 0.1)), along, Wolfe(1e-4, 0.1))
    assert objective.nfev < 6


@BOTH
def test_a_kink_ends_with_an_improvement(search):
    """|a - 1| has no point with a small slope."""
    along, objective = line(lambda alpha: (alpha - 1).abs())
    found = search(along, 0.3, Wolfe(1e-4, 0.5))
    assert found.outcome is Outcome.IMPROVED
    assert found.point.value < along.start.value
    assert objective.nfev < 80


@BOTH
def test_a_slope_of_the_wrong_sign_fails(search):
    along, objective = line(lambda alpha: alpha)
    wrong = Line(
        objective, Point(0.0, 0.0, -1.0, along.start.x, along.start.gradient), -torch.ones(1).double()
    )
    objective.value_and_gradient = lambda x: (x.abs().item(), torch.ones(1, dtype=torch.float64))
    found = search(wrong, 1.0, Wolfe())
    assert found.outcome is Outcome.FAILED
    assert found.point is wrong.start


@BOTH
def test_float32_is_enough(search):
    along, _ = line(lambda alpha: (alpha - 2) ** 4 + (alpha - 2) ** 2, dtype=torch.float32)
    found = search(along, 1e-3, Wolfe(1e-4, 0.01))
    assert_wolfe(found, along, Wolfe(1e-4, 0.01))
    assert found.point.x.dtype == torch.float32


def test_a_settled_point_is_the_one_evaluated():
    objective = Objective(lambda x: x.square().sum(), [1.0])
    start = Point(0.0, 1.0, -2.0, objective.x0, torch.tensor([2.0]).double())
    along = Line(objective, start, -torch.ones(1).double(), lambda x, alpha: x.clamp(min=0.5))
    assert along.at(0.7).x.item() == 0.5
    assert along.at(0.7).value == 0.25


@pytest.mark.parametrize(("c1", "c2"), [(0.0, 0.9), (0.5, 0.1), (0.1, 1.0), (math.nan, 0.9)])
def test_impossible_conditions_are_refused(c1, c2):
    with pytest.raises(ValueError, match="0 < c1 <= c2 < 1"):
        Wolfe(c1, c2)
