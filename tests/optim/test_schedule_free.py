"""Schedule-Free: the change between training and evaluation, checkpoints, and what is refused."""

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ravine.optim

NAMES = ("ScheduleFreeSGD", "ScheduleFreeAdamW")
each_class = pytest.mark.parametrize("name", NAMES)


def made(name, dtype=torch.float32, **options):
    generator = torch.Generator().manual_seed(1)
    params = [
        torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in [(5, 3), (7,), ()]
    ]
    return params, getattr(ravine.optim, name)(params, **{"lr": 0.05, **options})


def train(params, optimizer, steps, start=0):
    for step in range(start, start + steps):
        for parameter in params:
            value = parameter.detach()
            parameter.grad = 2 * value + torch.cos(3 * value + step)
        optimizer.step()


def copies(params):
    return [parameter.detach().clone() for parameter in params]


def equal(ones, others):
    return all(torch.equal(one, other) for one, other in zip(ones, others, strict=True))


@each_class
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64])
def test_training_goes_on_as_if_nobody_had_looked(name, dtype):
    """`eval` and `train` give back y bit for bit, and a second call changes nothing."""
    params, optimizer = made(name, dtype)
    train(params, optimizer, 7)
    y, state = copies(params), copy.deepcopy(optimizer.state_dict())
    optimizer.eval()
    x = copies(params)
    optimizer.eval()
    assert equal(params, x)
    assert not equal(x, y)
    optimizer.train()
    assert equal(params, y)
    optimizer.train()
    assert equal(params, y)
    after = optimizer.state_dict()
    assert after["param_groups"] == state["param_groups"]
    for number, entry in state["state"].items():
        assert after["state"][number].keys() == entry.keys()
        assert equal(after["state"][number].values(), entry.values())


@each_class
def test_before_the_first_step_all_sequences_are_one(name):
    params, optimizer = made(name)
    start = copies(params)
    optimizer.eval()
    assert equal(params, start)
    optimizer.train()
    train(params, optimizer, 1)
    for parameter, before in zip(params, start, strict=True):
        torch.testing.assert_close(optimizer.state[parameter]["z"], parameter.detach())
        assert not torch.equal(parameter, before)


@given(
    rates=st.lists(st.floats(0.0, 0.5), min_size=1, max_size=12),
    beta=st.floats(0.05, 0.95),
    r=st.sampled_from([0, 0.5, 2]),
    power=st.sampled_from([0, 1, 2]),
)
def test_the_average_is_the_weighted_mean_of_the_iterates(rates, beta, r, power):
    """x̄ = Σ wₜzₜ/Σ wₜ with wₜ = tʳ·(largest rate so far)ᵖ; before any weight, the start."""
    parameter = torch.nn.Parameter(torch.tensor([2.0, -1.0], dtype=torch.float64))
    optimizer = ravine.optim.ScheduleFreeSGD([parameter], momentum=beta, r=r, weight_lr_power=power)
    expected, total = parameter.detach().clone(), 0.0
    for t, rate in enumerate(rates, 1):
        optimizer.param_groups[0]["lr"] = rate
        parameter.grad = parameter.detach() + t
        optimizer.step()
        weight = t**r * max(rates[:t]) ** power
        total += weight
        if total > 0:
            expected += weight / total * (optimizer.state[parameter]["z"] - expected)
    optimizer.eval()
    # What recovers x̄ from y and z divides by β; the weights' sum is kept in float32.
    torch.testing.assert_close(parameter.detach(), expected, rtol=1e-4, atol=1e-5)


@each_class
def test_a_step_at_the_average_is_refused(name):
    params, optimizer = made(name)
    train(params, optimizer, 2)
    optimizer.eval()
    before, state = copies(params), copy.deepcopy(optimizer.state_dict()["state"])
    with pytest.raises(
        RuntimeError, match=rf"{name}\.step\(\) was called after eval\(\).*optimizer\.train\(\)"
    ):
        train(params, optimizer, 1)
    assert equal(params, before)
    for number, entry in state.items():
        assert equal(optimizer.state_dict()["state"][number].values(), entry.values())
    optimizer.train()
    train(params, optimizer, 1)


@each_class
@pytest.mark.parametrize("evaluating", [False, True])
def test_a_resumed_training_is_the_same(name, evaluating):
    """Saved while training or while evaluating, by `state_dict` or by pickle."""
    params, optimizer = made(name, warmup_steps=10)
    train(params, optimizer, 6)
    if evaluating:
        optimizer.eval()
    saved, weights = pickle.loads(pickle.dumps(optimizer.state_dict())), copies(params)
    optimizer.train()
    train(params, optimizer, 6, start=6)

    others, resumed = made(name, warmup_steps=10)
    with torch.no_grad():
        for parameter, value in zip(others, weights, strict=True):
            parameter.copy_(value)
    resumed.load_state_dict(saved)
    resumed.train()
    train(others, resumed, 6, start=6)
    assert equal(params, others)


@each_class
def test_parameters_changed_while_evaluating_are_kept(name):
    """A restored average becomes the new x̄: y is worked out from it, not taken from before."""
    params, optimizer = made(name, torch.float64)
    train(params, optimizer, 5)
    optimizer.eval()
    with torch.no_grad():
        params[0].mul_(0.5)
    restored = params[0].detach().clone()
    optimizer.train()
    optimizer.eval()
    torch.testing.assert_close(params[0].detach(), restored)


@each_class
def test_a_parameter_that_joins_later_is_averaged_from_then_on(name):
    params, optimizer = made(name, torch.float64)
    train(params[:2], optimizer, 5)
    params[2].grad = torch.ones((), dtype=torch.float64)
    for parameter in params[:2]:
        parameter.grad = None
    optimizer.step()
    assert optimizer.state[params[2]]["step"] == 1
    optimizer.eval()
    torch.testing.assert_close(params[2].detach(), optimizer.state[params[2]]["z"])


@each_class
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "Invalid learning rate: -1.0"),
        ({"weight_decay": -1}, "Invalid weight_decay value: -1"),
        ({"warmup_steps": -1}, "Invalid warmup_steps value: -1"),
        ({"r": -1}, "Invalid r value: -1"),
        ({"weight_lr_power": -1}, "Invalid weight_lr_power value: -1"),
    ],
)
def test_values_out_of_range(name, options, message):
    with pytest.raises(ValueError, match=message):
        made(name, **options)


@each_class
def test_proximal_steps_are_refused(name):
    with pytest.raises(ValueError, match=f"proximal=True is no option of {name}"):
        made(name, proximal=True)


@each_class
def test_a_rate_a_member_is_refused(name):
    """Before anything is changed: the weights of the average would differ by member."""
    weight = torch.ones(2, 3, requires_grad=True)
    optimizer = getattr(ravine.optim, name)([weight], lr=torch.tensor([0.1, 0.2]))
    weight.grad = torch.ones(2, 3)
    with pytest.raises(ValueError, match="lr cannot have one value a member: the weights of the average"):
        optimizer.step()
    assert torch.equal(weight, torch.ones(2, 3))


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_the_average_must_be_recoverable(beta):
    """With β = 0, y holds nothing of x̄; with β = 1, z never matters."""
    with pytest.raises(ValueError, match=f"Invalid momentum value: {beta}; it must lie between 0 and 1"):
        made("ScheduleFreeSGD", momentum=beta)
    with pytest.raises(ValueError, match=f"Invalid beta parameter at index 0: {beta}"):
        made("ScheduleFreeAdamW", betas=(beta, 0.999))
