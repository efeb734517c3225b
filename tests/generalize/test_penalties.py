import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ravine import optim
from ravine.generalize import DropConnect
from ravine.generalize.penalties import MaxNorm, Penalty, elastic_net, l1, l2, max_norm_, unit_weights

F64 = torch.float64


def network(dtype=F64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)


def some(*shape, seed=0, dtype=F64):
    return torch.randn(*shape, dtype=dtype, generator=torch.manual_seed(seed))


# The terms.


def test_the_terms_are_the_lectures():
    weights = [some(4, 3), some(7, seed=1), some(2, 3, 2, 2, seed=2), torch.tensor(-0.5, dtype=F64)]
    flat = np.concatenate([weight.numpy().ravel() for weight in weights])
    assert float(l1(weights)) == pytest.approx(np.abs(flat).sum(), rel=1e-14)
    assert float(l2(weights)) == pytest.approx((flat**2).sum(), rel=1e-14)
    assert float(elastic_net(weights, 0.3)) == pytest.approx((0.3 * flat**2 + np.abs(flat)).sum(), rel=1e-14)
    assert l1(weights).shape == l2(weights).shape == elastic_net(weights, 0.3).shape == ()


@pytest.mark.parametrize("term", [l1, l2, lambda weights: elastic_net(weights, 0.7)])
def test_gradients_against_differences(term):
    weights = [some(4, 3).requires_grad_(), some(5, seed=1).requires_grad_()]
    assert torch.autograd.gradcheck(lambda *tensors: term(tensors), weights)


def test_gradients_in_closed_form_and_at_zero():
    weight = torch.tensor([-2.0, -0.0, 0.0, 3.0], dtype=F64, requires_grad=True)
    for term, expected in (
        (l1, [-1, 0, 0, 1]),
        (l2, [-4, 0, 0, 6]),
        (lambda each: elastic_net(each, 0.5), [-3, 0, 0, 4]),
    ):
        (gradient,) = torch.autograd.grad(term(weight), weight)
        assert gradient.tolist() == expected


def test_whatever_holds_parameters_will_do():
    model = network()
    expected = float(nn.utils.parameters_to_vector(model.parameters()).detach().abs().sum())
    for given_ in (model, model.parameters(), list(model.parameters()), model.named_parameters()):
        assert l1(given_).item() == pytest.approx(expected, rel=1e-14)
    assert l1(model[0].weight).item() == model[0].weight.abs().sum().item()


def test_what_is_shared_counts_once():
    weight = some(3, 3)
    assert float(l2([weight, weight])) == float(l2(weight))
    penalty = Penalty([{"params": [weight, weight], "l2": 1.0}, {"params": weight, "l1": 1.0}])
    assert float(penalty()) == pytest.approx(float(l2(weight) + l1(weight)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_weights_are_summed_in_float32(dtype):
    weight = (300 * some(64, 64, dtype=torch.float32)).to(dtype).requires_grad_()
    value = l2(weight)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), weight.detach().double().square().sum(), rtol=1e-6, atol=0)
    value.backward()
    assert weight.grad.dtype == dtype
    torch.testing.assert_close(weight.grad, 2 * weight.detach(), rtol=0, atol=0)


def test_terms_by_member_under_vmap():
    stack = some(5, 4, 3)
    torch.testing.assert_close(torch.func.vmap(l1)(stack), stack.abs().sum((1, 2)))
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(l2))(stack), 2 * stack)
    both = torch.func.vmap(lambda one, two: elastic_net([one, two], 0.5))(stack, stack.flip(1))
    torch.testing.assert_close(both, (stack.square() + 2 * stack.abs()).sum((1, 2)))


