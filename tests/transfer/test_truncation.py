"""A head on the features of a lower depth: the network is the body up to there, their mean, and the head."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from ravine.errors import ModelError
from ravine.models import make
from ravine.transfer import depths, features, find_head, freeze, trainable, truncate


class Tokens(nn.Module):
    """torch's encoder layers on sequences (N, T, C), of which the head is given the first or the mean."""

    def __init__(self, first):
        super().__init__()
        self.first = first
        self.layers = nn.Sequential(
            *(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(3))
        )
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.norm(self.layers(x))
        return self.head(x[:, 0] if self.first else x.mean(1))


class Masked(Tokens):
    """As those of transformers: its layers are given a mask, too."""

    def __init__(self):
        super().__init__(first=True)
        self.layers = nn.ModuleList(self.layers)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x, None, src_key_padding_mask=None)
        return self.head(self.norm(x)[:, 0])


class Chain(nn.Module):
    """Pooling, flattening and activations in a forward pass of its own."""

    def __init__(self, between=lambda x: x):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3, stride=2)
        self.between = between
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.two(functional.relu(self.one(x)))
        return self.head(torch.flatten(functional.adaptive_avg_pool2d(self.between(x), 1), 1))


class Looking(nn.Module):
    """Its pass looks into the layer that is left out."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = nn.Linear(8, 6), nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.two(self.one(x)) * self.two.weight.mean())


class Skipping(Chain):
    """Its head is given what goes around the second layer, too."""

    def __init__(self):
        super().__init__()
        self.two = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = self.one(x)
        return self.head((self.two(x) + x).amax((2, 3)))


def convolutional():
    """A chain as of VGG, with pooling between and a head that is a convolution."""
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Dropout(0.5), nn.Conv2d(8, 4, 1), nn.Flatten()),
    )


IMAGES = (5, 3, 16, 16)
NETWORKS = {
    "cnn": (lambda: make("cnn", IMAGES[1:], 4, {"width": 4, "dropout": 0.5}), IMAGES),
    "resnet": (lambda: make("resnet", IMAGES[1:], 4, {"width": 4, "zero_branches": False}), IMAGES),
    "mobilenet": (lambda: make("mobilenet", IMAGES[1:], 4, {}), IMAGES),
    "mlp": (lambda: make("mlp", (8,), 4, {"width": 8, "depth": 3}), (5, 8)),
    "tokens": (lambda: Tokens(first=False), (5, 6, 8)),
    "first token": (lambda: Tokens(first=True), (5, 6, 8)),
    "masked": (Masked, (5, 6, 8)),
    "convolutional": (convolutional, IMAGES),
}


def network_and_items(made, shape):
    torch.manual_seed(0)
    model = made()
    model(torch.randn(shape))  # statistics that are not those of the beginning
    return model, torch.randn(shape)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_output_is_the_heads_of_the_mean_of_the_features(network):
    """At every depth, in either mode of a network whose body is frozen."""
    model, items = network_and_items(*NETWORKS[network])
    whole = copy.deepcopy(model)
    found = depths(model, items)
    # The first token of the last features is not their mean.
    for depth in found[:-1] if network in ("first token", "masked") else found:
        (expected,) = features(whole, [items], depth)
        cut = copy.deepcopy(model)
        head = truncate(cut, depth, 7, sample=items)
        own = cut.get_submodule(head)
        assert find_head(cut, items) == head and own.weight.shape[:2] == (7, expected.shape[1])
        wanted = functional.linear(expected, own.weight.flatten(1), own.bias)
        freeze(cut, sample=items)
        for mode in (True, False):
            torch.testing.assert_close(cut.train(mode)(items), wanted, rtol=1e-4, atol=1e-6)
        assert sorted(map(id, trainable(cut))) == sorted(map(id, own.parameters()))


def test_layers_above_are_left_out_and_those_below_keep_their_names():
    model, items = network_and_items(*NETWORKS["resnet"])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    truncate(model, "stages.stage2.block1", 7, sample=items)
    after = model.state_dict()
    expected = {name for name in before if name.startswith(("stem", "stages.stage2.block1"))}
    assert set(after) == expected | {"head.weight", "head.bias"}
    for name in expected:
        assert torch.equal(after[name], before[name])


def test_gradients_reach_all_that_is_left():
    model, items = network_and_items(*NETWORKS["resnet"])
    truncate(model, "stages.stage2.block1", 7, sample=items)
    model(items).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_what_is_left_can_be_exported():
    model, items = network_and_items(*NETWORKS["resnet"])
    truncate(model, "stages.stage2.block1", 7, sample=items)
    model.eval()
    exported = torch.export.export(model, (items,)).module()
    torch.testing.assert_close(exported(items), model(items))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype):
    model, items = network_and_items(*NETWORKS["resnet"])
    model, items = model.to(dtype), items.to(dtype)
    head = truncate(model, "stages.stage2.block1", 7, sample=items)
    assert model.get_submodule(head).weight.dtype == model(items).dtype == dtype


def test_a_pass_that_pools_and_flattens_by_functions():
    model, items = network_and_items(Chain, IMAGES)
    whole = copy.deepcopy(model)
    truncate(model, "two", 7, sample=items)
    (expected,) = features(whole, [items], "two")
    torch.testing.assert_close(model(items), model.head(expected))


def unchanged(model, before, modules):
    assert list(model.named_modules()) == modules
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("made", "depth", "told"),
    [
        (lambda: Chain(functional.relu), "two", "what lies between changes them"),
        (lambda: Chain(lambda x: x - 1), "one", "what lies between changes them"),
        (Looking, "one", "'LeftOut' object has no attribute 'weight'"),
        (Skipping, "one", "what lies between changes them"),
        (lambda: Chain(lambda x: x[:, :3]), "two", "the network failed"),
    ],
)
def test_features_that_do_not_reach_the_head_as_they_are(made, depth, told):
    """The network is then what it was."""
    torch.manual_seed(0)
    model = made()
    items = torch.randn((5, 8) if isinstance(model, Looking) else IMAGES)
    if "failed" in told:
        model.head = nn.Linear(3, 4)
    before, modules = copy.deepcopy(model.state_dict()), list(model.named_modules())
    with pytest.raises(ModelError, match=f"no head can be put on the features of {depth}: {told}"):
        truncate(model, depth, 7, sample=items)
    unchanged(model, before, modules)


def test_names_and_classes_that_there_are_none_of():
    model, items = network_and_items(*NETWORKS["resnet"])
    before, modules = copy.deepcopy(model.state_dict()), list(model.named_modules())
    for name in ("stages.stage9", "head", ""):
        with pytest.raises(ModelError, match=f"the network calls no module '{name}' below its head head"):
            truncate(model, name, 7, sample=items)
    for classes in (0, True, 1.5):
        with pytest.raises(ModelError, match="a head has an output or more, not"):
            truncate(model, "stem", classes, sample=items)
    unchanged(model, before, modules)
