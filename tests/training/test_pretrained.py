"""Runs that start from a pretrained network: made to fit the data, frozen for good, cached alike."""

import json
import re
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from test_resume import assert_identical, stop_at
from torch import nn

from ravine.errors import Interrupted, ModelError, RecipeError, TrustError
from ravine.models import make
from ravine.training import checkpoint, pretrained
from ravine.training import run as runs
from ravine.training.export import export
from ravine.training.load import load, load_predictor
from ravine.training.predict import predict
from ravine.training.pretrained import side_of
from ravine.transfer import adapt_channels
from ravine.transfer.zoo import shelf
from ravine.transfer.zoo.card import Card

COLOUR = Card(
    name="colour",
    architecture="resnet",
    settings={"width": 8, "blocks": [1, 1]},
    shape=(3, 16, 16),
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.25, 0.3),
    outputs=5,
)
GREY = Card(**{**vars(COLOUR), "name": "grey", "shape": (1, 16, 16), "mean": (0.6,), "std": (0.3,)})
PLAIN = {"precision": "fp32", "augment": [], "stop": {"epochs": 3, "patience": 0}}


def network(card):
    """Drawn weights, with statistics and gains that are not those of a start."""
    torch.manual_seed(0)
    model = make(card.architecture, card.shape, card.outputs, card.settings)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


@pytest.fixture(autouse=True)
def zoo(tmp_path, monkeypatch):
    """With a network for colour images and one for grey ones."""
    folder = tmp_path / "zoo"
    monkeypatch.setenv("RAVINE_ZOO", str(folder))
    for card in (COLOUR, GREY):
        shelf.put(card, network(card).state_dict())
    return folder


def from_zoo(name="colour", **transfer):
    return {"transfer": {"source": name, **transfer}}


def trained(out, *settings, data="digits"):
    return runs.train(None, data, settings=[PLAIN, from_zoo(), *settings], out=out)


def setup_of(*settings, data="digits"):
    return runs.make_setup(None, data, settings=[PLAIN, from_zoo(), *settings])


def last_weights(folder):
    """Where training ended, whatever weights were the best."""
    tensors, state = checkpoint.load_newest(folder / "checkpoints", print)
    return checkpoint.unflatten(state["model"], tensors)


def colour_images(path, side=16, items=90):
    drawn = np.random.default_rng(0)
    classes = np.arange(items) % 3
    pixels = drawn.integers(0, 200, (items, side, side, 3), dtype=np.uint8)
    pixels[np.arange(items), :, :, classes] += 55
    np.savez(path, x=pixels, y=classes)
    return path


# The head alone.


