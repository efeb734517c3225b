"""bfloat16 parameters: rounded right on average, or with nothing lost; the same bits in every engine."""

import copy
import io
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ravine.optim
from ravine.optim.kernels import rounding

engines = pytest.mark.parametrize("engine", ["cpu", "eager"])
CASES = {
    "SGD": {"lr": 0.01},
    "SGD momentum": {"lr": 0.003, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "RMSprop": {"lr": 1e-3, "centered": True, "eps": 1e-2},
    "Adam": {"lr": 1e-3, "amsgrad": True, "clip_value": 0.5},
    "AdamW": {"lr": 1e-3, "weight_decay": 0.1, "average": 0.9, "l1": 0.01},
    "Lion": {"lr": 1e-4, "weight_decay": 0.1},
}
every_case = pytest.mark.parametrize("case", CASES)


def make(case, params, **options):
    return getattr(ravine.optim, case.split()[0])(params, **{**CASES[case], **options})


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def train(optimizer, params, steps):
    for step in steps:
        for index, parameter in enumerate(params):
            parameter.grad = random(*parameter.shape, seed=100 * step + index).to(parameter.dtype)
        optimizer.step()


def moved(start, target, engine, count=200_000, **options):
    """bfloat16 weights after one step of gradient descent from `start` to `target`."""
    weight = torch.full((count,), start, dtype=torch.bfloat16).requires_grad_()
    weight.grad_dtype = None
    weight.grad = torch.full((count,), start - target, dtype=torch.float32)
    ravine.optim.SGD([weight], 1.0, engine=engine, **options).step()
    return weight.detach()


@engines
@pytest.mark.parametrize("share", [1 / 65536, 0.01, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("start", [1.0, -1.0, 2.0**-40, 1.9921875])
def test_stochastic_rounding_is_right_on_average(engine, share, start):
    """The share of elements that go up is how far up the value lies; five standard errors are allowed."""
    spacing = math.copysign(2.0 ** (math.floor(math.log2(abs(start))) - 7), start)
    found = moved(start, start + share * spacing, engine)
    up = found == start + spacing
    assert torch.equal(found[~up], torch.full_like(found[~up], start))
    error = 5 * math.sqrt(share * (1 - share) / len(found))
    assert abs(up.double().mean().item() - share) <= error


@engines
def test_updates_far_below_the_spacing_are_not_lost(engine):
    """1,000 steps of 1/2560 of a weight: to the nearest value, not one of them would change it."""
    weight = torch.ones(4096, dtype=torch.bfloat16).requires_grad_()
    nearest = torch.ones(4096, dtype=torch.bfloat16).requires_grad_()
    optimizers = [
        ravine.optim.SGD([weight], 2.0**-12, engine=engine),
        ravine.optim.SGD([nearest], 2.0**-12, engine=engine, rounding="nearest"),
    ]
    for optimizer in optimizers:
        for _ in range(1000):
            optimizer.param_groups[0]["params"][0].grad = -torch.ones(4096).bfloat16()
            optimizer.step()
    assert torch.equal(nearest, torch.ones(4096).bfloat16())
    # each of 1,000 roundings adds at most ¼ spacing² = 2⁻¹⁶ to the variance of an element
    error = 5 * math.sqrt(1000 * 2.0**-16 / 4096)
    assert weight.detach().double().mean().item() == pytest.approx(1 + 1000 * 2.0**-12, abs=error)


@every_case
@pytest.mark.parametrize("kind", ["stochastic", "compensated", "nearest"])
def test_engines_give_the_same_bits(case, kind):
    """Where the arithmetic before rounding is exact; the random bits are the same everywhere."""
    shapes = [(70_000,), (33, 5), (), (0,), (1,)]
    results = []
    for engine in ("cpu", "eager"):
        params = [random(*shape, seed=7).requires_grad_() for shape in shapes]
        optimizer = ravine.optim.SGD(params, 2.0**-9, engine=engine, rounding=kind)
        train(optimizer, params, range(4))
        results.append(params)
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)
    # With any rule, whose last float32 bit may differ: few elements fall to another side.
    kernel, eager = (random(5000).requires_grad_() for _ in range(2))
    for engine, weight in (("cpu", kernel), ("eager", eager)):
        train(make(case, [weight], engine=engine, rounding=kind), [weight], range(2))
    assert (kernel != eager).float().mean().item() < 0.01


@engines
def test_transposed_parameters_have_the_bits_of_their_memory(engine):
    plain = random(40, 30).requires_grad_()
    turned = plain.detach().clone().T.requires_grad_()
    gradient = random(40, 30, seed=1)
    plain.grad, turned.grad = gradient, gradient.clone().T
    for weight in (plain, turned):
        ravine.optim.SGD([weight], 0.01, engine=engine).step()
    assert torch.equal(plain, turned.T)


@engines
def test_random_bits_differ_from_step_to_step_and_between_parameters(engine):
    """Elements that agree by chance are half of all; 16 standard errors would be needed for 0.6."""
    weights = [torch.ones(10_000, dtype=torch.bfloat16).requires_grad_() for _ in range(3)]
    optimizer = ravine.optim.SGD(weights, 1.0, engine=engine)
    patterns = []
    for _ in range(3):
        for weight in weights:
            weight.data.fill_(1.0)
            weight.grad_dtype = None
            weight.grad = torch.full((10_000,), -(2.0**-8))  # half the spacing: up or down with equal chance
        optimizer.step()
        patterns += [(weight.detach() > 1).double() for weight in weights]
    for index, one in enumerate(patterns):
        assert 0.45 < one.mean().item() < 0.55
        for other in patterns[:index]:
            assert 0.45 < (one == other).double().mean().item() < 0.55
        for lag in (1, 2, 16, 256):
            assert 0.45 < (one[lag:] == one[:-lag]).double().mean().item() < 0.55


@every_case
@pytest.mark.parametrize("kind", ["stochastic", "compensated"])
@pytest.mark.parametrize("through", ["state_dict", "torch.save", "deepcopy"])
def test_resumed_equals_uninterrupted_bit_for_bit(case, kind, through):
    """The random bits and the remainders go on where they were."""
    straight = [random(300).requires_grad_(), random(5, 4, seed=1).requires_grad_()]
    train(make(case, straight, rounding=kind), straight, range(8))
    params = [random(300).requires_grad_(), random(5, 4, seed=1).requires_grad_()]
    optimizer = make(case, params, rounding=kind)
    train(optimizer, params, range(4))
    if through == "deepcopy":
        optimizer = copy.deepcopy(optimizer)
        params = optimizer.param_groups[0]["params"]
    else:
        saved = copy.deepcopy(optimizer.state_dict())
        if through == "torch.save":
            file = io.BytesIO()
            torch.save(saved, file)
            file.seek(0)
            saved = torch.load(file)
        params = [parameter.detach().clone().requires_grad_() for parameter in params]
        optimizer = make(case, params, rounding=kind)
        optimizer.load_state_dict(saved)
    train(optimizer, params, range(4, 8))
    for one, other in zip(straight, params, strict=True):
        assert torch.equal(one, other)


@every_case
@engines
def test_compensated_is_float32_training_bit_for_bit(case, engine):
    """Parameter and remainder together are the weight of a float32 run that sees the same gradients."""
    narrow = [random(70_000).requires_grad_(), random(17, 3, seed=2).requires_grad_()]
    wide = [parameter.detach().float().requires_grad_() for parameter in narrow]
    one = make(case, narrow, engine=engine, rounding="compensated")
    two = make(case, wide, engine=engine)
    for step in range(5):
        train(one, narrow, [step])
        train(two, wide, [step])
        for short, long in zip(narrow, wide, strict=True):
            remainder = one.state[short]["remainder"]
            assert remainder.dtype == torch.int16
            assert remainder.shape == short.shape
            assert torch.equal(rounding.widen(short.detach(), remainder), long.detach())
            # ties go up, not to the even one, so that the remainder fits 16 bits
            difference = (short.detach().float() - long.detach()).abs()
            assert (difference <= (long.detach() - long.detach().bfloat16().float()).abs()).all()
            for key, value in two.state[long].items():
                assert torch.equal(one.state[short][key], value), key


SPECIAL = [
    0.0,
    -0.0,
    math.inf,
    -math.inf,
    math.nan,
    3.3895313892515355e38,
    -3.3895313892515355e38,
    1e-40,
    1.0,
]


@engines
@pytest.mark.parametrize("kind", ["stochastic", "compensated", "nearest"])
def test_what_is_special_stays_what_it_is(engine, kind):
    """Zeros, infinities, not-a-number, the largest finite value, a subnormal one: a step of nothing."""
    start = torch.tensor(SPECIAL * 3).bfloat16()
    weight = start.clone().requires_grad_()
    optimizer = ravine.optim.SGD([weight], 0.0, engine=engine, rounding=kind)
    for _ in range(3):
        weight.grad = torch.zeros_like(weight)
        optimizer.step()
    assert torch.equal(weight.detach().nan_to_num(nan=7.0), start.nan_to_num(nan=7.0))
    assert torch.equal(weight.detach().isnan(), start.isnan())


@engines
@pytest.mark.parametrize("kind", ["stochastic", "compensated", "nearest"])
def test_overflow_is_infinite_and_a_bad_gradient_makes_not_a_number(engine, kind):
    weight = torch.tensor([3.3895313892515355e38, -3.3895313892515355e38, 1.0, 1.0, 1.0]).bfloat16()
    weight = weight.repeat(8).requires_grad_()
    optimizer = ravine.optim.SGD([weight], 1.0, engine=engine, rounding=kind)
    gradient = torch.tensor([-3e38, 3e38, math.nan, math.inf, 0.0]).bfloat16().repeat(8)
    for _ in range(2):
        weight.grad = gradient.clone()
        optimizer.step()
    expected = torch.tensor([math.inf, -math.inf, math.nan, -math.inf, 1.0]).bfloat16().repeat(8)
    assert torch.equal(weight.detach().nan_to_num(nan=7.0), expected.nan_to_num(nan=7.0))


@engines
def test_a_compensated_weight_may_be_set(engine):
    """To zero by pruning, and to anything by loading: its old remainder is at most half a spacing."""
    weight = random(1000).requires_grad_()
    optimizer = ravine.optim.SGD([weight], 0.01, engine=engine, rounding="compensated")
    train(optimizer, [weight], range(3))
    values = random(1000, seed=9)
    values[:200], values[200:400] = 0.0, -0.0
    with torch.no_grad():
        weight.copy_(values)
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert torch.equal(weight[:400], values[:400])
    # what is kept is half a spacing off at most, and a step of nothing may so round to the next value
    torch.testing.assert_close(weight.detach(), values, rtol=2.0**-7, atol=0)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=20))
