"""Frozen is frozen: bit-identical tensors and silent noise under every optimizer, and a way back."""

import copy
import io
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import ravine.optim
import ravine.optim.matrix
from ravine import registry
from ravine.errors import ModelError
from ravine.generalize import DropConnect, Dropout, GaussianNoise, StochasticDepth, reestimate, regularize
from ravine.models import make
from ravine.transfer import freeze, replace_head, trainable, unfreeze

IMAGES = (6, 3, 16, 16)


def cnn():
    torch.manual_seed(0)
    return make("cnn", (3, 16, 16), 4, {"width": 8, "depth": 2, "dropout": 0.5})


def resnet():
    torch.manual_seed(0)
    return make("resnet", (3, 16, 16), 4, {"width": 8, "blocks": (1, 1)})


def noisy():
    """Dropout, dropped weights, dropped branches and Gaussian noise, all over a residual network."""
    torch.manual_seed(0)
    model = make("resnet", (3, 16, 16), 4, {"width": 8, "blocks": (1, 1), "zero_branches": False})
    regularize(model, dropout=0.5, feature_dropout=0.3, drop_connect=0.3, stochastic_depth=0.5)
    model.stem.append(GaussianNoise(0.5))
    return model


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def frozen_names(model, modules):
    """Of the state dict, what lies in frozen modules."""
    return {name for name in model.state_dict() if name.rpartition(".")[0] in modules}


def assert_same(model, before, names):
    after = model.state_dict()
    assert names
    for name in names:
        assert torch.equal(after[name], before[name]), name


def train(model, optimizer, steps=20, beside=()):
    """As people do, `model.train()` before each step."""
    if hasattr(optimizer, "train"):  # the schedule-free ones have modes of their own
        optimizer.train()
    for step in range(steps):
        model.train()
        drawn = torch.Generator().manual_seed(step)
        inputs, targets = torch.randn(IMAGES, generator=drawn), torch.randint(4, IMAGES[:1], generator=drawn)
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        for averaged in beside:
            averaged.update_parameters(model)


# These take a closure over all the data and step along one line for all parameters: not as `train` does.
FULL_BATCH = ("lbfgs", "bfgs", "newton")
BY_BATCH = [entry for entry in registry.entries("optimizer") if entry.name not in FULL_BATCH]


@pytest.mark.parametrize("entry", BY_BATCH, ids=lambda entry: entry.name)
@pytest.mark.parametrize("until", ["head", "stage2"])
def test_frozen_stays_bit_for_bit_under_every_optimizer(entry, until):
    """Weights and running statistics, with weight decay, and with two averages of the network beside it."""
    model = cnn()
    modules = freeze(model, until=until)
    before = state(model)
    averages = [
        AveragedModel(model, use_buffers=True),
        AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.7), use_buffers=True),
    ]
    # Adagrad, as torch's, has a state for all that it is given from the start.
    given = trainable(model) if entry.name == "adagrad" else model.parameters()
    optimizer = entry.part(given, **{**entry.suggested, "weight_decay": 0.1})
    train(model, optimizer, beside=averages)
    kept = frozen_names(model, modules)
    assert kept == {name for name in before if name.startswith("stage1" if until == "stage2" else "stage")}
    assert_same(model, before, kept)
    for averaged in averages:
        assert_same(averaged.module, before, kept)
    after = model.state_dict()
    for name in before.keys() - kept:
        assert not torch.equal(after[name], before[name]), name
    thawed = set(trainable(model))
    assert set(optimizer.state) == thawed
    assert all(parameter.grad is None for parameter in set(model.parameters()) - thawed)


@pytest.mark.parametrize(
    "entry", [e for e in registry.entries("optimizer") if e.name in FULL_BATCH], ids=lambda e: e.name
)
def test_frozen_stays_under_full_batch_methods(entry):
    """Given what trains, and a closure over one batch."""
    model = make("mlp", (8,), 2, {"width": 8, "depth": 1, "activation": "tanh"}).double()
    modules = freeze(model)
    before = state(model)
    optimizer = entry.part(list(trainable(model)), **entry.suggested)
    inputs = torch.randn(16, 8, generator=torch.Generator().manual_seed(0)).double()
    targets = (inputs[:, 0] > 0).long()

    def closure():
        optimizer.zero_grad()
        loss = functional.cross_entropy(model.train()(inputs), targets)
        if entry.name != "newton":  # it takes second derivatives of the loss itself
            loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(closure)
    assert_same(model, before, frozen_names(model, modules))
    assert not torch.equal(model.head.weight, before["head.weight"])


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "NAdam"])
def test_frozen_stays_under_torchs_optimizers(name):
    model = resnet()
    modules = freeze(model, until="stages.stage2")
    before = state(model)
    options = {"momentum": 0.9} if name == "SGD" else {}
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.01, weight_decay=0.1, **options)
    train(model, optimizer)
    kept = frozen_names(model, modules)
    assert_same(model, before, kept)
    assert all(not torch.equal(model.state_dict()[key], before[key]) for key in before.keys() - kept)
    assert set(optimizer.state) == set(trainable(model))


