"""The points that a network is cut at: in their order, and each enough for all that follows."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from ravine.errors import ModelError
from ravine.models import make
from ravine.transfer import depths
from ravine.transfer.depths import levels, order_of_calls

IMAGES, ROWS, SEQUENCES = (3, 3, 16, 16), (3, 8), (3, 5, 8)


class Functional(nn.Module):
    """A residual network written out: sums, activations and pooling in the network's own code."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 5)
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(c, 8, 3, padding=1) for c in (3, 8, 8))
        self.project, self.deep, self.last = (nn.Conv2d(8, 8, k, padding=k // 2) for k in (1, 3, 3))

    def forward(self, x):
        x = functional.relu(self.conv1(x))
        x = x + functional.relu(self.conv3(functional.relu(self.conv2(x))))
        x = self.project(x) + self.deep(x)
        x = functional.relu(self.last(x)).mean((2, 3))
        return self.fc(x.view(x.size(0), -1))


class Residual(nn.Module):
    """A block whose layers are a chain, beside a shortcut."""

    def __init__(self, width):
        super().__init__()
        self.first, self.act, self.second = nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width)

    def forward(self, x):
        return x + self.second(self.act(self.first(x)))


class ResidualSequential(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


class InPlace(Residual):
    """The sum lies where the last layer's output lay."""

    def forward(self, x):
        out = self.second(self.act(self.first(x)))
        out += x
        return out


class Branches(nn.Module):
    """Parallel layers in a list, and a list of layers in a row that is called nowhere as a whole."""

    def __init__(self):
        super().__init__()
        self.branches = nn.ModuleList(nn.Linear(8, 4) for _ in range(3))
        self.row = nn.ModuleList(nn.Linear(12, 12) for _ in range(3))
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = torch.cat([torch.tanh(branch(x)) for branch in self.branches], 1)
        for layer in self.row:
            x = torch.tanh(layer(x))
        return self.head(x)


class Encoder(nn.Module):
    """torch's own transformer behind a position embedding."""

    def __init__(self, norm):
        super().__init__()
        self.embed, self.position = nn.Linear(8, 8), nn.Parameter(torch.randn(1, 5, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3, nn.LayerNorm(8) if norm else None, False)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x) + self.position).mean(1))


class Shared(nn.Module):
    """One layer called three times."""

    def __init__(self):
        super().__init__()
        self.stem, self.shared, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        for _ in range(3):
            x = torch.tanh(self.shared(x))
        return self.head(x)


