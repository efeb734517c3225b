"""Adan, Lion and Schedule-Free, which torch lacks: against their papers' pseudo-code in plain NumPy.

The pseudo-code is written in each paper's own symbols and sequences, not in those of our rules. Numbers
printed here are what independent implementations gave, once, for the same 20 steps.
"""

import math

import numpy as np
import pytest
import torch

import ravine.optim

pytestmark = pytest.mark.usefixtures("wide_scalars")

START = np.array([1.0, -2.0, 0.5])


def gradient(x, step):
    """Of a bumpy bowl that changes with the step, counted from 1."""
    return 2 * x + np.cos(3 * x + step)


def trained(name, steps, start=START, **options):
    """The parameters after `steps` steps in float64, and the optimizer."""
    parameter = torch.nn.Parameter(torch.tensor(start))
    optimizer = getattr(ravine.optim, name)([parameter], **options)
    for step in range(1, steps + 1):
        parameter.grad = torch.tensor(gradient(parameter.detach().numpy(), step))
        optimizer.step()
    return parameter, optimizer


def adan(steps, eta, beta1, beta2, beta3, eps, lamda):
    """Algorithm 1 of arXiv:2208.06677 in the paper's β, with the bias corrections of its authors' code."""
    theta, m, v, n, before = START.copy(), 0.0, 0.0, 0.0, None
    for k in range(1, steps + 1):
        g = gradient(theta, k)
        difference = np.zeros_like(g) if before is None else g - before
        m = (1 - beta1) * m + beta1 * g
        v = (1 - beta2) * v + beta2 * difference
        n = (1 - beta3) * n + beta3 * (g + (1 - beta2) * difference) ** 2
        rate = eta / (np.sqrt(n / (1 - (1 - beta3) ** k)) + eps)
        corrected = m / (1 - (1 - beta1) ** k) + (1 - beta2) * v / (1 - (1 - beta2) ** k)
        theta = (theta - rate * corrected) / (1 + lamda * eta)
        before = g
    return theta


def lion(steps, eta, beta1, beta2, lamda):
    """Algorithm 2 of arXiv:2302.06675."""
    theta, m = START.copy(), np.zeros(3)
    for t in range(1, steps + 1):
        g = gradient(theta, t)
        c = beta1 * m + (1 - beta1) * g
        theta = theta - eta * (np.sign(c) + lamda * theta)
        m = beta2 * m + (1 - beta2) * g
    return theta


def schedule_free(steps, gamma, beta, lamda, warmup, r, power, adaptive=None):
    """Equations 3 to 5 and algorithm 1 of arXiv:2405.15682 with all three sequences: gives (y, x)."""
    z, x, v, total = START.copy(), START.copy(), np.zeros(3), 0.0
    for t in range(1, steps + 1):
        y = (1 - beta) * z + beta * x
        g = gradient(y, t)
        if adaptive is None:
            g = g + lamda * y
        else:
            beta2, eps = adaptive
            v = beta2 * v + (1 - beta2) * g * g
            g = g / (np.sqrt(v / (1 - beta2**t)) + eps) + lamda * y
        rate = gamma * min(1.0, t / warmup) if warmup else gamma
        z = z - rate * g
        weight = t**r * rate**power  # rates that only rise: the largest so far is today's
        total += weight
        c = weight / total
        x = (1 - c) * x + c * z
    return (1 - beta) * z + beta * x, x


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("betas", [(0.98, 0.92, 0.99), (0.5, 0.0, 0.9)])
def test_adan_is_algorithm_1(betas, decay):
    got, _ = trained("Adan", 300, lr=0.02, betas=betas, eps=1e-6, weight_decay=decay)
    expected = adan(300, 0.02, *(1 - beta for beta in betas), 1e-6, decay)
    np.testing.assert_allclose(got.detach().numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_lion_is_algorithm_2(decay):
    got, _ = trained("Lion", 300, lr=0.003, betas=(0.8, 0.95), weight_decay=decay)
    np.testing.assert_allclose(got.detach().numpy(), lion(300, 0.003, 0.8, 0.95, decay), rtol=1e-9)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_decay": 0.3},
        {"warmup_steps": 17, "r": 0.75},
        {"weight_lr_power": 0.5, "warmup_steps": 1},
    ],
)
@pytest.mark.parametrize("name", ["ScheduleFreeSGD", "ScheduleFreeAdamW"])
def test_schedule_free_follows_the_three_sequences(name, options):
    """Our rule keeps y and z alone; x is recovered from them."""
    adaptive = (0.95, 1e-6) if name == "ScheduleFreeAdamW" else None
    own = {"betas": (0.8, 0.95), "eps": 1e-6} if adaptive else {"momentum": 0.8}
    parameter, optimizer = trained(name, 300, lr=0.05, **own, **options)
    y, x = schedule_free(
        300,
        0.05,
        0.8,
        options.get("weight_decay", 0.0),
        options.get("warmup_steps", 0),
        options.get("r", 0),
        options.get("weight_lr_power", 2),
        adaptive,
    )
    np.testing.assert_allclose(parameter.detach().numpy(), y, rtol=1e-8)
    optimizer.eval()
    np.testing.assert_allclose(parameter.detach().numpy(), x, rtol=1e-8)


