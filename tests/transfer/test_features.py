"""Features against plain hooks, probes against scikit-learn, and similarity against its closed forms."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from torch import nn

from ravine.errors import ModelError
from ravine.models import make
from ravine.transfer import depths, feature_similarity, features, linear_probe
from ravine.transfer.features import (
    STRENGTHS,
    feature_scale,
    inputs_of,
    linear_probes,
    logistic_regression,
)


class Tokens(nn.Module):
    """torch's encoder on sequences (N, T, C)."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.encoder(x).mean(1))


class Recurrent(nn.Module):
    """Its first layer gives a tuple, and its head is called twice."""

    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.GRU(8, 8, batch_first=True), nn.Linear(8, 8)

    def forward(self, x):
        return self.head(torch.relu(self.head(self.rnn(x)[0][:, -1])))


def inplace():
    """What follows a layer changes its output in place."""
    body = nn.Sequential(nn.Linear(8, 6), nn.ReLU(inplace=True), nn.Linear(6, 6), nn.ReLU(inplace=True))
    return nn.Sequential(body, nn.Linear(6, 4))


NETWORKS = {
    "cnn": (lambda: make("cnn", (3, 16, 16), 4, {"width": 4, "dropout": 0.5}), (5, 3, 16, 16)),
    "resnet": (lambda: make("resnet", (3, 16, 16), 4, {"width": 4}), (5, 3, 16, 16)),
    "mobilenet": (lambda: make("mobilenet", (3, 16, 16), 4, {}), (5, 3, 16, 16)),
    "mlp": (lambda: make("mlp", (8,), 4, {"width": 8, "dropout": 0.5}), (5, 8)),
    "tokens": (Tokens, (5, 6, 8)),
    "in place": (inplace, (5, 8)),
}
every_network = pytest.mark.parametrize("network", NETWORKS)


def network_and_batches(network):
    torch.manual_seed(0)
    made, shape = NETWORKS[network]
    model = made()
    model(torch.randn(shape))  # statistics that are not those of the beginning
    return model, [torch.randn(shape), torch.randn(3, *shape[1:])]


def hooked(model, batches, name):
    """What a plain hook sees in evaluation mode, one module at a time."""
    seen = []
    handle = model.get_submodule(name).register_forward_hook(
        lambda module, inputs, output: seen.append((inputs[0].clone(), output.clone()))
    )
    modes = [(module, module.training) for module in model.modules()]
    with torch.no_grad():
        for batch in batches:
            model.eval()(batch)
    handle.remove()
    for module, mode in modes:
        module.training = mode
    return [torch.cat(parts) for parts in zip(*seen, strict=True)]


def means(output):
    return {4: lambda o: o.mean((-1, -2)), 3: lambda o: o.mean(-2), 2: lambda o: o}[output.dim()](output)


@every_network
@pytest.mark.parametrize("pool", [True, False])
def test_features_are_what_a_hook_sees(network, pool):
    """At every module that gives a tensor, in the order asked for, one of them twice."""
    model, batches = network_and_batches(network)
    names = [name for name, _ in model.named_modules() if name and "self_attn" not in name][::-1]
    names = [name for name in names if hooks_see(model, batches[0], name)]
    names.append(names[0])
    found = features(model, batches, names, pool=pool)
    assert len(found) == len(names)
    for name, own in zip(names, found, strict=True):
        _, expected = hooked(model, batches, name)
        torch.testing.assert_close(own, means(expected) if pool else expected, rtol=1e-5, atol=1e-6)
        assert own.dtype == torch.float32 and not own.requires_grad
    assert all(module.training and not module._forward_hooks for module in model.modules())


def hooks_see(model, batch, name):
    calls = []
    handle = model.get_submodule(name).register_forward_hook(lambda *_: calls.append(name))
    model(batch)
    handle.remove()
    return bool(calls)


@every_network
def test_later_modules_are_not_called(network):
    model, batches = network_and_batches(network)
    first, *others = depths(model)
    called = []
    for name, module in model.named_modules():
        module.register_forward_pre_hook(lambda module, inputs, name=name: called.append(name))
    features(model, batches, [first])
    assert called.count("") == len(batches)
    assert not {"head", "1", *others} & set(called)


def test_half_precision_becomes_float32():
    model = make("mlp", (8,), 4, {"width": 8}).to(torch.bfloat16)
    (found,) = features(model, [torch.randn(3, 8, dtype=torch.bfloat16)], ["layer1"])
    assert found.dtype == torch.float32


def test_of_a_tuple_the_first_and_of_several_calls_the_first():
    torch.manual_seed(0)
    model, batch = Recurrent(), torch.randn(3, 5, 8)
    sequence, head = features(model, [batch], ["rnn", "head"], pool=False)
    with torch.no_grad():
        torch.testing.assert_close(sequence, model.rnn(batch)[0])
        torch.testing.assert_close(head, model.head(sequence[:, -1]))


