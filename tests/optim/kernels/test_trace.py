"""The traced program against the rule's own function on floats, and what tracing refuses."""

import math
import operator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ravine.optim import rules
from ravine.optim.kernels.surroundings import Surroundings, surround
from ravine.optim.kernels.trace import Instruction, trace
from ravine.optim.rule import Rule, absolute, maximum, minimum, rule, sign, sqrt, where

EVERY_RULE = [part for part in vars(rules).values() if isinstance(part, Rule)]
ALONE = Surroundings().structure()

BINARY = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "eq": operator.eq,
    "ne": operator.ne,
    "maximum": maximum,
}
UNARY = {"neg": operator.neg, "sqrt": sqrt, "abs": absolute}


def run(program, inputs, t, numbers):
    """What the program says, on floats."""
    slots = program.scalars(t, *numbers)
    assert len(slots) == program.slots
    values = []
    for name, arguments in program.instructions:
        if name == "input":
            value = inputs[arguments[0]]
        elif name == "slot":
            value = slots[arguments[0]]
        elif name in UNARY:
            value = UNARY[name](values[arguments[0]])
        elif name == "choose":
            condition, yes, no = (values[argument] for argument in arguments)
            value = yes if condition else no
        else:
            value = BINARY[name](*(values[argument] for argument in arguments))
        values.append(value)
    return [values[output] for output in program.outputs]


def same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-9, abs=1e-12, nan_ok=True)


# Away from zero: the program multiplies by 1/s where the rule divides by s, and rounding differs.
small = st.floats(-3, 3).filter(lambda v: abs(v) > 1e-6)
above = st.floats(1e-3, 3)


def drawn_inputs(data, each):
    """x, dx and a state that can be: mean squares are not negative."""
    inputs = [data.draw(small), data.draw(small)]
    for key in each.state:
        positive = key in ("sum", "square_avg", "acc_delta", "exp_avg_sq", "max_exp_avg_sq", "exp_inf")
        inputs.append(data.draw(above if positive else small))
    return inputs


LEAKS = ("beta1", "beta2", "beta3", "decay", "rho", "beta", "product")


def drawn_numbers(data, each):
    """Hyperparameters in the range that their names promise."""
    return [data.draw(st.floats(0.05, 0.95) if name in LEAKS else above) for name in each.hyperparameters]


@pytest.mark.parametrize("each", EVERY_RULE, ids=lambda each: each.name)
@settings(max_examples=30, deadline=None)
@given(st.data())
def test_program_equals_its_rule(each, data):
    inputs, numbers = drawn_inputs(data, each), drawn_numbers(data, each)
    t = float(data.draw(st.integers(1, 10_000)))
    same(run(trace(each, ALONE), inputs, t, numbers), each(*inputs, t, *numbers))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_program_equals_its_rule_in_any_surroundings(data):
    """Every combination of what may be composed around a rule, with and without an average."""
    fields = {name: data.draw(st.none() | above) for name in Surroundings._fields[1:]}
    around = Surroundings(data.draw(st.booleans()), **fields)
    structure = around.structure()
    inputs = drawn_inputs(data, rules.adam) + [data.draw(small)] * structure[-1]
    numbers = [0.1, 0.9, 0.99, 1e-3]
    found = run(trace(rules.adam, structure), inputs, 3.0, [*numbers, *around.numbers(structure)])
    same(found, surround(rules.adam, around, *inputs[:2], inputs[2:], 3.0, numbers))


@rule(state=("a",))
def every_function(x, dx, a, t, lr, eps=0.5):
    """All that a rule may use, on elements, on scalars, and on both together."""
    scalar = maximum(absolute(lr - eps), minimum(sqrt(eps), t)) + sign(lr - 1) + where(lr > eps, -lr, 2)
    mixed = maximum(x, scalar) + maximum(scalar, dx) + minimum(a, 1) + minimum(2, dx)
    chosen = where(x > dx, where(t == 1, a, dx), where(x <= 0.0, scalar, eps)) - where(x != a, 1, 2)
    ordered = where(dx >= scalar, 1, 0) + where(x > 1, x, -x) + where(lr < eps, x, a)
    return x / lr + 1 / (absolute(dx) + 1) - ordered, sign(chosen) * mixed + sqrt(absolute(a)) + scalar


@settings(max_examples=200, deadline=None)
@given(small, small, small, st.integers(1, 5), above, above)
def test_every_function(x, dx, a, t, lr, eps):
    program = trace(every_function, ALONE)
    same(run(program, [x, dx, a], float(t), [lr, eps]), every_function(x, dx, a, float(t), lr, eps))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0, -0.0])
def test_what_is_not_a_number_stays_that(value):
    program = trace(every_function, ALONE)
    for place in range(3):
        inputs = [0.5, -0.25, 2.0]
        inputs[place] = value
        same(run(program, inputs, 2.0, [0.1, 0.7]), every_function(*inputs, 2.0, 0.1, 0.7))


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_scalars_may_be_one_value_a_member(data):
    """The expressions of scalars on float64 tensors: each value as it would be alone."""
    for each in EVERY_RULE:
        members = [drawn_numbers(data, each) for _ in range(3)]
        stacked = [torch.tensor(values, dtype=torch.float64) for values in zip(*members, strict=True)]
        program = trace(each, ALONE)
        together = program.scalars(5.0, *stacked)
        alone = [program.scalars(5.0, *values) for values in members]
        for slot, values in enumerate(zip(*alone, strict=True)):
            found = torch.as_tensor(together[slot], dtype=torch.float64).expand(3)
            expected = torch.tensor(values, dtype=torch.float64)
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12, equal_nan=True)


