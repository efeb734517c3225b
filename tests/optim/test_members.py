"""Hyperparameters of one value a member: sixteen runs in one step, each as it would be alone."""

import copy
import io

import pytest
import torch

import ravine.optim
from ravine.optim import schedules

K = 3
START = torch.randn(K, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
engines = pytest.mark.parametrize("engine", ["cpu", "eager"])


def values(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def give_gradients(params, step):
    """From a bowl with bumps; the second tensor of a member depends on the first's sum alone."""
    for index, parameter in enumerate(params):
        value = parameter.detach()
        parameter.grad = (1 + index) * value + torch.cos(3 * value + step)


def member(value, number):
    if isinstance(value, tuple):
        return tuple(member(each, number) for each in value)
    return value[number].item() if isinstance(value, torch.Tensor) else value


def stacked_and_alone(name, options, engine, steps=25, change=lambda optimizer, step: None):
    """Two tensors of K members in one optimizer, and K optimizers of one member each."""
    together = [START.clone().requires_grad_(), START[:, 0].clone().requires_grad_()]
    whole = getattr(ravine.optim, name)(together, engine=engine, **options)
    alone = [[START[k].clone().requires_grad_(), START[k, 0].clone().requires_grad_()] for k in range(K)]
    parts = [
        getattr(ravine.optim, name)(
            params, engine="eager", **{key: member(value, k) for key, value in options.items()}
        )
        for k, params in enumerate(alone)
    ]
    for step in range(steps):
        for optimizer, params in ((whole, together), *zip(parts, alone, strict=True)):
            give_gradients(params, step)
            optimizer.step()
        for optimizer in (whole, *parts):
            change(optimizer, step)
    return whole, together, parts, alone


def assert_same(together, alone):
    for index, parameter in enumerate(together):
        expected = torch.stack([params[index].detach() for params in alone])
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-11, atol=1e-13)


CASES = [
    ("SGD", {"lr": values(0.1, 0.01, 0.3)}),
    ("SGD", {"lr": 0.1, "clip_norm": values(0.1, 1.0, 100.0)}),
    ("SGD", {"lr": values(0.1, 0.01, 0.3), "clip_norm": 0.5, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "clip_value": values(0.1, 0.5, 5.0), "maximize": True}),
    ("SGD", {"lr": 0.05, "l1": values(0.0, 0.1, 1.0), "weight_decay": values(0.1, 0.0, 0.2)}),
    (
        "SGD",
        {"lr": values(0.05, 0.1, 0.02), "l1": values(0.0, 0.1, 1.0), "weight_decay": 0.1, "proximal": True},
    ),
    ("SGD", {"lr": 0.01, "momentum": values(0.9, 0.0, 0.5), "dampening": values(0.0, 0.5, 0.1)}),
    ("SGD", {"lr": 0.01, "momentum": values(0.9, 0.1, 0.5), "nesterov": True}),
    ("SGD", {"lr": 0.01, "average": values(0.0, 0.9, 0.5)}),
    ("Adam", {"lr": values(0.1, 0.01, 0.3), "betas": (values(0.9, 0.8, 0.0), values(0.99, 0.9, 0.5))}),
    ("Adam", {"eps": values(1e-8, 1e-3, 1.0), "amsgrad": True}),
    ("Adam", {"betas": (values(0.9, 0.8, 0.0), values(0.99, 0.9, 0.5)), "bias_correction": False}),
    ("AdamW", {"lr": 0.01, "weight_decay": values(0.1, 0.0, 1.0), "average": 0.9, "clip_norm": 0.3}),
    ("AdamW", {"lr": values(0.1, 0.01, 0.3), "weight_decay": 0.1, "l1": 0.1}),
    (
        "RMSprop",
        {"alpha": values(0.9, 0.99, 0.5), "momentum": values(0.0, 0.5, 0.9), "centered": True, "eps": 0.1},
    ),
    ("Adagrad", {"lr": 0.1, "lr_decay": values(0.0, 0.1, 1.0), "eps": values(1e-10, 0.1, 1.0)}),
    ("Lion", {"lr": values(0.1, 0.01, 0.3), "betas": (values(0.9, 0.8, 0.0), 0.99)}),
]


@engines
@pytest.mark.parametrize(
    ("name", "options"), CASES, ids=lambda part: part if isinstance(part, str) else "-".join(part)
)
def test_members_together_equal_optimizers_alone(name, options, engine):
    whole, together, parts, alone = stacked_and_alone(name, options, engine)
    assert_same(together, alone)
    for index, parameter in enumerate(together):
        for key in parts[1].state[alone[1][index]]:  # a velocity, say, has only who has momentum
            value = whole.state[parameter][key]
            if any(key not in part.state[params[index]] for part, params in zip(parts, alone, strict=True)):
                continue
            each = [part.state[params[index]][key] for part, params in zip(parts, alone, strict=True)]
            if value.dim():
                torch.testing.assert_close(value, torch.stack(each), rtol=1e-11, atol=1e-13)
            else:
                assert all(one == value for one in each)


@engines
def test_gradient_norm_of_each_member(engine):
    whole, _, parts, _ = stacked_and_alone("SGD", {"lr": values(0.1, 0.2, 0.3), "clip_norm": 1.0}, engine)
    assert whole.gradient_norm.shape == (K,)
    torch.testing.assert_close(whole.gradient_norm, values(*(part.gradient_norm for part in parts)))


@engines
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
def test_members_of_other_dtypes(engine, dtype):
    """An outer axis of three, whatever lies below it; 40,000 elements are more than a row."""
    start = torch.randn(K, 40_000, dtype=torch.float64).to(dtype)
    parameter = start.clone().requires_grad_()
    rates = values(0.5, 0.0, 0.25)
    optimizer = ravine.optim.SGD([parameter], rates, engine=engine, rounding="nearest")
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    wide = start.to(torch.complex64 if dtype.is_complex else torch.float32)
    assert torch.equal(parameter.detach(), (wide - rates.to(wide.dtype)[:, None]).to(dtype))


@engines
def test_members_without_elements(engine):
    parameter = torch.zeros(K, 0, requires_grad=True)
    optimizer = ravine.optim.Adam([parameter], values(0.1, 0.2, 0.3), engine=engine)
    parameter.grad = torch.zeros(K, 0)
    optimizer.step()
    assert optimizer.state[parameter]["step"] == 1


def test_a_leading_axis_that_is_not_the_outermost_goes_by_torchs_operators():
    parameter = torch.ones(4, K).T.requires_grad_()
    parameter.grad = torch.ones(4, K).T
    ravine.optim.SGD([parameter], values(0.5, 0.0, 0.25)).step()
    assert torch.equal(parameter.detach(), torch.tensor([0.5, 1.0, 0.75])[:, None].expand(K, 4))
    parameter.grad = torch.ones(4, K).T
    with pytest.raises(
        RuntimeError, match=r"engine='cpu' cannot step .* its leading axis is not its outermost"
    ):
        ravine.optim.SGD([parameter], values(0.5, 0.0, 0.25), engine="cpu").step()


SCHEDULERS = {
    "StepLR": lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 3, gamma=0.5),
    "CosineAnnealingLR": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 25),
    "LambdaLR": lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step)),
    "SequentialLR": lambda optimizer: torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=5),
            torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9),
        ],
        milestones=[5],
    ),
    "ravine's cosine": lambda optimizer: schedules.Cosine(optimizer, total_steps=25, warmup=5),
}