def test_a_remainder_gives_back_every_float32(patterns):
    """Over all bit patterns: exactly, or not-a-number for what is that."""
    bits = torch.tensor(patterns, dtype=torch.int64)
    wide = torch.where(bits >= 1 << 31, bits - (1 << 32), bits).int().view(torch.float32)
    narrow, remainder = rounding.narrow(wide, "compensated", torch.zeros_like(bits))
    again = rounding.widen(narrow, remainder)
    assert torch.equal(again.isnan(), wide.isnan())
    finite = ~wide.isnan()
    assert torch.equal(again[finite].view(torch.int32), wide[finite].view(torch.int32))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=20), st.integers(0, 2**32 - 1))
def test_stochastic_rounding_gives_one_of_the_two_neighbors(patterns, key):
    """And the value itself where it is a bfloat16; over all bit patterns."""
    bits = torch.tensor(patterns, dtype=torch.int64)
    wide = torch.where(bits >= 1 << 31, bits - (1 << 32), bits).int().view(torch.float32)
    narrow, _ = rounding.narrow(wide, "stochastic", key + torch.arange(len(patterns)))
    assert torch.equal(narrow.isnan(), wide.isnan())
    finite = ~wide.isnan()
    below = (wide.view(torch.int32) & -65536).view(torch.float32)
    above = ((wide.view(torch.int32) & -65536) + 65536).view(torch.float32)
    found = narrow.float()
    assert ((found == below) | (found == above) | wide.isnan()).all()
    exact = (wide.view(torch.int32) & 0xFFFF) == 0
    assert torch.equal(found[finite & exact], wide[finite & exact])


