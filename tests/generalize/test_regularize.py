"""`regularize`: noise at the customary places of any network, whose names and answers stay."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from ravine.errors import ModelError
from ravine.generalize import (
    DropConnect,
    Dropout,
    FeatureDropout,
    NoisyPart,
    StochasticDepth,
    average_out,
    regularize,
)
from ravine.generalize.residual import branch_ends
from ravine.models import make


class Padded(nn.Module):
    """A shortcut without parameters: every second pixel, and zeros for new channels (He et al. 2016)."""

    def __init__(self, more):
        super().__init__()
        self.more = more

    def forward(self, x):
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more // 2, self.more // 2))


class BasicBlock(nn.Module):
    """As ResNets are commonly written."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = Padded(outputs - inputs) if stride != 1 else nn.Sequential()

    def forward(self, x):
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return functional.relu(out)


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.layers = nn.Sequential(BasicBlock(8, 8, 1), BasicBlock(8, 16, 2), BasicBlock(16, 16, 1))
        self.linear = nn.Linear(16, 10)

    def forward(self, x):
        out = self.layers(functional.relu(self.bn1(self.conv1(x))))
        out = functional.avg_pool2d(out, out.size()[3])
        return self.linear(out.view(out.size(0), -1))


ENDS = ["layers.0.bn2", "layers.1.bn2", "layers.2.bn2"]
ALL = {"dropout": 0.5, "feature_dropout": 0.1, "drop_connect": 0.3, "stochastic_depth": 0.3}


def resnet():
    torch.manual_seed(0)
    return ResNet().eval()


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)).eval()


def images():
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("made", "shape"),
    [(resnet, (4, 3, 16, 16)), (lambda: make("resnet", (3, 16, 16), 10, {}).eval(), (4, 3, 16, 16))],
    ids=["another's", "ravine's"],
)
def test_names_answers_and_checkpoints_stay(made, shape):
    model, x = made(), torch.randn(shape)
    kept, before = copy.deepcopy(model.state_dict()), model(x)
    regularize(model, **ALL)
    assert list(model.state_dict()) == list(kept)
    assert torch.equal(model(x), before)
    model.load_state_dict(kept)
    model.train()
    one, other = model(x), model(x)
    assert not torch.allclose(one, other)


def test_a_resnet_of_another_s_code():
    model = resnet()
    told = regularize(model, **ALL)
    assert told == [
        "dropout 0.5 of the input of linear (1 place)",
        "feature dropout 0.1 of the maps into layers.0.conv1, layers.0.conv2, ..., layers.2.conv2 (6 places)",
        "DropConnect 0.3 of the weights of linear (1 place)",
        "stochastic depth up to 0.3 at the end of layers.0.bn2, layers.1.bn2, layers.2.bn2 (3 places)",
    ]
    depths = [module.p for module in model.modules() if isinstance(module, StochasticDepth)]
    assert depths == pytest.approx([0.1, 0.2, 0.3])
    assert sum(isinstance(module, FeatureDropout) for module in model.modules()) == 6
    assert isinstance(model.linear, DropConnect) and isinstance(model.linear.noise_before, Dropout)
    found = average_out(model, images(), "samples", 8)
    assert bool((found.spread > 0).all())


def test_a_dropped_branch_leaves_the_shortcut():
    model = resnet()
    regularize(model, stochastic_depth=1.0)
    block = model.layers[2].train()
    x = torch.randn(4, 16, 8, 8).relu()
    assert torch.equal(block(x), x)


def test_an_mlp():
    model = mlp()
    told = regularize(model, dropout=0.5, drop_connect=0.2)
    assert told[0].startswith("dropout 0.5 of the input of 2, 4") and "weights of 0, 2 (2" in told[1]
    assert not hasattr(model[0], "noise_before")
    exact = average_out(mlp(), torch.randn(2, 8))
    assert exact.mean.shape == (2, 3)


def test_the_noise_is_the_noise_of_its_parts():
    """The same seed drops the same activations as a Dropout written into the network."""
    model, x = mlp().train(), torch.randn(32, 8)
    written = nn.Sequential(*model[:2], Dropout(0.5), *model[2:4], Dropout(0.5), model[4])
    torch.manual_seed(1)
    wanted = written(x)
    regularize(model, dropout=0.5)
    torch.manual_seed(1)
    assert torch.equal(model(x), wanted)


def test_copies_have_noise_of_their_own():
    model = resnet()
    regularize(model, **ALL)
    twin = copy.deepcopy(model).train()
    assert not any(module.training for module in model.modules())
    torch.manual_seed(0)
    one = twin(images())
    twin.layers[2].bn2.noise_after.p = 1.0
    torch.manual_seed(0)
    assert not torch.allclose(twin(images()), one)
    assert model.layers[2].bn2.noise_after.p == pytest.approx(0.3)


