"""Every optimizer on every engine against the eager rule in float64; equal bits wherever an element lies."""

import pytest
import torch

import ravine.optim
from ravine import registry
from ravine.optim import rules
from ravine.optim.base import RuleOptimizer
from ravine.optim.kernels.rounding import widen
from ravine.optim.kernels.surroundings import Surroundings
from ravine.optim.rule import Rule, rule, where

OPTIONS = {
    "sgd": {"lr": 0.05},
    "momentum": {"lr": 0.01, "momentum": 0.9, "dampening": 0.2, "weight_decay": 0.01},
    "nesterov": {"lr": 0.01, "momentum": 0.9, "nesterov": True},
    "adagrad": {"lr": 0.05, "lr_decay": 0.01, "weight_decay": 0.01},
    "rmsprop": {"lr": 0.01, "eps": 1e-3},
    "rmsprop momentum": {"lr": 0.003, "eps": 1e-3, "momentum": 0.7},
    "rmsprop centered": {"lr": 0.01, "eps": 0.1, "centered": True},
    "rmsprop centered momentum": {"lr": 0.003, "eps": 0.1, "centered": True, "momentum": 0.7},
    "adam": {"lr": 0.01, "eps": 1e-3, "weight_decay": 0.01},
    "almost adam": {"lr": 0.01, "eps": 1e-3, "bias_correction": False},
    "amsgrad": {"lr": 0.01, "eps": 1e-3, "amsgrad": True},
    "adamw": {"lr": 0.01, "eps": 1e-3},
    "nadam": {"lr": 0.01, "eps": 1e-3},
    "nadamw": {"lr": 0.01, "eps": 1e-3},
    "radam": {"lr": 0.01, "eps": 1e-3},
    "adamax": {"lr": 0.01, "eps": 1e-3},
    "adadelta": {"lr": 0.5, "eps": 1e-3},
    "adan": {"lr": 0.01, "eps": 1e-3, "weight_decay": 0.01},
    "lion": {"lr": 0.001, "weight_decay": 0.01},
    "schedule_free_sgd": {"lr": 0.05},
    "schedule_free_adamw": {"lr": 0.01, "eps": 1e-3, "weight_decay": 0.01},
}
CLASSES = {"momentum": "sgd", "nesterov": "sgd", "almost adam": "adam", "amsgrad": "adam"}
every_case = pytest.mark.parametrize("case", OPTIONS)

COMPLEX = ("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw", "nadam", "radam", "adadelta")
"""Those whose classes in torch take complex parameters."""


def make(case, params, **options):
    part = registry.lookup("optimizer", CLASSES.get(case, case.split()[0]))
    return part(params, **OPTIONS[case], **options)


def gradient_of(value, step):
    """Of a bowl with bumps, the same whatever surrounds an element: computed in float64."""
    wide = value.detach().to(torch.complex128 if value.is_complex() else torch.float64)
    return (wide + 0.3 * torch.cos(3 * wide.abs() + step)).to(value.dtype)


def start_of(shape, dtype=torch.float64, seed=0):
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return torch.randn(shape, dtype=wide, generator=torch.Generator().manual_seed(seed)).to(dtype)


def train(optimizer, params, steps, start=0):
    for step in range(start, start + steps):
        for parameter in params:
            parameter.grad = gradient_of(parameter, step)
        optimizer.step()


def same_state(one, other, **tolerance):
    for first, second in zip(one.param_groups[0]["params"], other.param_groups[0]["params"], strict=True):
        assert one.state[first].keys() == other.state[second].keys()
        for key, value in one.state[first].items():
            torch.testing.assert_close(value, other.state[second][key], **tolerance)


def test_every_registered_optimizer_and_every_rule_is_among_the_cases():
    """A new class must be added here: all of this file is about each."""
    named = {CLASSES.get(case, case.split()[0]) for case in OPTIONS}
    elementwise = {entry.name for entry in registry.entries("optimizer") if not entry.part.redirects}
    assert named == elementwise
    used = set()
    for case in OPTIONS:
        optimizer = make(case, [torch.ones(1, requires_grad=True)])
        used.add(optimizer.rule(optimizer.param_groups[0]))
    assert used == {each for each in vars(rules).values() if isinstance(each, Rule)}