@every_case
def test_states_are_float32_and_loading_keeps_them_so(case):
    weight = random(30).requires_grad_()
    optimizer = make(case, [weight], average=0.9)
    train(optimizer, [weight], range(2))
    for through in (copy.deepcopy(optimizer.state_dict()), None):
        if through is not None:
            optimizer.load_state_dict(through)
        for key, value in optimizer.state[weight].items():
            assert value.dtype == torch.float32, key
        train(optimizer, [weight], range(2, 4))


def test_a_states_precision_survives_loading_whatever_it_is():
    weight = random(30).requires_grad_()
    optimizer = ravine.optim.Adam([weight], rounding="compensated")
    train(optimizer, [weight], range(2))
    saved = copy.deepcopy(optimizer.state_dict())
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        saved["state"][0]["exp_avg"] = saved["state"][0]["exp_avg"].to(dtype)
        optimizer.load_state_dict(saved)
        assert optimizer.state[weight]["exp_avg"].dtype == dtype
        assert optimizer.state[weight]["remainder"].dtype == torch.int16
        train(optimizer, [weight], range(1))
        assert optimizer.state[weight]["exp_avg"].dtype == dtype


@engines
def test_auto_is_stochastic_for_bfloat16_and_nearest_for_the_rest(engine):
    results = []
    for kind in ("auto", "stochastic"):
        weights = [
            random(500).requires_grad_(),
            random(500).half().requires_grad_(),
            torch.ones(3).requires_grad_(),
        ]
        optimizer = ravine.optim.SGD(weights, 0.01, engine=engine, rounding=kind)
        train(optimizer, weights, range(3))
        results.append([weight.detach() for weight in weights])
        assert set(optimizer.state) == {weights[0]}  # a step count, for the random bits
        assert optimizer.state[weights[0]].keys() == {"step"}
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)
    half = random(500).half()
    expected = half.float()
    for step in range(3):
        expected = (expected - 0.01 * random(500, seed=100 * step + 1).float()).half().float()
    torch.testing.assert_close(results[0][1], expected.half(), rtol=2.0**-10, atol=1e-5)