def test_it_trains_compiles_and_exports():
    model, x = resnet(), images()
    regularize(model, **ALL)
    exported = torch.export.export(model, (x,))
    torch.testing.assert_close(exported.module()(x), model(x))
    torch._dynamo.reset()
    model.train()
    loss = torch.compile(model, backend="aot_eager")(x).square().sum()
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("model", "rates", "message"),
    [
        (
            lambda: nn.Linear(3, 2),
            {"dropout": 0.5},
            "nowhere to put dropout: the network has no linear layer",
        ),
        (mlp, {"feature_dropout": 0.1}, "no convolution after the first"),
        (mlp, {"stochastic_depth": 0.1}, "no residual branch"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3)), {"drop_connect": 0.1}, "no linear layer"),
        (lambda: nn.Linear(3, 2), {"drop_connect": 0.1}, "a single layer"),
    ],
)
def test_nowhere_to_put_it_is_refused_and_nothing_is_changed(model, rates, message):
    model = model()
    before = [type(module) for module in model.modules()]
    with pytest.raises(ModelError, match=message):
        regularize(model, **{**({"dropout": 0.5} if len(before) > 3 else {}), **rates})
    assert [type(module) for module in model.modules()] == before


def test_a_second_call_changes_the_rates():
    model = resnet()
    regularize(model, **ALL)
    before = [type(module) for module in model.modules()]
    regularize(model, dropout=0.2, drop_connect=0.1, stochastic_depth=0.6)
    assert [type(module) for module in model.modules()] == before
    assert (model.linear.p, model.linear.noise_before.p) == (0.1, 0.2)
    depths = [module.p for module in model.modules() if isinstance(module, StochasticDepth)]
    assert depths == pytest.approx([0.2, 0.4, 0.6])


def test_drop_connect_after_other_noise_is_refused():
    model = mlp()
    regularize(model, dropout=0.5)
    with pytest.raises(ModelError, match="2 has other noise already: give all kinds of noise in one call"):
        regularize(model, drop_connect=0.5)
    assert not any(isinstance(module, DropConnect) for module in model.modules())


def test_a_layer_that_drop_connect_cannot_take_is_refused_before_any_is_changed():
    model = mlp()
    nn.utils.parametrizations.weight_norm(model[2])
    with pytest.raises(ModelError, match="needs a"):
        regularize(model, drop_connect=0.5)
    assert not any(isinstance(module, DropConnect) for module in model.modules())


def test_a_shared_layer_drops_in_both_its_places():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(3, 3)
            self.two, self.head = self.one, nn.Linear(3, 2)

        def forward(self, x):
            return self.head(self.two(self.one(x)))

    model = Shared()
    regularize(model, drop_connect=0.5)
    assert model.one is model.two and isinstance(model.one, DropConnect)
    assert model.one.out_features == 3


class Attending(nn.Module):
    """A block of a transformer, as commonly written."""

    def __init__(self):
        super().__init__()
        self.norm, self.attention = (
            nn.LayerNorm(8),
            nn.MultiheadAttention(8, 2, dropout=0.3, batch_first=True),
        )
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))

    def forward(self, x):
        h = self.norm(x)
        x = x + self.attention(h, h, h)[0]
        return x + self.mlp(x)


def test_attention_keeps_its_pairs_and_its_projection():
    model = Attending()
    told = regularize(model, dropout=0.1, stochastic_depth=0.2)
    assert told[0] == "dropout 0.1 of the input of mlp.0, mlp.2 (2 places)"
    assert told[1] == "stochastic depth up to 0.2 at the end of attention, mlp.2 (2 places)"
    x = torch.randn(2, 5, 8)
    out, weights = model.train().attention(x, x, x)
    assert out.shape == x.shape and weights.shape == (2, 5, 5)
    model.attention.noise_after.p = 1.0
    assert torch.equal(model.attention(x, x, x)[0], torch.zeros_like(x))
    assert model(x).shape == x.shape


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan"), "half"])
def test_rates_out_of_range_are_refused(rate):
    with pytest.raises(ValueError, match=r"Invalid dropout: .* in \[0, 1\]"):
        regularize(mlp(), dropout=rate)


@pytest.mark.parametrize("kind", ["dropout", "feature_dropout", "drop_connect"])
def test_a_rate_of_1_is_refused_where_nothing_would_get_through(kind):
    model = resnet()
    with pytest.raises(ValueError, match=f"Invalid {kind}: 1.0; nothing would get through"):
        regularize(model, **{kind: 1.0, "stochastic_depth": 1.0})
    assert not any(isinstance(module, NoisyPart) for module in model.modules())


