"""Fractional max pooling: regions as in Graham's paper, and maxima against a walk over them."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ravine.generalize import FractionalMaxPool
from ravine.generalize.noise.fractional_max_pool import pseudorandom_boundaries, random_boundaries


@st.composite
def sides(draw):
    size = draw(st.integers(1, 400))
    return size, draw(st.integers(-(-size // 2), size))


@given(sides(), st.floats(0, 1, exclude_max=True))
def test_pseudorandom_regions_have_sides_of_1_and_2_and_cover_all(side, u):
    size, outputs = side
    bounds = pseudorandom_boundaries(size, outputs, torch.tensor(u, dtype=torch.float64)).tolist()
    steps = [after - before for before, after in itertools.pairwise(bounds)]
    assert (bounds[0], bounds[-1], len(steps)) == (0, size, outputs)
    assert set(steps) <= {1, 2} and steps.count(2) == size - outputs


@given(sides(), st.integers(0, 2**31))
def test_random_regions_have_the_right_number_of_twos(side, seed):
    size, outputs = side
    order = torch.rand(outputs, generator=torch.Generator().manual_seed(seed))
    bounds = random_boundaries(size, outputs, order)
    assert bounds[0] == 0 and bounds[-1] == size
    assert sorted(bounds.diff().tolist()) == [1] * (2 * outputs - size) + [2] * (size - outputs)


@pytest.mark.parametrize(("size", "outputs"), [(25, 18), (36, 25), (7, 5)])
@pytest.mark.parametrize("u", [0.1, 0.37, 0.5, 0.9])
def test_pseudorandom_boundaries_are_the_paper_s(size, outputs, u):
    """aᵢ = ⌈α·(i + u)⌉, here from 0 on."""
    alpha = size / outputs
    wanted = [math.ceil(alpha * (i + u)) - math.ceil(alpha * u) for i in range(outputs + 1)]
    assert pseudorandom_boundaries(size, outputs, torch.tensor(u, dtype=torch.float64)).tolist() == wanted


def test_random_twos_stand_everywhere_equally_often():
    torch.manual_seed(0)
    steps = torch.stack([random_boundaries(10, 7, torch.rand(7)).diff() for _ in range(4000)])
    often = (steps == 2).double().mean(0)
    assert bool(((often - 3 / 7).abs() < 5 * math.sqrt(3 / 7 * 4 / 7 / 4000)).all())


def walked(x, rows, columns, overlapping):
    """The maxima region by region."""
    more = 1 if overlapping else 0
    out = torch.empty(*x.shape[:2], len(rows) - 1, len(columns) - 1, dtype=x.dtype)
    for i in range(len(rows) - 1):
        for j in range(len(columns) - 1):
            region = x[:, :, rows[i] : rows[i + 1] + more, columns[j] : columns[j + 1] + more]
            out[:, :, i, j] = region.amax((2, 3))
    return out


@pytest.mark.parametrize("draw", ["pseudorandom", "random"])
@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_maxima_against_a_walk(draw, overlapping, layout, requires_grad):
    x = torch.randn(2, 3, 13, 10).contiguous(memory_format=layout).requires_grad_(requires_grad)
    part = FractionalMaxPool(1.4, draw, overlapping=overlapping)
    torch.manual_seed(4)
    out = part(x)
    torch.manual_seed(4)
    rows, columns = (part._drawn(size, x.device).tolist() for size in (13, 10))
    assert out.shape == (2, 3, 9, 7)
    assert torch.equal(out, walked(x, rows, columns, overlapping))


@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_and_second_derivatives_are_those_of_a_walk(overlapping, layout):
    x = torch.randn(2, 3, 13, 10, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    part = FractionalMaxPool(1.4, overlapping=overlapping).eval()
    rows, columns = (
        pseudorandom_boundaries(size, outputs, torch.tensor(0.5)).tolist()
        for size, outputs in ((13, 9), (10, 7))
    )
    found, wanted = part(x), walked(x, rows, columns, overlapping)
    assert torch.equal(found, wanted)
    weights = torch.randn_like(found)
    slopes = [
        torch.autograd.grad((out.square() * weights).sum(), x, create_graph=True)[0]
        for out in (found, wanted)
    ]
    torch.testing.assert_close(*slopes)
    torch.testing.assert_close(*(torch.autograd.grad(slope.square().sum(), x)[0] for slope in slopes))


def test_maxima_and_gradients_are_torch_s_where_the_regions_are():
    """Windows of 2 that lie side by side are what torch draws, too, for half the size."""
    x = torch.randn(2, 3, 8, 6, requires_grad=True)
    theirs = torch.nn.functional.fractional_max_pool2d(
        x, 2, output_size=(4, 3), _random_samples=torch.zeros(2, 3, 2)
    )
    ours = FractionalMaxPool(2.0)(x)
    assert torch.equal(ours, theirs)
    weights = torch.randn_like(ours)
    assert torch.equal(*(torch.autograd.grad(out, x, weights)[0] for out in (ours, theirs)))


@pytest.mark.parametrize("overlapping", [False, True])
def test_of_equal_maxima_one_takes_the_gradient(overlapping):
    x = torch.zeros(2, 3, 9, 9, requires_grad=True)
    out = FractionalMaxPool(1.5, overlapping=overlapping)(x)
    out.sum().backward()
    assert x.grad.sum() == out.numel()
    if not overlapping:
        assert set(x.grad.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_what_is_no_number_or_infinite_stays(overlapping, requires_grad):
    part = FractionalMaxPool(1.5, overlapping=overlapping).eval()
    bounds = pseudorandom_boundaries(9, 6, torch.tensor(0.5)).tolist()
    for row, column in itertools.product(range(9), repeat=2):
        for value in (math.nan, math.inf, -math.inf):
            x = torch.randn(1, 1, 9, 9)
            x[0, 0, row, column] = value
            found = part(x.requires_grad_(requires_grad))
            assert torch.equal(found.isnan(), walked(x, bounds, bounds, overlapping).isnan())
            assert torch.equal(found.isinf(), walked(x, bounds, bounds, overlapping).isinf())
    lowest = torch.full((1, 1, 9, 9), -math.inf, requires_grad=requires_grad)
    assert torch.equal(part(lowest), torch.full((1, 1, 6, 6), -math.inf))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own, at its first use
def test_forward_derivatives_are_the_backward_ones():
    x, direction = torch.randn(2, 3, 9, 9, dtype=torch.float64), torch.randn(2, 3, 9, 9, dtype=torch.float64)
    part = FractionalMaxPool(1.5).eval()
    _, along = torch.func.jvp(part, (x,), (direction,))
    _, back = torch.func.vjp(part, x)
    weights = torch.randn_like(along)
    torch.testing.assert_close((along * weights).sum(), (back(weights)[0] * direction).sum())


def test_a_ratio_of_two_is_ordinary_pooling_and_one_is_none():
    x = torch.randn(2, 3, 8, 6)
    assert torch.equal(FractionalMaxPool(2.0)(x), torch.nn.functional.max_pool2d(x, 2))
    assert torch.equal(FractionalMaxPool(1)(x), x)
    assert FractionalMaxPool(2.0)(torch.randn(1, 1, 5, 5)).shape == (1, 1, 3, 3)  # no region of 3


def test_torch_draws_the_same_kind_of_regions():
    """torch's windows of one pixel begin, as ours do, at increasing places 1 or 2 apart, from the first."""
    x = torch.arange(20.0).expand(1, 1, 20, 20)
    for seed in range(20):
        torch.manual_seed(seed)
        theirs = torch.nn.functional.fractional_max_pool2d(x, 1, output_size=(14, 14))[0, 0, 0].long()
        bounds = FractionalMaxPool(20 / 14)._drawn(20, x.device)
        assert len(theirs) == len(bounds) - 1 == 14
        for begins in (theirs, bounds[:-1]):
            assert begins[0] == 0 and set(begins.diff().tolist()) == {1, 2}