@every_case
def test_kernel_agrees_with_the_eager_rule_in_float64_over_a_thousand_steps(case):
    """All are given the same gradients, so that only the arithmetic differs.

    In float64 the kernel differs by fused multiply-adds and by 1/s for a division; compensated
    bfloat16 is float32.
    """
    start = start_of((50,)).bfloat16()
    wide = start.double().requires_grad_()
    others = [start.to(dtype).requires_grad_() for dtype in (torch.float64, torch.float32, torch.bfloat16)]
    reference = make(case, [wide], engine="eager")
    kernel = make(case, others, engine="cpu", rounding="compensated")
    for step in range(1000):
        gradient = gradient_of(wide, step).bfloat16()
        wide.grad = gradient.double()
        for parameter in others:
            parameter.grad = gradient.to(parameter.dtype)
        reference.step()
        kernel.step()
    double, single, half = (parameter.detach() for parameter in others)
    compensated = widen(half, kernel.state[others[2]]["remainder"])
    torch.testing.assert_close(double, wide.detach(), rtol=1e-10, atol=1e-11)
    for key, value in reference.state[wide].items():
        torch.testing.assert_close(kernel.state[others[0]][key], value, rtol=1e-9, atol=1e-11)
    for found in (single, compensated):
        torch.testing.assert_close(found.double(), wide.detach(), rtol=1e-4, atol=1e-4)


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_one_step_is_rounded_once(case, dtype):
    """What is stored is the float32 result to the nearest value; both engines compute in float32."""
    start = start_of((200,)).to(dtype)
    kernel, eager = start.clone().requires_grad_(), start.clone().requires_grad_()
    options = {"rounding": "nearest"}
    one = make(case, [kernel], engine="cpu", **options)
    two = make(case, [eager], engine="eager", **options)
    train(one, [kernel], 3)
    train(two, [eager], 3)
    spacing = {torch.float32: 2.0**-20, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}[dtype]
    torch.testing.assert_close(
        kernel, eager, rtol=spacing, atol=1e-6 if dtype == torch.float32 else spacing * 1e-2
    )
    same_state(one, two, rtol=2e-5 if dtype == torch.float32 else 0.05, atol=1e-2)


@pytest.mark.parametrize("case", COMPLEX)
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_complex_parameters(case, dtype):
    """As their real and imaginary parts are stepped."""
    value = start_of((33, 2), dtype)
    parameter = value.clone().requires_grad_()
    parts = torch.view_as_real(value).clone().requires_grad_()
    one, two = make(case, [parameter], engine="cpu"), make(case, [parts], engine="cpu")
    other = value.clone().requires_grad_()
    three = make(case, [other], engine="eager")
    for step in range(50):
        parameter.grad = gradient_of(parameter, step)
        parts.grad = torch.view_as_real(parameter.grad).clone()
        other.grad = parameter.grad.clone()
        for optimizer in (one, two, three):
            optimizer.step()
    assert torch.equal(torch.view_as_real(parameter), parts)
    torch.testing.assert_close(parameter, other, rtol=1e-4, atol=1e-4)


