"""DropConnect: any layer, the layer's own parameters under its own names, masks by hand."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from ravine.errors import ModelError
from ravine.generalize import DropConnect

LAYERS = {
    "linear": (lambda: nn.Linear(6, 4), (5, 6)),
    "without bias": (lambda: nn.Linear(6, 4, bias=False), (5, 6)),
    "1-D": (lambda: nn.Conv1d(3, 4, 3, padding=1), (2, 3, 9)),
    "2-D": (lambda: nn.Conv2d(4, 6, 3, stride=2, groups=2, dilation=2), (2, 4, 9, 9)),
    "reflecting": (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), (2, 3, 9, 9)),
    "3-D": (lambda: nn.Conv3d(2, 3, 2), (2, 2, 4, 4, 4)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 4, 3, stride=2), (2, 3, 5, 5)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_output_is_that_of_the_layer_with_masked_weights(name):
    made, shape = LAYERS[name]
    torch.manual_seed(0)
    layer, x = made(), torch.randn(shape)
    plain, weight = layer(x), layer.weight.detach().clone()
    part = DropConnect(layer, 0.25)
    torch.manual_seed(3)
    out = part(x)
    torch.manual_seed(3)
    mask = torch.rand_like(weight) >= 0.25
    with torch.no_grad():
        layer.weight.copy_(weight * mask / 0.75)
        torch.testing.assert_close(out, layer(x))
        layer.weight.copy_(weight)
    assert torch.equal(part.eval()(x), plain)


def test_a_checkpoint_fits_with_and_without_it():
    plain, dropped = nn.Sequential(nn.Linear(3, 2)), nn.Sequential(DropConnect(nn.Linear(3, 2)))
    dropped.load_state_dict(plain.state_dict())
    plain.load_state_dict(dropped.state_dict())
    assert list(dropped.state_dict()) == ["0.weight", "0.bias"]


@pytest.mark.parametrize("assign", [False, True])
def test_what_is_loaded_cast_or_trained_is_what_is_computed(assign):
    part, x = DropConnect(nn.Linear(3, 2)).eval(), torch.randn(4, 3)
    part.load_state_dict({"weight": torch.ones(2, 3), "bias": torch.zeros(2)}, assign=assign)
    torch.testing.assert_close(part(x), x.sum(1, keepdim=True).expand(4, 2))
    assert torch.equal(part.layer.weight, part.weight)
    assert part.double()(x.double()).dtype == torch.float64
    torch.optim.SGD(part.parameters(), 0.1).zero_grad()
    part(x.double()).sum().backward()
    torch.testing.assert_close(part.weight.grad, x.double().sum(0).expand(2, 3))


def test_a_rate_of_one_leaves_the_bias():
    part = DropConnect(nn.Linear(3, 2), 1.0)
    assert torch.equal(part(torch.randn(4, 3)), part.bias.expand(4, 2))


def test_a_layer_without_weights_is_refused():
    with pytest.raises(ModelError, match="needs a layer with a weight, not ReLU"):
        DropConnect(nn.ReLU())


def test_it_says_what_it_holds():
    assert repr(DropConnect(nn.Linear(3, 2), 0.3)) == (
        "DropConnect(Linear(in_features=3, out_features=2, bias=True), p=0.3)"
    )


def test_a_layer_with_parts_or_buffers_is_refused():
    masked = nn.Linear(3, 2)
    masked.register_buffer("mask", torch.ones(2, 3))
    for layer in (masked, nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)), nn.LSTMCell(3, 2)):
        with pytest.raises(ModelError, match="DropConnect needs a"):
            DropConnect(layer)


def test_a_weight_that_is_normalized_afterwards_is_the_one_that_is_used():
    part, x = DropConnect(nn.Linear(3, 2)).eval(), torch.randn(4, 3)
    nn.utils.parametrizations.weight_norm(part)
    with torch.no_grad():
        part.parametrizations.weight.original0.mul_(2.0)
    torch.testing.assert_close(part(x), torch.nn.functional.linear(x, part.weight, part.bias))


def test_what_the_layer_tells_of_itself_can_be_asked():
    part = DropConnect(nn.Conv2d(3, 6, 3, stride=2))
    assert (part.out_channels, part.stride) == (6, (2, 2))
    with pytest.raises(AttributeError):
        _ = part.nothing


def pruned():
    layer = nn.Linear(3, 2)
    prune.random_unstructured(layer, "weight", 0.5)
    return layer


@pytest.mark.parametrize(
    ("layer", "names"),
    [
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)), "weight.original0 and .*original1"),
        (
            lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(3, 2)),
            "parametrizations.weight.original",
        ),
        (pruned, "weight_orig"),
    ],
)
def test_of_a_weight_that_is_computed_it_says_from_what(layer, names):
    with pytest.raises(ModelError, match=rf"Linear is computed from .*{names}, as by .* take that off"):
        DropConnect(layer())


def test_a_layer_that_has_no_weights_yet_is_refused():
    for lazy in (nn.LazyLinear(3), nn.LazyConv2d(3, 3)):
        with pytest.raises(ModelError, match=f"this {type(lazy).__name__} has no weights yet"):
            DropConnect(lazy)
