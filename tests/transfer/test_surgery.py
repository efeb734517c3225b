"""The head of any network found and replaced, and nothing else of it touched."""

import copy

import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional

from ravine.errors import ModelError
from ravine.models import make
from ravine.transfer import find_head, replace_head

IMAGES, ROWS, TOKENS = (4, 3, 32, 32), (4, 8), (4, 6, 8)


class Functional(nn.Module):
    """Activation, pooling and flattening without modules; the head is registered first."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 5)
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x):
        x = functional.adaptive_avg_pool2d(functional.relu(self.conv(x)), 1)
        return self.fc(x.view(x.size(0), -1))


class Convolutional(nn.Module):
    """SqueezeNet's way: the head is a convolution of single pixels."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x):
        return torch.flatten(self.head(self.body(x)), 1)


class Text(nn.Module):
    """torch's own encoder; the head's answers are turned to (N, classes, T)."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.encoder(x)).transpose(1, 2)


class Ended(nn.Module):
    """A network that ends in something after its head."""

    def __init__(self, end):
        super().__init__()
        self.body, self.head, self.end = nn.Linear(8, 8), nn.Linear(8, 5), end

    def forward(self, x):
        return self.end(self.head(torch.tanh(self.body(x))))


class Untraceable(nn.Module):
    """The way depends on the values."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x):
        x = self.body(x)
        return self.head(x if x.sum() > 0 else -x)


class Tied(nn.Module):
    """A language model whose output layer is its embedding."""

    def __init__(self):
        super().__init__()
        self.token, self.body, self.head = nn.Embedding(11, 8), nn.Linear(8, 8), nn.Linear(8, 11, bias=False)
        self.head.weight = self.token.weight

    def forward(self, tokens):
        return self.head(self.body(self.token(tokens)))


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.kind, self.place = nn.Linear(8, 8), nn.Linear(8, 5), nn.Linear(8, 4)

    def forward(self, x):
        x = torch.relu(self.body(x))
        return self.kind(x), self.place(x)


