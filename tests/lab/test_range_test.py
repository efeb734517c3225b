import copy
import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ravine.errors import NotFiniteError, RavineError
from ravine.lab import range_test as module
from ravine.lab.range_test import range_test, suggest
from ravine.training.run import make_setup

RATES = [10 ** (-7 + 8 * step / 159) for step in range(160)]


def curve(loss_of, noise=0.0, seed=0):
    """Rows as a sweep over RATES would give them; the moving average is computed on its own here."""
    draw = random.Random(seed)
    rows, seen = [], []
    for rate in RATES:
        loss = loss_of(rate)
        if math.isfinite(loss):
            loss += draw.gauss(0, noise)
            seen.append(loss)
        weights = [module.SMOOTHING**age for age in range(len(seen))]
        smoothed = (
            sum(w * x for w, x in zip(weights, reversed(seen), strict=True)) / sum(weights) if seen else None
        )
        rows.append({"lr": rate, "loss": loss if math.isfinite(loss) else None, "smoothed": smoothed})
    return rows


def valley(rate, fall=1e-3, blow=1e-1):
    """Flat at 2.3, falling by 2 around `fall`, blowing up above `blow`."""
    return 2.3 - 2 / (1 + (fall / rate) ** 2) + (rate / blow) ** 4


class Noisy(nn.Module):
    """Everything that training changes: statistics, a buffer that is replaced, dropout, frozen weights."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(13, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5))
        self.frozen = nn.Linear(16, 16).requires_grad_(False)
        self.head = nn.Linear(16, 3)
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, x):
        self.calls = self.calls + 1
        return self.head(self.frozen(self.body(x)))


def everything(setup):
    model = setup.model
    return copy.deepcopy(
        {
            "weights": dict(model.named_parameters()),
            "buffers": dict(model.named_buffers()),
            "gradients": [weight.grad for weight in model.parameters()],
            "optimizer": setup.optimizer.state_dict(),
            "modes": [part.training for part in model.modules()],
            "stream": torch.get_rng_state(),
        }
    )


def same(left, right):
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


@pytest.fixture
def begun():
    """A setup in the middle of training: state in the optimizer, gradients, modules in mixed modes."""
    setup = make_setup(Noisy(), "wine", {"optimizer": {"name": "adam"}})
    for inputs, targets in setup.feeds["train"].epoch(0):
        setup.optimizer.zero_grad()
        setup.objective(setup.model(inputs), targets).backward()
        setup.optimizer.step()
    setup.model.body[1].eval()
    return setup


def test_everything_is_restored_bit_for_bit(begun):
    before = everything(begun)
    held = [*begun.model.parameters(), begun.model.calls]
    found = range_test(begun, steps=30)
    assert same(before, everything(begun))
    now = [*begun.model.parameters(), begun.model.calls]
    assert all(left is right for left, right in zip(held, now, strict=True))
    assert len({row["loss"] for row in found.rows}) > 10  # it did train


def test_everything_is_restored_after_a_failure(begun):
    before = everything(begun)

    def fail(part, inputs):
        if part.calls > before["buffers"]["calls"] + 5:
            raise KeyboardInterrupt

    begun.model.register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        range_test(begun, steps=30)
    assert same(before, everything(begun))


def test_draws_are_addressed(begun):
    first = range_test(begun, steps=20)
    torch.rand(5)
    assert range_test(begun, steps=20) == first


def line(weight):
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(model.weight, weight)
    return model


def plain(model, data, **more):
    recipe = {
        "optimizer": {"name": "sgd", "momentum": 0.0, "nesterov": False, "average": 0.0, **more},
        "precision": "fp32",
    }
    return make_setup(model, data, recipe)


def test_a_parabola_falls_as_gradient_descent_does_and_blows_up_where_theory_says():
    # The loss is w² on x = 1, so a step multiplies w by 1 - 2 lr, which diverges above lr = 1.
    data = [(torch.ones(2, 1, dtype=torch.float64), torch.zeros(2, dtype=torch.float64))]
    setup = plain(line(3.0), data)
    found = range_test(setup, lowest=1e-4, highest=100.0, steps=120)
    weight = 3.0
    for row in found.rows:
        assert row["loss"] == pytest.approx(weight**2, rel=1e-9)
        weight *= 1 - 2 * row["lr"]
    assert 1.0 < found.rows[-1]["lr"] < 100.0  # ended by divergence, not at the last rate
    assert 1e-3 < found.suggestion < 0.5


def test_clipping_and_accumulation_are_the_recipes_own():
    data = [
        (torch.full((2, 1), x, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)) for x in (1.0, 2.0)
    ]
    setup = plain(line(3.0), data, clip_norm=0.5, accumulate=2)
    rows = range_test(setup, lowest=1e-3, highest=1e-1, steps=10).rows
    # Mean of w² and (2w)² over the two batches; the gradient 5 w is clipped to 0.5.
    assert rows[0]["loss"] == pytest.approx(2.5 * 9)
    assert rows[1]["loss"] == pytest.approx(2.5 * (3 - 0.5 * rows[0]["lr"]) ** 2)


class SpoiledBatches:
    """Batches of a parabola of which some hold not-a-number."""

    def __init__(self, bad):
        self.bad = bad

    def __len__(self):
        return 1000

    def __iter__(self):
        for number in range(1000):
            x = torch.ones(2, 1)
            yield (x * math.nan if number in self.bad else x), torch.zeros(2)


def parabola(bad):
    model = line(3.0).float()
    return plain(model, SpoiledBatches(bad))


def test_lone_bad_batches_are_left_out():
    found = range_test(parabola({7, 30, 31, 80}), lowest=1e-4, highest=10.0)
    assert [number for number, row in enumerate(found.rows) if row["loss"] is None][:4] == [7, 30, 31, 80]
    clean = range_test(parabola(set()), lowest=1e-4, highest=10.0)
    assert found.suggestion == pytest.approx(clean.suggestion, rel=0.5)


def test_three_bad_steps_in_a_row_end_the_sweep():
    found = range_test(parabola(set(range(60, 1000))), lowest=1e-4, highest=10.0)
    assert len(found.rows) == 63
    assert found.suggestion is not None and found.suggestion < found.rows[59]["lr"]


def test_only_not_a_number_is_a_clear_error_that_names_the_culprit():
    with pytest.raises(NotFiniteError, match="the inputs"):
        range_test(parabola(set(range(1000))))
    model = line(3.0).float()
    nn.init.constant_(model.weight, math.nan)
    with pytest.raises(NotFiniteError, match="weight"):
        range_test(plain(model, SpoiledBatches(set())))


@pytest.mark.parametrize("arguments", [{"lowest": 0.0}, {"lowest": 1.0, "highest": 0.1}, {"steps": 3}])
def test_an_impossible_range_is_refused(arguments):
    with pytest.raises(RavineError, match="0 < lowest < highest"):
        range_test(parabola(set()), **arguments)


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.2])
def test_the_suggestion_lies_where_the_loss_falls(noise):
    for seed in range(20):
        rate, why = suggest(curve(valley, noise, seed))
        assert 3e-4 < rate < 1e-2, (seed, why)


def test_a_loss_that_never_blows_up_has_a_suggestion():
    rate, _ = suggest(curve(lambda rate: valley(rate, blow=1e9), noise=0.02))
    assert 3e-4 < rate < 1.0


def test_a_loss_that_only_rises_has_none():
    rate, why = suggest(curve(lambda rate: 2.3 + 10 * rate**0.1, noise=0.01))
    assert rate is None
    assert "rises from the lowest rate" in why


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_a_flat_loss_has_none(noise):
    for seed in range(20):
        rate, why = suggest(curve(lambda rate: 2.3, noise, seed))
        assert rate is None, seed
        assert "does not clearly fall" in why


def test_a_single_finite_loss_has_none():
    assert suggest(curve(lambda rate: 2.3 if rate < 1.05e-7 else math.nan))[0] is None


@given(scale=st.floats(1e-3, 1e3), shift=st.floats(1e-2, 1e2))
def test_the_suggestion_moves_with_the_rates_and_not_with_the_unit_of_the_loss(scale, shift):
    rows = curve(valley, noise=0.02)
    moved = [
        {"lr": row["lr"] * shift, "loss": row["loss"] * scale, "smoothed": row["smoothed"] * scale}
        for row in rows
    ]
    assert suggest(moved)[0] == pytest.approx(suggest(rows)[0] * shift, rel=1e-6)
