import copy
import math
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ravine.models import make
from ravine.training import watch


def random_problem(classes: int = 4, features: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(32, features, generator=generator)
    return inputs, torch.randint(0, classes, (32,), generator=generator)


def fresh(name: str = "mlp", **settings: object) -> nn.Module:
    torch.manual_seed(0)
    return make(name, (12,), 4, settings)


# The first loss


def test_first_loss_of_a_classifier_against_chance_and_prior():
    targets = torch.tensor([0, 0, 0, 1])
    told = watch.first_loss(1.1, "classification", 3, targets)
    assert told.chance == pytest.approx(math.log(3))
    assert told.prior == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert told.notice == watch.Notice("info", "the first loss is 1.1; chance gives 1.1")


def test_first_loss_of_a_language_model_counts_every_position():
    told = watch.first_loss(0.7, "language", 2, torch.tensor([[0, 1], [1, 0]]))
    assert (told.chance, told.prior) == pytest.approx((math.log(2), math.log(2)))


def test_first_loss_of_a_regression_against_the_variance():
    targets = torch.tensor([1.0, 2.0, 3.0])
    told = watch.first_loss(5.0, "regression", 1, targets)
    assert told.chance == pytest.approx(14 / 3)
    assert told.prior == pytest.approx(2 / 3)
    assert told.notice.level == "info"


@pytest.mark.parametrize(
    ("loss", "level", "told"),
    [
        (2.0, "info", "chance gives 1.39$"),
        (2.2, "warning", "outputs are too large"),
        (0.2, "info", "knows something already"),
        (math.nan, "warning", "first loss is nan"),
        (math.inf, "warning", "first loss is inf"),
    ],
)
def test_what_the_first_loss_means(loss, level, told):
    _, targets = random_problem()
    notice = watch.first_loss(loss, "classification", 4, targets).notice
    assert notice.level == level
    assert re.search(told, notice.text)


# A tiny subset


@pytest.mark.parametrize(
    "settings", [{}, {"dropout": 0.8}, {"activation": "sigmoid"}, {"normalization": "none"}]
)
def test_a_sound_model_learns_random_labels_by_heart(settings):
    inputs, targets = random_problem()
    told = watch.fits_subset(fresh(**settings), F.cross_entropy, inputs, targets, math.log(4))
    assert told.fitted
    assert told.loss <= 0.1 * math.log(4)
    assert (told.items, told.notice.level) == (20, "info")
    assert 0 < told.steps <= 100


def test_a_model_cut_off_from_its_inputs_is_found():
    class CutOff(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = fresh()

        def forward(self, x):
            return self.body(torch.zeros_like(x))

    inputs, targets = random_problem()
    told = watch.fits_subset(CutOff(), F.cross_entropy, inputs, targets, math.log(4))
    assert not told.fitted
    assert told.notice.level == "warning"
    assert "not learnt by heart in 100 steps" in told.notice.text


def test_equal_items_with_different_targets_cannot_be_fitted():
    inputs, targets = torch.ones(20, 12), torch.arange(20) % 4
    told = watch.fits_subset(fresh(normalization="layer"), F.cross_entropy, inputs, targets, math.log(4))
    assert not told.fitted
    assert told.loss == pytest.approx(math.log(4), rel=0.1)


def test_a_tiny_model_is_not_asked_to_fit_more_than_it_has_room_for():
    inputs, _ = random_problem()
    model = make("linear", (12,), 1, {})
    told = watch.fits_subset(model, lambda out, t: F.mse_loss(out[:, 0], t), inputs, torch.randn(32), 1.0)
    assert (told.items, told.fitted) == (2, True)


def test_a_text_is_fitted_by_its_beginnings():
    tokens = torch.randint(0, 7, (20, 65), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = make("transformer", (), 7, {"width": 32, "depth": 2})
    seen = []

    def loss_of(logits, targets):
        seen.append(targets.shape)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    told = watch.fits_subset(model, loss_of, tokens[:, :-1], tokens[:, 1:], math.log(7))
    assert told.fitted
    assert set(seen) == {(4, 16)}


@pytest.mark.parametrize(
    ("budget", "items", "steps"), [(1e9, 20, 100), (4e6, 7, 100), (2e6, 4, 93), (0, 4, 40)]
)
def test_large_models_get_fewer_items_then_fewer_steps(monkeypatch, budget, items, steps):
    monkeypatch.setattr(watch, "BUDGET", budget)
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))
    assert 6 * (16 * (12 + 32) + 4 * (16 + 32)) == 5376  # operations of a step for one item
    inputs, targets = random_problem()
    told = watch.fits_subset(model, lambda outputs, _: outputs.sum() * 0 + 9, inputs, targets, 1.0)
    assert (told.items, told.steps) == (items, steps)


def test_the_model_and_the_random_stream_stay_as_they_were():
    model = fresh(dropout=0.3)
    model[1].eval()
    before = copy.deepcopy(model.state_dict())
    inputs, targets = random_problem()
    stream = torch.random.get_rng_state()
    watch.fits_subset(model, F.cross_entropy, inputs, targets, math.log(4))
    watch.dead_units(model, inputs)
    watch.first_bad_activation(model, inputs)
    assert torch.equal(torch.random.get_rng_state(), stream)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training
    assert not model[1].training
    assert not any(module._forward_hooks for module in model.modules())


def test_the_answer_is_the_same_again():
    inputs, targets = random_problem()
    told = [watch.fits_subset(fresh(), F.cross_entropy, inputs, targets, math.log(4)) for _ in range(2)]
    assert told[0] == told[1]


def test_a_model_that_cannot_be_copied_is_said_not_raised():
    model = fresh()
    model.cache = torch.ones(2, requires_grad=True) * 2
    inputs, targets = random_problem()
    told = watch.fits_subset(model, F.cross_entropy, inputs, targets, math.log(4))
    assert not told.fitted
    assert told.notice.level == "info"
    assert "cannot be copied" in told.notice.text


# The ratio of update to weight


def test_update_ratios_by_hand():
    before = {"a": torch.tensor([[3.0, 4.0]]), "zero": torch.zeros(2, 2), "bias": torch.ones(3)}
    after = {"a": torch.tensor([[3.0, 4.5]]), "zero": torch.ones(2, 2), "bias": torch.zeros(3)}
    assert watch.update_ratios(before, after) == pytest.approx({"a": 0.1})
    assert watch.update_ratios({}, {}) == {}


def test_snapshot_is_a_copy_of_the_trained_weight_tensors():
    model = fresh(depth=1)
    kept = watch.snapshot(model)
    assert set(kept) == {"layer1.linear.weight", "head.weight"}
    with torch.no_grad():
        model.get_parameter("head.weight").mul_(1.5)
    ratios = watch.update_ratios(kept, watch.snapshot(model))
    assert ratios == pytest.approx({"layer1.linear.weight": 0.0, "head.weight": 0.5}, rel=1e-5)
    model.get_parameter("head.weight").requires_grad_(False)
    assert set(watch.snapshot(model)) == {"layer1.linear.weight"}


@pytest.mark.parametrize(
    ("ratios", "told"),
    [
        ([1e-3], None),
        ([1e-6, 1e-3, 1.0], None),
        ([], None),
        ([1e-6, 2e-6], "raise the learning rate"),
        ([0.2, 0.3, 1e-3], "changes the weights by 2.0e-01 of their size.*lower the learning rate"),
    ],
)
def test_ratio_notice_judges_the_median(ratios, told):
    notice = watch.ratio_notice({str(i): ratio for i, ratio in enumerate(ratios)})
    assert (notice is None) == (told is None)
    if notice is not None and told is not None:
        assert re.search(told, notice.text)


# Dead and saturated units


def test_dead_units_are_counted_by_unit_not_by_value():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 0, 0], [0, 1, 0]]))
        model[0].bias.copy_(torch.tensor([0.0, 0, -1, 0]))
    x = torch.tensor([[1.0, -1, 0], [2, 1, 0]])  # unit 0 lives, 1 and 2 are dead, 3 lives for one item
    assert watch.dead_units(model, x) == {"1": 0.5}


