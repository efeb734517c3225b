"""`average_out`: closed forms against enumeration (C32), samples that converge to it, views, and refusals."""

import math
from importlib import import_module

import pytest
import torch
from torch import nn
from torch.nn import functional

from ravine.errors import DataError, ModelError
from ravine.generalize import (
    DropConnect,
    Dropout,
    FeatureDropout,
    FractionalMaxPool,
    GaussianNoise,
    StochasticDepth,
    average_out,
)
from ravine.generalize import flip as mirror

F64 = torch.float64
STACK = torch.stack
X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=F64)


def net(*parts):
    torch.manual_seed(1)
    return nn.Sequential(
        *(part() if callable(part) and not isinstance(part, nn.Module) else part for part in parts)
    ).double()


def linear(inputs, outputs):
    return lambda: nn.Linear(inputs, outputs)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(
    "noise",
    [
        lambda p: [Dropout(p), linear(3, 2)],
        lambda p: [Dropout(p, inverted=False), linear(3, 2)],
        lambda p: [nn.Dropout(p), linear(3, 2)],
        lambda p: [lambda: DropConnect(nn.Linear(3, 2), p)],
        lambda p: [StochasticDepth(p), linear(3, 2)],
        lambda p: [Dropout(p), linear(3, 3), StochasticDepth(p), linear(3, 2)],
        lambda p: [linear(3, 2), lambda: DropConnect(nn.Linear(2, 2), p), StochasticDepth(p)],
    ],
    ids=["dropout", "plain", "torch's", "DropConnect", "depth", "dropout, depth", "DropConnect, depth"],
)
def test_of_what_is_linear_the_closed_form_is_exact(noise, p):
    """C32: to 1e-12 in float64, single and mixed."""
    model = net(*noise(p))
    exact, closed = average_out(model, X, "exact"), average_out(model, X)
    assert (exact.mean - closed.mean).abs().max() < 1e-12
    assert exact.answers > 1 and closed.answers == 1 and not closed.spread.any()


def test_maps_are_enumerated_too():
    model = net(lambda: nn.Conv2d(2, 3, 3), FeatureDropout(0.3), lambda: nn.Conv2d(3, 2, 3))
    x = torch.randn(2, 2, 6, 6, dtype=F64)
    exact = average_out(model, x, "exact")
    assert exact.answers == 8
    torch.testing.assert_close(exact.mean, average_out(model, x).mean, rtol=0, atol=1e-12)


def deep(noise):
    return net(linear(3, 4), nn.Tanh(), noise, linear(4, 2), nn.Tanh())


def by_hand(model, p):
    """The mean and the deviation over the 16 masks of the four hidden units."""
    hidden = torch.tanh(model[0](X))
    outputs, weights = [], []
    for number in range(16):
        mask = torch.tensor([number >> bit & 1 for bit in range(4)], dtype=F64)
        outputs.append(torch.tanh(model[3](hidden * mask / (1 - p))))
        weights.append((1 - p) ** mask.sum() * p ** (4 - mask.sum()))
    weights, outputs = torch.stack(weights)[:, None, None], torch.stack(outputs)
    mean = (weights * outputs).sum(0)
    return mean, (weights * (outputs - mean).square()).sum(0).sqrt()


@pytest.mark.parametrize("p", [0.2, 0.5])
def test_all_masks_by_hand(p):
    model = deep(Dropout(p))
    exact = average_out(model, X, "exact")
    mean, spread = by_hand(model, p)
    torch.testing.assert_close(exact.mean, mean)
    torch.testing.assert_close(exact.spread, spread)
    assert exact.answers == 16


def test_of_a_deep_network_the_closed_form_is_off_and_samples_are_not():
    """C32: its error can be measured; that of n samples falls like 1/√n."""
    model = deep(Dropout(0.5))
    exact = average_out(model, X, "exact")
    assert (average_out(model, X).mean - exact.mean).abs().max() > 1e-3
    errors = []
    for n in (16, 256, 4096):
        found = [average_out(model, X, "samples", n, seed=seed).mean - exact.mean for seed in range(24)]
        errors.append(torch.stack(found).square().mean().sqrt().item())
        expected = exact.spread.square().mean().sqrt().item() / math.sqrt(n)
        assert errors[-1] == pytest.approx(expected, rel=0.25)
    assert errors[0] / errors[2] == pytest.approx(16, rel=0.3)


