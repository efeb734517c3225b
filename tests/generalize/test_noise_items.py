"""Noise whose input has the items on another axis than the first, or several rows an item."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from ravine.errors import ModelError
from ravine.generalize import Dropout, FeatureDropout, GaussianNoise, StochasticDepth, average_out

F64 = torch.float64
STEPS, CHANNELS = 5, 4
DRAWS = 3000


class Rows(nn.Module):
    """(N, T, C), rearranged, noise, and back again; `T` may be split into two axes on the way."""

    def __init__(self, noise, there, back):
        super().__init__()
        torch.manual_seed(0)
        self.noise, self.there, self.back = noise, there, back
        self.body, self.head = nn.Linear(CHANNELS, CHANNELS), nn.Linear(CHANNELS, 2)

    def forward(self, x):
        hidden = torch.tanh(self.body(x))
        hidden = self.back(self.noise(self.there(hidden)), len(x))
        return torch.tanh(self.head(hidden).mean(1))


class Function(nn.Module):
    def forward(self, x):
        return functional.dropout(x, 0.5, self.training)


def as_it_is(x, *_):
    return x


WAYS = {
    "items first": (as_it_is, as_it_is),
    "time first": (lambda x: x.transpose(0, 1), lambda x, _: x.transpose(0, 1)),
    "rows of items": (lambda x: x.flatten(0, 1), lambda x, n: x.unflatten(0, (n, -1))),
    "rows of steps": (
        lambda x: x.transpose(0, 1).flatten(0, 1),
        lambda x, n: x.unflatten(0, (-1, n)).transpose(0, 1),
    ),
    "items last": (lambda x: x.permute(1, 2, 0), lambda x, _: x.permute(2, 0, 1)),
    "channels of items": (
        lambda x: x.transpose(0, 1).flatten(1, 2),
        lambda x, n: x.unflatten(1, (n, -1)).transpose(0, 1),
    ),
}
NOISES = {
    "Dropout": lambda: Dropout(0.5),
    "torch's": lambda: nn.Dropout(0.5),
    "function": Function,
    "Gaussian": lambda: GaussianNoise(0.5),
}
ways, noises = pytest.mark.parametrize("way", WAYS), pytest.mark.parametrize("noise", NOISES)


def network(noise, way):
    return Rows(NOISES[noise](), *WAYS[way]).double()


def batch(items=STEPS):
    """As many items as steps unless told otherwise, so that no size gives away which is which."""
    return torch.randn(items, STEPS, CHANNELS, generator=torch.Generator().manual_seed(1), dtype=F64)


def alone(model, x, how="samples"):
    parts = [average_out(model, item[None], how, 8) for item in x]
    return torch.cat([part.mean for part in parts]), torch.cat([part.spread for part in parts])


def moments(samples):
    """Mean and deviation over draws, each with its standard error."""
    count, mean, spread = len(samples), samples.mean(0), samples.std(0)
    fourth = (samples - mean).pow(4).mean(0)
    of_spread = ((fourth - spread.pow(4)).clamp(min=0) / count).sqrt() / (2 * spread)
    return (mean, spread / count**0.5), (spread, of_spread)


def assert_as_in_training(model, x, draws=DRAWS):
    """The mean and the spread of each answer, within five standard errors of those of draws in training."""
    found = average_out(model, x, "samples", draws)
    model.train()
    torch.manual_seed(5)
    with torch.no_grad():
        trained = torch.stack([model(x) for _ in range(draws)])
    for ours, (theirs, error) in zip(found[:2], moments(trained), strict=True):
        assert bool(((ours - theirs).abs() < 5 * 2**0.5 * error).all()), (ours, theirs)


@noises
@ways
def test_the_spread_is_that_of_training(noise, way):
    assert_as_in_training(network(noise, way), batch())


@noises
@ways
@pytest.mark.parametrize("items", [2, 3, STEPS, 7])
def test_an_answer_is_the_same_in_any_company(noise, way, items):
    model, x = network(noise, way), batch(items)
    found = average_out(model, x, "samples", 8)
    mean, spread = alone(model, x)
    torch.testing.assert_close(found.mean, mean)
    torch.testing.assert_close(found.spread, spread)
    assert bool((found.spread > 1e-3).all())


@ways
def test_the_same_noise_in_any_arrangement(way):
    """All masks of 2 steps of 4 channels are those of the plain arrangement."""
    x = batch()[:, :2]
    plain = average_out(network("Dropout", "items first"), x, "exact")
    found = average_out(network("Dropout", way), x, "exact")
    assert found.answers == 2**8
    torch.testing.assert_close(found.mean, plain.mean)
    torch.testing.assert_close(found.spread, plain.spread)


class Frames(nn.Module):
    """Frames of several videos as the items of one batch, whose maps or branches are dropped."""

    def __init__(self, noise):
        super().__init__()
        torch.manual_seed(0)
        self.noise, self.body, self.head = noise, nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2)

    def forward(self, x):
        hidden = self.noise(torch.tanh(self.body(x.flatten(0, 1))))
        return torch.tanh(self.head(hidden.mean((2, 3))).unflatten(0, (len(x), -1)).sum(1))


@pytest.mark.parametrize("noise", [FeatureDropout(0.5), nn.Dropout2d(0.5), StochasticDepth(0.4)])
def test_each_frame_of_an_item_draws_as_in_training(noise):
    model, x = Frames(noise).double(), torch.randn(3, 3, 3, 6, 6, dtype=F64)
    assert_as_in_training(model, x)
    mean, _ = alone(model, x)
    torch.testing.assert_close(average_out(model, x, "samples", 8).mean, mean)


class Heads(nn.Module):
    """Attention of one's own, the heads beside the items or merged with them."""

    def __init__(self, merged):
        super().__init__()
        torch.manual_seed(0)
        self.input, self.head, self.merged = nn.Linear(8, 24), nn.Linear(8, 2), merged
        self.dropout = nn.Dropout(0.3)

    def forward(self, x):
        parts = [part.unflatten(2, (4, 2)).transpose(1, 2) for part in self.input(x).chunk(3, 2)]
        query, key, value = (part.flatten(0, 1) for part in parts) if self.merged else parts
        seen = self.dropout((query @ key.mT).softmax(-1)) @ value
        seen = seen.unflatten(0, (len(x), 4)) if self.merged else seen
        return torch.tanh(self.head(seen.transpose(1, 2).flatten(2)).mean(1))