def test_items_that_do_not_fit_or_are_not_there_are_refused():
    network = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    with pytest.raises(ModelError, match="there are no items to have features of"):
        features(network, [], ["0"])
    with pytest.raises(ModelError, match=r"the network failed for items of shape \(2, 7\): "):
        features(network, [torch.zeros(2, 7)], ["0"])


def test_a_probe_needs_items():
    one, none = torch.ones(1, 3), torch.ones(0, 3)
    classes = torch.zeros(1, dtype=torch.long)
    for given in ((none, classes[:0], one, classes), (one, classes, none, classes[:0])):
        with pytest.raises(ModelError, match="a probe needs an item to fit to, and another to judge"):
            linear_probe(*given)


def test_unknown_and_uncalled_modules_are_refused_by_name():
    model = make("mlp", (8,), 4, {"width": 8})

    class Aside(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.aside = nn.Linear(8, 4), nn.Linear(8, 4)

        def forward(self, x):
            return self.body(x)

    batches = [torch.randn(3, 8)]
    with pytest.raises(ModelError, match="has no module 'layer9'"):
        features(model, batches, ["layer1", "layer9"])
    aside = Aside()
    with pytest.raises(ModelError, match="does not call aside"):
        features(aside, batches, ["body", "aside"])
    with pytest.raises(ModelError, match="does not call aside"):
        inputs_of(aside, batches, "aside")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in aside.modules())


@every_network
def test_inputs_are_what_a_hook_sees_and_give_the_rest(network):
    model, batches = network_and_batches(network)
    head = "1" if network == "in place" else "head"
    found = inputs_of(model, batches, head)
    expected, outputs = hooked(model, batches, head)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(model.get_submodule(head)(found), outputs)
    assert all(module.training and not module._forward_pre_hooks for module in model.modules())


def blobs(seed, count, classes=3, size=6, noise=1.5):
    """Classes around centres, which overlap."""
    drawn = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(classes, size))
    targets = drawn.integers(classes, size=count)
    inputs = centres[targets] + noise * drawn.normal(size=(count, size))
    return torch.from_numpy(inputs).float(), torch.from_numpy(targets)


def sklearns(inputs, targets, strength):
    """Its C weighs the sum of the losses against Σw²/2."""
    fitted = LogisticRegression(C=1 / (strength * len(inputs)), tol=1e-10, max_iter=10_000)
    return fitted.fit(inputs.double().numpy(), targets.numpy())


@pytest.mark.parametrize("strength", STRENGTHS)
def test_a_regression_is_scikit_learns(strength):
    """Weights, and biases up to what they share, which no probability sees."""
    inputs, targets = blobs(1, 200)
    weight, bias = logistic_regression(inputs, targets, strength, (torch.zeros(3, 6), torch.zeros(3)))
    expected = sklearns(inputs, targets, strength)
    # The search ends where no slope is above 1e-4. Of these data the loss is curved by 0.02 and more in every
    # direction but that of all classes alike, in which neither moves: weights err by 1e-4 / 0.02.
    np.testing.assert_allclose(weight.numpy(), expected.coef_, atol=5e-3)
    np.testing.assert_allclose(
        (bias - bias.mean()).numpy(), expected.intercept_ - expected.intercept_.mean(), atol=5e-3
    )
    probabilities = torch.softmax(inputs @ weight.T + bias, 1).numpy()
    np.testing.assert_allclose(probabilities, expected.predict_proba(inputs.numpy()), atol=2e-3)


def test_a_regression_begins_where_it_is_told():
    """From the solution it stays there."""
    inputs, targets = blobs(1, 200)
    solution = logistic_regression(inputs, targets, 0.1, (torch.zeros(3, 6), torch.zeros(3)))
    again = logistic_regression(inputs, targets, 0.1, solution)
    for one, other in zip(solution, again, strict=True):
        assert torch.equal(one, other)


def test_probes_are_scikit_learns():
    """Features centred and divided by one number; of the strengths the one with the least loss counts."""
    (train, targets), (judged, answers) = blobs(1, 150), blobs(2, 400)
    scales = torch.tensor([0.3, 1.0, 5.0, 1.0, 1.0, 2.0])
    train, judged = 100 * train * scales + 7, 100 * judged * scales + 7
    mean, deviation = train.double().mean(0), train.double().var(0, correction=0).mean().sqrt()
    assert feature_scale(train) == pytest.approx(float(deviation), rel=1e-6)
    found = linear_probes(train, targets, judged, answers)
    assert tuple(probe.strength for probe in found) == STRENGTHS
    for probe in found:
        fitted = sklearns((train - mean) / deviation, targets, probe.strength)
        others = ((judged - mean) / deviation).numpy()
        score, chances = fitted.score(others, answers.numpy()), fitted.predict_proba(others)
        assert probe.accuracy == pytest.approx(score, abs=1 / len(answers))
        assert probe.loss == pytest.approx(log_loss(answers.numpy(), chances), rel=1e-3)
    assert linear_probe(train, targets, judged, answers) == min(found, key=lambda probe: probe.loss)


