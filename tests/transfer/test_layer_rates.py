"""Discriminative rates: every trained parameter once, at the rate of its depth, under every schedule."""

import pytest
import torch
from torch import nn

import ravine.optim
from ravine import registry
from ravine.errors import ModelError
from ravine.models import make
from ravine.transfer import freeze, layer_rates
from ravine.transfer.depths import levels

LR, DECAY, BODY = 0.5, 0.4, 0.3


class Positioned(nn.Module):
    """A weight of the network's own beside its layers."""

    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, 5, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.encoder(x + self.position).mean(1))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.token, self.body, self.head = nn.Embedding(11, 8), nn.Linear(8, 8), nn.Linear(8, 11, bias=False)
        self.head.weight = self.token.weight

    def forward(self, tokens):
        return self.head(torch.relu(self.body(self.token(tokens))))


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.shared, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(torch.relu(self.shared(torch.relu(self.shared(self.stem(x))))))


def images(name, **settings):
    return lambda: make(name, (3, 16, 16), 4, settings)


# Of each: how it is made, a sample, and how far below the head each of these lies.
NETWORKS = {
    "cnn": (
        images("cnn", width=4),
        lambda: torch.randn(2, 3, 16, 16),
        {"head": 0, "stage3": 1, "stage2": 2, "stage1": 3},
    ),
    "resnet": (
        images("resnet", width=4, blocks=(2, 2)),
        lambda: torch.randn(2, 3, 16, 16),
        {
            "head": 0,
            "stages.stage2.block2": 1,
            "stages.stage2.block1": 2,
            "stages.stage1.block2": 3,
            "stages.stage1.block1": 4,
            "stem": 5,
        },
    ),
    "mobilenet": (
        images("mobilenet"),
        lambda: torch.randn(2, 3, 16, 16),
        {"head": 0, **{f"blocks.block{n}": 14 - n for n in range(1, 14)}, "stem": 14},
    ),
    "mlp": (
        lambda: make("mlp", (8,), 4, {"width": 8}),
        lambda: torch.randn(2, 8),
        {"head": 0, "layer2": 1, "layer1": 2},
    ),
    "encoder": (
        Positioned,
        lambda: torch.randn(2, 5, 8),
        {"head": 0, **{f"encoder.layers.{n}": 3 - n for n in range(3)}, "position": 3},
    ),
    "shared": (Shared, lambda: torch.randn(2, 8), {"head": 0, "shared": 1, "stem": 2}),
    # The tied weights are the embedding's, which moves least.
    "tied": (
        Tied,
        lambda: torch.zeros(2, 3, dtype=torch.long),
        {"body": 1, "token": 2},
    ),
}
every_network = pytest.mark.parametrize("network", NETWORKS)


def network_and_sample(network):
    torch.manual_seed(0)
    made, sample, below = NETWORKS[network]
    return made(), sample(), below


def rate_of(below):
    return LR if below == 0 else LR * BODY * DECAY ** (below - 1)


@every_network
@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize("weight_decay", [None, 0.05])
def test_each_parameter_is_there_once_at_the_rate_of_its_depth(network, traced, weight_decay):
    model, sample, below = network_and_sample(network)
    groups = layer_rates(
        model, LR, decay=DECAY, body=BODY, weight_decay=weight_decay, sample=None if traced else sample
    )
    given = [parameter for group in groups for parameter in group["params"]]
    assert len(given) == len(set(given)) and set(given) == set(model.parameters())
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group in groups:
        for parameter in group["params"]:
            (depth,) = (
                depth for part, depth in below.items() if f"{names[parameter]}.".startswith(f"{part}.")
            )
            assert group["lr"] == pytest.approx(rate_of(depth), rel=1e-12), names[parameter]
    rates = [group["lr"] for group in groups]
    assert rates == sorted(rates, reverse=True)
    known = {level.name for level in levels(model)}
    assert all(group["name"] in known for group in groups)


@every_network
def test_only_matrices_decay(network):
    model, _, _ = network_and_sample(network)
    matrices = {
        parameter
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.dim() > 1 and "bias" not in name
    }
    for group in layer_rates(model, LR, decay=DECAY, weight_decay=0.05):
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.05 if parameter in matrices else 0.0)
    assert all("weight_decay" not in group for group in layer_rates(model, LR, decay=DECAY))