def test_the_spread_of_samples_is_that_of_the_noise():
    model = deep(Dropout(0.5))
    exact, found = average_out(model, X, "exact"), average_out(model, X, "samples", 20_000)
    torch.testing.assert_close(found.spread, exact.spread, rtol=0.05, atol=1e-3)
    assert found.answers == 20_000


def test_probabilities_are_averaged_as_probabilities():
    model = net(linear(3, 4), nn.Tanh(), Dropout(0.5), linear(4, 2))
    over = average_out(model, X, "exact", over="probabilities").mean
    torch.testing.assert_close(over.sum(1), torch.ones(5, dtype=F64))
    assert (over - average_out(model, X, "exact").mean.softmax(1)).abs().max() > 1e-3
    closed = average_out(model, X, over="probabilities")
    torch.testing.assert_close(closed.mean, average_out(model, X).mean.softmax(1))


class Residual(nn.Module):
    """Noise on one path only, sums in place, and a shortcut around it."""

    def __init__(self):
        super().__init__()
        self.one, self.noise, self.two = nn.Linear(3, 3), Dropout(0.5), nn.Linear(3, 3)

    def forward(self, x):
        out = self.noise(torch.relu(self.one(x)))
        out += x
        return self.two(out)


def test_shortcuts_around_the_noise():
    torch.manual_seed(0)
    model = Residual().double()
    exact, samples = average_out(model, X, "exact"), average_out(model, X, "samples", 20_000)
    torch.testing.assert_close(samples.mean, exact.mean, atol=0.05, rtol=0)
    torch.testing.assert_close(exact.mean, average_out(model, X).mean, rtol=0, atol=1e-12)


class Recurrent(nn.Module):
    """An operation that cannot be batched over samples."""

    def __init__(self):
        super().__init__()
        self.noise, self.cell, self.calls = Dropout(0.5), nn.GRU(3, 4, batch_first=True), 0

    def forward(self, x):
        self.calls += 1
        return self.cell(self.noise(x)[:, None])[0][:, 0]


def test_what_cannot_run_side_by_side_runs_one_after_another():
    torch.manual_seed(0)
    model = Recurrent().double()
    found = average_out(model, X, "samples", 30)
    assert model.calls > 30 and found.answers == 30 and bool((found.spread > 0).all())


def test_what_comes_before_the_first_noise_is_computed_once():
    seen = []

    class Body(nn.Linear):
        def forward(self, x):
            out = super().forward(x)
            seen.append((len(x), torch._C._functorch.is_batchedtensor(out)))
            return out

    average_out(net(lambda: Body(3, 4), Dropout(0.5), linear(4, 2)), X, "samples", 16)
    assert seen == [(2, False), (5, False)]  # two items tell where the items are


def test_samples_are_addressed_and_leave_the_random_stream_alone():
    model = deep(Dropout(0.5))
    state = torch.get_rng_state()
    one, same, other = (average_out(model, X, "samples", 8, seed=seed).mean for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("how", ["expectation", "samples", "exact"])
def test_the_network_is_left_as_it_was(how):
    model = net(linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), Dropout(0.5), linear(4, 2)).train()
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kinds, modes = [type(module) for module in model], [module.training for module in model.modules()]
    average_out(model, X, how)
    assert [type(module) for module in model] == kinds
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not model[3].drawing and model[3].given is None


def test_every_noise_together():
    torch.manual_seed(0)
    model = nn.Sequential(
        *(
            GaussianNoise(0.1),
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            FeatureDropout(0.2),
            nn.ReLU(),
        ),
        *(FractionalMaxPool(1.5), StochasticDepth(0.2, "batch"), nn.Dropout2d(0.1), nn.Flatten()),
        DropConnect(nn.Linear(8 * 8 * 8, 10), 0.5),
    )
    found = average_out(model, torch.randn(4, 3, 12, 12), "samples", 32, over="probabilities")
    assert found.mean.shape == found.spread.shape == (4, 10)
    torch.testing.assert_close(found.mean.sum(1), torch.ones(4))
    assert bool((found.spread > 0).all())