def test_evaluation_takes_fixed_regions_in_the_middle_of_what_is_drawn():
    x = torch.randn(1, 1, 9, 9)
    part = FractionalMaxPool(1.5).eval()
    bounds = pseudorandom_boundaries(9, 6, torch.tensor(0.5)).tolist()
    assert torch.equal(part(x), walked(x, bounds, bounds, False))


@pytest.mark.parametrize("overlapping", [False, True])
def test_compiled_and_side_by_side_the_gradients_are_the_same(overlapping):
    torch._dynamo.reset()
    part = FractionalMaxPool(1.5, overlapping=overlapping).eval()
    items = [torch.randn(2, 3, 9, 9, requires_grad=True) for _ in range(5)]
    weights = torch.randn(5, 2, 3, 6, 6)
    wanted = torch.stack([part(item) for item in items])
    compiled = torch.compile(part, backend="aot_eager", fullgraph=True)
    side_by_side = torch.func.vmap(part)(torch.stack(items))
    for found in (torch.stack([compiled(item) for item in items]), side_by_side):
        assert torch.equal(found, wanted)
        slopes = [torch.autograd.grad(out, items, weights, retain_graph=True) for out in (found, wanted)]
        torch.testing.assert_close(*slopes)  # regions that overlap add up in another order


@pytest.mark.parametrize("ratio", [0.9, 2.1, float("nan"), "half", True])
def test_a_ratio_out_of_range_is_refused(ratio):
    with pytest.raises(ValueError, match=r"Invalid ratio: .* in \[1, 2\]"):
        FractionalMaxPool(ratio)


def test_what_cannot_be_pooled_is_refused():
    with pytest.raises(ValueError, match="Invalid draw: 'any'"):
        FractionalMaxPool(1.5, "any")
    for shape in ((2, 3, 8), (2, 3, 1, 8)):
        with pytest.raises(ValueError, match=r"takes images .* not a shape of"):
            FractionalMaxPool(1.5)(torch.zeros(shape))