def test_heads_merged_with_the_items_draw_each_for_itself():
    x = torch.randn(4, 3, 8, dtype=F64)
    beside, merged = (average_out(Heads(which).double(), x, "samples", 64) for which in (False, True))
    torch.testing.assert_close(merged.mean, beside.mean)
    torch.testing.assert_close(merged.spread, beside.spread)
    assert_as_in_training(Heads(True).double(), x)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("first", [False, True])
def test_torch_s_transformers_of_either_layout(first):
    class Encoded(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=first)
            self.encoder, self.head = nn.TransformerEncoder(layer, 1), nn.Linear(8, 2)

        def forward(self, x):
            out = self.encoder(x) if first else self.encoder(x.transpose(0, 1)).transpose(0, 1)
            return self.head(out.mean(1))

    assert_as_in_training(Encoded().double(), torch.randn(4, 4, 8, dtype=F64), 1500)


class Weights(nn.Linear):
    """Dropout of weights, as they are or computed, which no item has for itself."""

    def __init__(self, computed):
        super().__init__(STEPS * CHANNELS, 2)
        self.computed = computed

    def forward(self, x):
        weight = self.weight * 1.0 if self.computed else self.weight
        return functional.linear(x.flatten(1), functional.dropout(weight, 0.5, self.training), self.bias)


@pytest.mark.parametrize("computed", [False, True])
def test_dropout_of_weights(computed):
    torch.manual_seed(0)
    model, x = Weights(computed).double(), batch()
    assert_as_in_training(model, x)
    torch.testing.assert_close(average_out(model, x, "samples", 8).mean, alone(model, x)[0])


def test_noise_that_is_called_by_keyword():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.noise = Dropout(0.5)

        def forward(self, x):
            return self.noise(x=x).sum(1)

    found, plain = (average_out(model, batch(), "samples", 8) for model in (Named(), Dropout(0.5)))
    torch.testing.assert_close(found.mean, plain.mean.sum(1))


def middle(x):
    """Rows of half steps, items, other half steps: neither order of the two."""
    return x.unflatten(1, (2, 3)).transpose(0, 1).flatten(0, 2)


def from_middle(x, items):
    return x.unflatten(0, (2, items, 3)).transpose(0, 1).flatten(1, 2)


class OfOneSize(nn.Module):
    """A network for batches of four alone."""

    def __init__(self):
        super().__init__()
        self.noise, self.head = Dropout(0.5), nn.Linear(CHANNELS, 2)

    def forward(self, x):
        return self.head(self.noise(x.view(4, 6, CHANNELS).transpose(0, 1))).mean(0)


@pytest.mark.parametrize("made", [lambda: Rows(Dropout(0.5), middle, from_middle), OfOneSize])
def test_where_the_items_are_not_found_each_draws_for_itself(made):
    torch.manual_seed(0)
    x = torch.randn(4, 6, CHANNELS, dtype=F64)
    assert_as_in_training(made().double(), x)
    assert torch.equal(*(average_out(made_twice(made), x, "samples", 4).mean for _ in range(2)))


def made_twice(made):
    torch.manual_seed(0)
    return made().double()


def test_where_the_items_are_not_found_nothing_is_enumerated():
    model = Rows(Dropout(0.5), lambda x: middle(x)[..., :1], from_middle)
    model.head = nn.Linear(1, 2)
    with pytest.raises(ModelError, match="the items are not found, so that its coins cannot be enumerated"):
        average_out(model.double(), torch.randn(4, 6, CHANNELS, dtype=F64), "exact")


def test_the_pass_that_tells_is_not_drawn_from_and_leaves_the_random_stream_alone():
    class DropPath(nn.Module):
        def forward(self, x):
            return x * (torch.rand(len(x), 1, 1, dtype=x.dtype) < 0.5) if self.training else x

    model = nn.Sequential(DropPath(), network("Dropout", "time first"))
    state = torch.get_rng_state()
    one, other = (average_out(model, batch(), "samples", 4, seed=2).mean for _ in range(2))
    assert torch.equal(one, other) and torch.equal(torch.get_rng_state(), state)
    assert model[1].noise.items is None