class DropPath(nn.Module):
    """As other libraries have it."""

    def forward(self, x):
        return x * (torch.rand(len(x), 1, dtype=x.dtype) < 0.5) * 2 if self.training else x


def test_noise_of_other_libraries_is_drawn_from():
    model = net(linear(3, 3), DropPath(), linear(3, 2))
    found = average_out(model, X, "samples", 10_000)
    torch.testing.assert_close(found.mean, average_out(model, X).mean, atol=0.05, rtol=0)
    assert bool((found.spread > 0).all())
    with pytest.raises(ModelError, match="DropPath cannot be enumerated"):
        average_out(model, X, "exact")


def flip(x):
    return x.flip(-1)


def test_views_are_averaged_as_one_batch():
    calls = []

    class Counting(nn.Module):
        def forward(self, x):
            calls.append(len(x))
            return x.flatten(1)[:, :4] ** 2

    x = torch.randn(6, 3, 8, 8, dtype=F64)
    found = average_out(Counting(), x, "views", views=[lambda x: x, flip, lambda x: [x + 1, x - 1]])
    one, two, three, four = ((part.flatten(1)[:, :4]) ** 2 for part in (x, flip(x), x + 1, x - 1))
    torch.testing.assert_close(found.mean, (one + two + three + four) / 4)
    assert calls == [24] and found.answers == 4


def test_views_of_several_sizes():
    model = nn.AdaptiveAvgPool2d(1)
    x = torch.randn(2, 3, 8, 8)
    found = average_out(model, x, "views", views=[lambda x: x, lambda x: x[..., 2:6, 2:6]])
    torch.testing.assert_close(found.mean, (model(x) + model(x[..., 2:6, 2:6])) / 2)


def test_a_batch_of_none():
    assert average_out(deep(Dropout(0.5)), X[:0], "samples", 4).mean.shape == (0, 2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"how": "mean"}, ValueError, "Invalid how or over: 'mean'"),
        ({"over": "logits"}, ValueError, "valid are .* outputs or probabilities"),
        ({"how": "samples", "n": 0}, ValueError, "Invalid n: 0"),
        ({"how": "samples", "n": 2.5}, ValueError, "Invalid n"),
        ({"how": "views"}, ValueError, "needs views"),
        ({"how": "views", "views": [lambda x: x[:2]]}, ValueError, "a view gave 2 items for 5"),
    ],
)
def test_mistakes_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        average_out(deep(Dropout(0.5)), X, **arguments)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: net(linear(3, 2)), "no noise to average out"),
        (lambda: net(GaussianNoise(0.1), linear(3, 2)), "GaussianNoise draws more than coins"),
        (lambda: net(linear(3, 30), Dropout(0.5), linear(30, 2)), r"2\^30 masks"),
        (lambda: net(*[Dropout(0.5)] * 2, linear(3, 2)), "used twice"),
    ],
)
def test_what_cannot_be_enumerated_is_refused(model, message):
    with pytest.raises(ModelError, match=message):
        average_out(model(), X, "exact")


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize(
    "made",
    [
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, 0.3, batch_first=True), 2),
        lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, batch_first=True),
    ],
)
def test_torch_s_transformers_are_drawn_from(made):
    """In evaluation mode they take a short cut past their own layers."""
    torch.manual_seed(0)
    model, x = made(), torch.randn(4, 6, 8)
    found = average_out(model, x, "samples", 400)
    model.train()
    passes = torch.stack([model(x).detach() for _ in range(400)])
    torch.testing.assert_close(found.mean, passes.mean(0), atol=0.15, rtol=0)
    assert float(found.spread.mean()) == pytest.approx(float(passes.std(0).mean()), rel=0.15)
    assert torch.backends.mha.get_fastpath_enabled()