SIZES = [0, 1, 2, 15, 16, 17, 31, 32, 33, 65535, 65536, 65537]


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_an_element_comes_out_the_same_wherever_it_lies(case, dtype):
    """Alone, in a vector, in the tail, across chunks: the same bits, gradients untouched."""
    pool = start_of((65600,), dtype, seed=3)
    params = [pool[:size].clone().requires_grad_() for size in SIZES]
    shifted = pool[7:65600].clone().requires_grad_()
    alone = [pool[place : place + 1].clone().requires_grad_() for place in range(40)]
    zero = pool[5].clone().requires_grad_()
    every = [*params, shifted, *alone, zero]
    # The random bits of stochastic rounding belong to the place: compare what is rounded to the nearest.
    optimizer = make(case, every, engine="cpu", rounding="nearest", average=0.9, clip_value=0.8)
    for step in range(3):
        for parameter in every:
            parameter.grad = gradient_of(parameter, step)
        before = [parameter.grad.clone() for parameter in every]
        optimizer.step()
        assert all(torch.equal(parameter.grad, old) for parameter, old in zip(every, before, strict=True))
    longest = params[-1]
    keys = [key for key, value in optimizer.state[longest].items() if value.dim()]

    def values(parameter):
        return [parameter.detach(), *(optimizer.state[parameter][key] for key in keys)]

    for column, whole in enumerate(values(longest)):
        for size, parameter in zip(SIZES, params, strict=True):
            assert torch.equal(values(parameter)[column], whole[:size]), (size, column)
        assert torch.equal(values(shifted)[column][: 65537 - 7], whole[7:]), column
        for place, parameter in enumerate(alone):
            assert torch.equal(values(parameter)[column], whole[place : place + 1]), (place, column)
        assert torch.equal(values(zero)[column], whole[5]), column


