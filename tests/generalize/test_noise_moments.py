"""The mean and the variance of each noise against theory, within five standard errors, for fixed seeds."""

import math

import pytest
import torch
from torch import nn

from ravine.generalize import (
    DropConnect,
    Dropout,
    FeatureDropout,
    GaussianDropout,
    GaussianNoise,
    StochasticDepth,
)

DRAWS = 40_000
X = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
RATES = pytest.mark.parametrize("p", [0.1, 0.5, 0.8])


def moments(part, x):
    """Over draws, of every entry: the mean, the variance, and the standard errors of both."""
    torch.manual_seed(0)
    samples = torch.cat([part(x) for _ in range(DRAWS // len(x))])
    mean, variance = samples.mean(0), samples.var(0)
    fourth = (samples - mean).pow(4).mean(0)
    count = len(samples)
    of_mean = (variance / count).sqrt()
    # Where all deviations are of one size, what is left of the variance's error is that of the mean, squared.
    of_variance = ((fourth - variance.square()).clamp(min=0) / count).sqrt() + 5 * of_mean.square()
    return mean, variance, of_mean, of_variance


def assert_moments(part, x, mean, variance):
    found, spread, of_mean, of_variance = moments(part, x)
    assert bool(((found - mean).abs() <= 5 * of_mean + 1e-12).all()), (found, mean)
    assert bool(((spread - variance).abs() <= 5 * of_variance + 1e-12).all()), (spread, variance)


def rows():
    return X.expand(400, 3)


@RATES
def test_dropout(p):
    assert_moments(Dropout(p), rows(), X, X.square() * p / (1 - p))
    assert_moments(Dropout(p, inverted=False), rows(), X * (1 - p), X.square() * p * (1 - p))


@RATES
def test_plain_and_inverted_dropout_are_the_same_network_in_expectation(p):
    """C33: what the plain form multiplies by at test time, the inverted one divides by in training."""
    plain, inverted = Dropout(p, inverted=False), Dropout(p)
    coins = torch.tensor([1, 0, 1])
    torch.testing.assert_close(plain.decided(rows(), coins), (1 - p) * inverted.decided(rows(), coins))
    assert torch.equal(plain.eval()(rows()), (1 - p) * inverted.eval()(rows()))


@RATES
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_feature_dropout_drops_whole_maps(p, axes):
    x = X.reshape(1, 3, *[1] * axes).expand(400, 3, *[2] * axes)
    mean = X.reshape(3, *[1] * axes).expand(3, *[2] * axes)
    assert_moments(FeatureDropout(p), x, mean, mean.square() * p / (1 - p))
    torch.manual_seed(1)
    maps = FeatureDropout(p)(x).flatten(2)
    assert bool((maps == maps[..., :1]).all())
    # Whether one map is dropped says nothing of another.
    kept = (maps[..., 0] != 0).double()
    assert abs(torch.corrcoef(kept.T)[0, 1]) < 5 / math.sqrt(len(kept))


def test_gaussian_noise():
    assert_moments(GaussianNoise(0.3), rows(), X, torch.full_like(X, 0.3**2))


@RATES
def test_gaussian_dropout_has_the_moments_of_dropout(p):
    assert_moments(GaussianDropout(p), rows(), X, X.square() * p / (1 - p))


@RATES
@pytest.mark.parametrize("mode", ["row", "batch"])
def test_stochastic_depth(p, mode):
    x = rows() if mode == "row" else X.expand(1, 3)
    assert_moments(StochasticDepth(p, mode), x, X, X.square() * p / (1 - p))


def test_stochastic_depth_decides_for_whole_items_or_the_whole_batch():
    torch.manual_seed(0)
    kept = [(StochasticDepth(0.5, mode)(rows()) != 0) for mode in ("row", "batch")]
    assert bool((kept[0] == kept[0][:, :1]).all()) and 0 < kept[0].double().mean() < 1
    assert bool((kept[1] == kept[1][:1, :1]).all())


@RATES
def test_drop_connect(p):
    """The output's variance is Σ wᵢ²·xᵢ²·p/(1 − p), and the bias is never dropped."""
    torch.manual_seed(0)
    layer = nn.Linear(3, 2).double()
    products = (layer.weight * X).detach()
    mean = products.sum(1) + layer.bias.detach()
    with torch.no_grad():
        assert_moments(DropConnect(layer, p), X.expand(1, 3), mean, products.square().sum(1) * p / (1 - p))


@pytest.mark.parametrize("made", [Dropout, FeatureDropout, StochasticDepth, GaussianDropout])
def test_a_rate_of_zero_changes_nothing(made):
    x = torch.randn(4, 3, 5)
    assert torch.equal(made(0.0)(x), x)


@pytest.mark.parametrize("made", [Dropout, FeatureDropout, StochasticDepth])
def test_a_rate_of_one_leaves_nothing_and_no_nan(made):
    x = torch.randn(4, 3, 5, requires_grad=True)
    out = made(1.0)(x)
    assert not out.any()
    out.sum().backward()
    assert not x.grad.any()


@pytest.mark.parametrize("made", [Dropout, FeatureDropout, StochasticDepth])
def test_gradients_go_only_through_what_was_kept(made):
    x = torch.rand(50, 6, 4, dtype=torch.float64).add_(1).requires_grad_()
    torch.manual_seed(0)
    out = made(0.5)(x)
    out.sum().backward()
    assert torch.equal(x.grad != 0, out != 0)
    assert torch.allclose(x.grad[out != 0], torch.full_like(x.grad[out != 0], 2.0))


def test_gradients_of_weights_go_only_through_what_was_kept():
    layer = DropConnect(nn.Linear(6, 4), 0.5)
    torch.manual_seed(0)
    layer(torch.ones(1, 6)).sum().backward()
    torch.manual_seed(0)
    kept = torch.rand_like(layer.weight) >= 0.5
    assert torch.equal(layer.weight.grad, kept * 2.0)
    assert torch.equal(layer.bias.grad, torch.ones(4))