def test_dropout_within_attention_and_recurrent_layers_counts():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)

        def forward(self, x):
            return self.layer(x, x, x)[0]

    class Recurrence(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.GRU(8, 8, num_layers=2, dropout=0.5, batch_first=True)

        def forward(self, x):
            return self.layer(x)[0]

    for made in (Attention, Recurrence):
        torch.manual_seed(0)
        found = average_out(made(), torch.randn(3, 5, 8), "samples", 20)
        assert float(found.spread.mean()) > 1e-3


class Own(nn.Dropout):
    """Somebody's own kind of dropout."""


def test_dropout_of_one_s_own_is_drawn_from():
    model = net(linear(3, 4), Own(0.5), linear(4, 2))
    found = average_out(model, X, "samples", 5000)
    torch.testing.assert_close(found.mean, average_out(model, X).mean, atol=0.05, rtol=0)
    assert bool((found.spread > 0).all())


@pytest.mark.parametrize("noise", [Dropout(0.5), GaussianNoise(0.5), StochasticDepth(0.5)])
def test_an_answer_does_not_depend_on_who_else_is_in_the_batch(noise):
    model = net(linear(3, 4), nn.Tanh(), noise, linear(4, 2))
    whole = average_out(model, X, "samples", 8).mean
    parts = torch.cat([average_out(model, X[number : number + 1], "samples", 8).mean for number in range(5)])
    torch.testing.assert_close(whole, parts)


class Functional(nn.Module):
    """A network whose dropout is a function call in its own code."""

    def __init__(self, function=functional.dropout, p=0.5):
        super().__init__()
        self.one, self.two, self.function, self.p = nn.Linear(3, 4), nn.Linear(4, 2), function, p

    def forward(self, x):
        hidden = torch.tanh(self.one(x))
        if self.function in (functional.dropout2d, functional.dropout3d, functional.feature_alpha_dropout):
            hidden = hidden[(..., *[None] * (3 if self.function is functional.dropout3d else 2))]
        return torch.tanh(self.two(self.function(hidden, self.p, training=self.training).flatten(1)))


@pytest.mark.parametrize("function", [functional.dropout, functional.dropout2d, functional.dropout3d])
def test_functional_dropout_is_that_of_layers(function):
    """One draw for all items, in the numbers that Ravine's layer draws."""
    torch.manual_seed(0)
    model = Functional(function).double()
    layers = nn.Sequential(model.one, nn.Tanh(), Dropout(0.5), model.two, nn.Tanh())
    found, wanted = (average_out(each, X, "samples", 50, seed=3) for each in (model, layers))
    torch.testing.assert_close(found.mean, wanted.mean)
    torch.testing.assert_close(found.spread, wanted.spread)
    assert bool((found.spread > 0.01).all())
    torch.testing.assert_close(average_out(model, X).mean, model.eval()(X))


@pytest.mark.parametrize("function", [functional.alpha_dropout, functional.feature_alpha_dropout])
def test_other_functional_dropout_is_drawn_from(function):
    torch.manual_seed(0)
    found = average_out(Functional(function).double(), X, "samples", 50)
    assert bool((found.spread > 0.01).all())


def test_functional_dropout_of_weights_is_drop_connect():
    class Dropped(nn.Linear):
        def forward(self, x):
            return functional.linear(x, functional.dropout(self.weight, 0.5, self.training), self.bias)

    torch.manual_seed(0)
    model = nn.Sequential(Dropped(3, 2), nn.Linear(2, 1)).double()
    plain = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)).double()
    plain.load_state_dict(model.state_dict())
    wanted = average_out(nn.Sequential(DropConnect(plain[0], 0.5), plain[1]), X, "exact")
    found = average_out(model, X, "samples", 20_000)
    torch.testing.assert_close(found.mean, wanted.mean, atol=0.03, rtol=0)
    torch.testing.assert_close(found.spread, wanted.spread, rtol=0.03, atol=0)


def test_functional_dropout_takes_part_beside_layers():
    torch.manual_seed(0)
    model = net(Functional(), Dropout(1e-9), linear(2, 2))
    assert bool((average_out(model, X, "samples", 50).spread > 0.01).all())


@pytest.mark.parametrize("beside", [[], [Dropout(0.5)]])
def test_functional_dropout_cannot_be_enumerated(beside):
    with pytest.raises(
        ModelError, match=r"dropout in the network's own code cannot be enumerated: use layers"
    ):
        average_out(net(*beside, Functional()), X, "exact")