def test_the_optimizers_own_average_leaves_frozen_weights_alone():
    model = cnn()
    modules = freeze(model)
    before = state(model)
    optimizer = ravine.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1, average=0.9)
    train(model, optimizer)
    with optimizer.averaged():
        assert_same(model, before, frozen_names(model, modules))
    assert_same(model, before, frozen_names(model, modules))


def test_a_network_trained_before_forgets_the_gradients_that_it_had():
    """An optimizer from before has a state and would go on by momentum and decay."""
    model = cnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    train(model, optimizer, steps=3)
    modules = freeze(model)
    before = state(model)
    train(model, optimizer, steps=3)
    assert_same(model, before, frozen_names(model, modules))


def copied(model):
    return copy.deepcopy(model)


def pickled(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copying", [copied, pickled])
def test_copies_are_frozen_too_and_each_for_itself(copying):
    model = noisy()
    modules = freeze(model, until="stages.stage2")
    twin = copying(model)
    before = state(twin)
    train(twin, torch.optim.SGD(twin.parameters(), lr=0.1, weight_decay=0.1))
    assert_same(twin, before, frozen_names(twin, modules))
    assert_same(model, before, before)
    unfreeze(twin)
    assert all(module.training for module in twin.train().modules())
    assert not model.stem.training and not model.train().stem.training
    assert twin.stem.eval() is twin.stem and model.stem.train() is model.stem


def test_a_state_dict_goes_there_and_back():
    model, other = cnn(), make("cnn", (3, 16, 16), 4, {"width": 8, "depth": 2, "dropout": 0.5})
    names = list(model.state_dict())
    modules = freeze(model)
    assert list(model.state_dict()) == names
    other.load_state_dict(model.state_dict())
    assert_same(other, state(model), names)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
    train(model, optimizer, steps=2)
    # A resumed run: what was saved is loaded into a network that is frozen anew, and the optimizer likewise.
    freeze(other)
    other.load_state_dict(model.state_dict())
    resumed = torch.optim.AdamW(other.parameters(), weight_decay=0.1)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    before = state(model)
    for each, own in ((model, optimizer), (other, resumed)):
        torch.manual_seed(1)
        train(each, own, steps=3)
    assert_same(model, before, frozen_names(model, modules))
    assert_same(other, state(model), names)


def test_functional_calls_leave_frozen_buffers_alone():
    model = cnn()
    modules = freeze(model, until="stage2")
    kept = frozen_names(model, modules)
    tensors = {**dict(model.named_parameters()), **{name: b.clone() for name, b in model.named_buffers()}}
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    out = torch.func.functional_call(model.train(), tensors, (torch.randn(IMAGES),))
    out.sum().backward()
    for name, tensor in tensors.items():
        changed = not torch.equal(tensor, before[name])
        assert changed == (
            (name.startswith("stage2") and "running" in name) or name == "stage2.norm.num_batches_tracked"
        )
        if name in kept:
            assert tensor.grad is None


def test_an_exported_program_is_the_frozen_network():
    model = resnet()
    train(model, torch.optim.SGD(model.parameters(), lr=0.1), steps=2)
    freeze(model)
    model.train()
    inputs = torch.randn(IMAGES)
    exported = torch.export.export(model, (inputs,))
    torch.testing.assert_close(exported.module()(inputs), copy.deepcopy(model).eval()(inputs))
    assert set(exported.state_dict) == set(model.state_dict())


def outputs_twice(model, module, inputs):
    """What a module gives in two passes of training."""
    seen = []
    handle = module.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    for _ in range(2):
        model.train()(inputs)
    handle.remove()
    return seen


def test_noise_in_frozen_parts_is_off_and_elsewhere_on():
    model = noisy()
    inputs = torch.randn(IMAGES)
    assert not torch.equal(*outputs_twice(model, model.stages.stage1, inputs))
    modules = freeze(model, until="stages.stage2")
    kinds = {type(model.get_submodule(name)) for name in modules}
    assert {GaussianNoise, StochasticDepth} & kinds
    expected = copy.deepcopy(model).eval()
    seen = []
    expected.stages.stage1.register_forward_hook(lambda module, inputs, output: seen.append(output))
    expected(inputs)
    one, other = outputs_twice(model, model.stages.stage1, inputs)
    assert torch.equal(one, other) and torch.equal(one, seen[0])
    assert not torch.equal(*outputs_twice(model, model.stages.stage2, inputs))


@pytest.mark.parametrize(
    "noise", [nn.Dropout(0.5), nn.AlphaDropout(0.5), nn.RReLU(), Dropout(0.5), GaussianNoise(0.5)]
)
def test_each_kind_of_noise_is_off(noise):
    model = nn.Sequential(nn.Linear(8, 8), noise, nn.Linear(8, 8), copy.deepcopy(noise), nn.Linear(8, 3))
    freeze(model, until="2")
    inputs = torch.randn(64, 8)
    assert torch.equal(*outputs_twice(model, model[1], inputs))
    assert not torch.equal(*outputs_twice(model, model[3], inputs))


def test_dropped_weights_are_off():
    model = nn.Sequential(DropConnect(nn.Linear(8, 8), 0.5), nn.ReLU(), nn.Linear(8, 3))
    freeze(model)
    assert torch.equal(*outputs_twice(model, model[0], torch.randn(64, 8)))


def flags(model):
    modes = {name: module.training for name, module in model.named_modules()}
    return modes, {name: parameter.requires_grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("times", [1, 2])
def test_unfreeze_gives_back_exactly_what_was(training, times):
    """What was frozen or in evaluation mode otherwise stays so."""
    model = noisy().train(training)
    model.stem.get_submodule("norm").eval()
    model.stages.stage1.requires_grad_(False)
    before, attributes = flags(model), [dict(vars(module)) for module in model.modules()]
    for until in ("stages.stage2", "head")[:times]:
        freeze(model, until=until)
    assert flags(model) != before
    unfreeze(model)
    assert flags(model) == before
    for module, was in zip(model.modules(), attributes, strict=True):
        assert vars(module).keys() == was.keys() and "train" not in vars(module)


def test_what_is_thawed_is_in_the_mode_that_the_network_is_in_then():
    model = cnn().eval()
    freeze(model)
    model.train()
    unfreeze(model)
    assert all(module.training for module in model.modules())
    freeze(model)
    model.eval()
    unfreeze(model)
    assert not any(module.training for module in model.modules())


def test_a_part_is_thawed_and_follows_the_network_within_a_frozen_container():
    model = resnet()
    freeze(model)
    unfreeze(model, ["stages.stage2"])
    for mode in (True, False, True):
        model.train(mode)
        assert model.stages.stage2.block1.first.get_submodule("norm").training is mode
        assert not model.stages.stage1.block1.first.get_submodule("norm").training
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name.rpartition(".block")[0] for name in trained} == {"stages.stage2", ""}
    assert {name for name in trained if "block" not in name} == {"head.weight", "head.bias"}


def test_thawed_weights_train_again():
    model = cnn()
    freeze(model)
    optimizer = ravine.optim.AdamW(model.parameters(), lr=0.01)
    train(model, optimizer, steps=2)
    unfreeze(model)
    before = state(model)
    train(model, optimizer, steps=2)
    assert all(not torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert set(optimizer.state) == set(model.parameters())


def test_a_new_head_on_a_frozen_body_trains():
    model = cnn()
    freeze(model)
    replace_head(model, 4)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"head.weight", "head.bias"}


@pytest.mark.parametrize("traced", [True, False])
def test_a_cut_within_a_container(traced):
    """All before the cut is frozen, in and out of the container that it goes through."""
    model = resnet()
    sample = None if traced else torch.randn(IMAGES)
    modules = freeze(model, until="stages.stage2.block1.branch_end", sample=sample)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    within = "stages.stage2.block1"
    assert {name.removeprefix(f"{within}.").partition(".")[0] for name in trained} == {
        "branch_end", "branch_norm", "shortcut", "head",
    }  # fmt: skip
    assert f"{within}.first" in modules and "stages.stage1" in modules and "stem" in modules
    assert not {"stages", "stages.stage2", within, "pool", "head"} & set(modules)
    before = state(model)
    train(model, torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1), steps=5)
    assert_same(model, before, frozen_names(model, modules))