class Backwards(nn.Module):
    """Registered from the last layer to the first, and one that never runs."""

    def __init__(self, decide=False):
        super().__init__()
        self.decide = decide
        self.head, self.unused, self.middle = nn.Linear(8, 2), nn.Linear(8, 8), nn.Linear(8, 8)
        self.second, self.first = nn.Conv1d(4, 8, 1), nn.Conv1d(3, 4, 1)

    def forward(self, x):
        if self.decide and x.sum() > 0:
            x = -x
        return self.head(self.middle(self.second(self.first(x)).mean(2)))


def test_first_and_last_are_those_that_run_first_and_last():
    told = regularize(Backwards(), dropout=0.1, feature_dropout=0.1, drop_connect=0.1)
    assert [text.split(" of the ")[1] for text in told] == [
        "input of middle, head (2 places)",
        "maps into second (1 place)",
        "weights of middle (1 place)",
    ]


def test_what_cannot_be_traced_goes_by_registration():
    told = regularize(Backwards(decide=True), dropout=0.1, feature_dropout=0.1, drop_connect=0.1)
    assert [text.split(" of the ")[1] for text in told] == [
        "input of unused, middle (2 places)",
        "maps into first (1 place)",
        "weights of head, unused (2 places)",
    ]


@pytest.mark.parametrize(
    "rates", [{"dropout": 0.5}, {"drop_connect": 0.5}, {"dropout": 0.5, "drop_connect": 0.5}]
)
def test_layers_called_by_keyword(rates):
    """The same noise as of layers called by position."""

    class Named(nn.Sequential):
        def forward(self, x):
            for layer in self:
                x = layer(input=x)
            return x

    x, found = torch.randn(32, 8), []
    for kind in (nn.Sequential, Named):
        model = kind(*mlp().train())
        regularize(model, **rates)
        torch.manual_seed(1)
        found.append(model(x))
    assert torch.equal(*found)
    model.eval()
    exported = torch.export.export(model, (x,))
    torch.testing.assert_close(exported.module()(x), mlp()(x))


class Deciding(nn.Module):
    """What it does depends on the data: it cannot be traced."""

    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_what_cannot_be_traced_is_told():
    with pytest.raises(ModelError, match="cannot be traced"):
        branch_ends(Deciding())


class Sums(nn.Module):
    """Sums that are no residual connections: of two inputs' worth, of constants, of equal halves."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        return self.one(x) + self.two(x) + 1.0


def test_sums_that_are_no_residual_connections_are_left_alone():
    assert branch_ends(Sums()) == []


def test_branch_ends_in_their_order():
    assert [end.name for end in branch_ends(resnet())] == ENDS


def test_a_module_that_ends_several_branches_is_refused():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            x = x + self.layer(x)
            return x + self.layer(x)

    with pytest.raises(ModelError, match="layer ends a residual branch and is used elsewhere too"):
        branch_ends(Shared())


def test_an_activation_that_ends_a_branch_and_is_used_within_it_is_refused():
    class Reused(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.act = nn.Linear(3, 3), nn.Linear(3, 3), nn.GELU()

        def forward(self, x):
            return x + self.act(self.two(self.act(self.one(x))))

    with pytest.raises(ModelError, match="act ends a residual branch and is used elsewhere too"):
        branch_ends(Reused())


class Taken(nn.Module):
    """A layer of another kind, then two linear ones."""

    def __init__(self, layer, use=lambda out: out):
        super().__init__()
        self.layer, self.use = layer, use
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.two(self.one(self.use(self.layer(x))).relu())


class Attended(nn.MultiheadAttention):
    def forward(self, x):
        return super().forward(x, x, x)


NUMBERS = torch.tensor([[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize(
    ("made", "x"),
    [
        (lambda: Taken(nn.LSTM(8, 8, batch_first=True), lambda out: out[0]), torch.randn(2, 3, 8)),
        (lambda: Taken(nn.GRUCell(8, 8)), torch.randn(2, 8)),
        (lambda: Taken(nn.Embedding(7, 8)), NUMBERS),
        (lambda: Taken(nn.EmbeddingBag(7, 8)), NUMBERS),
        (lambda: Taken(Attended(8, 2, batch_first=True), lambda out: out[0]), torch.randn(2, 3, 8)),
        (lambda: Taken(DropConnect(nn.Conv1d(3, 3, 1))), torch.randn(2, 3, 8)),
    ],
)
def test_a_linear_layer_after_a_layer_of_another_kind_is_not_the_first(made, x):
    model = made()
    told = regularize(model, dropout=0.5)
    assert told == ["dropout 0.5 of the input of one, two (2 places)"]
    assert not torch.allclose(model(x), model(x))


def test_layers_without_weights_yet_are_refused_and_left_whole():
    model = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(2))
    with pytest.raises(ModelError, match=r"this LazyLinear has no weights yet.* run a batch through"):
        regularize(model, drop_connect=0.5)
    x = torch.randn(3, 5)
    assert model(x).shape == (3, 2)
    regularize(model, drop_connect=0.5)
    assert not torch.allclose(model(x), model(x))