def test_functional_dropout_of_nothing_is_no_noise():
    with pytest.raises(ModelError, match="no noise to average out"):
        average_out(net(Functional(p=0.0)), X, "samples")


@pytest.mark.filterwarnings("ignore:dropout2d. Received a 2-D input")
def test_torch_s_dropout2d_takes_rows_as_it_does_in_training():
    model = deep(nn.Dropout2d(0.5))
    every = average_out(model, X, "exact")
    torch.testing.assert_close(every.mean, average_out(deep(Dropout(0.5)), X, "exact").mean)
    found = average_out(model, X, "samples", 2000)
    model[2].train()
    passes = torch.stack([model(X).detach() for _ in range(2000)])
    for mean, spread in ((found.mean, found.spread), (passes.mean(0), passes.std(0))):
        torch.testing.assert_close(mean, every.mean, atol=0.05, rtol=0)
        torch.testing.assert_close(spread, every.spread, atol=0.05, rtol=0)


@pytest.mark.parametrize("how", ["samples", "exact"])
@pytest.mark.parametrize("layer", [nn.Dropout1d, nn.Dropout3d])
def test_where_torch_takes_items_for_maps_is_refused(how, layer):
    with pytest.raises(ModelError, match=r"takes the items of a shape of \(\d, 4\) for maps: use"):
        average_out(deep(layer(0.5)), X, how)


@pytest.mark.parametrize("how", ["expectation", "samples", "exact", "views"])
@pytest.mark.parametrize(("pack", "name"), [(lambda x: (x, x), "tuple"), (lambda x: {"logits": x}, "dict")])
def test_a_model_of_several_outputs_is_refused_by_name(how, pack, name):
    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            self.noise = Dropout(0.5)

        def forward(self, x):
            return pack(self.noise(x))

    views = [flip] if how == "views" else []
    with pytest.raises(ModelError, match=rf"the model gives a {name}, .* wrap the model"):
        average_out(Several(), X, how, views=views, over="probabilities")


VIEWS = [lambda x: x, flip, lambda x: [x + 1, x - 1]]


@pytest.mark.parametrize("sizes", ["one", "several"])
def test_every_draw_of_every_view(sizes):
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.Tanh(), FeatureDropout(0.5), nn.AdaptiveAvgPool2d(2), nn.Flatten()),
        *(Dropout(0.2), nn.Linear(16, 2)),
    ).double()
    x = torch.randn(6, 3, 8, 8, dtype=F64)
    views = VIEWS[:2] if sizes == "one" else [*VIEWS[:2], lambda x: x[..., 1:7, 1:7]]
    found = average_out(model, x, "samples", 12, views=views, seed=5, over="probabilities")
    each = [average_out(model, view(x), "samples", 12, seed=5, over="probabilities") for view in views]
    mean = torch.stack([average.mean for average in each]).mean(0)
    squares = torch.stack([average.mean.square() + average.spread.square() for average in each]).mean(0)
    torch.testing.assert_close(found.mean, mean)
    torch.testing.assert_close(found.spread, (squares - mean.square()).sqrt())
    assert found.answers == 12 * len(views)


@pytest.mark.parametrize("how", ["expectation", "exact"])
def test_views_are_not_ignored(how):
    with pytest.raises(
        ValueError, match=f"views are averaged by how='views' and how='samples', not by '{how}'"
    ):
        average_out(deep(Dropout(0.5)), X, how, views=[flip])


@pytest.mark.parametrize("how", ["samples", "exact"])
@pytest.mark.parametrize("together", [1, 7, 30, 100])
def test_nor_on_how_many_others_there_are(how, together, monkeypatch):
    """However many items and draws are taken at once."""
    model = net(StochasticDepth(0.5), linear(3, 4), nn.Tanh(), Dropout(0.5), linear(4, 2))
    monkeypatch.setattr(import_module("ravine.generalize.pieces"), "TOGETHER", together)
    whole = average_out(model, X, how, 8)
    parts = [average_out(model, X[number : number + 1], how, 8) for number in range(5)]
    torch.testing.assert_close(whole.mean, torch.cat([part.mean for part in parts]))
    torch.testing.assert_close(whole.spread, torch.cat([part.spread for part in parts]))