@pytest.mark.parametrize(
    "more",
    [
        {"optimizer": {"name": "sgd", "lr": 0.05}},
        {"optimizer": {"name": "adamw", "lr": 0.01, "average": 0.9}, "data": {"bootstrap": True}},
        {"optimizer": {"name": "sgd", "lr": 0.05}, "regularize": {"l2": 0.01, "max_norm": 0.3}},
    ],
)
def test_cached_features_train_the_head_that_images_train(tmp_path, more):
    folders = []
    for cache in (True, False):
        run = trained(tmp_path / str(cache), {"seed": 4}, more, from_zoo(train="head", cache=cache))
        folders.append(run.folder)
    assert setup_of(more, from_zoo(train="head")).whole is not None, "one of them is cached"
    assert setup_of(more, from_zoo(train="head", cache=False)).whole is None
    heads = [last_weights(folder) for folder in folders]
    for name in ("weight", "bias"):
        cached, usual = heads[0][name], heads[1][f"head.{name}"]
        assert usual.norm() > 0.05, "it was trained"
        torch.testing.assert_close(cached, usual, rtol=1e-4, atol=1e-5)
    whole, usual = (load_file(folder / "model.safetensors") for folder in folders)
    assert whole.keys() == usual.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(tensor, usual[name], rtol=1e-4, atol=1e-5)
    results = [json.loads((folder / "result.json").read_text()) for folder in folders]
    assert results[0]["parameters"] == results[1]["parameters"]
    for part in ("train", "validation", "test"):
        assert results[0][part]["loss"] == pytest.approx(results[1][part]["loss"], rel=1e-4)
    outputs = [load_file(folder / "predictions.safetensors") for folder in folders]
    torch.testing.assert_close(outputs[0]["test.outputs"], outputs[1]["test.outputs"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "noisy",
    [{"augment": ["shift"]}, {"regularize": {"dropout": 0.2}}, {"predict": {"average": "flip"}}],
)
def test_what_differs_each_time_is_not_cached(noisy):
    """The first two change what an epoch sees, the third what a prediction does."""
    assert setup_of(from_zoo(train="head"), noisy).whole is None


def test_a_cached_head_reaches_the_logistic_regression(tmp_path):
    """By L-BFGS the penalized loss of all training features has no gradient left."""
    settings = [{"optimizer": {"name": "lbfgs"}, "regularize": {"l2": 0.05}, "stop": {"epochs": 60}}]
    settings += [{"loss": {"label_smoothing": 0.0}}]
    run = trained(tmp_path / "run", *settings, from_zoo(train="head"))
    assert run.model.state_dict().keys() == load(run.folder).state_dict().keys()
    batches = setup_of(*settings, from_zoo(train="head")).feeds["train"].epoch(0)
    features, targets = (torch.cat(part) for part in zip(*batches, strict=True))
    head = {name: t.double().requires_grad_() for name, t in last_weights(run.folder).items()}
    logits = nn.functional.linear(features.double(), head["weight"], head["bias"])
    loss = nn.functional.cross_entropy(logits, targets) + 0.05 * head["weight"].square().sum()
    for gradient in torch.autograd.grad(loss, list(head.values())):
        assert gradient.abs().max() < 1e-4


# Frozen for good.

WAYS = {
    "cached": (from_zoo(train="head"), {}),
    "head": (from_zoo(train="head"), {"augment": ["shift"]}),
    "lower": (from_zoo(train="head", depth="stages.stage1"), {}),
    "part": (from_zoo(train="stages.stage2"), {"regularize": {"l2": 1e-3, "max_norm": 2.0}}),
}
MEMORY = {"optimizer": {"name": "adamw", "lr": 0.01, "average": 0.9, "weight_decay": 0.1}}


def is_frozen(name, way):
    return not name.startswith("head." if way != "part" else ("head.", "stages.stage2."))


@pytest.mark.parametrize("way", WAYS)
def test_frozen_parts_stay_bit_identical_and_others_move(tmp_path, way):
    """Under averaging and decay, in the best weights and in the last, and in the average."""
    run = trained(tmp_path / "run", MEMORY, *WAYS[way])
    before = network(COLOUR)
    adapt_channels(before, 1, sample=torch.zeros(1, 3, 16, 16))
    before = before.state_dict()
    found = load_file(run.folder / "model.safetensors")
    left_out = {name for name in before if way == "lower" and name.startswith("stages.stage2")}
    assert found.keys() == before.keys() - left_out
    for name, tensor in found.items():
        same = tensor.shape == before[name].shape and torch.equal(tensor, before[name])
        assert same == is_frozen(name, way), name
    last = last_weights(run.folder)
    assert all(torch.equal(last[name], before[name]) for name in last.keys() & before if is_frozen(name, way))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("method", "call"), [("train_epoch", 2), ("evaluate", 2)])
def test_a_stopped_and_resumed_run_is_bit_identical(tmp_path, monkeypatch, way, method, call):
    whole = trained(tmp_path / "whole", MEMORY, *WAYS[way]).folder
    with monkeypatch.context() as patch:
        stop_at(patch, method, call)
        with pytest.raises(Interrupted):
            trained(tmp_path / "run", MEMORY, *WAYS[way])
    runs.resume(tmp_path / "run")
    assert_identical(whole, tmp_path / "run")