def test_a_probe_is_the_same_for_features_of_another_size():
    (train, targets), (judged, answers) = blobs(1, 150), blobs(2, 400)
    one = linear_probe(train, targets, judged, answers)
    other = linear_probe(1024 * train, targets, 1024 * judged, answers)
    assert other.accuracy == one.accuracy and other.loss == pytest.approx(one.loss, rel=1e-5)


def test_features_that_say_nothing_and_classes_that_were_not_seen():
    """A constant decides nothing, though it be another in what is judged; an unseen class is a mistake."""
    (train, targets), (judged, answers) = blobs(1, 150), blobs(2, 100)
    constant = torch.full((1, 2), 3.3)
    wide = [torch.cat([x, constant.expand(len(x), -1)], 1) for x in (train, judged)]
    plain = linear_probe(wide[0], targets, wide[1], answers)
    moved = linear_probe(wide[0], targets, wide[1] + torch.tensor([0.0] * 6 + [5.0, 5.0]), answers)
    assert moved.accuracy == plain.accuracy and moved.loss == pytest.approx(plain.loss, rel=1e-4)
    unseen = torch.full_like(answers, 5)
    assert linear_probe(train, targets, judged, unseen).accuracy == 0.0
    nothing = linear_probe(torch.ones(60, 2), torch.arange(60) % 3, torch.ones(60, 2), torch.arange(60) % 3)
    assert nothing.accuracy == pytest.approx(1 / 3)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_similarity_is_one_up_to_rotation_scale_and_offset():
    x = drawn(40, 7)
    rotation = torch.linalg.qr(drawn(7, 7, seed=1)).Q
    assert feature_similarity(x, x) == pytest.approx(1, abs=1e-12)
    assert feature_similarity(x, -3 * x @ rotation + drawn(7, seed=2)) == pytest.approx(1, abs=1e-12)
    # Another linear map changes it.
    assert feature_similarity(x, x @ drawn(7, 7, seed=3)) < 0.99


def test_similarity_of_orthogonal_features_is_zero():
    """The columns of an orthogonal matrix beside the constant one."""
    basis = torch.linalg.qr(torch.cat([torch.ones(20, 1).double(), drawn(20, 8)], 1)).Q[:, 1:]
    assert feature_similarity(basis[:, :3], basis[:, 3:]) == pytest.approx(0, abs=1e-24)


def test_similarity_of_part_of_an_orthonormal_basis_is_known():
    """k of m directions are shared: ‖YᵀX‖² = k, ‖XᵀX‖ = √p, ‖YᵀY‖ = √q."""
    basis = torch.linalg.qr(torch.cat([torch.ones(20, 1).double(), drawn(20, 8)], 1)).Q[:, 1:]
    assert feature_similarity(basis[:, :5], basis[:, 3:7]) == pytest.approx(2 / (5 * 4) ** 0.5, rel=1e-12)


@pytest.mark.parametrize(("items", "one", "other"), [(30, 5, 9), (10, 40, 3), (25, 1, 1)])
def test_similarity_is_the_alignment_of_kernels(items, one, other):
    """HSIC(K, L) / √(HSIC(K, K) HSIC(L, L)) with the centred kernels of N x N items."""
    x = drawn(items, one, seed=1)
    y = drawn(items, other, seed=2) + x[:, :1]
    centring = torch.eye(items).double() - 1 / items
    k, l = (centring @ each @ each.T @ centring for each in (x, y))  # noqa: E741
    expected = torch.trace(k @ l) / (torch.trace(k @ k) * torch.trace(l @ l)).sqrt()
    assert feature_similarity(x, y) == pytest.approx(float(expected), rel=1e-10)
    assert feature_similarity(y, x) == pytest.approx(float(expected), rel=1e-10)
    assert feature_similarity(x.float(), y.float()) == pytest.approx(float(expected), rel=1e-5)


def test_similarity_with_a_constant_is_none():
    assert feature_similarity(torch.ones(10, 3), drawn(10, 2)) == 0.0


def test_similarity_with_classes_is_the_share_between_them():
    """Of one feature that is 1 in one of two classes: the classes' own; of one that ignores them: 0."""
    classes = torch.nn.functional.one_hot(torch.arange(20) % 2).double()
    assert feature_similarity(classes[:, :1] * 5 + 2, classes) == pytest.approx(1, abs=1e-12)
    assert feature_similarity((torch.arange(20) // 2 % 2).double()[:, None], classes) == pytest.approx(
        0, abs=1e-12
    )