@pytest.mark.parametrize("sure", [Dropout(0.0), nn.Dropout(0.0), Dropout(1.0), StochasticDepth(0.0, "batch")])
def test_a_coin_that_is_sure_is_none(sure):
    """Of 100 units and more: they are no masks, and what becomes of them is what does in training."""
    model = net(linear(3, 100), sure, sure, linear(100, 4), nn.Tanh(), Dropout(0.5), linear(4, 2))
    found = average_out(model, X, "exact")
    assert found.answers == 16
    hidden = model[3](model[0](X) if getattr(sure, "p", 0.0) == 0.0 else torch.zeros(5, 100, dtype=F64))
    wanted = average_out(model[4:], hidden, "exact")
    torch.testing.assert_close(found.mean, wanted.mean)
    torch.testing.assert_close(found.spread, wanted.spread)


def test_a_model_that_is_a_dropout_is_enumerated_too():
    exact = average_out(nn.Dropout(0.5), X, "exact")
    torch.testing.assert_close(exact.mean, X)
    torch.testing.assert_close(exact.spread, X.abs())  # 0 or twice the value
    assert exact.answers == 8


class InPlace(nn.Module):
    """A network that goes on with what its dropout wrote to, and not with what it returned."""

    def __init__(self, function, place, use):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.drop = nn.Linear(3, 4), nn.Linear(4, 2), nn.Dropout(0.5, inplace=place)
        self.function, self.place, self.use = function, place, use

    def forward(self, x):
        hidden = torch.tanh(self.one(x))
        if self.function:
            dropped = functional.dropout(hidden, 0.5, self.training, self.place)
        else:
            dropped = self.drop(hidden)
        return self.use(self.two, hidden if self.place else dropped)


USES = {
    "a layer": lambda layer, hidden: torch.tanh(layer(hidden)),
    "a list": lambda layer, hidden: layer(torch.stack([hidden, hidden]).mean(0)),
    "the answer": lambda layer, hidden: hidden,
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("function", [False, True])
def test_dropout_in_place_is_seen_where_it_was_written_to(function, use, monkeypatch):
    ways = ["samples"] if function else ["samples", "exact"]
    in_turn = []
    monkeypatch.setattr(
        torch, "stack", lambda parts, *axis: in_turn.append(len(parts)) or STACK(parts, *axis)
    )
    for how in ways:
        found, wanted = (
            average_out(InPlace(function, place, USES[use]).double(), X, how, 32) for place in (True, False)
        )
        torch.testing.assert_close(found.mean, wanted.mean)
        torch.testing.assert_close(found.spread, wanted.spread)
        assert bool((found.spread > 0.01).any())
    assert 32 not in in_turn  # still side by side


@pytest.mark.parametrize("together", [1, 40, 200, 10_000])
@pytest.mark.parametrize("how", ["views", "samples"])
def test_views_are_taken_in_pieces(how, together, monkeypatch):
    """No pass has more numbers than memory is to hold, and an item's views are there to be averaged."""
    passes = []

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.noise = Dropout(0.5)

        def forward(self, x):
            passes.append(x.numel())
            return self.noise(x.flatten(1)[:, :3] ** 2)

    monkeypatch.setattr(import_module("ravine.generalize.pieces"), "TOGETHER", together)
    x = torch.randn(7, 3, 2, 2, generator=torch.Generator().manual_seed(2), dtype=F64)
    found = average_out(Counting(), x, how, 1, views=VIEWS)
    assert max(passes) <= max(together, 4 * 12)
    squares = torch.stack([view.flatten(1)[:, :3] ** 2 for view in (x, flip(x), x + 1, x - 1)])
    kept = average_out(Dropout(0.5), squares[0], "samples", 1).mean / squares[0] if how == "samples" else 1
    torch.testing.assert_close(found.mean, squares.mean(0) * kept)
    assert found.answers == 4


def test_mirror_images_of_a_table_are_refused():
    with pytest.raises(DataError, match=r"mirror images are of images .* not of a shape of \(1, 3\)"):
        average_out(net(linear(3, 2)), X, "views", views=[mirror])