class Towers(nn.Module):
    """Two that look at the input, and meet."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.joint, self.head = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x):
        return self.head(torch.relu(self.joint(self.left(x) * self.right(x))))


class Recurrent(nn.Module):
    """Its first layer gives a tuple."""

    def __init__(self):
        super().__init__()
        self.rnn, self.mid, self.head = nn.GRU(8, 8, batch_first=True), nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x):
        return self.head(torch.relu(self.mid(self.rnn(x)[0][:, -1])))


def chain(block):
    return nn.Sequential(nn.Linear(8, 8), block, nn.ReLU(inplace=True), nn.Linear(8, 8), nn.Linear(8, 5))


def images(name, **settings):
    return lambda: make(name, (3, 16, 16), 5, settings)


BLOCKS = [f"blocks.block{number}" for number in range(1, 14)]
# Of each: how it is made, a sample's shape, and its depths.
NETWORKS = {
    "cnn": (images("cnn", width=4), IMAGES, ["stage1", "stage2", "dropout"]),
    "mlp": (lambda: make("mlp", (8,), 5, {"depth": 3, "width": 8}), ROWS, ["layer1", "layer2", "layer3"]),
    "resnet": (
        images("resnet", width=4, blocks=(2, 2), shortcut="pad"),
        IMAGES,
        ["stem", "stages.stage1.block1", "stages.stage1.block2", "stages.stage2.block1", "pool"],
    ),
    "resnet, a stage empty": (
        images("resnet", width=4),
        IMAGES,
        ["stem", *(f"stages.stage{n}.block{m}" for n, m in ((2, 1), (2, 2), (3, 1))), "pool"],
    ),
    "mobilenet": (images("mobilenet"), IMAGES, ["stem", *BLOCKS[:-1], "pool"]),
    "functional": (Functional, IMAGES, ["conv1", "last"]),
    "residual": (lambda: chain(Residual(8)), ROWS, ["0", "2", "3"]),
    "residual in place": (lambda: chain(InPlace(8)), ROWS, ["0", "2", "3"]),
    "residual sequential": (
        lambda: chain(ResidualSequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))),
        ROWS,
        ["0", "2", "3"],
    ),
    "branches": (Branches, ROWS, ["row.0", "row.1", "row.2"]),
    "encoder": (lambda: Encoder(False), SEQUENCES, ["embed", *(f"encoder.layers.{n}" for n in range(3))]),
    "encoder, norm": (
        lambda: Encoder(True),
        SEQUENCES,
        ["embed", "encoder.layers.0", "encoder.layers.1", "encoder.norm"],
    ),
    "towers": (Towers, ROWS, ["joint"]),
    "shared": (Shared, ROWS, ["stem", "shared"]),
    "tuple": (Recurrent, SEQUENCES, ["rnn", "mid"]),
}
every_network = pytest.mark.parametrize("network", NETWORKS)


def network_and_sample(network):
    torch.manual_seed(0)
    made, shape, expected = NETWORKS[network]
    return made(), torch.randn(shape), expected


@every_network
def test_by_run_and_by_trace_alike(network):
    model, sample, expected = network_and_sample(network)
    before = copy.deepcopy(model.state_dict())
    assert depths(model) == expected
    assert depths(model, sample) == expected
    assert depths(model, torch.zeros_like(sample)) == expected
    assert [level.name for level in levels(model)] == [level.name for level in levels(model, sample)]
    assert all(module.training and not module._forward_hooks for module in model.modules())
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)


def assert_enough(model, name, one, other):
    """What a module gave for one input, in its first call, is put in its place for another."""
    module, kept = model.get_submodule(name), []
    handle = module.register_forward_hook(
        lambda module, inputs, output: None if kept else kept.append(copy.deepcopy(output))
    )
    expected = model(one)
    handle.remove()
    assert not torch.allclose(model(other), expected)
    handle = module.register_forward_hook(lambda module, inputs, output: kept.pop() if kept else None)
    assert torch.equal(model(other), expected), name
    handle.remove()


@every_network
def test_a_point_is_enough_for_the_rest_of_the_network(network):
    """Of whatever input: the output is that of what the point gave."""
    model, sample, _ = network_and_sample(network)
    model.double().eval()
    one, other = sample.double(), torch.randn(sample.shape).double()
    with torch.no_grad():
        for name in {*depths(model), *depths(model, one)}:
            assert_enough(model, name, one, other)


@every_network
def test_stretches_hold_each_layer_once_in_the_order_of_the_calls(network):
    model, sample, _ = network_and_sample(network)
    order = order_of_calls(model, sample)
    for found in (levels(model), levels(model, sample)):
        at = {name: number for number, level in enumerate(found) for name in level.modules}
        assert sum(len(level.modules) for level in found) == len(at)
        for name, module in model.named_modules():
            if name and next(module.parameters(recurse=False), None) is not None:
                assert name in at
        called = [at[name] for name in order if name in at]
        assert called == sorted(called)
        for number, level in enumerate(found):
            assert at[level.name] == at[level.first] == number
            assert level.first == next(name for name in order if at.get(name) == number)


def test_residual_blocks_stay_whole():
    model, sample, _ = network_and_sample("resnet")
    for found in (levels(model), levels(model, sample)):
        for block, _ in model.named_modules():
            if block.rpartition(".")[2].startswith("block"):
                assert (
                    sum(any(name.startswith(f"{block}.") for name in level.modules) for level in found) == 1
                )


def test_a_shared_layer_counts_where_it_is_first_called():
    model = Shared()
    assert [level.name for level in levels(model)] == ["stem", "shared", "head"]
    assert order_of_calls(model) == order_of_calls(model, torch.randn(ROWS)) == ["stem", "shared", "head"]


@pytest.mark.parametrize("traced", [True, False])
def test_a_transformer_of_ours(traced):
    """Tied weights are no second way from the input; the last stretch is the last block, with its norm."""
    torch.manual_seed(0)
    model = make("transformer", (), 11, {"context": 8, "width": 8, "depth": 4, "heads": 2}).eval()
    tokens = torch.randint(11, (2, 6))
    found = depths(model, None if traced else tokens)
    assert found == ["dropout", "blocks.block1", "blocks.block2", "blocks.block3"]
    with torch.no_grad():
        for name in found:
            assert_enough(model, name, tokens, (tokens + 1) % 11)


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.body(x) if x.sum() > 0 else self.body(-x))


class Bypassed(nn.Module):
    """Each layer looks at the input again."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.two(self.one(x) + x) + x)


@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda: nn.Linear(8, 5), "calls no layer with weights|is one layer"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(8, 5)), "the network is one layer"),
        (lambda: nn.Sequential(nn.Flatten(), nn.ReLU()), "calls no layer with weights"),
        (Bypassed, "no depths: what follows one, two takes more"),
    ],
)
def test_networks_without_depths_are_refused(made, told, traced):
    with pytest.raises(ModelError, match=told):
        depths(made(), None if traced else torch.randn(ROWS))


def test_an_untraceable_network_needs_a_sample():
    model = Untraceable()
    with pytest.raises(ModelError, match="cannot be traced"):
        depths(model)
    assert depths(model, torch.randn(ROWS)) == ["body"]
    with pytest.raises(ModelError, match=r"failed for inputs of shape \(3, 7\)"):
        depths(model, torch.randn(3, 7))