@pytest.mark.parametrize(
    ("name", "options", "training", "evaluating"),
    [
        # pytorch_optimizer 4.1.0: Adan(lr=0.05), and with weight_decay=0.1, weight_decouple=False.
        # (optax 0.2.8 multiplies the gradient's change by 1 − 0.92 where the paper has 0.92.)
        ("Adan", {}, [0.18451994219715492, -1.0624663583035547, 0.006873998511600074], None),
        (
            "Adan",
            {"weight_decay": 0.1},
            [0.14210369709267512, -0.9277414491746677, -0.00438438205937245],
            None,
        ),
        # pytorch_optimizer 4.1.0 and optax 0.2.8, both with betas 0.9 and 0.99.
        (
            "Lion",
            {"weight_decay": 0.1},
            [-0.04928471697920648, -0.8553257632954107, -0.12004218515922371],
            None,
        ),
        # pytorch_optimizer 4.1.0 and optax 0.2.8 (contrib.schedule_free around sgd).
        (
            "ScheduleFreeSGD",
            {"lr": 0.1},
            [-0.06981618820347563, 0.031159785408508073, -0.051262726949883416],
            [-0.03660873799925075, -0.01869815506936225, -0.02421076443776142],
        ),
        # pytorch_optimizer 4.1.0.
        (
            "ScheduleFreeSGD",
            {"lr": 0.1, "warmup_steps": 5, "weight_decay": 0.1, "r": 0.5},
            [-0.03279962405404607, 0.020723072962543332, -0.03363194951472081],
            [-0.009077658899068594, -0.004005065226937698, -0.019456718976905166],
        ),
        (
            "ScheduleFreeAdamW",
            {"warmup_steps": 5, "weight_decay": 0.1},
            [0.5237719319651776, -1.4265929851162966, 0.09607645537615411],
            [0.554483902014476, -1.4684219453324237, 0.11742345301942131],
        ),
    ],
)
def test_numbers_of_other_implementations(name, options, training, evaluating):
    parameter, optimizer = trained(name, 20, **{"lr": 0.05, **options})
    np.testing.assert_allclose(parameter.detach().numpy(), training, rtol=1e-7)
    if evaluating is not None:
        optimizer.eval()
        np.testing.assert_allclose(parameter.detach().numpy(), evaluating, rtol=1e-7)


def test_adans_first_step_knows_no_change():
    """The gradient before the first is taken to be the same: a step of ±lr, as Adam's."""
    parameter, optimizer = trained("Adan", 1, lr=0.1, eps=0.0)
    np.testing.assert_allclose(parameter.detach().numpy(), START - 0.1 * np.sign(gradient(START, 1)))
    assert torch.count_nonzero(optimizer.state[parameter]["exp_avg_diff"]) == 0


def test_adan_keeps_a_copy_of_the_gradient():
    """Not the gradient itself, which `zero_grad(set_to_none=False)` would overwrite."""
    parameter, optimizer = trained("Adan", 3, lr=0.1)
    kept = optimizer.state[parameter]["previous_grad"].clone()
    optimizer.zero_grad(set_to_none=False)
    assert torch.equal(optimizer.state[parameter]["previous_grad"], kept)
    assert kept.abs().min() > 0


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_lion_does_not_see_the_size_of_gradients(scale):
    parameter = torch.nn.Parameter(torch.tensor([3.0, 3.0, 3.0]))
    parameter.grad = torch.tensor([-2.0, 0.0, 0.5]) * scale
    ravine.optim.Lion([parameter], lr=0.25).step()
    assert parameter.tolist() == [3.25, 3.0, 2.75]


