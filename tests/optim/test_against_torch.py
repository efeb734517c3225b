"""Every option against torch's own classes: values over 1,000 steps, torch's inputs, checkpoints."""

import copy
import importlib.util
import re
import sys
import types
import unittest
import warnings

import pytest
import torch

import ravine.optim

if (
    importlib.util.find_spec("expecttest") is None
):  # torch's test helpers import it, and use nothing of it here
    sys.modules["expecttest"] = types.ModuleType("expecttest")
    sys.modules["expecttest"].TestCase = unittest.TestCase

from torch.testing._internal.common_optimizers import OptimizerErrorEnum, optim_db

NAMES = ("SGD", "Adagrad", "RMSprop", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adadelta")
INFOS = [info for info in optim_db if info.optim_cls.__name__ in NAMES]

COMPOSED = ("clip_value", "l1", "proximal", "average")
"""Options that groups have here and not in torch."""

OPTIONS = [
    ("SGD", {}),
    ("SGD", {"lr": 0.01, "maximize": True}),
    ("SGD", {"lr": 0.01, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.01, "momentum": 0.9}),
    ("SGD", {"lr": 0.01, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1, "maximize": True}),
    ("SGD", {"lr": 0.01, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("SGD", {"lr": torch.tensor(0.01, dtype=torch.float64), "momentum": 0.5}),
    ("Adagrad", {}),
    ("Adagrad", {"lr_decay": 0.01, "weight_decay": 0.1, "initial_accumulator_value": 0.5, "eps": 1e-3}),
    ("Adagrad", {"maximize": True}),
    ("RMSprop", {}),
    ("RMSprop", {"momentum": 0.9}),
    ("RMSprop", {"centered": True, "eps": 1e-3}),
    ("RMSprop", {"centered": True, "eps": 1e-3, "momentum": 0.5, "weight_decay": 0.1, "maximize": True}),
    ("RMSprop", {"alpha": 0.5, "weight_decay": 0.1}),
    ("Adam", {}),
    ("Adam", {"amsgrad": True, "weight_decay": 0.1}),
    ("Adam", {"betas": (0.5, 0.6), "eps": 1e-3, "maximize": True}),
    ("Adam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    (
        "Adam",
        {"betas": (torch.tensor([[0.9]], dtype=torch.float64), torch.tensor([0.99], dtype=torch.float64))},
    ),
    ("AdamW", {}),
    ("AdamW", {"weight_decay": 0.3, "amsgrad": True, "maximize": True}),
    ("NAdam", {}),
    ("NAdam", {"betas": (0.5, 0.6), "momentum_decay": 0.1, "weight_decay": 0.1, "maximize": True}),
    ("NAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True, "eps": 1e-3}),
    ("NAdam", {"betas": (0.0, 0.0), "lr": torch.tensor(0.01, dtype=torch.float64)}),
    ("RAdam", {}),
    ("RAdam", {"betas": (0.5, 0.6), "weight_decay": 0.1, "maximize": True}),  # ρ∞ = 4: never rectified
    ("RAdam", {"betas": (0.9, 0.9), "weight_decay": 0.1, "decoupled_weight_decay": True, "eps": 1e-3}),
    ("RAdam", {"betas": (0.0, 0.0)}),
    ("Adamax", {}),
    ("Adamax", {"betas": (0.5, 0.6), "eps": 1e-3, "weight_decay": 0.1, "maximize": True}),
    ("Adadelta", {}),
    ("Adadelta", {"lr": 0.1, "rho": 0.5, "eps": 1e-3, "weight_decay": 0.1, "maximize": True}),
    ("Adadelta", {"lr": 0.1, "rho": 1.0}),
]


def parameters(dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    shapes = [(5, 3), (7,), (), (2, 3, 2, 2), (0, 4)]
    made = [torch.randn(shape, dtype=dtype, generator=generator).requires_grad_() for shape in shapes]
    made[3] = made[3].detach().to(memory_format=torch.channels_last).requires_grad_()
    return made


def give_gradients(params, step):
    """The gradients of a bumpy bowl, changing with the step."""
    for index, parameter in enumerate(params):
        value = parameter.detach()
        parameter.grad = value * (1 + index) + torch.cos(value.abs() * 3 + step)


def train(optimizer, params, steps, start=0):
    for step in range(start, start + steps):
        give_gradients(params, step)
        optimizer.step()


def assert_same_state(ours, theirs, **tolerance):
    ours, theirs = ours.state_dict()["state"], theirs.state_dict()["state"]
    assert ours.keys() == theirs.keys()
    for number, entry in theirs.items():
        assert ours[number].keys() == entry.keys()
        for key, value in entry.items():
            assert ours[number][key].dtype == value.dtype
            torch.testing.assert_close(
                ours[number][key], value, msg=lambda m, key=key: f"{key}: {m}", **tolerance
            )


@pytest.mark.usefixtures("wide_scalars")
@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_a_thousand_steps_in_float64(name, options):
    ours, theirs = parameters(), parameters()
    mine = getattr(ravine.optim, name)(ours, **options)
    other = getattr(torch.optim, name)(theirs, **options)
    train(mine, ours, 1000)
    train(other, theirs, 1000)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
    assert_same_state(mine, other, rtol=1e-9, atol=1e-11)
    for group, reference in zip(mine.param_groups, other.param_groups, strict=True):
        assert group.keys() - {"bias_correction", *COMPOSED} == reference.keys()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_parameters(name, dtype):
    options = {"weight_decay": 0.01, "lr": 0.01} | ({"amsgrad": True} if name == "Adam" else {})
    ours, theirs = parameters(dtype), parameters(dtype)
    mine, other = getattr(ravine.optim, name)(ours, **options), getattr(torch.optim, name)(theirs, **options)
    train(mine, ours, 30)
    train(other, theirs, 30)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert_same_state(mine, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.optim_cls.__name__)
@pytest.mark.parametrize("flags", [{}, {"foreach": True}, {"differentiable": False}])
def test_torchs_own_inputs(info, flags):
    """Each constructor call of torch's test suite: same values, same state entries."""
    for given in info.optim_inputs_func(device="cpu"):
        options = given.kwargs | flags
        if "foreach" in flags and isinstance(options.get("lr"), torch.Tensor) and "Adam" in info.name:
            continue
        ours, theirs = parameters(torch.float32), parameters(torch.float32)
        mine = getattr(ravine.optim, info.optim_cls.__name__)(ours, **options)
        other = info.optim_cls(theirs, **options)
        train(mine, ours, 5)
        train(other, theirs, 5)
        torch.testing.assert_close(ours, theirs, msg=lambda m, given=given: f"{given.desc}: {m}")
        assert_same_state(mine, other)


def test_differentiable_adamax():
    """Against differences: torch's own overwrites what its backward pass needs."""

    def after_two_steps(start, gradient):
        parameter = start.clone()
        parameter.grad = gradient
        optimizer = ravine.optim.Adamax([parameter], lr=0.1, weight_decay=0.01, differentiable=True)
        optimizer.step()
        optimizer.step()
        return parameter

    start = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
    gradient = torch.tensor([0.3, 0.7, -0.2], dtype=torch.float64, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # reading .grad of a tensor that is no leaf
        assert torch.autograd.gradcheck(after_two_steps, (start, gradient))


@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.optim_cls.__name__)
def test_torchs_own_error_inputs(info):
    ours = getattr(ravine.optim, info.optim_cls.__name__)
    for case in info.optim_error_inputs_func(device="cpu", dtype=torch.float32):
        assert case.error_on is OptimizerErrorEnum.CONSTRUCTION_ERROR
        given = case.optimizer_error_input
        # Three elements: two learning rates for two would be one a member, which torch does not know.
        params = [torch.ones(3, requires_grad=True)] if given.params is None else given.params
        if issubclass(case.error_type, Warning):
            with pytest.warns(case.error_type, match=re.compile(case.error_regex, re.DOTALL)):
                ours(params, **given.kwargs)
        else:
            with pytest.raises(case.error_type, match=case.error_regex):
                ours(params, **given.kwargs)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("SGD", {"lr": -1.0}, "Invalid learning rate: -1.0"),
        ("SGD", {"weight_decay": -1}, "Invalid weight_decay value: -1"),
        ("SGD", {"nesterov": True}, "Nesterov momentum requires a momentum and zero dampening"),
        ("SGD", {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "Nesterov momentum requires"),
        ("Adagrad", {"eps": -1e-3}, "Invalid epsilon value: -0.001"),
        ("Adagrad", {"initial_accumulator_value": -1}, "Invalid initial_accumulator_value value: -1"),
        ("RMSprop", {"alpha": -0.1}, "Invalid alpha value: -0.1"),
        ("RMSprop", {"eps": -1.0}, "Invalid epsilon value: -1.0"),
        ("Adam", {"betas": (0.9, 1.0)}, "Invalid beta parameter at index 1: 1.0"),
        ("AdamW", {"eps": -1.0}, "Invalid epsilon value: -1.0"),
        ("NAdam", {"betas": (-0.1, 0.9)}, "Invalid beta parameter at index 0: -0.1"),
        ("NAdam", {"momentum_decay": -1}, "Invalid momentum_decay value: -1"),
        ("RAdam", {"betas": (0.9, 1.5)}, "Invalid beta parameter at index 1: 1.5"),
        ("RAdam", {"weight_decay": -1}, "Invalid weight_decay value: -1"),
        ("Adamax", {"eps": -1.0}, "Invalid epsilon value: -1.0"),
        ("Adadelta", {"rho": -0.1}, "Invalid rho value: -0.1"),
        ("Adadelta", {"lr": -1.0}, "Invalid learning rate: -1.0"),
    ],
)
def test_values_out_of_range(name, options, message):
    for module in (torch.optim, ravine.optim):
        with pytest.raises(ValueError, match=message):
            getattr(module, name)([torch.ones(2, requires_grad=True)], **options)


@pytest.mark.parametrize("name", ["SGD", "Adagrad", "Adam", "AdamW"])
def test_fused_with_what_it_excludes(name):
    make = getattr(ravine.optim, name)
    with pytest.raises(RuntimeError, match="`fused` does not support `differentiable`"):
        make([torch.ones(2, requires_grad=True)], fused=True, differentiable=True)
    with pytest.raises(RuntimeError, match="`fused` and `foreach` cannot be `True` together"):
        make([torch.ones(2, requires_grad=True)], fused=True, foreach=True)


@pytest.mark.usefixtures("wide_scalars")
@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_checkpoints_exchange_with_torch_in_mid_training(name, options):
    classes = {"ravine": getattr(ravine.optim, name), "torch": getattr(torch.optim, name)}
    for source, target in (("torch", "ravine"), ("ravine", "torch")):
        straight, changed = parameters(), parameters()
        whole = classes[source](straight, **options)
        train(whole, straight, 60)
        first = classes[source](changed, **options)
        train(first, changed, 30)
        second = classes[target](changed, **options)
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        train(second, changed, 30, start=30)
        torch.testing.assert_close(changed, straight, rtol=1e-9, atol=1e-11)


@pytest.mark.usefixtures("wide_scalars")
@pytest.mark.parametrize("beta1", [0.95, 0.5])
def test_nadams_momenta_are_those_that_were(beta1):
    """β₁ changes on the way, as one-cycle schedules have it: the product is not one of today's β₁."""
    ours, theirs = parameters(), parameters()
    mine, other = ravine.optim.NAdam(ours), torch.optim.NAdam(theirs)
    for optimizer, params in ((mine, ours), (other, theirs)):
        train(optimizer, params, 3)
        optimizer.param_groups[0]["betas"] = (beta1, 0.999)
        train(optimizer, params, 3, start=3)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
    assert_same_state(mine, other)


def test_a_loaded_momentum_product_counts():
    """It is not worked out again from the step count."""

    def after(product):
        params = parameters()
        optimizer = ravine.optim.NAdam(params)
        train(optimizer, params, 2)
        saved = optimizer.state_dict()
        for entry in saved["state"].values():
            entry["mu_product"].fill_(product)
        optimizer.load_state_dict(saved)
        train(optimizer, params, 1, start=2)
        for entry in optimizer.state.values():
            expected = product * 0.9 * (1 - 0.5 * 0.96 ** (3 * 0.004))
            assert entry["mu_product"].item() == pytest.approx(expected, rel=1e-6)
        return params[0]

    assert (after(0.2) - after(0.8)).abs().min() > 1e-5


@pytest.mark.usefixtures("wide_scalars")
def test_nadamw_is_nadam_with_decoupled_decay():
    ours, theirs = parameters(), parameters()
    mine = ravine.optim.NAdamW(ours, 0.01, weight_decay=0.3)
    other = torch.optim.NAdam(theirs, 0.01, weight_decay=0.3, decoupled_weight_decay=True)
    train(mine, ours, 100)
    train(other, theirs, 100)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
    coupled = torch.optim.NAdam(parameters(), weight_decay=0.3).state_dict()
    mine.load_state_dict(coupled)
    assert mine.param_groups[0]["decoupled_weight_decay"] is True


@pytest.mark.parametrize("name", ["NAdam", "RAdam", "Adamax", "Adadelta"])
def test_sparse_gradients_are_refused_in_torchs_words(name):
    """Before anything is changed."""
    for module in (torch.optim, ravine.optim):
        weight = torch.ones(3, 2, requires_grad=True)
        weight.grad = torch.sparse_coo_tensor([[1]], torch.ones(1, 2), (3, 2), check_invariants=True)
        with pytest.raises(RuntimeError, match=f"{name} does not support sparse gradients"):
            getattr(module, name)([weight]).step()
        assert torch.equal(weight, torch.ones(3, 2))


@pytest.mark.parametrize("name", NAMES)
def test_named_parameters_and_groups(name):
    model = torch.nn.Linear(3, 2).double()
    optimizer = getattr(ravine.optim, name)(model.named_parameters())
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    for values in ([{"params": [model.weight], "lr": 0.5}, {"params": model.bias}],):
        twin = copy.deepcopy(model)
        mine = getattr(ravine.optim, name)(values, lr=0.01)
        other = getattr(torch.optim, name)(
            [{"params": [twin.weight], "lr": 0.5}, {"params": twin.bias}], lr=0.01
        )
        for module, stepper in ((model, mine), (twin, other)):
            train(stepper, list(module.parameters()), 5)
        torch.testing.assert_close(list(model.parameters()), list(twin.parameters()))


@pytest.mark.parametrize(
    ("name", "learn_rate"),
    [
        ("SGD", True),
        ("Adagrad", False),
        ("RMSprop", False),
        ("Adam", True),
        ("AdamW", True),
        ("NAdam", False),
        ("RAdam", False),
        ("Adadelta", False),
    ],
)
def test_differentiable_gives_torchs_gradient_of_the_step(name, learn_rate):
    """d(what the step gives)/d(parameter, gradient, learning rate), but for float32 βᵗ in torch's Adam."""

    def derivative(module):
        start = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
        gradient = torch.tensor([0.3, 0.7, -0.2], dtype=torch.float64, requires_grad=True)
        rate = torch.tensor(0.1, dtype=torch.float64, requires_grad=True) if learn_rate else 0.1
        inputs = [start, gradient, rate] if learn_rate else [start, gradient]
        parameter = start.clone()
        parameter.grad = gradient
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # reading .grad of a tensor that is no leaf
            optimizer = getattr(module, name)([parameter], lr=rate, weight_decay=0.01, differentiable=True)
            optimizer.step()
            optimizer.step()
        return torch.autograd.grad((parameter**2).sum(), inputs)

    torch.testing.assert_close(derivative(ravine.optim), derivative(torch.optim), rtol=1e-4, atol=1e-7)