def test_terms_in_one_compiled_graph():
    model = network()
    inputs = some(8, 6)
    penalty = Penalty([{"params": model[0], "l1": 0.1}, {"params": model[2].weight, "l1": 0.2, "l2": 0.3}])

    def loss():
        return model(inputs).square().mean() + penalty() + elastic_net(model.parameters(), 0.4)

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(loss(), list(model.parameters()))
    found = torch.autograd.grad(compiled(), list(model.parameters()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


# Groups of them.


def test_a_penalty_by_groups():
    first, second, third = some(4, 3), some(5, seed=1), some(2, 2, seed=2)
    penalty = Penalty(
        [
            {"params": [first], "l1": 0.1},
            {"params": second, "l2": 0.3},
            {"params": [("third", third)], "l1": 0.5, "l2": 0.25},
        ]
    )
    expected = 0.1 * l1(first) + 0.3 * l2(second) + 0.5 * elastic_net(third, 0.5)
    assert float(penalty()) == pytest.approx(float(expected), rel=1e-6)
    assert penalty().dtype == F64
    penalty.groups[0]["l1"] = 0.0
    assert float(penalty()) == pytest.approx(float(expected - 0.1 * l1(first)), rel=1e-6)


def test_groups_take_what_they_do_not_tell_from_the_whole():
    first, second = some(4, 3), some(5, seed=1)
    penalty = Penalty([{"params": first}, {"params": second, "l1": 0.0, "l2": 2.0}], l1=0.5)
    assert float(penalty()) == pytest.approx(float(0.5 * l1(first) + 2 * l2(second)))


def test_a_penalty_of_a_model_a_tensor_and_an_iterable():
    model = network()
    expected = 1e-2 * l2(model).item()
    for given_ in (model, model.parameters(), model.named_parameters()):
        assert Penalty(given_, l2=1e-2)().item() == pytest.approx(expected)
    assert Penalty(model[0].weight, l1=1.0)().item() == pytest.approx(l1(model[0].weight).item())


def test_a_penalty_follows_its_parameters():
    model = network()
    penalty = Penalty(model, l1=1.0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    assert penalty().item() == pytest.approx(l1(model).item())
    model, penalty = copy.deepcopy((model, penalty))
    assert penalty.groups[0]["params"][0] is model[0].weight


def test_no_strength_at_all_is_a_zero_that_can_be_added():
    weight = some(3).requires_grad_()
    penalty = Penalty(weight, l1=0.0)
    assert penalty().item() == 0.0
    (weight.sum() + penalty()).backward()
    assert weight.grad.tolist() == [1, 1, 1]


# The terms and the options of an optimizer.


def trained(optimizer_of, penalty_of=None, steps=25):
    """The parameters after some steps in float64."""
    model = network()
    optimizer = optimizer_of(model.parameters())
    penalty = penalty_of(model) if penalty_of else None
    inputs, targets = some(16, 6, seed=3), some(16, 3, seed=4)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model(inputs) - targets).square().mean()
        (loss if penalty is None else loss + penalty()).backward()
        optimizer.step()
    return nn.utils.parameters_to_vector(model.parameters()).detach()


STRENGTH = 0.03


@pytest.mark.parametrize("sgd", [optim.SGD, torch.optim.SGD])
def test_coupled_decay_is_twice_the_strength_of_the_squares(sgd):
    def plain(parameters, **more):
        return sgd(parameters, lr=0.05, momentum=0.9, **more)

    term = trained(plain, lambda model: Penalty(model, l2=STRENGTH))
    option = trained(lambda parameters: plain(parameters, weight_decay=2 * STRENGTH))
    torch.testing.assert_close(option, term, rtol=1e-12, atol=1e-14)
    assert (option - trained(plain)).abs().max() > 1e-2


@pytest.mark.parametrize("method", [optim.SGD, optim.Adam])
def test_the_option_l1_is_the_term(method):
    term = trained(lambda each: method(each, lr=0.01), lambda model: Penalty(model, l1=STRENGTH))
    option = trained(lambda each: method(each, lr=0.01, l1=STRENGTH))
    torch.testing.assert_close(option, term, rtol=1e-12, atol=1e-14)


def test_both_options_are_the_elastic_net():
    beta = 0.5
    term = trained(
        lambda each: optim.SGD(each, lr=0.01), lambda model: Penalty(model, l1=STRENGTH, l2=STRENGTH * beta)
    )
    options = {"l1": STRENGTH, "weight_decay": 2 * STRENGTH * beta}
    option = trained(lambda each: optim.SGD(each, lr=0.01, **options))
    torch.testing.assert_close(option, term, rtol=1e-12, atol=1e-14)


def test_decoupled_decay_is_not_the_term_under_adam():
    term = trained(lambda each: optim.Adam(each, lr=0.01), lambda model: Penalty(model, l2=STRENGTH))
    coupled = trained(lambda each: optim.Adam(each, lr=0.01, weight_decay=2 * STRENGTH))
    decoupled = trained(lambda each: optim.AdamW(each, lr=0.01, weight_decay=2 * STRENGTH))
    torch.testing.assert_close(coupled, term, rtol=1e-12, atol=1e-14)
    assert (decoupled - term).abs().max() > 1e-2


def test_the_proximal_step_gives_zeros_where_the_term_gives_none():
    def sgd(parameters, **more):
        return optim.SGD(parameters, lr=0.05, **more)

    strength = 0.2
    term = trained(sgd, lambda model: Penalty(model, l1=strength), steps=300)
    proximal = trained(lambda each: sgd(each, l1=strength, proximal=True), steps=300)
    assert (proximal == 0).sum() > len(proximal) / 4
    assert (term == 0).sum() == 0
    near_zero = term[proximal == 0].abs()
    assert near_zero.max() < 2 * 0.05 * strength  # it jumps over zero by a step, to and fro


# What is refused.


@pytest.mark.parametrize("value", [-1e-9, math.nan, math.inf, "a", None, [1.0]])
def test_strengths_out_of_range_are_refused(value):
    with pytest.raises(ValueError, match=r"Invalid l1: .* at least 0 and finite"):
        Penalty([{"params": some(3), "l1": value}])
    with pytest.raises(ValueError, match="Invalid l2"):
        Penalty([{"params": some(3), "l2": value}])
    with pytest.raises(ValueError, match="Invalid beta"):
        elastic_net(some(3), value)


def test_groups_that_say_nothing_useful_are_refused():
    with pytest.raises(ValueError, match="needs a strength"):
        Penalty(some(3))
    with pytest.raises(ValueError, match="needs a strength"):
        Penalty([{"params": some(3), "l1": 0.1}, {"params": some(3)}])
    with pytest.raises(ValueError, match="no 'weight_decay'; it takes params, l1, l2"):
        Penalty(optim.param_groups(network(), weight_decay=0.1))
    with pytest.raises(ValueError, match=r"no 'param' \(did you mean 'params'\?\)"):
        Penalty([{"param": some(3), "l1": 0.1}])
    with pytest.raises(ValueError, match="needs its params"):
        Penalty([{"l1": 0.1}])


def of_penalty(parameters):
    return Penalty([{"params": parameters, "l1": 0.1}])


@pytest.mark.parametrize("use", [l1, l2, lambda each: elastic_net(each, 1.0), of_penalty])
def test_parameters_that_cannot_be_penalized_are_refused(use):
    used_up = network().parameters()
    list(used_up)
    for nothing in ([], used_up, nn.ReLU()):
        with pytest.raises(ValueError, match="there are no parameters"):
            use(nothing)
    with pytest.raises(ValueError, match=r"complex64 is not real: give torch\.view_as_real"):
        use([torch.ones(3, dtype=torch.complex64)])
    with pytest.raises(ValueError, match="int64 is not real"):
        use([torch.ones(3, dtype=torch.int64)])
    with pytest.raises(TypeError, match="not str"):
        use({"weight": some(3)})


def test_a_penalty_of_nothing_is_refused():
    with pytest.raises(ValueError, match="there are no parameters"):
        Penalty([], l1=0.1)


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan, "a", None])
def test_limits_that_are_not_above_zero_are_refused(limit):
    model = network()
    with pytest.raises(ValueError, match="Invalid limit"):
        max_norm_(model, limit)
    with pytest.raises(ValueError, match="Invalid limit"):
        MaxNorm(optim.SGD(model.parameters(), lr=0.1), limit)