@engines
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")
def test_schedules_of_one_rate_a_member(scheduler, engine):
    made = {}

    def change(optimizer, step):
        made[optimizer].step()

    rates = values(0.1, 0.01, 0.3)
    together = [START.clone().requires_grad_()]
    whole = ravine.optim.Adam(together, rates, engine=engine)
    alone = [[START[k].clone().requires_grad_()] for k in range(K)]
    parts = [ravine.optim.Adam(params, rates[k].item()) for k, params in enumerate(alone)]
    for optimizer in (whole, *parts):
        made[optimizer] = SCHEDULERS[scheduler](optimizer)
    for step in range(25):
        for optimizer, params in ((whole, together), *zip(parts, alone, strict=True)):
            give_gradients(params, step)
            optimizer.step()
            made[optimizer].step()
        expected = values(*(part.param_groups[0]["lr"] for part in parts))
        torch.testing.assert_close(torch.Tensor(whole.param_groups[0]["lr"]).double(), expected)
        assert torch.is_tensor(made[whole].get_last_lr()[0])
    assert_same(together, alone)


@engines
def test_rates_set_by_hand(engine):
    """From one for all to one for each, other ones, and back."""
    rates = [values(0.1, 0.2, 0.3), [0.1, 0.1, 0.1], values(0.3, 0.2, 0.1), values(0.0, 0.2, 0.0)]

    def change(optimizer, step):
        each = rates[step % 4]
        if optimizer.param_groups[0]["params"][0].dim() == 3:
            optimizer.param_groups[0]["lr"] = each if torch.is_tensor(each) else each[0]
        else:
            optimizer.param_groups[0]["lr"] = float(each[change.part])
            change.part = (change.part + 1) % K

    change.part = 0
    options = {"lr": 0.5, "clip_norm": values(0.5, 1.0, 2.0), "momentum": 0.9}
    _, together, _, alone = stacked_and_alone("SGD", options, engine, steps=8, change=change)
    assert_same(together, alone)