LAYOUTS = {
    "transposed": lambda value: value.reshape(40, 30).T,
    "channels last": lambda value: value.reshape(2, 10, 12, 5).to(memory_format=torch.channels_last),
    "permuted": lambda value: value.reshape(10, 10, 12).permute(2, 0, 1),
    "a column": lambda value: torch.stack([value, value], 1)[:, 0],
    "a slice": lambda value: torch.cat([value, value]).reshape(40, 60)[:, :30],
    "0-dim": lambda value: value[0].clone(),
    "empty": lambda value: value[:0].clone().reshape(0, 7),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", ["momentum", "adam", "schedule_free_adamw", "adan"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_memory_layouts(case, layout, dtype):
    """Whatever the layout: the values of a contiguous copy, in the layout that was."""
    value = LAYOUTS[layout](start_of((1200,), dtype))
    parameter = torch.empty_strided(value.shape, value.stride(), dtype=dtype)
    if layout in ("a column", "a slice"):
        parameter = value.clone(memory_format=torch.preserve_format)
        base = torch.zeros(*value.shape, 2, dtype=dtype)
        parameter = base[..., 0]
    parameter.copy_(value)
    strides = parameter.stride()
    parameter.requires_grad_()
    plain = value.contiguous().clone(memory_format=torch.contiguous_format).requires_grad_()
    one = make(case, [parameter], rounding="nearest")
    two = make(case, [plain], engine="cpu", rounding="nearest")
    for step in range(20):
        plain.grad = gradient_of(plain, step)
        parameter.grad = plain.grad.clone()  # in another layout than the parameter
        if step % 2:
            parameter.grad = torch.empty_strided(value.shape, strides, dtype=dtype).copy_(plain.grad)
        one.step()
        two.step()
    assert parameter.stride() == strides
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(parameter, plain, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", ["momentum", "adam"])
def test_only_what_overlaps_itself_is_refused(case):
    """As torch refuses it: one place in memory cannot take several results."""
    parameter = torch.ones(1).expand(4).requires_grad_()
    parameter.grad = torch.ones(4)
    with pytest.raises(RuntimeError, match="refers to a single memory location"):
        make(case, [parameter]).step()


@pytest.mark.parametrize("case", ["momentum", "adam", "nadam", "rmsprop centered"])
@pytest.mark.parametrize("threads", [2, 4])
def test_number_of_threads_changes_no_bit(case, threads):
    results = []
    before = torch.get_num_threads()
    try:
        for count in (1, threads):
            torch.set_num_threads(count)
            params = [start_of((size,), torch.float32).requires_grad_() for size in (3 * 65536 + 77, 30001)]
            optimizer = make(case, params, engine="cpu", clip_norm=1.0, average=0.9)
            train(optimizer, params, 3)
            results.append((params, optimizer))
    finally:
        torch.set_num_threads(before)
    (left, one), (right, two) = results
    torch.testing.assert_close(left, right, rtol=0, atol=0)
    same_state(one, two, rtol=0, atol=0)


@every_case
def test_states_of_any_dtype(case):
    """A checkpoint's states may be wider or narrower than what this machine would have made."""
    start = start_of((33,), torch.float32)
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        kernel, eager = start.clone().requires_grad_(), start.clone().requires_grad_()
        one, two = make(case, [kernel], engine="cpu"), make(case, [eager], engine="eager")
        for optimizer, parameter in ((one, kernel), (two, eager)):
            train(optimizer, [parameter], 2)
            entry = optimizer.state[parameter]
            for number, key in enumerate(key for key, value in entry.items() if value.dim()):
                if number % 2 == 0:
                    entry[key] = entry[key].to(dtype)
            train(optimizer, [parameter], 3, start=2)
        assert [v.dtype for v in one.state[kernel].values()] == [v.dtype for v in two.state[eager].values()]
        tolerance = {torch.float64: 1e-5, torch.float16: 5e-3, torch.bfloat16: 2e-2}[dtype]
        torch.testing.assert_close(kernel, eager, rtol=tolerance, atol=tolerance)


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(
    "composed", [{}, {"clip_norm": 1.0, "clip_value": 0.5, "l1": 0.01, "maximize": True}]
)
def test_gradients_that_are_not_finite_spread_as_in_eager(case, dtype, composed):
    """The same elements become NaN or infinite, at the same step; their neighbors do not."""
    start = start_of((20,), dtype)
    kernel, eager = start.clone().requires_grad_(), start.clone().requires_grad_()
    one = make(case, [kernel], engine="cpu", **composed)
    two = make(case, [eager], engine="eager", **composed)
    for step in range(4):
        gradient = gradient_of(start, step)
        if step == 1:
            gradient[3], gradient[7], gradient[17] = torch.nan, torch.inf, -torch.inf
        if step == 2:
            gradient[5] = 0.0
        kernel.grad, eager.grad = gradient.clone(), gradient.clone()
        one.step()
        two.step()
        for left, right in zip(*(values_of(one, kernel), values_of(two, eager)), strict=True):
            for kind in (torch.isnan, torch.isposinf, torch.isneginf):
                assert torch.equal(kind(left), kind(right)), (step, kind)
    if not composed:
        touched = torch.zeros(20, dtype=torch.bool)
        touched[[3, 7, 17]] = True
        assert kernel[~touched].isfinite().all()


def values_of(optimizer, parameter):
    return [parameter.detach(), *(value for value in optimizer.state[parameter].values() if value.dim())]


@every_case
@pytest.mark.parametrize("engine", ["cpu", "eager"])
def test_zero_gradients_and_zero_parameters(case, engine):
    """Nothing divides by nothing."""
    parameter = torch.zeros(19).requires_grad_()
    optimizer = make(case, [parameter], engine=engine, clip_norm=1.0, l1=0.1)
    for _ in range(3):
        parameter.grad = torch.zeros(19)
        optimizer.step()
    assert torch.equal(parameter, torch.zeros(19))


@pytest.mark.parametrize("engine", ["cpu", "eager"])
def test_square_root_of_the_extremes(engine):
    """No gradient, no step; an infinite gradient makes the sum infinite and the step not a number."""
    parameter = torch.nn.Parameter(torch.ones(4))
    parameter.grad = torch.tensor([0.0, 1e-18, 1e18, float("inf")])
    ravine.optim.Adagrad([parameter], lr=0.5, eps=1e-30, engine=engine).step()
    assert parameter[:3].tolist() == pytest.approx([1.0, 0.5, 0.5], rel=1e-6)
    assert parameter[3].isnan()


@pytest.mark.parametrize("engine", ["cpu", "eager"])
@pytest.mark.parametrize("lr", [1e39, 1e-46])
def test_rates_beyond_float32_are_no_error(engine, lr):
    """A run that diverges says so by its loss, not by a warning out of NumPy."""
    parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    parameter.grad = torch.tensor([1.0, -1.0])
    ravine.optim.SGD([parameter], lr=lr, engine=engine).step()
    expected = [-torch.inf, torch.inf] if lr > 1 else [1.0, -2.0]
    assert parameter.tolist() == expected


@rule()
def with_constants(x, dx, t, lr):
    """What has no exact float32: torch would round 0.1 and 0.3 to it even in float64."""
    return (x - lr * where(dx > 0, 0.1, 0.3) * dx,)


@rule(state=("a",))
def constant(x, dx, a, t, lr):
    """Results that do not differ from element to element."""
    return lr * t, t


@pytest.mark.parametrize("engine", ["cpu", "eager"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_constants_chosen_by_a_condition_are_not_rounded(engine, dtype):
    parameter = torch.zeros(2, dtype=dtype).requires_grad_()
    parameter.grad = torch.tensor([1.0, -1.0], dtype=dtype)
    with_constants.optimizer([parameter], 1.0, engine=engine).step()
    assert torch.equal(parameter.detach(), torch.tensor([-0.1, 0.3], dtype=dtype))


@pytest.mark.parametrize("engine", ["cpu", "eager"])
def test_results_may_be_scalars(engine):
    parameter = torch.zeros(2).requires_grad_()
    parameter.grad = torch.ones(2)
    optimizer = constant.optimizer([parameter], 0.5, engine=engine)
    optimizer.step()
    optimizer.step()
    assert parameter.tolist() == [1.0, 1.0]
    assert optimizer.state[parameter]["a"].tolist() == [2.0, 2.0]


@rule(state=("a", "b"))
def swapped(x, dx, a, b, t, lr):
    """State that changes places: no value may be overwritten before it was read."""
    return x - lr * (a * b) / dx, b + a, a + 1


@rule(state=("a", "b"))
def reused(x, dx, a, b, t, lr):
    """Values used twice, products of three, sums of two products, an untouched state."""
    step = a * dx
    return x - step * step * (lr * step) + step / (a * dx + 1) - (x * a - dx * b), 0.5 * a + 1, b


@pytest.mark.parametrize("each", [swapped, reused], ids=lambda each: each.name)
@pytest.mark.parametrize("count", [1, 16, 33])
def test_rules_of_other_forms(each, count):
    kernel, eager = (start_of((count,)).requires_grad_() for _ in range(2))
    one, two = each.optimizer([kernel], 0.1, engine="cpu"), each.optimizer([eager], 0.1, engine="eager")
    for step in range(3):
        for parameter in (kernel, eager):
            parameter.grad = start_of((count,), seed=step + 1)
        one.step()
        two.step()
    torch.testing.assert_close(kernel, eager, rtol=1e-12, atol=1e-13)
    same_state(one, two, rtol=1e-12, atol=1e-13)


@rule()
def cubic(x, dx, t, lr):
    """A power of an element, which tensors have and kernels have not."""
    return (x - lr * dx**3,)


def test_rules_that_have_no_kernel_go_by_torchs_operators_or_are_refused():
    parameter = torch.ones(3).requires_grad_()
    parameter.grad = torch.tensor([1.0, 2.0, -1.0])
    cubic.optimizer([parameter], 0.5).step()
    assert parameter.tolist() == [0.5, -3.0, 1.5]
    with pytest.raises(
        RuntimeError, match=r"the rule 'cubic' has no kernel: a rule raises scalars to powers"
    ):
        cubic.optimizer([parameter], 0.5, engine="cpu").step()


class Reciprocal(RuleOptimizer):
    """Divides by a number that is zero."""

    counters = ()

    def rule(self, group):
        return RECIPROCAL

    def hyperparameters(self, group, t, *others):
        return [group["lr"], 0.0]

    def surroundings(self, group, lr, *, first):
        return Surroundings()


def reciprocal(x, dx, t, lr, zero):
    return (x - lr * (dx / zero),)


RECIPROCAL = Rule("reciprocal", reciprocal, (), ("lr", "zero"))


@pytest.mark.parametrize("engine", ["cpu", "eager"])
def test_division_of_an_element_by_zero_is_infinite(engine):
    parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
    parameter.grad = torch.tensor([1.0, -1.0, 0.0])
    Reciprocal([parameter], {"lr": 0.1, "weight_decay": 0}, engine=engine).step()
    assert parameter[:2].tolist() == [-torch.inf, torch.inf]
    assert parameter[2].isnan()
