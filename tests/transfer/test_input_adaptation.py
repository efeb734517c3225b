"""Other channels and sizes: grey images give what they gave in colour, and what does not fit is named."""

import copy

import pytest
import torch
from torch import nn

from ravine.errors import ModelError
from ravine.models import make
from ravine.transfer import adapt_channels, freeze
from ravine.transfer.input_adaptation import require_size


class Functional(nn.Module):
    """Its first layer is registered last."""

    def __init__(self, channels):
        super().__init__()
        self.fc, self.conv = nn.Linear(8, 5), nn.Conv2d(channels, 8, 3, padding_mode="reflect", padding=1)

    def forward(self, x):
        return self.fc(torch.relu(self.conv(x * 2)).mean((2, 3)))


NETWORKS = {
    "cnn": (lambda c: make("cnn", (c, 32, 32), 5, {"width": 8}), "stage1.conv"),
    "resnet": (lambda c: make("resnet", (c, 32, 32), 5, {"width": 8}), "stem.conv"),
    "mobilenet": (lambda c: make("mobilenet", (c, 32, 32), 5, {}), "stem.conv"),
    "functional": (Functional, "conv"),
}
every_network = pytest.mark.parametrize("network", NETWORKS)


@every_network
@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize("old", [1, 3, 4])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6])
def test_equal_channels_give_what_they_gave(network, old, channels, traced):
    """In float64, to rounding, for images whose channels are alike; and nothing else changes."""
    torch.manual_seed(0)
    made, first = NETWORKS[network]
    model = made(old).double().eval()
    grey = torch.randn(2, 1, 32, 32).double()
    sample = None if traced else grey.expand(-1, old, -1, -1)
    with torch.no_grad():
        expected = model(grey.expand(-1, old, -1, -1))
    before = copy.deepcopy(model.state_dict())
    assert adapt_channels(model, channels, sample=sample) == first
    with torch.no_grad():
        torch.testing.assert_close(model(grey.expand(-1, channels, -1, -1)), expected, rtol=1e-10, atol=1e-10)
    conv = model.get_submodule(first)
    assert conv.in_channels == conv.weight.shape[1] == channels and conv.weight.is_contiguous()
    for name, tensor in model.state_dict().items():
        assert (name == f"{first}.weight" and channels != old) or torch.equal(tensor, before[name])


def test_weights_of_each_channel():
    """Three to one: the sum. To two: half of it each. To four and six: repeated in turn, and shared out."""
    old = nn.Conv2d(3, 4, 3)
    r, g, b = old.weight.detach().unbind(1)
    expected = {
        1: [r + g + b],
        2: [(r + g + b) / 2] * 2,
        3: [r, g, b],
        4: [r / 2, g, b, r / 2],
        6: [r / 2, g / 2, b / 2] * 2,
    }
    for channels, weights in expected.items():
        model = nn.Sequential(copy.deepcopy(old), nn.Flatten())
        adapt_channels(model, channels)
        torch.testing.assert_close(model[0].weight.detach(), torch.stack(weights, 1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_kind_of_weights_stays(dtype):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()).to(dtype)
    adapt_channels(model, 4)
    assert model[0].weight.dtype == dtype and model[0].weight.requires_grad
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    freeze(model)
    adapt_channels(model, 1)
    assert not model[0].weight.requires_grad


@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize(
    ("made", "sample", "told"),
    [
        (lambda: make("mlp", (3, 4, 4), 5, {}), (2, 3, 4, 4), "the first layer, layer1.linear, is a Linear"),
        (
            lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)),
            (2, 3, 4, 4),
            "the first layer, 0, is a BatchNorm2d",
        ),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 6, 3, groups=3)),
            (2, 3, 4, 4),
            "the first layer, 0, is a Conv2d",
        ),
        (lambda: nn.Sequential(nn.ReLU()), (2, 3, 4, 4), "the first layer, the network, is a Sequential"),
    ],
)
def test_another_first_layer_is_refused_by_name(made, sample, told, traced):
    with pytest.raises(ModelError, match=f"{told}: only a convolution"):
        adapt_channels(made(), 1, sample=None if traced else torch.randn(sample))


def test_no_channels_are_refused():
    with pytest.raises(ModelError, match="a channel or more, not 0"):
        adapt_channels(make("cnn", (3, 8, 8), 5, {}), 0)


@every_network
def test_a_size_that_fits_passes_and_leaves_the_network_alone(network):
    model = NETWORKS[network][0](3)
    before = copy.deepcopy(model.state_dict())
    for size in (32, 48):
        require_size(model, (3, size, size))
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)
    assert model.training and not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_network_of_another_precision_is_tried_in_its_own(dtype):
    require_size(make("cnn", (3, 16, 16), 5, {"width": 4}).to(dtype), (3, 16, 16))


@pytest.mark.parametrize(
    ("made", "shape", "where"),
    [
        (lambda: make("cnn", (3, 16, 16), 5, {"width": 4}), (3, 4, 4), "stage3.pool"),
        (lambda: make("cnn", (3, 16, 16), 5, {"width": 4, "ending": "flatten"}), (3, 32, 32), "head"),
        (lambda: make("mlp", (8,), 5, {}), (9,), "layer1.linear"),
        (lambda: make("resnet", (3, 16, 16), 5, {"width": 4}), (1, 16, 16), "stem.conv"),
    ],
)
def test_a_size_that_does_not_fit_is_refused_with_the_layer(made, shape, where):
    model = made()
    with pytest.raises(ModelError) as refused:
        require_size(model, shape)
    assert f"does not take items of shape {shape}: it ended at {where}. " in str(refused.value)
    assert model.training and not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_what_the_networks_own_code_refuses_has_no_layer():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            return self.head(x.view(-1, 4)) + x.new_zeros(3, 2)

    with pytest.raises(ModelError, match=r"it ended\. the network failed"):
        require_size(Own(), (4,))