def test_a_frozen_network_takes_no_gradient_and_keeps_its_mode():
    setup = setup_of(from_zoo(train="stages.stage2"))
    setup.model.train()
    for name, parameter in setup.model.named_parameters():
        assert parameter.requires_grad != is_frozen(name, "part"), name
    assert not setup.model.get_submodule("stem.norm").training
    assert setup.model.get_submodule("stages.stage2.block1.branch_norm").training
    stepped = {id(p) for group in setup.optimizer.param_groups for p in group["params"]}
    assert stepped == {id(p) for p in setup.model.parameters() if p.requires_grad}


# Rates by layer.


@pytest.mark.parametrize(("body", "decay"), [(0.3, 1.0), (0.5, 0.25)])
def test_rates_by_layer_reach_the_optimizer(body, decay):
    setup = setup_of(from_zoo(body=body, decay=decay), {"optimizer": {"name": "adamw", "lr": 0.01}})
    rates = {id(p): group["initial_lr"] for group in setup.optimizer.param_groups for p in group["params"]}
    expected = {
        "head.": 0.01,
        "stages.stage2.": 0.01 * body,
        "stages.stage1.": 0.01 * body * decay,
        "stem.": 0.01 * body * decay**2,
    }
    for name, parameter in setup.model.named_parameters():
        (rate,) = (rate for prefix, rate in expected.items() if name.startswith(prefix))
        assert rates[id(parameter)] == pytest.approx(rate, rel=1e-12), name


def test_the_first_step_is_at_these_rates(tmp_path):
    """Plain descent moves each layer by its rate times the gradient of the first loss."""
    still = {"schedule": {"name": "none"}, "stop": {"epochs": 1}, "loss": {"label_smoothing": 0.0}}
    sgd = {"optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}}
    everything = {"data": {"batch_size": 5000}, "model": {}}
    settings = [from_zoo(body=0.5, decay=0.2), sgd, still, everything]
    setup = setup_of(*settings)
    assert len(setup.feeds["train"]) == 1
    model = setup.model.train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    ((inputs, targets),) = setup.feeds["train"].epoch(0)
    nn.functional.cross_entropy(model(inputs), targets).backward()
    run = trained(tmp_path / "run", *settings)
    after = last_weights(run.folder)
    for name, rate in (
        ("head.bias", 0.1),
        ("stages.stage2.block1.first.conv.weight", 0.05),
        ("stem.conv.weight", 0.002),
    ):
        step = before[name] - after[name]
        torch.testing.assert_close(step, rate * model.get_parameter(name).grad, rtol=1e-2, atol=1e-6)


# What goes in.


def test_images_are_prepared_as_the_network_knows_them(tmp_path):
    setup = setup_of(data=colour_images(tmp_path / "colour.npz"))
    raw = setup.dataset.fetch(torch.arange(4))
    mean, std = (torch.tensor(each, dtype=torch.float64).view(3, 1, 1) for each in (COLOUR.mean, COLOUR.std))
    expected = (raw.double() / 255 - mean) / std
    torch.testing.assert_close(setup.preprocessing(raw).double(), expected, rtol=1e-6, atol=1e-6)


def test_grey_images_on_a_network_for_colour():
    """They are prepared by the mean of the channels, and its first convolution takes one channel."""
    setup = setup_of()
    raw = setup.dataset.fetch(torch.arange(4))
    expected = (raw.double() / 255 - 0.4) / 0.25
    torch.testing.assert_close(setup.preprocessing(raw).double(), expected, rtol=1e-6, atol=1e-6)
    kernel = network(COLOUR).get_parameter("stem.conv.weight")
    found = setup.model.get_parameter("stem.conv.weight")
    torch.testing.assert_close(found, kernel.sum(1, keepdim=True), rtol=1e-6, atol=1e-7)


def test_colour_images_on_a_network_for_grey(tmp_path):
    """What has three equal channels gives the features that it gave in grey."""
    path = tmp_path / "data.npz"
    grey = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 1), dtype=np.uint8)
    np.savez(path, x=grey.repeat(3, 3), y=np.arange(60) % 3)
    setup = setup_of(from_zoo("grey"), data=path)
    raw = setup.dataset.fetch(torch.arange(6))
    model, before = setup.model.eval(), network(GREY).eval()
    model.head, before.head = nn.Identity(), nn.Identity()
    with torch.no_grad():
        expected = before((raw[:, :1] / 255 - 0.6) / 0.3)
        torch.testing.assert_close(model(setup.preprocessing(raw)), expected, rtol=1e-4, atol=1e-5)


