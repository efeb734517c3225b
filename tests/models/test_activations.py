import math

import pytest
import torch
from torch.nn import functional as F

from ravine.errors import RecipeError
from ravine.models.activations import Maxout, activation, activation_expansion
from ravine.registry import names

REFERENCES = {
    "sigmoid": lambda x: 1 / (1 + torch.exp(-x)),
    "tanh": lambda x: (torch.exp(x) - torch.exp(-x)) / (torch.exp(x) + torch.exp(-x)),
    "relu": lambda x: torch.where(x > 0, x, 0.0),
    "leaky_relu": lambda x: torch.where(x > 0, x, 0.01 * x),
    "elu": lambda x: torch.where(x > 0, x, torch.exp(x) - 1),
    "gelu": lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2,
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "maxout": lambda x: torch.where(x[:, :4] > x[:, 4:], x[:, :4], x[:, 4:]),
}


def test_every_registered_activation_has_a_formula_here():
    assert set(names("activation")) == set(REFERENCES)


@pytest.mark.parametrize("name", REFERENCES)
def test_equals_its_formula(name):
    x = torch.randn(50, 8, dtype=torch.float64) * 3
    torch.testing.assert_close(activation(name)(x.clone()), REFERENCES[name](x))


@pytest.mark.parametrize("name", REFERENCES)
def test_gradient_behind_a_linear_layer(name):
    """In-place versions must not spoil what the layer before needs for its gradient."""
    weight = torch.randn(8, 5, dtype=torch.float64, requires_grad=True)
    x = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w, i: activation(name)(F.linear(i, w)), (weight, x))


@pytest.mark.parametrize("pieces", [1, 2, 3])
def test_maxout_is_the_largest_of_its_linear_pieces(pieces):
    maps = torch.randn(2, 4 * pieces, 3, 3)
    expected = torch.stack([maps[:, 4 * i : 4 * (i + 1)] for i in range(pieces)]).amax(0)
    assert torch.equal(Maxout(pieces, dim=-3)(maps), expected)
    rows = maps.permute(0, 2, 3, 1)
    assert torch.equal(Maxout(pieces)(rows), expected.permute(0, 2, 3, 1))


def test_only_maxout_needs_more_channels():
    assert {name: activation_expansion(name) for name in names("activation")} == {
        **dict.fromkeys(REFERENCES, 1),
        "maxout": 2,
    }


def test_an_unknown_name_is_told_with_the_nearest():
    with pytest.raises(RecipeError, match="did you mean 'relu'"):
        activation("rellu")