class Positioned(nn.Module):
    """A vision transformer's weights of its own, within a container and at the top."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.body = Body()
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        return self.head(self.body(x)[:, 0])


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, 7, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x):
        return self.encoder(x + self.position)


@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize(
    ("until", "trained"), [("head", {"head"}), ("body.encoder.layers.1", {"head", "body.encoder.layers.1"})]
)
def test_weights_of_a_container_itself_are_frozen(until, trained, traced):
    """Dropout in the frozen layer is off as well, and the layer goes by torch's quick path."""
    torch.manual_seed(0)
    model, sample = Positioned(), torch.randn(4, 6, 8)
    freeze(model, until=until, sample=None if traced else sample)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        name for name, _ in model.named_parameters() if name.startswith(tuple(trained))
    }
    before = state(model)
    optimizer = ravine.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        model.train()(sample).square().mean().backward()
        optimizer.step()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) != name.startswith(tuple(trained)), name
    unfreeze(model)
    assert all(parameter.requires_grad for parameter in model.parameters())


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.token, self.body, self.head = nn.Embedding(11, 8), nn.Linear(8, 8), nn.Linear(8, 11, bias=False)
        self.head.weight = self.token.weight

    def forward(self, tokens):
        return self.head(self.body(self.token(tokens)))


class OwnTied(nn.Module):
    """The embedding is a weight of the network itself."""

    def __init__(self):
        super().__init__()
        self.token, self.head = nn.Parameter(torch.randn(11, 8)), nn.Linear(8, 11, bias=False)
        self.head.weight = self.token

    def forward(self, tokens):
        return self.head(functional.embedding(tokens, self.token))


