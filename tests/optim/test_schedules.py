"""Schedules in closed form, against torch's schedulers, with durations, resumed and drawn."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from ravine import registry
from ravine.errors import RecipeError
from ravine.optim import SGD, Adam, schedules
from ravine.optim.schedules import parse_duration


def optimizer(lr=0.5):
    return SGD([torch.nn.Parameter(torch.ones(2))], lr=lr)


def rates(scheduler, steps):
    seen = []
    for _ in range(steps):
        seen.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return seen


AGAINST_TORCH = {
    "step": (
        lambda o: schedules.Step(o, every=7, gamma=0.3),
        lambda o: lr_scheduler.StepLR(o, 7, gamma=0.3),
    ),
    "multistep": (
        lambda o: schedules.MultiStep(o, milestones=[5, "20 steps"], gamma=0.3),
        lambda o: lr_scheduler.MultiStepLR(o, [5, 20], gamma=0.3),
    ),
    "exponential": (
        lambda o: schedules.Exponential(o, k=0.05, every=1),
        lambda o: lr_scheduler.ExponentialLR(o, math.exp(-0.05)),
    ),
    "cosine": (
        lambda o: schedules.Cosine(o, total_steps=60, final=0.1),
        lambda o: lr_scheduler.CosineAnnealingLR(o, 60, eta_min=0.05),
    ),
    "linear": (
        lambda o: schedules.Linear(o, total_steps=40, final=0.2),
        lambda o: lr_scheduler.LinearLR(o, 1.0, 0.2, 40),
    ),
    "polynomial": (
        lambda o: schedules.Polynomial(o, total_steps=40, power=3),
        lambda o: lr_scheduler.PolynomialLR(o, 40, 3),
    ),
    "one_cycle": (
        lambda o: schedules.OneCycle(o, total_steps=60),
        lambda o: lr_scheduler.OneCycleLR(o, 0.5, total_steps=60, cycle_momentum=False),
    ),
    "one_cycle, linear": (
        lambda o: schedules.OneCycle(o, total_steps=60, rise="50%", start=0.1, final=0.01, anneal="linear"),
        lambda o: lr_scheduler.OneCycleLR(
            o,
            0.5,
            total_steps=60,
            pct_start=0.5,
            anneal_strategy="linear",
            div_factor=10,
            final_div_factor=10,
            cycle_momentum=False,
        ),
    ),
    "cosine_restarts": (
        lambda o: schedules.CosineRestarts(o, period=8, growth=2, final=0.1),
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 8, 2, eta_min=0.05),
    ),
    "cosine_restarts, even": (
        lambda o: schedules.CosineRestarts(o, period=8),
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 8),
    ),
}


@pytest.mark.parametrize(("ours", "theirs"), AGAINST_TORCH.values(), ids=AGAINST_TORCH.keys())
def test_against_torch(ours, theirs):
    assert rates(ours(optimizer()), 60) == pytest.approx(rates(theirs(optimizer()), 60), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("make", "formula"),
    [
        (lambda o: schedules.Constant(o), lambda n: 1),
        (
            lambda o: schedules.Exponential(o, k=0.3, every="2 epochs", steps_per_epoch=5),
            lambda n: math.exp(-0.03 * n),
        ),
        (lambda o: schedules.Inverse(o, k=0.3, steps_per_epoch=10), lambda n: 1 / (1 + 0.03 * n)),
        (lambda o: schedules.InverseSqrt(o, timescale=4), lambda n: 1 / math.sqrt(1 + n / 4)),
        (
            lambda o: schedules.FastGeometric(o, start=20, period=10, high=0.6, low=0.1),
            lambda n: (
                0.1 + 0.45 * (1 + math.cos(math.pi * n / 20))
                if n < 20
                else [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.5, 0.4, 0.3, 0.2][n % 10]
            ),
        ),
        (
            lambda o: schedules.Step(o, every="1 epoch", steps_per_epoch=10, gamma=0.5),
            lambda n: 0.5 ** (n // 10),
        ),
        (
            lambda o: schedules.Polynomial(o, power=2, final=0.5, total_steps=50),
            lambda n: 0.5 + 0.5 * (1 - min(n, 50) / 50) ** 2,
        ),
        (
            lambda o: schedules.InverseSqrt(o, warmup=9),
            lambda n: min((n + 1) / 10, math.sqrt(9 / max(n, 9))),
        ),
        (
            lambda o: schedules.Cosine(o, warmup="10%", total_steps=100),
            lambda n: (n + 1) / 11 if n < 10 else (1 + math.cos(math.pi * min(1, (n - 10) / 90))) / 2,
        ),
        (
            lambda o: schedules.MultiStep(o, warmup=4, milestones=[6, 8], gamma=0.1),
            lambda n: (n + 1) / 5 if n < 4 else 0.1 ** ((n >= 6) + (n >= 8)),
        ),
    ],
)
def test_closed_form(make, formula):
    schedule = make(optimizer(0.5))
    expected = [formula(n) for n in range(120)]
    assert schedule.curve(120) == pytest.approx(expected, rel=1e-12)
    assert schedule.optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * expected[0]), (
        "drawing left it alone"
    )
    assert rates(schedule, 120) == pytest.approx([0.5 * factor for factor in expected], rel=1e-12)


def make_any(name, **more):
    return registry.lookup("schedule", name)(optimizer(), total_steps=200, steps_per_epoch=20, **more)


@pytest.mark.parametrize("name", registry.names("schedule"))
def test_every_schedule_by_its_name(name):
    """Defaults work, warm-up rises without a jump, factors stay within (0, 1]."""
    curve = make_any(name, warmup="1 epoch").curve(200)
    assert all(0 <= factor <= 1 for factor in curve)
    assert curve[:20] == sorted(curve[:20])
    assert 0 < curve[0] < curve[19] <= curve[20] or name == "one_cycle"
    assert registry.entries("schedule")[0].description


@pytest.mark.parametrize("name", registry.names("schedule"))
def test_resumed_equals_uninterrupted(name):
    straight = make_any(name)
    expected = rates(straight, 150)
    first = make_any(name)
    seen = rates(first, 70)
    state = json.loads(json.dumps(first.state_dict()))
    second = make_any(name)
    second.load_state_dict(state)
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    assert seen + rates(second, 80) == expected


def test_groups_keep_their_proportions_and_tensor_rates_stay_tensors():
    params = [torch.nn.Parameter(torch.ones(1)) for _ in range(2)]
    made = Adam([{"params": [params[0]], "lr": 0.1}, {"params": [params[1]], "lr": torch.tensor(0.4)}])
    schedule = schedules.Linear(made, total_steps=10)
    for _ in range(5):
        made.step()
        schedule.step()
    assert made.param_groups[0]["lr"] == pytest.approx(0.05)
    assert made.param_groups[1]["lr"] == torch.tensor(0.2)
    assert schedule.get_last_lr()[0] == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("duration", "steps"),
    [
        (7, 7),
        ("500 steps", 500),
        ("1 step", 1),
        ("2 epochs", 100),
        ("1.5 epochs", 75),
        ("1 epoch", 50),
        ("10%", 100),
        (" 2.5 % ", 25),
        (".5 epochs", 25),
        ("0 steps", 0),
    ],
)
def test_durations(duration, steps):
    assert parse_duration(duration, 50, 1000) == steps


@given(st.integers(0, 10**9))
def test_steps_are_steps(count):
    assert parse_duration(count, None, None) == parse_duration(f"{count} steps", None, None) == count


@pytest.mark.parametrize(
    ("duration", "message"),
    [
        ("soon", "'soon' is no duration; write 500, '500 steps'"),
        ("5", "'5' is no duration"),
        ("-2 epochs", "'-2 epochs' is no duration"),
        (-3, "a duration cannot be negative, as -3 is"),
        (True, "True is no duration"),
        (2.5, "2.5 is no duration"),
        ("1.5 steps", "'1.5 steps' is no whole number of steps"),
        ("2 epochs", "'2 epochs' counts epochs, and how many steps an epoch has is not known"),
        ("10%", "'10%' is a share of all steps, and how many there are is not known"),
    ],
)
def test_unclear_durations(duration, message):
    with pytest.raises(RecipeError, match=message):
        parse_duration(duration, None, None)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("cosine", {"total_steps": None}, "Cosine must know how long the training is: give total_steps"),
        ("cosine", {"warmup": 201}, "schedule.warmup takes 201 steps of 200 in all: shorten it"),
        ("cosine", {"final": 1.5}, r"schedule.final must be between 0 and 1, not 1.5"),
        ("none", {"total_steps": 0}, "schedule: total_steps must be at least 1, not 0"),
        ("none", {"steps_per_epoch": -1}, "schedule: steps_per_epoch must be at least 1, not -1"),
        ("step", {"gamma": 0}, "schedule.gamma must be above 0, not 0"),
        ("multistep", {"milestones": "5 epochs"}, r"schedule.milestones must be a list, as \['5 epochs'\]"),
        ("exponential", {"k": -1}, "schedule.k must be above 0, not -1"),
        ("1/t", {"k": 0}, "schedule.k must be above 0, not 0"),
        ("polynomial", {"power": 0}, "schedule.power must be above 0, not 0"),
        ("cosine_restarts", {"growth": 0.5}, "schedule.growth must be at least 1, not 0.5"),
        ("fast_geometric", {"high": 2.0}, "schedule.high must be between 0 and 1, not 2.0"),
        ("one_cycle", {"anneal": "cubic"}, "schedule.anneal must be 'cosine' or 'linear', not 'cubic'"),
        ("one_cycle", {"rise": 300}, "schedule.rise is longer than the 200 steps there are"),
        ("one_cycle", {"start": -0.1}, "schedule.start must be between 0 and 1, not -0.1"),
    ],
)
def test_impossible_settings(name, settings, message):
    with pytest.raises(RecipeError, match=message):
        registry.lookup("schedule", name)(
            optimizer(), **({"total_steps": 200, "steps_per_epoch": 20} | settings)
        )


def test_a_schedule_needs_an_optimizer():
    with pytest.raises(TypeError, match="is not an Optimizer"):
        schedules.Constant("adam")