@pytest.mark.parametrize("beta2", [0.5, 0.6, 2 / 3, 0.8, 0.9, 0.999])
def test_radam_begins_as_momentum_and_ends_as_adam(beta2):
    """While ρ ≤ 5 the step is lr·m̂ whatever the gradient's square; after many steps r is 1."""
    from ravine.optim import rules

    first = rules.radam(0.0, 1e6, 0.0, 0.0, 1, 0.1, 0.9, beta2, 1e-8)[0]
    assert first == pytest.approx(-1e5)
    late = rules.radam(0.0, 2.0, 0.3, 0.4, 10**6, 0.1, 0.9, beta2, 0.0)[0]
    if 2 / (1 - beta2) - 1 <= 5 + 1e-9:
        assert late == pytest.approx(-0.1 * (0.9 * 0.3 + 0.1 * 2))
    else:
        assert late == pytest.approx(rules.adam(0.0, 2.0, 0.3, 0.4, math.inf, 0.1, 0.9, beta2, 0.0)[0])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Adan", {"betas": (0.9, 0.9, 1.0)}, "Invalid beta parameter at index 2: 1.0"),
        ("Adan", {"eps": -1.0}, "Invalid epsilon value: -1.0"),
        ("Adan", {"lr": -1.0}, "Invalid learning rate: -1.0"),
        ("Adan", {"weight_decay": -1.0}, "Invalid weight_decay value: -1.0"),
        ("Lion", {"betas": (1.0, 0.9)}, "Invalid beta parameter at index 0: 1.0"),
        ("Lion", {"lr": math.nan}, "Invalid learning rate: nan"),
        ("Lion", {"weight_decay": -1.0}, "Invalid weight_decay value: -1.0"),
    ],
)
def test_values_out_of_range(name, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(ravine.optim, name)([torch.ones(2, requires_grad=True)], **options)


@pytest.mark.parametrize("name", ["Adan", "Lion", "ScheduleFreeSGD", "ScheduleFreeAdamW"])
def test_sparse_gradients_are_refused(name):
    """Every rule here moves elements whose gradient is zero."""
    weight = torch.ones(3, 2, requires_grad=True)
    weight.grad = torch.sparse_coo_tensor([[1]], torch.ones(1, 2), (3, 2), check_invariants=True)
    with pytest.raises(RuntimeError, match=f"{name} does not support sparse gradients"):
        getattr(ravine.optim, name)([weight]).step()
    assert torch.equal(weight, torch.ones(3, 2))


@pytest.mark.parametrize("name", ["Adan", "Lion", "ScheduleFreeSGD", "ScheduleFreeAdamW"])
def test_complex_parameters_move_as_two_real_ones(name):
    generator = torch.Generator().manual_seed(5)
    whole = torch.nn.Parameter(torch.randn(4, dtype=torch.complex128, generator=generator))
    parts = torch.nn.Parameter(torch.view_as_real(whole.detach()).clone())
    optimizers = [getattr(ravine.optim, name)([each], lr=0.05) for each in (whole, parts)]
    for _ in range(5):
        slope = torch.randn(4, dtype=torch.complex128, generator=generator)
        whole.grad, parts.grad = slope, torch.view_as_real(slope).clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(torch.view_as_real(whole.detach()), parts.detach())


@pytest.mark.parametrize("name", ["Adan", "Lion", "ScheduleFreeSGD", "ScheduleFreeAdamW"])
def test_maximize_climbs_what_others_descend(name):
    up, down = (torch.nn.Parameter(torch.tensor(START)) for _ in range(2))
    climbing = getattr(ravine.optim, name)([up], lr=0.05, maximize=True)
    descending = getattr(ravine.optim, name)([down], lr=0.05)
    for step in range(1, 6):
        slope = torch.tensor(gradient(down.detach().numpy(), step))
        up.grad, down.grad = -slope, slope
        climbing.step()
        descending.step()
    torch.testing.assert_close(up, down)