def test_a_channel_is_dead_only_where_the_whole_map_is():
    model = nn.Sequential(nn.Identity(), nn.ReLU())
    maps = -torch.ones(2, 4, 3, 3)
    maps[1, 0, 2, 2] = 1
    assert watch.dead_units(model, maps) == {"1": 0.75}
    assert watch.dead_units(model, maps.flatten(2).mT) == {"1": 0.75}  # (N, T, C)


def test_saturation_is_a_share_of_outputs():
    values = torch.tensor([[0.0, 3.0, -3.0, 1.0]])
    assert watch.dead_units(nn.Sequential(nn.Tanh()), values) == {"0": 0.5}
    assert watch.dead_units(nn.Sequential(nn.Sigmoid()), 2 * values) == {"0": 0.5}


def test_a_layer_called_twice_counts_as_its_worst_call():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x):
            return self.act(x) + self.act(-x - 0.5)

    assert watch.dead_units(Twice(), torch.tensor([[1.0, 2.0, 0.0, -1.0]])) == {"act": 0.75}


def test_dead_notices_name_the_worst_layer_of_each_kind():
    model = nn.Sequential(nn.ReLU(), nn.ReLU(), nn.Tanh(), nn.Tanh())
    assert watch.dead_notices(model, {"0": 0.4, "1": 0.5, "2": 0.2, "3": 0.1}) == []
    dead, flat = watch.dead_notices(model, {"0": 0.6, "1": 0.9, "2": 0.8, "3": 0.1})
    assert dead.text.startswith("90% of the units of '1' are dead")
    assert flat.text.startswith("80% of the outputs of '2' are saturated")
    assert {dead.level, flat.level} == {"warning"}


