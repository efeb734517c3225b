"""A rule of one's own as an optimizer class."""

import copy
import inspect
import io
import pickle
import typing

import numpy as np
import pytest
import torch

from ravine.optim import maximum, param_groups, rule, sign, sqrt, where
from ravine.optim.custom import CustomOptimizer
from ravine.optim.options import Options


@rule(state=("m",))
def sign_momentum(x, dx, m, t, lr=1e-4, beta=0.9):
    """The sign of the gradient's average.

    Args:
        beta: the leak of the average, in [0, 1).
    """
    m = beta * m + (1 - beta) * dx
    return x - lr * sign(m), m


@rule(state={"v": "square_avg"})
def needy(x, dx, v, t, lr, decay, eps=1e-8):
    v = where(t <= 1, dx * dx, decay * v + (1 - decay) * dx * dx)
    return x - lr * dx / maximum(sqrt(v), eps), v


@rule()
def plain(x, dx, t, lr=0.1):
    return (x - lr * dx,)


SignMomentum = sign_momentum.optimizer


def parameters(*shapes, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    made = [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]
    for each in made:
        each.grad = torch.randn(each.shape, generator=generator).to(dtype)
    return made


def test_the_class_takes_what_the_rule_takes():
    signature = inspect.signature(SignMomentum)
    shown = {name: each.default for name, each in signature.parameters.items()}
    assert list(shown)[:5] == ["params", "lr", "beta", "weight_decay", "decoupled_weight_decay"]
    assert (shown["lr"], shown["beta"], shown["weight_decay"]) == (1e-4, 0.9, 0.0)
    kinds = {name: each.kind for name, each in signature.parameters.items()}
    assert kinds["beta"] is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert kinds["maximize"] is inspect.Parameter.KEYWORD_ONLY
    assert signature.parameters["options"].annotation == typing.Unpack[Options]
    assert typing.get_type_hints(SignMomentum.__init__)["beta"] == float | torch.Tensor


def test_the_class_is_named_and_documented_after_the_rule():
    assert SignMomentum.__name__ == "SignMomentum"
    assert repr(SignMomentum) == f"<class '{__name__}.sign_momentum.optimizer'>"
    assert SignMomentum.__doc__.startswith(
        "The sign of the gradient's average.\n\nThe state is 'm'.\n\nArgs:\n"
    )
    assert "\n    beta: the leak of the average, in [0, 1).\n" in SignMomentum.__doc__
    optimizer = SignMomentum(parameters((2,)), beta=0.5)
    assert repr(optimizer).startswith("SignMomentum (\nParameter Group 0\n")
    assert "    beta: 0.5\n" in repr(optimizer)
    assert sign_momentum.optimizer is SignMomentum


@pytest.mark.parametrize("engine", ["eager", "cpu"])
def test_steps_are_the_rules_own(engine):
    """By hand: the rule on Python's floats, with coupled decay, element by element."""
    (weight,) = parameters((3, 2), dtype=torch.float64)
    optimizer = SignMomentum([weight], 0.01, 0.8, 0.5, engine=engine)
    expected = [[value, 0.0] for value in weight.flatten().tolist()]
    for step in range(1, 4):
        weight.grad = torch.full((3, 2), (-1.0) ** step, dtype=torch.float64)
        optimizer.step()
        expected = [sign_momentum(x, (-1.0) ** step + 0.5 * x, m, step, 0.01, 0.8) for x, m in expected]
    np.testing.assert_allclose(weight.detach().flatten(), [x for x, _ in expected], rtol=1e-14)
    np.testing.assert_allclose(optimizer.state[weight]["m"].flatten(), [m for _, m in expected], rtol=1e-14)
    assert optimizer.state[weight]["step"] == 3


@pytest.mark.parametrize("engine", ["eager", "cpu"])
def test_what_surrounds_every_rule_surrounds_it(engine):
    (weight,) = parameters((4,), dtype=torch.float64)
    weight.grad = torch.tensor([3.0, -4.0, 0.0, 0.0], dtype=torch.float64)
    before = weight.detach().clone()
    optimizer = plain.optimizer(
        [weight],
        lr=0.5,
        weight_decay=0.1,
        decoupled_weight_decay=True,
        maximize=True,
        clip_norm=1.0,
        average=0.9,
        engine=engine,
    )
    optimizer.step()
    unit = torch.tensor([0.6, -0.8, 0.0, 0.0], dtype=torch.float64)
    expected = before * (1 - 0.5 * 0.1) + 0.5 * unit * (5 / (5 + 1e-6))
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-14, atol=1e-14)
    with optimizer.averaged():
        torch.testing.assert_close(weight.detach(), expected, rtol=1e-14, atol=1e-14)


def test_a_hyperparameter_without_default_is_required():
    params = parameters((2,))
    kinds = {name: each.kind for name, each in inspect.signature(needy.optimizer).parameters.items()}
    assert kinds["decay"] is inspect.Parameter.KEYWORD_ONLY
    with pytest.raises(TypeError, match="missing a required argument: 'lr'"):
        needy.optimizer(params, decay=0.9)
    with pytest.raises(TypeError, match=r"missing a required.* argument: 'decay'"):
        needy.optimizer(params, 0.1)
    assert needy.optimizer(params, 0.1, 1e-3, decay=0.9).defaults["eps"] == 1e-3


