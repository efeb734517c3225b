"""Whatever becomes of parameters, gradients and state between steps: the next is right, or refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ravine.optim

MAKERS = {
    "sgd": lambda params, **o: ravine.optim.SGD(
        params, 0.1, momentum=0.9, dampening=0.2, weight_decay=0.01, **o
    ),
    "plain sgd": lambda params, **o: ravine.optim.SGD(params, 0.1, **o),
    "adagrad": lambda params, **o: ravine.optim.Adagrad(params, 0.1, lr_decay=0.1, **o),
    "rmsprop": lambda params, **o: ravine.optim.RMSprop(params, momentum=0.5, centered=True, eps=1e-2, **o),
    "adam": lambda params, **o: ravine.optim.Adam(params, amsgrad=True, weight_decay=0.01, **o),
    "adamw": lambda params, **o: ravine.optim.AdamW(params, 0.01, **o),
    "nadam": lambda params, **o: ravine.optim.NAdam(params, 0.01, **o),
    "adan": lambda params, **o: ravine.optim.Adan(params, 0.01, **o),
    "lion": lambda params, **o: ravine.optim.Lion(params, 0.01, **o),
    "schedule free": lambda params, **o: ravine.optim.ScheduleFreeAdamW(params, 0.01, **o),
}
every_maker = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())


def noise(shape, dtype, step, index=0):
    generator = torch.Generator().manual_seed(1000 * step + index)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def give_gradients(params, step):
    for index, parameter in enumerate(params):
        parameter.grad = noise(parameter.shape, parameter.dtype, step, index)


def train(optimizer, params, steps):
    for step in steps:
        give_gradients(params, step)
        optimizer.step()


def start(*shape, seed=0, dtype=torch.float32):
    return noise(shape, dtype, 0, 500 + seed).requires_grad_()


def assert_identical(left, right):
    for one, other in zip(left, right, strict=True):
        assert torch.equal(one, other)


def laid_out(shape, kind, dtype, seed):
    value = noise(shape, dtype, 7, seed)
    if kind == "transposed" and value.dim() == 2:
        value = value.T.contiguous().T
    elif kind == "channels last" and value.dim() == 4:
        value = value.to(memory_format=torch.channels_last)
    elif kind == "strided" and value.dim() > 0:
        value = torch.stack([value, value], -1)[..., 0]
    return value.requires_grad_()


shapes = st.sampled_from([(), (0,), (1,), (3,), (17,), (64, 3), (5, 0), (2, 3, 4, 5), (33, 31), (65537,)])
kinds = st.sampled_from(["plain", "transposed", "channels last", "strided"])
dtypes = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(shapes, kinds, dtypes), min_size=1, max_size=6), st.sampled_from(sorted(MAKERS)))
def test_stepping_together_changes_no_bit(layouts, name):
    """One optimizer for all against one for each."""
    together = [laid_out(*layout, seed) for seed, layout in enumerate(layouts)]
    alone = [laid_out(*layout, seed) for seed, layout in enumerate(layouts)]
    whole = MAKERS[name](together, rounding="nearest")
    parts = [MAKERS[name]([parameter], rounding="nearest") for parameter in alone]
    for step in range(4):
        give_gradients(together, step)
        give_gradients(alone, step)
        before = [parameter.grad.clone() for parameter in together]
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
def test_frozen_then_unfrozen_keeps_its_own_step_count(make):
    """A parameter without a gradient is left alone, and goes on later as if the pause had not been."""
    params, alone = [start(4, seed=seed) for seed in range(3)], start(4, seed=1)
    optimizer, single = make(params), make([alone])
    for step, live in enumerate([(0,), (0, 1), (2,), (0, 1, 2), (1,), ()]):
        give_gradients(params, step)
        pause = params[1].detach().clone()
        if 1 in live:
            alone.grad = params[1].grad.clone()
            single.step()
        for index, parameter in enumerate(params):
            parameter.grad = parameter.grad if index in live else None
        optimizer.step()
        assert torch.equal(params[1], pause) != (1 in live)
    assert torch.equal(params[1], alone)
    if optimizer.counters:
        assert [optimizer.state[parameter]["step"].item() for parameter in params] == [3, 3, 2]


@every_maker
def test_no_gradient_at_all_changes_nothing(make):
    parameter = start(4)
    before = parameter.detach().clone()
    optimizer = make([parameter], clip_norm=1.0)
    optimizer.step()
    assert torch.equal(parameter, before)
    assert all(entry["step"] == 0 for entry in optimizer.state.values())


@every_maker
def test_gradients_are_never_changed(make):
    """With all that acts on them composed around the rule."""
    params = [start(40), start(3, 5, seed=1), start(seed=2)]
    optimizer = make(params, clip_norm=0.1, clip_value=0.05, l1=0.1, average=0.5)
    optimizer.param_groups[0]["maximize"] = True
    for step in range(3):
        give_gradients(params, step)
        before = [parameter.grad.clone() for parameter in params]
        pointers = [parameter.grad.data_ptr() for parameter in params]
        optimizer.step()
        assert_identical([parameter.grad for parameter in params], before)
        assert [parameter.grad.data_ptr() for parameter in params] == pointers


@every_maker
@pytest.mark.parametrize("in_place", [False, True])
def test_memory_of_the_gradients_may_stay_or_change(make, in_place):
    """`zero_grad(set_to_none=False)` keeps it, backward passes bring new."""
    expected, parameter = start(50), start(50)
    train(make([expected]), [expected], range(5))
    optimizer = make([parameter])
    parameter.grad = torch.zeros(50)
    for step in range(5):
        fresh = noise((50,), torch.float32, step)
        parameter.grad = parameter.grad.copy_(fresh) if in_place else torch.cat([fresh, fresh])[50:]
        optimizer.step()
    assert torch.equal(parameter, expected)


def as_view_of_wider(gradient):
    return torch.stack([gradient, gradient], -1)[..., 0]


FORMS = {
    "transposed": lambda gradient: gradient.T.contiguous().T,
    "with gaps": as_view_of_wider,
    "expanded": lambda gradient: gradient[:1].expand_as(gradient),
    "float64": lambda gradient: gradient.double(),
    "bfloat16": lambda gradient: gradient.bfloat16(),
    "lazily negative": lambda gradient: torch._neg_view(-gradient),
    "following autograd": lambda gradient: gradient * torch.ones((), requires_grad=True),
}


@every_maker
@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_another_form(make, form):
    """They come and go between usual ones; torch lets a parameter have them."""
    parameter, expected = start(6, 5), start(6, 5)
    parameter.grad_dtype = None
    optimizer, reference = make([parameter]), make([expected], engine="eager")
    for step in range(5):
        gradient = noise((6, 5), torch.float32, step)
        odd = FORMS[form](gradient) if step % 2 else gradient
        parameter.grad = odd
        expected.grad = odd.detach().to(torch.float32, copy=True).contiguous()
        optimizer.step()
        reference.step()
    torch.testing.assert_close(parameter, expected, rtol=1e-5, atol=1e-6)
    assert parameter.dtype == torch.float32


@every_maker
def test_lazily_conjugate_gradients(make):
    """Autograd leaves them where complex numbers are multiplied."""
    parameter, expected = start(5, dtype=torch.complex64), start(5, dtype=torch.complex64)
    optimizer, reference = make([parameter]), make([expected])
    for step in range(4):
        gradient = noise((5,), torch.complex64, step)
        parameter.grad = gradient.conj() if step % 2 else gradient
        expected.grad = gradient.conj().resolve_conj() if step % 2 else gradient
        optimizer.step()
        reference.step()
    torch.testing.assert_close(parameter, expected, rtol=1e-5, atol=1e-6)


@every_maker
def test_memory_of_the_parameters_may_be_replaced(make):
    """As `model.to(...)` and loading with `assign` do."""
    expected, parameter = start(20), start(20)
    train(make([expected]), [expected], range(4))
    optimizer = make([parameter])
    for step in range(4):
        parameter.data = parameter.data.clone()
        train(optimizer, [parameter], [step])
    assert torch.equal(parameter, expected)


@every_maker
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_another_dtype_on_the_way(make, dtype):
    """The state that was goes on, and keeps its precision."""
    parameter = start(20)
    optimizer = make([parameter], rounding="nearest")
    train(optimizer, [parameter], range(3))
    reference = parameter.detach().to(dtype).requires_grad_()
    other = make([reference], rounding="nearest", engine="eager")
    other.state[reference] = {key: value.clone() for key, value in optimizer.state[parameter].items()}
    parameter.data = parameter.data.to(dtype)
    train(optimizer, [parameter], range(3, 6))
    train(other, [reference], range(3, 6))
    assert parameter.dtype == dtype
    tolerance = 1e-6 if dtype == torch.float64 else 2e-2
    torch.testing.assert_close(parameter, reference, rtol=tolerance, atol=tolerance)


def test_another_size_on_the_way():
    """Without a state there is nothing that would not fit; the memory before and behind is not touched."""
    memory = torch.zeros(64)
    parameter = torch.nn.Parameter(memory[16:32])
    optimizer = ravine.optim.SGD([parameter], 1.0, engine="cpu")
    for begin, end in ((16, 32), (16, 20), (16, 48), (20, 24)):
        memory.zero_()
        parameter.grad = None
        parameter.data = memory[begin:end]
        parameter.grad = -torch.ones(end - begin)
        optimizer.step()
        assert memory.nonzero().flatten().tolist() == list(range(begin, end))


@every_maker
def test_a_gradient_of_another_size_is_refused(make):
    """It is what is left when `p.data` is replaced after the backward pass."""
    parameter = start(8)
    optimizer = make([parameter])
    give_gradients([parameter], 0)
    optimizer.step()
    parameter.data = torch.ones(16)
    with pytest.raises(RuntimeError, match=r"a gradient has shape \(8,\) and its parameter \(16,\)"):
        optimizer.step()
    assert torch.equal(parameter, torch.ones(16))


@every_maker
def test_a_parameter_transposed_where_it_lies(make):
    """Neither the gradient's strides nor the parameter's address tell."""
    expected, parameter = start(4, 4), start(4, 4)
    for one, optimizer in ((expected, make([expected], engine="eager")), (parameter, make([parameter]))):
        train(optimizer, [one], range(2))
        one.data = one.data.t()
        train(optimizer, [one], range(2, 5))
    torch.testing.assert_close(parameter, expected, rtol=1e-5, atol=1e-6)


@every_maker
def test_a_parameter_cut_where_it_lies_with_the_gradient_of_before(make):
    parameter = start(8)
    optimizer = make([parameter])
    train(optimizer, [parameter], range(2))
    memory = parameter.data
    before = memory.clone()
    parameter.data = memory[:4]
    with pytest.raises(RuntimeError, match=r"a gradient has shape \(8,\) and its parameter \(4,\)"):
        optimizer.step()
    assert torch.equal(memory, before)


@pytest.mark.parametrize("key", ["exp_avg", "max_exp_avg_sq", "average", "remainder"])
def test_a_state_of_another_shape_is_refused(key):
    """A kernel would read and write beyond it."""
    parameter = start(8, dtype=torch.bfloat16)
    optimizer = MAKERS["adam"]([parameter], average=0.9, rounding="compensated")
    train(optimizer, [parameter], range(2))
    before = parameter.detach().clone()
    optimizer.state[parameter][key] = optimizer.state[parameter][key][:4].clone()
    with pytest.raises(RuntimeError, match=rf"the state '{key}' has shape \(4,\) and its parameter \(8,\)"):
        optimizer.step()
    assert torch.equal(parameter, before)


@every_maker
@pytest.mark.parametrize("how", ["key", "data", "set_", "resize", "share_memory"])
def test_memory_of_the_state_may_be_replaced(make, how):
    """Moved away and back, as offloading does, the counters too; a kernel must not write to where it was."""
    expected, parameter = start(20), start(20)
    reference = make([expected])
    train(reference, [expected], range(6))
    optimizer = make([parameter])
    train(optimizer, [parameter], range(3))
    old = []
    for key, value in list(optimizer.state[parameter].items()):
        copied = value.detach().clone()
        if how == "key":
            optimizer.state[parameter][key] = copied
        elif how == "data":
            old.append((value.data, copied.clone()))
            value.data = copied
        elif how == "set_":
            old.append((value.detach().view_as(value), copied.clone()))
            value.set_(copied)
        elif how == "resize":
            if value.dim():
                value.resize_(40_000).resize_(20)
        elif value.dim():
            value.share_memory_()
    train(optimizer, [parameter], range(3, 6))
    assert torch.equal(parameter, expected)
    for key, value in reference.state[expected].items():
        assert torch.equal(optimizer.state[parameter][key], value), key
    for left_behind, value in old:
        assert left_behind.shape != value.shape or torch.equal(left_behind, value)


@every_maker
@pytest.mark.parametrize("how", ["clear", "pop", "empty", "one key"])
def test_state_removed_starts_anew(make, how):
    params = [start(5), start(4, seed=1)]
    optimizer = make(params)
    train(optimizer, params, range(3))
    if how == "clear":
        optimizer.state.clear()
    else:
        for parameter in params:
            if how == "pop":
                optimizer.state.pop(parameter, None)
            else:
                entry = optimizer.state[parameter]
                for key in [key for key in entry if how == "empty" or entry[key].dim()]:
                    entry[key] = None
                    if how == "empty":
                        del entry[key]
    twins = [parameter.detach().clone().requires_grad_() for parameter in params]
    fresh = make(twins)
    if how == "one key":  # the counts go on
        for twin, parameter in zip(twins, params, strict=True):
            for key, value in optimizer.state[parameter].items():
                if value is not None:
                    fresh.state[twin][key] = value.clone()
    train(optimizer, params, range(3, 5))
    train(fresh, twins, range(3, 5))
    assert_identical(params, twins)


@every_maker
def test_a_parameter_may_change_groups(make):
    """The state goes with it; the rate is the new group's. The order of all parameters stays the same."""
    params = [start(5, seed=seed) for seed in range(3)]
    optimizer = make([{"params": params[:1]}, {"params": params[1:], "lr": 0.0}])
    train(optimizer, params, range(2))
    moved = params[1].detach().clone()
    optimizer.param_groups[0]["params"].append(optimizer.param_groups[1]["params"].pop(0))
    third = params[2].detach().clone()
    train(optimizer, params, range(2, 4))
    assert not torch.equal(params[1], moved)
    assert torch.equal(params[2], third) or optimizer.param_groups[1]["weight_decay"]


def test_step_counts_are_kept_apart():
    """Two groups' worth of parameters, one count changed in place: nobody is stepped twice."""
    params = [torch.nn.Parameter(torch.ones(20000)) for _ in range(4)]
    optimizer = ravine.optim.Adam(params)
    train(optimizer, params, range(1))
    optimizer.state[params[3]]["step"].fill_(10)
    train(optimizer, params, range(1, 2))
    assert [optimizer.state[parameter]["step"].item() for parameter in params] == [2, 2, 2, 11]


def test_a_gradient_may_be_shared_or_be_the_parameter_itself():
    one, two = torch.nn.Parameter(torch.ones(40)), torch.nn.Parameter(torch.ones(40))
    shared = torch.full((40,), 0.5)
    one.grad, two.grad = shared, shared
    ravine.optim.SGD([one, two], 1.0).step()
    assert one.tolist() == two.tolist() == [0.5] * 40
    one.grad = one.detach()
    ravine.optim.SGD([one], 0.5).step()
    assert one.tolist() == [0.25] * 40