def test_large_weights_saturate_and_small_ones_do_not():
    inputs, _ = random_problem()
    shares = {
        how: watch.dead_units(
            fresh(activation="tanh", normalization="none", initialization=how, depth=3), inputs
        )
        for how in ("large", "he")
    }
    assert min(shares["large"].values()) > 0.4
    assert max(shares["he"].values()) < 0.2


# The trend


@pytest.mark.parametrize(
    ("losses", "told"),
    [
        ([2.3, 2.0, 1.7, 1.5, 1.3, 1.2], None),
        ([2.3, 2.3, 2.3], None),
        ([2.300, 2.301, 2.299, 2.300, 2.301, 2.299], "flat"),
        ([1.0, 1.1, 1.2, 1.4, 1.6, 1.9], "rises"),
        ([1.0, math.nan, 1.0], "became nan at evaluation 2"),
        ([1.0, 0.9, math.inf], "became inf at evaluation 3"),
        ([1.0, 2.0, 1.0, 2.1, 1.0, 2.0], None),
    ],
)
def test_loss_trend(losses, told):
    notice = watch.loss_trend(losses)
    assert (notice is None) == (told is None)
    if notice is not None and told is not None:
        assert told in notice.text
        assert notice.level == "warning"


# What went bad first


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_first_not_finite_names_parameter_gradient_or_buffer(bad):
    model = fresh(depth=1)
    model(random_problem()[0]).sum().backward()
    assert watch.first_not_finite(watch.state_and_gradients(model)) is None
    model.get_buffer("layer1.norm.running_var")[1] = bad
    assert watch.first_not_finite(watch.state_and_gradients(model)) == "buffer layer1.norm.running_var"
    model.get_parameter("head.weight").grad[0, 0] = bad
    assert watch.first_not_finite(watch.state_and_gradients(model)) == "gradient of head.weight"
    with torch.no_grad():
        model.get_parameter("head.bias")[0] = bad
    assert watch.first_not_finite(watch.state_and_gradients(model)) == "parameter head.bias"
    assert watch.first_not_finite({"a": torch.ones(2), "b": torch.tensor([bad])}) == "b"


def test_first_bad_activation_names_the_innermost_first_module():
    inputs, _ = random_problem()
    model = fresh(depth=2)
    assert watch.first_bad_activation(model, inputs) is None
    with torch.no_grad():
        model.get_parameter("layer2.linear.weight")[0, 0] = math.inf
    before = copy.deepcopy(model.state_dict())
    assert watch.first_bad_activation(model, inputs) == "layer2.linear"
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    inputs[3, 2] = math.nan
    assert watch.first_bad_activation(model, inputs) == "the inputs"


def test_first_bad_activation_looks_into_tuples_and_mappings():
    class Pair(nn.Module):
        def forward(self, x):
            return {"a": (x, [x / 0])}

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair = Pair()

        def forward(self, x):
            return self.pair(x)["a"][0]

    assert watch.first_bad_activation(Outer(), torch.ones(2, 2)) == "pair"