@pytest.mark.parametrize(
    ("given", "error", "told"),
    [
        ({"bata": 0.9}, TypeError, r"there is no argument 'bata' \(did you mean 'beta'\?\)"),
        ({"lr": -1.0}, ValueError, "Invalid learning rate: -1.0"),
        ({"weight_decay": -1.0}, ValueError, "Invalid weight_decay value: -1.0"),
        ({"beta": "high"}, TypeError, "beta must be a number, or a tensor of one value a member, not 'high'"),
        ({"engine": "fast"}, ValueError, "Invalid engine: 'fast'"),
    ],
)
def test_wrong_arguments_are_refused(given, error, told):
    with pytest.raises(error, match=told):
        SignMomentum(parameters((2,)), **given)


def test_names_that_every_optimizer_has_are_refused():
    @rule(state=("step",))
    def counts(x, dx, step, t, lr):
        return x, step

    @rule()
    def averages(x, dx, t, lr, average=0.9):
        return (x,)

    @rule()
    def takes_pairs(x, dx, t, lr, betas=(0.9, 0.99)):
        return (x,)

    with pytest.raises(TypeError, match="'counts' keeps a state 'step', as every optimizer does: rename it"):
        _ = counts.optimizer
    with pytest.raises(TypeError, match="'averages' has a hyperparameter 'average', as every optimizer has"):
        _ = averages.optimizer
    with pytest.raises(TypeError, match=r"default of betas in the rule 'takes_pairs' must be a number"):
        _ = takes_pairs.optimizer


def test_the_base_itself_is_no_optimizer():
    with pytest.raises(AttributeError, match="source"):
        CustomOptimizer(parameters((2,)), {}).rule({})


def test_vectors_of_hyperparameters_are_one_value_a_member():
    rates, leaks = torch.tensor([0.1, 0.2]), torch.tensor([0.5, 0.9])
    (together,) = parameters((2, 3))
    alone = [torch.nn.Parameter(row.clone()) for row in together.detach()]
    optimizers = [SignMomentum([together], rates, leaks)]
    optimizers += [
        SignMomentum([row], float(a), float(b)) for row, a, b in zip(alone, rates, leaks, strict=True)
    ]
    for _ in range(3):
        for row, gradient in zip(alone, together.grad, strict=True):
            row.grad = gradient.clone()
        for each in optimizers:
            each.step()
        together.grad = -0.5 * together.grad
    torch.testing.assert_close(together.detach(), torch.stack([row.detach() for row in alone]))


@pytest.mark.parametrize("protocol", [2, 5])  # 2 is what torch.save takes
def test_pickles_and_copies_go_on(protocol):
    """The class is made at run time and found again as `optimizer` of the rule."""
    params = parameters((3, 2), (4,))
    optimizer = SignMomentum(params, lr=0.01, average=0.9)
    optimizer.step()
    file = io.BytesIO()
    pickle.dump({"class": SignMomentum, "optimizer": optimizer}, file, protocol=protocol)
    file.seek(0)
    loaded = pickle.load(file)
    assert loaded["class"] is type(loaded["optimizer"]) is SignMomentum
    copied = copy.deepcopy(optimizer)
    optimizer.step()
    for other in (loaded["optimizer"], copied):
        twins = other.param_groups[0]["params"]
        for twin, parameter in zip(twins, params, strict=True):
            twin.grad = parameter.grad
        other.step()
        assert all(torch.equal(twin, parameter) for twin, parameter in zip(twins, params, strict=True))


def test_rules_inside_functions_are_copied_but_not_pickled():
    @rule()
    def local(x, dx, t, lr=0.1):
        return (x - lr * dx,)

    optimizer = local.optimizer(parameters((2,)))
    assert type(copy.deepcopy(optimizer)) is local.optimizer
    with pytest.raises((AttributeError, pickle.PicklingError), match="local"):
        pickle.dumps(optimizer)


def test_checkpoints_go_on_exactly():
    params, twins = parameters((3, 2), (5,)), parameters((3, 2), (5,))
    one, other = needy.optimizer(params, 0.1, decay=0.9), needy.optimizer(twins, 0.3, decay=0.5)
    for _ in range(2):
        one.step()
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for twin, parameter in zip(twins, params, strict=True):
        twin.data.copy_(parameter)
    one.step()
    other.step()
    assert all(torch.equal(twin, parameter) for twin, parameter in zip(twins, params, strict=True))
    assert set(other.state_dict()["state"][0]) == {"step", "square_avg"}


def test_groups_have_their_own_hyperparameters():
    model = torch.nn.Linear(3, 2)
    optimizer = SignMomentum(param_groups(model, weight_decay=0.5), lr=0.1)
    optimizer.param_groups[1]["beta"] = 0.0
    optimizer.add_param_group({"params": [("late", *parameters((2,)))], "lr": 0.0})
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    model.weight.grad, model.bias.grad = torch.zeros(2, 3), torch.ones(2)
    kept = optimizer.param_groups[2]["params"][0].detach().clone()
    optimizer.step()
    torch.testing.assert_close(model.weight.detach(), weight - 0.1 * weight.sign())
    torch.testing.assert_close(model.bias.detach(), bias - 0.1)
    assert torch.equal(optimizer.param_groups[2]["params"][0], kept)


def test_autograd_sees_the_step_where_asked():
    rate = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    start = torch.ones(2, dtype=torch.float64, requires_grad=True)
    weight = start.clone()
    weight.grad = torch.tensor([2.0, 3.0], dtype=torch.float64)
    plain.optimizer([weight], lr=rate, differentiable=True).step()
    weight.sum().backward()
    assert rate.grad == -5.0


def test_it_may_be_subclassed():
    class Halved(SignMomentum):
        def __init__(self, params, **options):
            super().__init__(params, beta=0.5, **options)

    assert Halved(parameters((2,)), lr=0.2).defaults["beta"] == 0.5
    assert list(inspect.signature(Halved).parameters) == ["params", "options"]