def folder_of_photographs(path, side):
    drawn = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (path / name).mkdir(parents=True)
        for number in range(12):
            pixels = drawn.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path / name / f"{number}.png")
    return path


def test_photographs_are_brought_to_the_size_on_the_card(tmp_path):
    folder = folder_of_photographs(tmp_path / "photographs", 40)
    setup = setup_of(data=folder)
    assert setup.dataset.item_shape == (3, 16, 16) and setup.recipe.data.image_size == 16
    assert setup_of({"data": {"image_size": 32}}, data=folder).dataset.item_shape == (3, 32, 32)
    large = Card(**{**vars(COLOUR), "shape": (3, 224, 224)})
    assert side_of(large) == 128, "at its whole size a step takes three times as long"


def test_ones_own_way_to_prepare_wins():
    setup = setup_of({"data": {"preprocess": "none"}})
    raw = setup.dataset.fetch(torch.arange(4))
    assert setup.recipe.data.preprocess == "none"
    torch.testing.assert_close(setup.preprocessing(raw), raw / 255)


def test_a_new_head_for_the_classes_and_the_rest_as_it_was(tmp_path):
    setup = setup_of(data=colour_images(tmp_path / "colour.npz"))
    before, found = network(COLOUR).state_dict(), setup.model.state_dict()
    assert found["head.weight"].shape == (3, 16) and not found["head.bias"].any()
    assert 0.003 < found["head.weight"].std() < 0.03
    for name in before.keys() - {"head.weight", "head.bias"}:
        assert torch.equal(found[name], before[name]), name
    assert setup.recipe.model.name == "resnet" and list(setup.recipe.model.settings["blocks"]) == [1, 1]