@engines
def test_rates_become_one_a_member_where_clipping_was_by_all(engine):
    """From that step on, each member's norm is its own."""
    parameter = torch.zeros(2, 1).requires_grad_()
    optimizer = ravine.optim.SGD([parameter], 1.0, clip_norm=5.0, engine=engine)
    parameter.grad = torch.tensor([[30.0], [40.0]])
    optimizer.step()
    torch.testing.assert_close(parameter.detach(), torch.tensor([[-3.0], [-4.0]]))
    optimizer.param_groups[0]["lr"] = torch.tensor([1.0, 2.0])
    optimizer.step()
    torch.testing.assert_close(parameter.detach(), torch.tensor([[-8.0], [-14.0]]))
    assert optimizer.gradient_norm.tolist() == pytest.approx([30.0, 40.0])


def test_wrong_lengths_are_refused():
    params = [torch.ones(3, 2, requires_grad=True)]
    with pytest.raises(ValueError, match="lr has 2 values and weight_decay 3"):
        ravine.optim.SGD(params, torch.ones(2), weight_decay=torch.ones(3))
    with pytest.raises(
        ValueError, match=r"it holds 2 values, and a parameter of shape \(3, 2\) has no leading axis of 2"
    ):
        ravine.optim.Adam(params, betas=(torch.full((2,), 0.9),) * 2)
    with pytest.raises(
        ValueError, match=r"Tensor clip_norm must be 1-element.* of shape \(\) has no leading"
    ):
        ravine.optim.SGD([torch.tensor(1.0, requires_grad=True)], clip_norm=torch.ones(2))
    groups = [{"params": params}, {"params": [torch.ones(3, requires_grad=True)], "lr": torch.ones(4)}]
    with pytest.raises(ValueError, match="lr has 3 values and lr 4"):
        ravine.optim.SGD(groups, torch.ones(3))


def test_a_group_that_does_not_fit_is_not_added():
    optimizer = ravine.optim.SGD([torch.ones(3, 2, requires_grad=True)], torch.ones(3))
    with pytest.raises(ValueError, match=r"a parameter of shape \(2,\) has no leading axis of 3"):
        optimizer.add_param_group({"params": [torch.ones(2, requires_grad=True)]})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": [torch.ones(3, requires_grad=True)], "lr": 0.5})
    for group in optimizer.param_groups:
        group["params"][0].grad = torch.ones_like(group["params"][0])
    optimizer.step()
    assert torch.equal(optimizer.param_groups[1]["params"][0], torch.full((3,), 0.5))


def test_lengths_that_do_not_fit_any_more_are_refused_before_anything_moves():
    parameter = torch.ones(3, 2, requires_grad=True)
    optimizer = ravine.optim.SGD([parameter], torch.ones(3))
    parameter.grad = torch.ones(3, 2)
    optimizer.step()
    optimizer.param_groups[0]["lr"] = torch.ones(2)
    with pytest.raises(ValueError, match=r"it holds 2 values, and a parameter of shape \(3, 2\)"):
        optimizer.step()
    assert torch.equal(parameter, torch.zeros(3, 2))


@pytest.mark.parametrize("through", ["state_dict", "torch.save", "deepcopy"])
def test_checkpoints_of_members(through):
    """Plain tensors in the file; after loading, a schedule goes on."""

    def make(parameter):
        optimizer = ravine.optim.Adam([parameter], values(0.1, 0.2, 0.3))
        return optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    parameter = START.clone().requires_grad_()
    optimizer, scheduler = make(parameter)
    give_gradients([parameter], 0)
    optimizer.step()
    scheduler.step()
    saved = optimizer.state_dict()
    if through == "torch.save":
        file = io.BytesIO()
        torch.save(saved, file)
        file.seek(0)
        saved = torch.load(file)  # refuses whatever is no plain tensor
        assert type(saved["param_groups"][0]["lr"]) is torch.Tensor
    elif through == "deepcopy":
        saved = copy.deepcopy(saved)
    twin = parameter.detach().clone().requires_grad_()
    other, other_scheduler = make(twin)
    other.load_state_dict(saved)
    other_scheduler.load_state_dict(scheduler.state_dict())
    for step in range(1, 4):
        for each, stepped, schedule in ((parameter, optimizer, scheduler), (twin, other, other_scheduler)):
            give_gradients([each], step)
            stepped.step()
            schedule.step()
    assert torch.equal(parameter, twin)
    assert other.param_groups[0]["lr"].tolist() == pytest.approx([0.1 / 16, 0.2 / 16, 0.3 / 16])


def test_torchs_plateau_needs_one_rate():
    """It compares rates: torch itself says that it cannot."""
    parameter = START.clone().requires_grad_()
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        ravine.optim.Adam([parameter], values(0.1, 0.2, 0.3)), patience=0
    )
    scheduler.step(1.0)
    with pytest.raises(ValueError, match="only one element tensors can be converted to Python scalars"):
        scheduler.step(2.0)