def test_max_norm_of_nothing_is_refused():
    for nothing in ([some(3)], [torch.ones((), dtype=F64)]):
        with pytest.raises(ValueError, match="no weights: every parameter has one dimension or none"):
            max_norm_(nothing, 1.0)
    with pytest.raises(ValueError, match="there are no parameters"):
        max_norm_([], 1.0)
    with pytest.raises(ValueError, match=r"shape \(3, 4\) has no axis 2"):
        max_norm_([some(2, 3, 4), some(3, 4)], 1.0, dim=2)
    with pytest.raises(ValueError, match="complex"):
        max_norm_(torch.ones(2, 2, dtype=torch.complex64), 1.0)
    optimizer = optim.SGD(network().parameters(), lr=0.1)
    with pytest.raises(ValueError, match="there is no group 1: the optimizer has 1"):
        MaxNorm(optimizer, 1.0, groups=[1])
    with pytest.raises(ValueError, match="has no axis -3"):
        MaxNorm(optimizer, 1.0, dim=-3)
    with pytest.raises(ValueError, match="ScheduleFreeSGD makes the weights anew"):
        MaxNorm(optim.ScheduleFreeSGD(network().parameters(), lr=0.1), 1.0)


# Max norm.


def lengths(weight, dim=0):
    return weight.double().movedim(dim, 0).flatten(1).norm(dim=1)