class Recurrent(nn.Module):
    """One layer before and after another, and one dropout for all."""

    def __init__(self):
        super().__init__()
        self.shared, self.middle, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        x = self.drop(self.shared(x))
        return self.head(self.drop(self.shared(self.middle(x))))


@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize(
    ("made", "until", "told"),
    [
        (Tied, "head", "token, which would be frozen, shares its weights with head"),
        (OwnTied, "head", "the network, which would be frozen, shares its weights with head"),
        (Recurrent, "middle", "shared, which would be frozen, runs again after middle"),
    ],
)
def test_weights_on_both_sides_of_the_cut_are_refused_by_name(made, until, told, traced):
    model = made()
    sample = torch.randn(2, 8) if made is Recurrent else torch.zeros(2, 4, dtype=torch.long)
    before = flags(model)
    with pytest.raises(ModelError, match=told):
        freeze(model, until=until, sample=None if traced else sample)
    assert flags(model) == before


def test_weights_shared_on_one_side_are_frozen_and_thawed_together():
    model = Recurrent()
    assert freeze(model, until="head") == ["drop", "middle", "shared"]
    assert not model.train().drop.training
    unfreeze(model)
    assert all(parameter.requires_grad for parameter in model.parameters()) and model.drop.training


class Alias(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(8, 8), nn.Linear(8, 3)
        self.last = self.head

    def forward(self, x):
        return self.last(torch.relu(self.body(x)))


def test_a_second_name_of_a_layer_is_not_a_second_layer():
    model = Alias()
    assert freeze(model, until="head") == ["body"]


class Branching(nn.Module):
    """No trace goes through it; the order of the calls is not that of registration."""

    def __init__(self):
        super().__init__()
        self.head, self.last, self.first = nn.Linear(8, 3), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        x = self.first(x)
        return self.head(self.last(x) if x.sum() > 0 else self.last(-x))


def test_what_is_not_there_is_not_thawed():
    model = cnn()
    freeze(model, until="head")
    model.head.requires_grad_(False)
    with pytest.raises(ModelError, match="the network has no module 'typo'"):
        unfreeze(model, ["head", "typo"])
    assert not any(parameter.requires_grad for parameter in model.head.parameters())


def test_the_order_is_that_of_the_calls():
    model = Branching()
    with pytest.raises(ModelError, match=r"^the network cannot be traced: .*Give prepared items as sample="):
        freeze(model, until="last")
    assert freeze(model, until="last", sample=torch.randn(2, 8)) == ["first"]


@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize("until", ["unknown", "", "stage1.unknown"])
def test_an_unknown_module_is_refused(until, traced):
    model = cnn()
    with pytest.raises(ModelError, match=f"calls no module '{until}'"):
        freeze(model, until=until, sample=None if traced else torch.randn(IMAGES))
    assert all(itertools.chain(*(own.values() for own in flags(model))))


def test_statistics_that_are_taken_anew_are_those_of_layers_that_train():
    network = nn.Sequential(
        *(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    )
    freeze(network, until="3")
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    assert reestimate(network, [torch.randn(16, 4) for _ in range(3)]) == 1
    changed = {name for name, buffer in network.named_buffers() if not torch.equal(buffer, before[name])}
    assert changed == {"4.running_mean", "4.running_var"}