def test_a_checkpoint_of_torch_goes_on():
    """Its momentum is bfloat16 and has no step count: both come with the next step."""
    weight = random(40).requires_grad_()
    theirs = torch.optim.SGD([weight], 0.01, momentum=0.9)
    weight.grad = random(40, seed=1)
    theirs.step()
    optimizer = ravine.optim.SGD([weight], 0.01, momentum=0.9)
    optimizer.load_state_dict(theirs.state_dict())
    train(optimizer, [weight], range(2))
    assert optimizer.state[weight]["step"] == 2
    assert optimizer.state[weight]["momentum_buffer"].dtype == torch.bfloat16


@engines
@pytest.mark.parametrize("kind", ["nearest", "stochastic"])
def test_a_remainder_that_is_not_asked_for_any_more_has_no_effect(engine, kind):
    """A checkpoint of compensated training goes on with another rounding, or in float32."""
    weight = random(300).requires_grad_()
    optimizer = ravine.optim.SGD([weight], 0.003, rounding="compensated")
    train(optimizer, [weight], range(3))
    assert (optimizer.state[weight]["remainder"] != 0).any()
    other = ravine.optim.SGD([weight], 0.003, engine=engine, rounding=kind)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    before = weight.detach().clone()
    for dtype in (torch.bfloat16, torch.float32):
        weight.data = weight.data.to(dtype)
        weight.grad = torch.zeros_like(weight)
        other.step()
        assert torch.equal(weight.detach(), before.to(dtype))


@engines
def test_a_model_made_bfloat16_on_the_way(engine):
    """`model.bfloat16()` replaces the parameters' memory: the states stay float32, rounding begins."""
    weight = random(300).float().requires_grad_()
    optimizer = ravine.optim.Adam([weight], 1e-3, engine=engine)
    train(optimizer, [weight], range(2))
    weight.data = weight.data.bfloat16()
    train(optimizer, [weight], range(2, 4))
    assert weight.dtype == torch.bfloat16
    assert {value.dtype for value in optimizer.state[weight].values()} == {torch.float32}
    weight.data = weight.data.double()
    train(optimizer, [weight], range(4, 6))
    assert weight.dtype == torch.float64
    assert optimizer.state[weight]["step"] == 6