@given(
    st.integers(1, 6),
    st.lists(st.integers(1, 5), min_size=1, max_size=3),
    st.floats(-3, 3),
    st.floats(-3, 3),
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    st.integers(0, 3),
    st.integers(0, 1000),
)
@settings(deadline=None, max_examples=200)
def test_max_norm_properties(units, others, scale, limit, dtype, dim, seed):
    shape = (units, *others)
    dim %= len(shape)
    limit = 10.0**limit
    spread = 10.0 ** (scale + 2 * torch.rand(shape[dim], dtype=F64, generator=torch.manual_seed(seed + 1)))
    before = (some(*shape, seed=seed).movedim(dim, -1) * spread).movedim(-1, dim).to(dtype)
    weight = before.clone()
    max_norm_(weight, limit, dim=dim)

    old, new = lengths(before, dim), lengths(weight, dim)
    eps = torch.finfo(dtype).eps
    assert bool((new <= limit * (1 + 2**-20 * (dtype != F64))).all())  # float32 lengths are rounded
    clearly_short, clearly_long = old < limit * (1 - 1e-5), old > limit * (1 + 1e-5)
    for unit in range(shape[dim]):
        one, other = before.select(dim, unit), weight.select(dim, unit)
        if clearly_short[unit]:
            assert torch.equal(one, other)
        if clearly_long[unit]:
            assert new[unit] >= limit * (1 - 2 * eps - 1e-5)
            expected = one.double() * (limit / old[unit])
            torch.testing.assert_close(other.double(), expected, rtol=2 * eps + 1e-5, atol=1e-30)

    again = weight.clone()
    max_norm_(again, limit, dim=dim)
    assert torch.equal(again, weight)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_long_vectors_are_scaled_once(dtype):
    weight = (30 * some(64, 4096)).to(dtype)
    max_norm_(weight, 3.0)
    once = weight.clone()
    max_norm_(weight, 3.0)
    assert torch.equal(weight, once)
    assert bool((lengths(weight) <= 3.0).all())
    assert bool((lengths(weight) > 3.0 * (1 - 2 * torch.finfo(dtype).eps - 1e-5)).all())


def test_the_unit_of_convolutions_is_the_outgoing_channel():
    weight = 10 * some(4, 3, 2, 2)
    expected = weight / weight.flatten(1).norm(dim=1)[:, None, None, None]
    max_norm_(weight, 1.0)
    torch.testing.assert_close(weight, expected, rtol=1e-14, atol=0)


def test_max_norm_against_torchs_renorm():
    weight = 3 * some(7, 5, dtype=torch.float32)
    expected = torch.renorm(weight, 2, 0, 4.0)
    max_norm_(weight, 4.0)
    torch.testing.assert_close(weight, expected, rtol=2e-6, atol=0)


def test_max_norm_leaves_biases_and_what_is_not_finite():
    model = network()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(100)
        model[2].weight[0, 0], model[2].weight[1, 0] = math.inf, math.nan
    before = copy.deepcopy(model)
    max_norm_(model, 1.0)
    assert torch.equal(model[0].bias, before[0].bias)
    torch.testing.assert_close(model[2].weight[:2], before[2].weight[:2], rtol=0, atol=0, equal_nan=True)
    assert lengths(model[2].weight[2:].detach()) == pytest.approx(1.0)
    assert model[0].weight.requires_grad and model[0].weight.grad is None


def test_empty_weights_are_no_trouble():
    max_norm_(torch.zeros(0, 3), 1.0)
    max_norm_(torch.zeros(3, 0), 1.0)
    assert float(l1(torch.zeros(0, 3))) == 0.0


def test_max_norm_of_members_under_vmap_and_compiled():
    stack = 5 * some(3, 4, 6)
    expected = stack.clone()
    for member in expected:
        max_norm_(member, 2.0)

    def bounded(weight):
        weight = weight.clone()
        max_norm_(weight, 2.0)
        return weight

    assert torch.equal(torch.func.vmap(bounded)(stack), expected)
    compiled = torch.compile(bounded, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(stack[0]), expected[0])