def traced(function, state=()):
    return trace(rule(state=state)(function), ALONE)


def branching(x, dx, t, lr):
    if dx > 0:
        return (x - lr,)
    return (x + lr,)


def branching_on_a_scalar(x, dx, t, lr):
    return (x - lr * dx if t > 1 else x,)


def chained(x, dx, t, lr):
    return (where(0 < dx < 1, x, dx),)


def with_power(x, dx, t, lr):
    return (x - lr * dx**2,)


def with_element_as_power(x, dx, t, lr):
    return (x - lr**dx,)


def with_foreign_function(x, dx, t, lr):
    return (x - lr * math.tanh(dx),)


def with_tensor(x, dx, t, lr):
    return (x - torch.ones(1) * lr * dx,)


def with_text(x, dx, t, lr):
    return (x - "1" * dx,)


def with_no_tuple(x, dx, t, lr):
    return x - lr * dx


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (branching, r"a rule has no branches: write where\(condition, a, b\)"),
        (branching_on_a_scalar, "a rule has no branches"),
        (chained, "a rule has no branches"),
        (with_power, r"a rule raises scalars to powers, not elements: write x \* x"),
        (with_element_as_power, "a rule raises scalars to powers, not elements"),
        (with_foreign_function, "must be real number, not Element"),
        (with_text, "a rule works with numbers and its arguments, not with str"),
    ],
    ids=lambda part: getattr(part, "__name__", ""),
)
def test_what_is_refused(function, message):
    with pytest.raises(TypeError, match=message):
        traced(function)


@pytest.mark.parametrize("function", [with_tensor, with_no_tuple], ids=lambda each: each.__name__)
def test_other_mistakes_are_type_errors_too(function):
    """So that the engine "auto" falls back to torch's operators, which know them or tell of them."""
    with pytest.raises(TypeError):
        traced(function)


def test_equal_subexpressions_are_noted_once():
    def twice(x, dx, v, t, lr):
        v = dx * dx + v * (1 - lr)
        return x - (dx * dx) * sqrt(dx * dx) * (1 - lr), v

    program = traced(twice, state=("v",))
    assert len(set(program.instructions)) == len(program.instructions)
    names = [instruction.name for instruction in program.instructions]
    assert names.count("sqrt") == 1
    assert program.instructions.count(Instruction("mul", (1, 1))) == 1
    assert program.slots == 1


def test_what_no_output_needs_is_dropped():
    def wasteful(x, dx, v, t, lr):
        sqrt(x) * dx + v
        return x - lr * dx, v

    program = traced(wasteful, state=("v",))
    assert [instruction.name for instruction in program.instructions] == [
        "input",
        "input",
        "input",
        "slot",
        "mul",
        "sub",
    ]
    same(run(program, [1.0, 2.0, 3.0], 1.0, [0.1]), [0.8, 3.0])


def test_scalars_that_no_output_needs_take_no_slot():
    def wasteful(x, dx, t, lr, rho=0.5):
        (1 - rho**t) * dx
        return (x - lr * dx,)

    program = traced(wasteful)
    assert program.slots == 1
    assert program.scalars(1.0, 0.1, 0.5) == (0.1,)


def test_a_rule_may_return_a_scalar_or_swap_its_state():
    def odd(x, dx, a, b, t, lr):
        return lr * t, b, a

    same(run(traced(odd, state=("a", "b")), [1.0, 2.0, 3.0, 4.0], 7.0, [0.5]), [3.5, 4.0, 3.0])


def test_numbers_are_not_compiled_in():
    """One program whatever the numbers; only what is there or not makes another."""
    first = Surroundings(decay=0.1, scale=0.5).structure()
    second = Surroundings(decay=7.0, scale=0.1).structure()
    assert trace(rules.adam, first) is trace(rules.adam, second)
    assert trace(rules.adam, first) is not trace(rules.adam, ALONE)


def test_a_scale_of_zero_is_no_scale_left_out():
    """Gradients of an infinite norm are scaled by zero: left out, they would be taken whole."""
    assert Surroundings(scale=0.0).structure() == Surroundings(scale=1.0).structure() != ALONE


def test_a_hyperparameter_may_be_called_like_a_function():
    @rule()
    def named(x, dx, t, lr, sign=2.0, maximum=3.0):
        return (x - lr * absolute(dx) * sqrt(sign) / (1 + maximum),)

    program = trace(named, Surroundings().structure())
    assert len(program.scalars(1.0, 0.1, 2.0, 3.0)) == program.slots


def test_a_tensors_method_is_no_part_of_a_rule():
    @rule()
    def squared(x, dx, t, lr):
        return (x - lr * dx.square(),)

    with pytest.raises(TypeError, match="square"):
        trace(squared, Surroundings().structure())
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.full((3,), 2.0)
    squared.optimizer([parameter], lr=0.1).step()  # by torch's operators
    torch.testing.assert_close(parameter.detach(), torch.full((3,), 0.6))
