"""`check_rule` finds what is wrong with a rule, and says where."""

import os
import subprocess
import sys

import pytest
import torch

import ravine.optim
from ravine.optim import Adam, maximum, rule, sign, sqrt, where
from ravine.optim.matrix import Muon
from ravine.testing import DTYPES, check_rule


@rule(state=("m",))
def sign_momentum(x, dx, m, t, lr=1e-4, beta=0.9):
    m = beta * m + (1 - beta) * dx
    return x - lr * sign(m), m


@rule(state={"v": "square_avg"})
def needy(x, dx, v, t, lr, decay):
    v = where(t <= 1, dx * dx, decay * v + (1 - decay) * dx * dx)
    return x - lr * dx / maximum(sqrt(v), 1e-8), v


def on_tensors(value):
    return isinstance(value, torch.Tensor)


def test_a_sound_rule_agrees_in_every_engine():
    found = check_rule(sign_momentum)
    assert found.engines[:2] == ("eager", "cpu")
    assert found.dtypes == DTYPES
    lines = str(found).splitlines()
    assert lines[0] == "sign_momentum: 6 steps, 13 shapes, float64, float32, float16, bfloat16"
    assert "  eager  agrees with the rule in float64" in lines
    assert "  cpu    agrees with the rule in float64" in lines
    assert ("gpu" in found.engines) != any(line.startswith("  gpu    not tried: ") for line in lines)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("Adam", {"amsgrad": True}),
        ("NAdam", {}),  # keeps counters besides the step, in float32 whatever the parameters
        ("ScheduleFreeAdamW", {}),
        ("RMSprop", {"momentum": 0.9, "centered": True}),
        (
            "SGD",
            {
                "lr": 0.1,
                "momentum": 0.9,
                "average": 0.9,
                "l1": 0.1,
                "weight_decay": 0.1,
                "proximal": True,
                "clip_norm": 1.0,
            },
        ),
        ("AdamW", {"average": 0.9, "clip_value": 0.01, "rounding": "compensated"}),
    ],
)
def test_classes_are_checked_with_their_options(name, arguments):
    assert check_rule(getattr(ravine.optim, name), **arguments).engines[:2] == ("eager", "cpu")


def test_triton_is_tried_by_its_interpreter():
    source = "from ravine.optim import rules; from ravine.testing import check_rule; import torch; "
    source += "print(check_rule(rules.momentum, engines=['gpu'], dtypes=[torch.float32], lr=0.1).engines)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", source],
        env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "('gpu',)\n", done.stderr


def test_an_engine_that_differs_is_named_with_place_and_values():
    @rule()
    def off(x, dx, t, lr=0.1):
        return (x - lr * (1 if on_tensors(x) else 1.001) * dx,)

    with pytest.raises(AssertionError) as caught:
        check_rule(off)
    told = str(caught.value)
    assert told.startswith("off, engine 'cpu', float64, shape (), step 1, element []: x is ")
    assert "and by the rule in float64 " in told and "; rounding explains " in told


@pytest.mark.parametrize(("dtype", "relative"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_differences_beyond_rounding_are_found(dtype, relative):
    @rule(state=("m",))
    def off(x, dx, m, t, lr=0.1, beta=0.9):
        m = beta * m + (1 - beta) * (1 if on_tensors(x) else 1 + relative) * dx
        return x - lr * m, m

    with pytest.raises(AssertionError, match=r"engine 'cpu'.*: m is "):
        check_rule(off, dtypes=[dtype])


def test_differences_where_gradients_are_not_finite_are_found():
    @rule()
    def forgiving(x, dx, t, lr=0.1):
        return (x - lr * (dx if on_tensors(x) else where(dx != dx, 0.0, dx)),)

    with pytest.raises(
        AssertionError, match=r"forgiving, engine 'cpu', .* step 4, element \[2\]: x is .* nan"
    ):
        check_rule(forgiving)


def test_a_rate_that_only_counts_at_first_is_found():
    """As if it had been compiled in."""
    rates = []

    @rule()
    def fixed(x, dx, t, lr=0.1):
        if not on_tensors(x):
            return (x - lr * dx,)
        rates.append(lr)
        return (x - rates[0] * dx,)

    with pytest.raises(AssertionError, match=r"fixed, engine 'cpu', .* step 3"):
        check_rule(fixed)


def test_rules_that_look_beside_their_element_are_found():
    @rule()
    def centered(x, dx, t, lr=0.1):
        return (x - lr * (dx - dx.mean()),)

    with pytest.raises(AssertionError, match=r"centered, engine 'eager', float64, shape \(\), step 1"):
        check_rule(centered)


def test_gradients_that_are_changed_are_found():
    @rule()
    def greedy(x, dx, t, lr=0.1):
        return (x - lr * dx.mul_(2),)

    with pytest.raises(AssertionError, match=r"greedy, engine 'eager', .* step 1: the gradient was changed"):
        check_rule(greedy)


def test_a_rule_that_cannot_be_compiled_says_why_and_runs_eagerly():
    @rule()
    def methodical(x, dx, t, lr=0.1):
        return (x - lr * torch.tanh(dx),)

    found = check_rule(methodical)
    assert found.engines == ("eager",)
    assert "cpu    not tried: the rule cannot be compiled: tanh()" in str(found)
    with pytest.raises(RuntimeError, match="cpu: the rule cannot be compiled"):
        check_rule(methodical, engines=["cpu"])


def test_a_rule_that_cannot_run_says_why():
    @rule()
    def branched(x, dx, t, lr=0.1):
        return (x - lr * (dx if dx > 0 else -dx),)

    @rule(state=("m",))
    def forgetful(x, dx, m, t, lr=0.1):
        return x, dx, m

    with pytest.raises(AssertionError, match=r"branched cannot run: a rule has no branches: write where\("):
        check_rule(branched)
    with pytest.raises(AssertionError, match=r"forgetful cannot run: .* must return \(x, m\), not 3 values"):
        check_rule(forgetful)


class Narrow(Adam):
    def initial_state(self, parameter, group, key):
        return torch.zeros_like(parameter)


class Forgetful(Adam):
    def load_state_dict(self, state_dict):
        pass


def test_state_that_is_too_narrow_is_found():
    check_rule(Narrow, dtypes=[torch.float32])
    with pytest.raises(
        AssertionError, match=r"Narrow, .*: the state 'exp_avg' has shape \(\) and dtype torch.float16"
    ):
        check_rule(Narrow, dtypes=[torch.float16])


def test_checkpoints_that_go_on_otherwise_are_found():
    with pytest.raises(
        AssertionError, match=r"shape \(\), step 6: a checkpoint of step 2 went on to another end"
    ):
        check_rule(Forgetful)


def test_what_cannot_be_checked_is_refused():
    with pytest.raises(TypeError, match="argument: 'lr'"):
        check_rule(needy)
    assert check_rule(needy, lr=0.1, decay=0.9).name == "needy"
    with pytest.raises(TypeError, match=r"there is no argument 'decai' \(did you mean 'decay'"):
        check_rule(needy, lr=0.1, decay=0.9, decai=0.1)
    for wrong in (torch.optim.Adam, Muon, print):
        with pytest.raises(TypeError, match="no rule, and no optimizer that steps element by element"):
            check_rule(wrong)
    with pytest.raises(RuntimeError, match="tpu: there is no such engine"):
        check_rule(sign_momentum, engines=["tpu"])
