"""The eager engine: packing changes nothing, programs equal their rules, resumed equals uninterrupted."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ravine.optim
from ravine.optim import base, rules
from ravine.optim.kernels import fusion
from ravine.optim.kernels.eager import BLOCK, Surroundings, Update
from ravine.optim.kernels.packing import SMALL
from ravine.optim.rule import Rule, rule

EVERY_RULE = [part for part in vars(rules).values() if isinstance(part, Rule)]
MAKERS = {
    "sgd": lambda params: ravine.optim.SGD(params, 0.1, momentum=0.9, dampening=0.2, weight_decay=0.01),
    "nesterov": lambda params: ravine.optim.SGD(params, 0.1, momentum=0.9, nesterov=True),
    "adagrad": lambda params: ravine.optim.Adagrad(params, 0.1, lr_decay=0.1),
    "rmsprop": lambda params: ravine.optim.RMSprop(params, momentum=0.5, centered=True, eps=1e-2),
    "adam": lambda params: ravine.optim.Adam(params, amsgrad=True, weight_decay=0.01),
    "almost adam": lambda params: ravine.optim.Adam(params, bias_correction=False),
    "adamw": lambda params: ravine.optim.AdamW(params, 0.01),
}
every_maker = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())


def gradients(params, step):
    for index, parameter in enumerate(params):
        generator = torch.Generator().manual_seed(1000 * step + index)
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.grad = noise.to(parameter.dtype)


def train(optimizer, params, steps):
    for step in steps:
        gradients(params, step)
        optimizer.step()


def bits(tensors):
    return [tensor.detach().clone() for tensor in tensors]


def assert_identical(left, right):
    for one, other in zip(left, right, strict=True):
        assert torch.equal(one, other)


def tensor_like(shape, kind, dtype, seed):
    value = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    if kind == "transposed":
        value = value.T.contiguous().T if value.dim() == 2 else value
    elif kind == "channels last" and value.dim() == 4:
        value = value.to(memory_format=torch.channels_last)
    elif kind == "strided" and value.dim() > 0:
        value = torch.stack([value, value], -1)[..., 0]
    return value.requires_grad_()


shapes = st.sampled_from(
    [(), (0,), (1,), (3,), (17,), (64, 3), (5, 0), (2, 3, 4, 5), (33, 31), (SMALL + 5,), (SMALL - 1,)]
)
kinds = st.sampled_from(["plain", "transposed", "channels last", "strided"])
dtypes = st.sampled_from([torch.float32, torch.float64, torch.bfloat16])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(shapes, kinds, dtypes), min_size=1, max_size=6), st.sampled_from(sorted(MAKERS)))
def test_what_is_packed_along_changes_no_bit(layouts, name):
    """One optimizer for all against one for each; together they share vectors, alone they do not."""
    together = [tensor_like(*layout, seed) for seed, layout in enumerate(layouts)]
    alone = [tensor_like(*layout, seed) for seed, layout in enumerate(layouts)]
    whole = MAKERS[name](together)
    parts = [MAKERS[name]([parameter]) for parameter in alone]
    for step in range(4):
        gradients(together, step)
        gradients(alone, step)
        before = bits(parameter.grad for parameter in together)
        whole.step()
        for part in parts:
            part.step()
        assert_identical(before, [parameter.grad for parameter in together])
    assert_identical(together, alone)
    assert [p.stride() for p in together] == [p.stride() for p in alone]
    for one, part, other in zip(together, parts, alone, strict=True):
        for key, value in whole.state[one].items():
            assert torch.equal(value, part.state[other][key])


@every_maker
def test_packed_equals_unpacked(make, monkeypatch):
    packed = [tensor_like(shape, "plain", torch.float32, 1) for shape in [(33, 31), (7,), (1,)]]
    unpacked = [tensor_like(shape, "plain", torch.float32, 1) for shape in [(33, 31), (7,), (1,)]]
    first = make(packed)
    train(first, packed, range(20))
    assert first._plans[0].packs
    monkeypatch.setattr(base, "fits", lambda parameter: False)
    second = make(unpacked)
    train(second, unpacked, range(20))
    assert not second._plans[0].packs
    assert_identical(packed, unpacked)


@every_maker
def test_number_of_threads_changes_no_bit(make):
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            params = [
                tensor_like(shape, "plain", torch.float32, 1) for shape in [(3 * BLOCK + 77,), (30001,)]
            ]
            train(make(params), params, range(3))
            results.append(params)
    finally:
        torch.set_num_threads(before)
    assert_identical(*results)


@every_maker
@pytest.mark.parametrize("through", ["state_dict", "pickle", "deepcopy"])
def test_resumed_equals_uninterrupted_bit_for_bit(make, through):
    sizes = [(17, 5), (3,), (), (BLOCK + 3,)]
    straight = [tensor_like(shape, "plain", torch.float32, 2) for shape in sizes]
    train(make(straight), straight, range(12))

    stopped = [tensor_like(shape, "plain", torch.float32, 2) for shape in sizes]
    optimizer = make(stopped)
    train(optimizer, stopped, range(5))
    if through == "state_dict":
        resumed = [parameter.detach().clone().requires_grad_() for parameter in stopped]
        other = make(resumed)
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    else:
        other = pickle.loads(pickle.dumps(optimizer)) if through == "pickle" else copy.deepcopy(optimizer)
        resumed = other.param_groups[0]["params"]
    train(other, resumed, range(5, 12))
    assert_identical(straight, resumed)


@every_maker
def test_frozen_then_unfrozen_keeps_its_own_step_count(make):
    """A parameter without a gradient is left alone, and goes on later as if the pause had not been."""
    params = [tensor_like((4,), "plain", torch.float32, seed) for seed in range(3)]
    alone = tensor_like((4,), "plain", torch.float32, 1)
    optimizer, single = make(params), make([alone])
    for step, live in enumerate([(0,), (0, 1), (2,), (0, 1, 2), (1,), ()]):
        gradients(params, step)
        pause = params[1].detach().clone()
        if 1 in live:
            alone.grad = params[1].grad.clone()
            single.step()
        for index, parameter in enumerate(params):
            parameter.grad = parameter.grad if index in live else None
        optimizer.step()
        assert torch.equal(params[1], pause) != (1 in live)
    assert torch.equal(params[1], alone)
    if optimizer.counts_steps:
        assert [optimizer.state[parameter]["step"].item() for parameter in params] == [3, 3, 2]


@every_maker
def test_no_gradient_at_all_changes_nothing(make):
    params = [tensor_like((4,), "plain", torch.float32, 0)]
    before = bits(params)
    make(params).step()
    assert_identical(params, before)


@pytest.mark.parametrize(
    "shape", [fusion.Shape(*flags) for flags in [(0, 0, 0, 0), (1, 1, 0, 1), (1, 0, 1, 0)]]
)
@pytest.mark.parametrize("each", EVERY_RULE, ids=lambda each: each.name)
def test_program_equals_its_rule(each, shape):
    """The traced calls against the rule as it is written, in float64; the gradient stays as it is."""
    generator = torch.Generator().manual_seed(0)
    values = [
        torch.rand(50, dtype=torch.float64, generator=generator) + 0.5 for _ in range(2 + len(each.state))
    ]
    if "grad_avg" in each.state:
        values[2 + each.state.index("grad_avg")] *= 0.1
    values[1] *= 0.1
    around = Surroundings(bool(shape.maximize), 0.1 * shape.decay, 0.2 * shape.shrink, 0.3 * shape.damping)
    update = Update(each, around, 3.0, [0.01, 0.9, 0.99, 0.5][: len(each.hyperparameters)])
    assert fusion.program(each, shape) is not None
    expected = update.result(*values)
    gradient = values[1].clone()
    update.write(*values)
    torch.testing.assert_close([values[0], *values[2:]], list(expected), rtol=1e-13, atol=1e-14)
    assert torch.equal(values[1], gradient)


def test_adam_takes_nine_calls():
    source = fusion.program(rules.adam, fusion.Shape(False, False, False, False)).__doc__
    assert len(source.splitlines()) == 1 + 9
    assert ".copy_" not in source


def test_square_root_of_the_extremes():
    """No gradient, no step; an infinite gradient makes the sum infinite and the step not a number."""
    parameter = torch.nn.Parameter(torch.ones(4))
    parameter.grad = torch.tensor([0.0, 1e-18, 1e18, float("inf")])
    ravine.optim.Adagrad([parameter], lr=0.5, eps=1e-30).step()
    assert parameter[:3].tolist() == pytest.approx([1.0, 0.5, 0.5], rel=1e-6)
    assert parameter[3].isnan()


@rule(state=("a", "b"))
def swap(x, dx, a, b, t, lr):
    """State that changes places: no value may be overwritten before it was read."""
    return x - lr * (a * b) / dx, b + a, a


@rule(state=("a",))
def unusual(x, dx, a, t, lr):
    """Operations that torch cannot fuse."""
    return 1 - (-x) * lr + 2 / dx.abs(), dx**2 + a


@rule(state=("a", "b"))
def reuse(x, dx, a, b, t, lr):
    """Values used twice, products of three, a scaled state, an untouched state."""
    step = a * dx
    return x - step * step * (lr * step) + step / (a * dx), 0.5 * a, b


@pytest.mark.parametrize("each", [swap, unusual, reuse], ids=lambda each: each.name)
def test_rules_of_other_forms(each):
    values = [torch.rand(9, dtype=torch.float64) + 0.5 for _ in range(2 + len(each.state))]
    update = Update(each, Surroundings(), 1.0, [0.1])
    expected = update.result(*values)
    update.write(*values)
    torch.testing.assert_close([values[0], *values[2:]], list(expected), rtol=1e-13, atol=0)


def test_bfloat16_is_computed_in_float32():
    """Each stored value is the float32 rule's, rounded once."""
    start = torch.linspace(-2, 2, 33).bfloat16()
    gradient = torch.linspace(0.1, 1, 33).bfloat16()
    parameter = start.clone().requires_grad_()
    parameter.grad = gradient.clone()
    optimizer = ravine.optim.Adam([parameter], lr=0.1)
    optimizer.step()
    zeros = torch.zeros(33)
    x, m, v = rules.adam(start.float(), gradient.float(), zeros, zeros, 1.0, 0.1, 0.9, 0.999, 1e-8)
    assert torch.equal(parameter, x.bfloat16())
    assert torch.equal(optimizer.state[parameter]["exp_avg"], m.bfloat16())
    assert torch.equal(optimizer.state[parameter]["exp_avg_sq"], v.bfloat16())


def test_gradient_of_another_layout():
    parameter = tensor_like((SMALL, 2), "plain", torch.float32, 0)
    twin = parameter.detach().clone().requires_grad_()
    gradient = torch.randn(2, SMALL).T
    parameter.grad, twin.grad = gradient, gradient.contiguous()
    for each in (parameter, twin):
        ravine.optim.Adam([each]).step()
    assert torch.equal(parameter, twin)