def test_without_factors_all_have_one_rate():
    model = make("cnn", (3, 16, 16), 4, {"width": 4})
    assert {group["lr"] for group in layer_rates(model, LR, decay=1.0)} == {LR}


def test_frozen_parameters_are_left_out():
    model = make("cnn", (3, 16, 16), 4, {"width": 4})
    freeze(model, until="stage3")
    groups = layer_rates(model, LR, decay=DECAY, body=BODY, weight_decay=0.1)
    names = {parameter: name for name, parameter in model.named_parameters()}
    given = {names[parameter] for group in groups for parameter in group["params"]}
    assert given == {name for name in names.values() if name.startswith(("stage3", "head"))}
    assert {group["lr"] for group in groups} == {LR, LR * BODY}


OPTIMIZERS = [
    *((torch.optim, name) for name in ("SGD", "AdamW", "RMSprop")),
    *(
        (ravine.optim, name)
        for name in ("SGD", "AdamW", "RMSprop", "Lion", "Adan", "SOAP", "ScheduleFreeAdamW")
    ),
]


@pytest.mark.parametrize(("room", "name"), OPTIMIZERS, ids=lambda part: getattr(part, "__name__", part))
def test_groups_go_into_optimizers(room, name):
    """Which step each parameter as if it had an optimizer of its own at that rate."""
    torch.manual_seed(0)
    model = make("mlp", (8,), 4, {"width": 8, "normalization": "none"}).double()
    twin = make("mlp", (8,), 4, {"width": 8, "normalization": "none"}).double()
    twin.load_state_dict(model.state_dict())
    groups = layer_rates(model, 0.1, decay=0.5, body=0.2, weight_decay=0.05)
    optimizer = getattr(room, name)(groups)
    rates = {"head": 0.1, "layer2": 0.02, "layer1": 0.01}
    alone = [
        getattr(room, name)(
            [parameter], lr=rates[key.partition(".")[0]], weight_decay=0.05 if parameter.dim() > 1 else 0.0
        )
        for key, parameter in twin.named_parameters()
    ]
    for each in (optimizer, *alone):
        if hasattr(each, "train"):
            each.train()
    inputs = torch.randn(16, 8).double()
    for _ in range(5):
        for network in (model, twin):
            network.zero_grad()
            network(inputs).square().mean().backward()
        for each in (optimizer, *alone):
            each.step()
    torch.testing.assert_close(dict(model.state_dict()), dict(twin.state_dict()))


SCHEDULES = {
    **{
        entry.name: lambda optimizer, part=entry.part: part(
            optimizer, total_steps=20, steps_per_epoch=4, warmup=3
        )
        for entry in registry.entries("schedule")
    },
    "torch's": lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5),
}


@pytest.mark.parametrize("room", [torch.optim, ravine.optim], ids=lambda room: room.__name__)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_each_group_keeps_its_ratio_under_a_schedule(schedule, room):
    model = make("cnn", (3, 16, 16), 4, {"width": 4})
    optimizer = room.AdamW(layer_rates(model, LR, decay=DECAY, body=BODY))
    scheduler = SCHEDULES[schedule](optimizer)
    heads = []
    for _ in range(10):
        rates = [float(group["lr"]) for group in optimizer.param_groups]
        heads.append(rates[0])
        if rates[0]:
            expected = [rate_of(below) / LR for below in range(4)]
            assert [rate / rates[0] for rate in rates] == pytest.approx(expected, rel=1e-12)
        else:
            assert not any(rates)
        optimizer.step()
        scheduler.step()
    assert len(set(heads)) > 1  # each has a warm-up, or falls


@pytest.mark.parametrize("factor", [0.0, -1.0, 1.5, float("nan")])
@pytest.mark.parametrize("name", ["decay", "body"])
def test_factors_out_of_range_are_refused_by_name(name, factor):
    model = make("mlp", (8,), 4, {})
    with pytest.raises(ModelError, match=f"layer_rates: {name} must be above 0 and at most 1, not {factor}"):
        layer_rates(model, LR, **{"decay": 0.5, name: factor})


@pytest.mark.parametrize("made", [lambda: nn.Linear(8, 4), lambda: nn.Sequential(nn.ReLU())])
def test_what_has_no_depths_is_refused(made):
    with pytest.raises(ModelError, match="calls no layer with weights"):
        layer_rates(made(), LR, decay=DECAY)