def test_statistics_follow_as_fast_as_torchs_do(monkeypatch):
    """Slower ones would not keep up in a short training; faster ones, and plain means, stay as they are."""
    opened = pretrained.open_source("colour")
    norms = [module for module in opened.module.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm, momentum in zip(norms, (0.001, 0.3, None), strict=False):
        norm.momentum = momentum
    monkeypatch.setattr(pretrained, "open_source", lambda source: opened)
    setup = setup_of()
    found = [module.momentum for module in setup.model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert found == [0.1, 0.3, None, *[0.1] * (len(norms) - 3)]


def test_a_built_in_recipe_for_another_network_does_not_change_this_one(tmp_path):
    """The recipe "fast" has settings of its own network, some of the same names."""
    card = Card(**{**vars(GREY), "name": "cnn", "architecture": "cnn", "settings": {"width": 4}})
    shelf.put(card, network(card).state_dict())
    settings = [{**PLAIN, "stop": {"epochs": 1}}, from_zoo("cnn")]
    run = runs.train(None, "digits", "fast", settings=settings, out=tmp_path / "run")
    again = load(run.folder)
    assert {n: t.shape for n, t in again.state_dict().items()} == {
        n: t.shape for n, t in run.model.state_dict().items()
    }


# Refusals; each leaves nothing behind.


@pytest.mark.parametrize(
    ("data", "settings", "error", "message"),
    [
        ("wine", {}, ModelError, "colour knows data of the kind image, and these are of the kind table"),
        ("digits", from_zoo(train="stages.stage9"), ModelError, "no module 'stages.stage9'"),
        ("digits", from_zoo("colours"), ModelError, "no pretrained network 'colours'.*did you mean 'colour'"),
        ("digits", {"model": {"name": "mlp"}}, RecipeError, "model.name = 'mlp': colour, which training"),
        ("digits", {"model": {"width": 16}}, RecipeError, "model.width = 16: colour, which training"),
        (
            "digits",
            from_zoo(depth="stages.stage9"),
            ModelError,
            "no depth 'stages.stage9'; it has stem, stages.st",
        ),
        (
            "digits",
            from_zoo(depth="stages.stage1", train="stages.stage2"),
            ModelError,
            "transfer.train: stages.stage2 is left out above transfer.depth = 'stages.stage1'",
        ),
        (
            "digits",
            from_zoo("", depth="stem"),
            RecipeError,
            "transfer.depth: there are no layers to leave out",
        ),
        ("digits", from_zoo(body=0.0), RecipeError, "transfer.body"),
        ("digits", from_zoo(decay=1.5), RecipeError, "transfer.decay"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path, data, settings, error, message):
    with pytest.raises(error, match=message):
        trained(tmp_path / "run", settings, data=data)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("model", ["cnn", nn.Linear(2, 2)])
def test_a_model_besides_a_source_is_refused(tmp_path, model):
    with pytest.raises(
        RecipeError, match=r"transfer\.source names a network to start from: leave the model out"
    ):
        runs.train(model, "digits", settings=[from_zoo()], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_left_to_the_recipe_is_none_besides():
    setup = setup_of({"model": {"name": "auto"}})
    assert setup.recipe.model.name == "resnet"


def test_batches_from_python_with_a_source_are_refused(tmp_path):
    batches = [(torch.randn(8, 4), torch.zeros(8, dtype=torch.int64))]
    with pytest.raises(RecipeError, match=r"transfer\.source: batches from Python come with a network"):
        runs.train(nn.Linear(4, 2), batches, settings=[from_zoo()], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_images_too_small_for_the_network_are_refused_before_training(tmp_path):
    """Its convolutions would take them, but a network of their shape cannot be made to load the run."""
    deep = Card(**{**vars(COLOUR), "name": "deep", "settings": {"width": 4, "blocks": [1, 1, 1, 1]}})
    shelf.put(deep, network(deep).state_dict())
    with pytest.raises(ModelError, match=r"deep does not take items of shape \(1, 8, 8\): .*too small"):
        trained(tmp_path / "run", from_zoo("deep"))
    assert not (tmp_path / "run").exists()


def test_the_pretrained_way_to_prepare_needs_a_source():
    with pytest.raises(RecipeError, match=r"'pretrained' needs a network to start from, in transfer\.source"):
        runs.make_setup(None, "digits", settings=[{"data": {"preprocess": "pretrained"}}])


# Afterwards.


CUT = from_zoo(depth="stages.stage1", decay=0.5)


@pytest.mark.parametrize("way", ["all", "cut", *WAYS])
def test_the_run_is_used_without_the_network_it_came_from(tmp_path, zoo, way):
    run = trained(tmp_path / "run", *WAYS.get(way, [CUT] if way == "cut" else ()))
    shutil.rmtree(zoo)
    assert json.loads((run.folder / "pretrained.json").read_text())["name"] == "colour"
    again = load(run.folder)
    setup_weights = load_file(run.folder / "model.safetensors")
    assert all(torch.equal(tensor, setup_weights[name]) for name, tensor in again.state_dict().items())
    predictor = load_predictor(run.folder)
    from sklearn.datasets import load_digits

    raw = torch.from_numpy(load_digits().images[:5] * 255 / 16).round().to(torch.uint8).unsqueeze(1)
    answers = predict(predictor, raw)
    with torch.no_grad():
        prepared = (raw.double() / 255 - 0.4) / 0.25
        expected = again.double()(prepared).softmax(1)
    torch.testing.assert_close(answers.double(), expected, rtol=1e-4, atol=1e-5)
    told = export(predictor, raw, tmp_path / "net.pt2", predictor.preprocessing.spec)
    assert told["difference"] <= 1e-4
    loaded = torch.export.load(tmp_path / "net.pt2").module()
    torch.testing.assert_close(loaded(raw), answers, rtol=1e-4, atol=1e-5)


def test_the_scores_are_those_of_predict(tmp_path):
    run = trained(tmp_path / "run", from_zoo(train="head"))
    setup = setup_of(from_zoo(train="head"))
    test = setup.splits.test
    answers = predict(load_predictor(run.folder), setup.dataset.fetch(test))
    right = (answers.argmax(1) == setup.dataset.targets[test]).double().mean().item()
    assert run.result["test"]["accuracy"] == pytest.approx(right, abs=1e-9)


def test_a_head_on_a_lower_depth_is_the_logistic_regression_of_its_features(tmp_path):
    """Of the network's own, worked out here by hand; with the weights of the run's end."""
    settings = [{"optimizer": {"name": "lbfgs"}, "regularize": {"l2": 0.05}, "stop": {"epochs": 100}}]
    settings += [{"loss": {"label_smoothing": 0.0}}, from_zoo(train="head", depth="stages.stage1")]
    run = trained(tmp_path / "run", *settings)
    setup = setup_of()
    body = network(COLOUR)
    adapt_channels(body, 1, sample=torch.zeros(1, 3, 16, 16))
    items = setup.splits.train
    with torch.no_grad():
        raw = setup.dataset.fetch(items).double() / 255
        maps = body.double().eval().stages.stage1(body.stem((raw - 0.4) / 0.25))
    head = {name: t.double().requires_grad_() for name, t in last_weights(run.folder).items()}
    logits = nn.functional.linear(maps.mean((2, 3)), head["weight"], head["bias"])
    loss = nn.functional.cross_entropy(logits, setup.dataset.targets[items])
    loss = loss + 0.05 * head["weight"].square().sum()
    for gradient in torch.autograd.grad(loss, list(head.values())):
        assert gradient.abs().max() < 1e-4


def test_what_is_left_of_a_network_trains_at_rates_by_layer():
    """The layers above the depth are in no group; the depths below it count down from there."""
    setup = setup_of(CUT)
    names = {name for name, _ in setup.model.named_parameters()}
    assert all(name.startswith(("stem", "stages.stage1", "head")) for name in names)
    rates = {group["name"]: group["lr"] for group in setup.optimizer.param_groups}
    assert list(rates) == ["head", "pool", "stem"]
    assert [rate / rates["head"] for rate in rates.values()] == pytest.approx([1, 0.3, 0.3 * 0.5])


# A run as the source.


def test_a_run_of_images_as_the_source(tmp_path):
    """A head of fewer classes on its network, with its own way to prepare."""
    small = {"model": {"name": "resnet", "width": 8, "blocks": [1, 1]}, "stop": {"epochs": 1}}
    first = runs.train(None, "digits", settings=[PLAIN, small], out=tmp_path / "first")
    grey = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", x=grey, y=np.arange(60) % 3)
    path = str(first.folder)
    setup = setup_of(from_zoo(path), data=tmp_path / "data.npz")
    before, found = load_file(first.folder / "model.safetensors"), setup.model.state_dict()
    assert found["head.weight"].shape == (3, 16)
    for name in before.keys() - {"head.weight", "head.bias"}:
        assert torch.equal(found[name], before[name]), name
    own, raw = load_predictor(first.folder).preprocessing, setup.dataset.fetch(torch.arange(4))
    torch.testing.assert_close(setup.preprocessing(raw), own(raw), rtol=1e-5, atol=1e-5)
    card = setup.card
    assert card.source == path and card.data == "digits" and card.classes == tuple("0123456789")
    assert card.score == f"test accuracy {first.result['test']['accuracy']:.1%}"
    run = trained(tmp_path / "second", from_zoo(path), data=tmp_path / "data.npz")
    third = setup_of(from_zoo(str(run.folder)))
    shutil.rmtree(first.folder)
    assert third.card.outputs == 3 and load(run.folder)


@pytest.mark.parametrize(
    ("data", "settings", "message"),
    [
        ("wine", {}, "is of a table"),
        ("digits", {"data": {"preprocess": "pca"}, "model": {"name": "mlp"}}, "prepares its images by pca"),
        ("digits", {"data": {"preprocess": "whiten"}}, "prepares its images by whiten"),
    ],
)
def test_runs_that_cannot_be_taken_on(tmp_path, data, settings, message):
    first = runs.train(None, data, settings=[settings, {"stop": {"epochs": 1}}], out=tmp_path / "first")
    with pytest.raises(ModelError, match=message):
        setup_of(from_zoo(str(first.folder)))


def test_layers_below_the_depth_can_be_told_where_training_begins(tmp_path):
    """The stem is frozen, the block under the depth is not."""
    run = trained(tmp_path / "run", from_zoo(depth="stages.stage1", train="stages.stage1"))
    before, found = network(COLOUR).state_dict(), last_weights(run.folder)
    for name in (name for name in found if name.startswith(("stem.norm", "stages"))):
        assert torch.equal(found[name], before[name]) == name.startswith("stem"), name


def test_a_run_with_layers_left_out_is_no_source(tmp_path):
    run = trained(tmp_path / "cut", CUT)
    told = "cut is a head on stages.stage1, the layers above left out: start from colour, with the same"
    with pytest.raises(ModelError, match=told):
        setup_of(from_zoo(str(run.folder)))


@pytest.fixture
def hub_run(tmp_path):
    """A run as one that started from a hub: `pretrained.json` says how to make its network."""
    folder = trained(tmp_path / "run").folder
    recipe = folder / "recipe.toml"
    text = re.sub(r"(?s)\[model\].*?\n\n", '[model]\nname = "pretrained"\n\n', recipe.read_text())
    recipe.write_text(text)
    return folder


def test_a_network_that_a_library_made_is_loaded_but_not_taken_on(hub_run):
    weights = load_file(hub_run / "model.safetensors")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in load(hub_run).state_dict().items())
    with pytest.raises(
        ModelError, match="run went on from colour, whose library made its network: start from that"
    ):
        setup_of(from_zoo(str(hub_run)))


def test_the_record_of_a_network_imports_no_code(hub_run, tmp_path, monkeypatch):
    (tmp_path / "evil_record.py").write_text("raise SystemExit('run')")
    monkeypatch.syspath_prepend(tmp_path)
    path = hub_run / "pretrained.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "architecture": "evil_record:make"}))
    with pytest.raises(TrustError, match="evil_record:make"):
        load(hub_run)
    assert "evil_record" not in sys.modules


# Text.

TINY = {"model": {"name": "transformer", "width": 16, "depth": 1, "heads": 2, "context": 16}, **PLAIN}


@pytest.fixture
def text_run(tmp_path):
    (tmp_path / "one.txt").write_text("abc abd bad cab dab. " * 60)
    settings = [{**TINY, "stop": {"epochs": 1}}]
    return runs.train(None, tmp_path / "one.txt", settings=settings, out=tmp_path / "one").folder


@pytest.mark.parametrize(
    "letters",
    [
        "abcdez. ",  # other ones, more of them
        "abz",  # fewer
        "abcdefghijklmno.",  # as many as the network is wide
        ".abcde",  # as many as it knew, others
    ],
)
def test_known_characters_keep_their_rows_and_new_ones_begin_anew(tmp_path, text_run, letters):
    words = np.random.default_rng(0).choice(list(letters), 2000)
    (tmp_path / "two.txt").write_text("".join(words))
    setup = runs.make_setup(None, tmp_path / "two.txt", settings=[PLAIN, from_zoo(str(text_run))])
    known = json.loads((text_run / "preprocessing.json").read_text())["classes"]
    before, found = load_file(text_run / "model.safetensors"), setup.model.state_dict()
    assert before.keys() == found.keys()
    for name in before.keys() - {"token.weight"}:
        assert torch.equal(found[name], before[name]), name
    assert len(found["token.weight"]) == len(setup.dataset.classes) == len(set(letters))
    for row, character in enumerate(setup.dataset.classes):
        own = found["token.weight"][row]
        if character in known:
            assert torch.equal(own, before["token.weight"][known.index(character)]), character
        else:
            assert not any(torch.equal(own, other) for other in before["token.weight"])
            assert 0.005 < own.std() < 0.05, "as a network begins"


def test_a_language_model_is_trained_on_another_text(tmp_path, text_run):
    (tmp_path / "two.txt").write_text("zab zad. " * 150)
    settings = [PLAIN, from_zoo(str(text_run))]
    run = runs.train(None, tmp_path / "two.txt", settings=settings, out=tmp_path / "run")
    shutil.rmtree(text_run)
    predictor = load_predictor(run.folder)
    answers = predict(predictor, torch.zeros(2, 5, dtype=torch.int64))
    assert answers.shape == (2, 6) and torch.allclose(answers.sum(1), torch.ones(2))
    assert export(
        predictor, torch.zeros(2, 16, dtype=torch.int64), tmp_path / "n.pt2", predictor.preprocessing.spec
    )


def test_a_language_model_has_no_head_of_its_own(tmp_path, text_run):
    settings = [PLAIN, from_zoo(str(text_run), train="head")]
    with pytest.raises(
        ModelError, match=r"transfer\.train = 'head': a language model's head is its embedding"
    ):
        runs.train(None, tmp_path / "one.txt", settings=settings, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_language_model_has_no_depths_to_put_a_head_on(tmp_path, text_run):
    with pytest.raises(ModelError, match=r"transfer\.depth = 'blocks': a language model is trained whole"):
        setup_of(from_zoo(str(text_run), depth="blocks"), data=tmp_path / "one.txt")


def test_text_and_images_do_not_mix(tmp_path, text_run):
    with pytest.raises(ModelError, match="one knows data of the kind text, and these are of the kind image"):
        setup_of(from_zoo(str(text_run)))
    with pytest.raises(
        ModelError, match="colour knows data of the kind image, and these are of the kind text"
    ):
        setup_of(data=tmp_path / "one.txt")


# Values of images.


def test_values_are_predicted_from_images(tmp_path):
    drawn = np.random.default_rng(0)
    pixels = drawn.integers(0, 256, (120, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", x=pixels, y=30 + pixels.mean((1, 2)) + drawn.normal(0, 0.1, 120))
    ends = []
    for cache in (True, False):
        way = from_zoo(train="head", cache=cache)
        run = trained(tmp_path / str(cache), {"seed": 1}, way, data=tmp_path / "data.npz")
        assert run.result["task"] == "regression"
        ends.append(load_file(run.folder / "model.safetensors"))
    assert ends[0]["head.weight"].shape == (1, 16)
    torch.testing.assert_close(ends[0]["head.weight"], ends[1]["head.weight"], rtol=1e-4, atol=1e-5)
    answers = predict(load_predictor(run.folder), torch.from_numpy(pixels[:6]).unsqueeze(1))
    assert answers.shape == (6,) and 100 < answers.mean() < 220, "in the units of the targets"


def test_what_two_runs_share_is_what_both_would_prepare():
    """Pixels as each one's own network knows them, and no features of a head in place of the images."""
    quick = {"augment": [], "stop": {"epochs": 1}}

    def made(source, train, like=None):
        transfer = {"transfer": {"source": source, "train": train}}
        return runs.make_setup(None, "digits", settings=[quick, transfer], like=like)

    def first(setup):
        return next(iter(setup.feeds["train"].epoch(0)))[0]

    head = made("ravine-fashion", "head")
    for source, like in (("ravine-fashion", head), ("ravine-cifar10", made("ravine-fashion", "all"))):
        torch.testing.assert_close(first(made(source, "all", like)), first(made(source, "all")))