OPTIMIZERS = {
    "torch SGD": lambda each: torch.optim.SGD(each, lr=0.5, momentum=0.9),
    "torch AdamW": lambda each: torch.optim.AdamW(each, lr=0.5),
    "SGD": lambda each: optim.SGD(each, lr=0.5, momentum=0.9),
    "AdamW": lambda each: optim.AdamW(each, lr=0.5),
    "SGD, averaged": lambda each: optim.SGD(each, lr=0.5, average=0.9),
    "Muon": lambda each: optim.Muon(each, lr=0.5, algorithm="auto"),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_max_norm_holds_after_every_step(make):
    model = network(torch.float32)
    optimizer = make([{"params": model[0].parameters()}, {"params": model[2].parameters()}])
    keeper = MaxNorm(optimizer, 0.7)
    inputs = some(16, 6, dtype=torch.float32)

    def step():
        optimizer.zero_grad()
        (-model(inputs).square().sum()).backward()  # wants them ever longer
        optimizer.step()

    for _ in range(5):
        step()
        for layer in (model[0], model[2]):
            assert bool((lengths(layer.weight.detach()) <= 0.7).all())
    assert model[2].bias.abs().max() > 0.7
    keeper.remove()
    step()
    assert lengths(model[2].weight.detach()).max() > 0.7


def test_max_norm_of_some_groups_and_of_those_added_later():
    model = network()
    optimizer = optim.SGD([{"params": model[0].parameters()}], lr=0.1)
    MaxNorm(optimizer, 0.5)
    optimizer.add_param_group({"params": model[2].parameters()})
    model(some(4, 6)).sum().backward()
    optimizer.step()
    assert lengths(model[0].weight.detach()).max() <= 0.5
    assert lengths(model[2].weight.detach()).max() <= 0.5

    model = network()
    optimizer = optim.SGD(
        [{"params": model[0].parameters()}, {"params": model[2].parameters()}], lr=0.1, weight_decay=0.1
    )
    MaxNorm(optimizer, 0.1, groups=[1])
    before = model[0].weight.detach().clone()
    model(some(4, 6)).sum().backward()
    optimizer.step()
    assert lengths(model[2].weight.detach()).max() <= 0.1
    assert lengths(model[0].weight.detach()).min() > 0.1
    assert not torch.equal(model[0].weight, before)


# Which weights a model's layers tell.


class Many(nn.Module):
    """Layers of every kind, gains of several dimensions, and parameters of the network's own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.token, self.position = nn.Embedding(7, 8), nn.Parameter(torch.randn(1, 3, 8))
        self.norm, self.batch = nn.LayerNorm((3, 8)), nn.BatchNorm1d(3)
        self.line, self.dropped = nn.Linear(8, 8), DropConnect(nn.Linear(8, 8))
        self.up, self.down = nn.ConvTranspose1d(3, 4, 2), nn.Conv1d(4, 3, 2)
        self.dropped_up = DropConnect(nn.ConvTranspose1d(3, 3, 1))
        self.attention, self.cell = nn.MultiheadAttention(8, 2), nn.GRU(8, 8, num_layers=2)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.tied = nn.Linear(8, 8)
        self.tied.weight = self.line.weight


BY_UNIT = {
    **dict.fromkeys(("line.weight", "dropped.weight", "down.weight"), 0),
    **dict.fromkeys(("up.weight", "dropped_up.weight"), 1),
    **dict.fromkeys(("attention.in_proj_weight", "attention.out_proj.weight"), 0),
    **{f"cell.weight_{kind}_l{number}": 0 for kind in ("ih", "hh") for number in (0, 1)},
}


def test_the_weights_of_units_are_those_of_layers():
    model = Many()
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert {names[weight]: axis for weight, axis in unit_weights(model)} == BY_UNIT


@pytest.mark.parametrize("hooked", [False, True])
def test_max_norm_of_a_model_binds_them_alone(hooked):
    model = Many()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0).mul_(10.0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    if hooked:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        MaxNorm(optimizer, 1.5, model=model)
        optimizer.step()
    else:
        max_norm_(model, 1.5)
    for name, parameter in model.named_parameters():
        if name in BY_UNIT:
            wanted = torch.renorm(before[name], 2, BY_UNIT[name], 1.5)
            torch.testing.assert_close(parameter.detach(), wanted, rtol=1e-5, atol=0)
            assert not torch.equal(parameter, before[name])
        else:
            assert torch.equal(parameter, before[name]), name


def test_max_norm_of_a_model_leaves_what_the_optimizer_does_not_step():
    model = network()
    optimizer = torch.optim.SGD([{"params": model[0].weight}, {"params": model[2].parameters()}], lr=0.0)
    MaxNorm(optimizer, 0.1, model=model, groups=[1])
    optimizer.step()
    assert lengths(model[0].weight.detach()).min() > 0.1 >= lengths(model[2].weight.detach()).max()
    with pytest.raises(ValueError, match="no weights of linear, convolution, attention or recurrent layers"):
        MaxNorm(torch.optim.SGD([model[0].bias], lr=0.1), 1.0, model=model)
    with pytest.raises(ValueError, match="no weights of linear"):
        max_norm_(nn.LayerNorm((3, 8)), 1.0)
    with pytest.raises(ValueError, match="complex64 is not real"):
        max_norm_(nn.Linear(2, 2, dtype=torch.complex64), 1.0)