class Aliased(nn.Module):
    """A head that is there under two names, and called once."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(8, 8), nn.Linear(8, 5)
        self.alias = nn.Sequential(self.head)

    def forward(self, x):
        return self.head(self.body(x))


class SumOfHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.deep = nn.Linear(8, 5), nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 5))

    def forward(self, x):
        return self.linear(x) + self.deep(x)


NETWORKS = {
    "cnn": (lambda: make("cnn", (3, 32, 32), 5, {"width": 8}), IMAGES, "head"),
    "resnet": (lambda: make("resnet", (3, 32, 32), 5, {"width": 8}), IMAGES, "head"),
    "mobilenet": (lambda: make("mobilenet", (3, 32, 32), 5, {}), IMAGES, "head"),
    "mlp": (lambda: make("mlp", (8,), 5, {"width": 8}), ROWS, "head"),
    "functional": (Functional, IMAGES, "fc"),
    "convolutional": (Convolutional, IMAGES, "head"),
    "text": (Text, TOKENS, "head"),
    "identity after it": (lambda: Ended(nn.Identity()), ROWS, "head"),
    "flatten after it": (lambda: Ended(nn.Flatten()), ROWS, "head"),
    "nested": (
        lambda: nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Dropout(), nn.Linear(8, 5))),
        ROWS,
        "1.1",
    ),
}
every_network = pytest.mark.parametrize("network", NETWORKS)


def network_and_sample(network):
    torch.manual_seed(0)
    made, shape, head = NETWORKS[network]
    return made(), torch.randn(shape), head


@every_network
def test_the_head_is_found_by_trace_and_by_run_alike(network):
    model, sample, head = network_and_sample(network)
    before = copy.deepcopy(model.state_dict())
    assert find_head(model) == find_head(model, sample) == head
    assert model.training and not any(module._forward_hooks for module in model.modules())
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)


@every_network
@pytest.mark.parametrize("traced", [True, False])
def test_a_new_head_is_all_that_changes(network, traced):
    """Every other module is the same object with the same tensors, bit for bit."""
    model, sample, head = network_and_sample(network)
    modules = dict(model.named_modules())
    before = copy.deepcopy(model.state_dict())
    assert replace_head(model, 3, sample=None if traced else sample) == head
    for name, module in model.named_modules():
        assert (module is modules[name]) == (name != head)
    after = model.state_dict()
    assert list(after) == list(before)
    for name, tensor in after.items():
        if not name.startswith(f"{head}."):
            assert torch.equal(tensor, before[name])
    assert 3 in model(sample).shape and 5 not in model(sample).shape
    assert find_head(model, sample) == head


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "layer", [lambda bias: nn.Linear(8, 5, bias), lambda bias: nn.Conv2d(8, 5, 1, bias=bias)]
)
def test_the_new_head_is_of_the_old_ones_kind(layer, bias, dtype):
    old = layer(bias)
    model = nn.Sequential(nn.Identity(), old).to(dtype).eval()
    model.requires_grad_(False)
    replace_head(model, 7, at="1")
    new = model[1]
    assert type(new) is type(old) and new.weight.dtype == dtype and not new.training
    assert new.weight.shape == (7, *old.weight.shape[1:]) and (new.bias is not None) == bias
    assert all(parameter.requires_grad for parameter in new.parameters())
    if bias:
        assert new.bias.dtype == dtype and not new.bias.any()


def test_the_new_weights_are_normal_with_a_deviation_of_a_hundredth():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 200), nn.Linear(200, 5))
    replace_head(model, 500)
    weights = model[1].weight.detach().double().flatten().numpy()
    assert stats.kstest(weights, stats.norm(0, 0.01).cdf).pvalue > 0.01
    # An estimate of a standard deviation from n draws errs by σ/√(2n).
    assert abs(weights.std() - 0.01) < 4 * 0.01 / (2 * weights.size) ** 0.5


def test_the_same_seed_gives_the_same_head():
    heads = []
    for _ in range(2):
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 5))
        replace_head(model, 6)
        heads.append(model[1].weight)
    assert torch.equal(*heads)


ENDS = {
    "softmax": nn.Softmax(1),
    "logsoftmax": nn.LogSoftmax(1),
    "relu in place": nn.ReLU(inplace=True),
    "normalization": nn.LayerNorm(5),
}


@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize("end", ENDS)
def test_what_changes_the_heads_numbers_makes_it_unsure(end, traced):
    model = Ended(ENDS[end])
    with pytest.raises(ModelError, match=r"no linear layer gives its output.*at=.*body, head") as refused:
        find_head(model, None if traced else torch.randn(ROWS))
    assert "replace_head" in str(refused.value)
    # Who knows better says so.
    assert replace_head(model, 3, at="head") == "head"


@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize(
    ("made", "candidates"), [(TwoHeads, "body, kind, place"), (SumOfHeads, "linear, deep.0, deep.2")]
)
def test_two_heads_are_refused_with_the_candidates(made, candidates, traced):
    with pytest.raises(ModelError, match=f"not sure which layer.*{candidates}"):
        replace_head(made(), 3, sample=None if traced else torch.randn(ROWS))


@pytest.mark.parametrize("traced", [True, False])
def test_a_tied_head_is_refused_with_what_it_is_tied_to(traced):
    model = Tied()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ModelError, match="the head head shares its weights with token"):
        replace_head(model, 3, sample=None if traced else torch.zeros(2, 4, dtype=torch.long))
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)


def test_a_head_under_two_names_is_refused():
    with pytest.raises(ModelError, match=r"head shares its weights with alias\.0"):
        find_head(Aliased())


@pytest.mark.parametrize("traced", [True, False])
def test_weights_tied_without_a_module_leave_no_head(traced):
    model = make("transformer", (), 11, {"context": 8, "width": 8, "depth": 1, "heads": 2})
    sample = None if traced else torch.zeros(2, 4, dtype=torch.long)
    with pytest.raises(ModelError, match="no linear layer gives its output as it is"):
        replace_head(model, 3, sample=sample)


def test_an_untraceable_network_is_refused_and_found_by_running_it():
    model = Untraceable()
    with pytest.raises(ModelError, match=r"^the network cannot be traced: .*Give prepared items as sample="):
        find_head(model)
    assert find_head(model, torch.randn(ROWS)) == "head"


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 4)

    def forward(self, x):
        return self.body(torch.relu(self.body(x)))


class Shaped(nn.Module):
    """Its output has a shape that only six numbers have."""

    def __init__(self, *shape):
        super().__init__()
        self.body, self.head, self.shape = nn.Linear(4, 4), nn.Linear(4, 6), shape

    def forward(self, x):
        return self.head(self.body(x)).view(*self.shape)


@pytest.mark.parametrize("sample", [None, torch.ones(2, 4)])
def test_a_layer_that_is_called_twice_is_no_head(sample):
    with pytest.raises(ModelError, match="the head body is called more than once: it cannot be replaced"):
        replace_head(Twice(), 3, sample=sample)


@pytest.mark.parametrize("shape", [(-1, 3, 2), ((-1, 6),)])
def test_an_output_of_a_fixed_shape_leaves_no_other_head(shape):
    model = Shaped(*shape)
    old = model.head
    with pytest.raises(ModelError, match="no linear layer gives its output as it is"):
        replace_head(model, 3)
    with pytest.raises(ModelError, match="with another head in the place of head the network failed"):
        replace_head(model, 5, sample=torch.ones(2, 4))
    assert model.head is old
    assert replace_head(Shaped(-1, 1, 6), 6, at="head") == "head"


def test_a_convolution_keeps_its_stride_and_padding():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1, stride=2, padding=1))
    replace_head(model, 5)
    assert model(torch.zeros(1, 3, 8, 8)).shape == (1, 5, 5, 5)


def test_refusals_by_name():
    model = nn.Sequential(nn.Linear(4, 4), nn.LazyLinear(2))
    with pytest.raises(ModelError, match="1 has no sizes yet: run the network once before"):
        replace_head(model, 3, at="1")
    for classes in (2.5, "3", True):
        with pytest.raises(ModelError, match=f"an output or more, not {classes!r}"):
            replace_head(model, classes)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(ModelError, match="not 0"):
        replace_head(model, 0)
    with pytest.raises(ModelError, match="no layer 'fc'"):
        replace_head(model, 3, at="fc")
    with pytest.raises(ModelError, match="0 is a Conv2d; a head is linear"):
        replace_head(model, 3, at="0")
    with pytest.raises(ModelError, match="1 is a Flatten"):
        replace_head(model, 3, at="1")
    with pytest.raises(ModelError, match="the network is its head"):
        replace_head(nn.Linear(4, 2), 3)
    with pytest.raises(ModelError, match=r"failed for inputs of shape \(2, 5\)"):
        find_head(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), torch.randn(2, 5))
