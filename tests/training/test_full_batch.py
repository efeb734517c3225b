"""Full-batch training: noise off or refused with the list of it (C23), the mean over all items, the end."""

import json
import math
import tomllib
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from ravine.errors import Interrupted, ModelError, NotFiniteError, RavineError, RecipeError
from ravine.lab.range_test import range_test
from ravine.optim import minimize
from ravine.training import checkpoint, full_batch, quiet, signals
from ravine.training import loop as loops
from ravine.training import run as runs
from ravine.training.own_optimizers import own_optimizer
from ravine.transfer import freeze

NAMES = ("lbfgs", "bfgs", "newton")
LINEAR = {"model": {"name": "linear"}, "stop": {"epochs": 12, "patience": 0}}


def full(name="lbfgs", **settings):
    return {"optimizer": {"name": name, **settings}}


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def problems_of(*arguments, **options):
    with pytest.raises(RecipeError) as caught:
        runs.make_setup(*arguments, **options)
    return caught.value.problems


# What is turned off, and what is refused.


def test_what_the_named_recipe_brings_along_is_turned_off_and_told():
    setup = runs.make_setup(None, "digits", settings=[full()])
    recipe = setup.recipe
    assert recipe.augment == () and recipe.precision == "fp32" and recipe.optimizer.average == 0
    assert recipe.schedule.name == "none" and recipe.model.settings["normalization"] == "layer"
    assert recipe.optimizer.settings["allow_noise"] is False and recipe.optimizer.settings["max_iter"] == 1
    assert setup.steps_per_epoch == 1 and setup.noise == []
    (told,) = [note for note in setup.notes if note.startswith("lbfgs needs")]
    for change in ("model.normalization = layer", "augment = []", "precision = fp32"):
        assert change in told
    table = runs.make_setup(None, "wine", settings=[full()])
    assert table.recipe.model.settings["dropout"] == 0.0
    assert "model.dropout = 0.0" in " ".join(table.notes)
    assert runs.make_setup("linear", "wine", settings=[full()]).notes == []


def test_all_noise_that_was_asked_for_is_refused_at_once():
    asked = {
        "augment": ["shift"],
        "precision": "bf16",
        "data": {"batch_size": 64},
        "model": {"name": "cnn", "dropout": 0.2, "normalization": "batch"},
        "optimizer": {"name": "lbfgs", "clip_norm": 1.0},
    }
    clip, needs, *noise = problems_of(None, "digits", settings=[asked])
    assert clip.startswith("optimizer.clip_norm = 1.0")
    assert "optimizer.allow_noise=true" in needs
    keys = [problem.split(" = ")[0] for problem in noise]
    assert keys == ["data.batch_size", "augment", "precision", "model.dropout", "model.normalization"]
    advice = [
        "optimizer.accumulate=20",
        "augment=[]",
        "precision=fp32",
        "model.dropout=0",
        "normalization=layer",
    ]
    assert all(hint in problem for hint, problem in zip(advice, noise, strict=True))


def test_the_advice_that_is_given_is_enough():
    asked = {
        "data": {"batch_size": 64},
        "model": {"name": "cnn", "dropout": 0.0, "normalization": "layer"},
        "optimizer": {"name": "lbfgs", "accumulate": 20},
    }
    setup = runs.make_setup(None, "digits", settings=[asked])
    assert setup.steps_per_epoch == 1 and len(setup.feeds["train"]) == 20


def test_a_recipe_of_another_optimizer_lists_what_it_asked_for(tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text(
        'augment = ["shift"]\n[model]\nname = "mlp"\ndropout = 0.5\n[optimizer]\nname = "adamw"\n'
    )
    problems = problems_of(None, "digits", file, settings=[full()])
    assert [problem.split(" = ")[0] for problem in problems[1:]] == ["augment", "model.dropout"]


class Functional(nn.Module):
    """Noise that no module's name gives away."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.layer = kind, nn.Linear(5, 3)

    def forward(self, x):
        if self.kind == "random":
            x = functional.dropout(x, 0.5, self.training)
        if self.kind == "mixing" and self.training:
            x = x - x.mean(0)
        if self.kind == "seldom" and self.training and torch.rand(()) < 1e-6:
            return 0 * self.layer(x)
        if self.kind == "faint" and self.training:
            x = x + 1e-5 * torch.randn_like(x)
        return self.layer(x)


def batches(count=6, items=8):
    draw = torch.Generator().manual_seed(0)
    return [
        (torch.randn(items, 5, generator=draw), torch.randint(0, 3, (items,), generator=draw))
        for _ in range(count)
    ]


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (Functional("random"), "the network draws at random"),
        (Functional("mixing"), "the network mixes items"),
        (Functional("seldom"), "the network draws at random"),
        (Functional("faint"), "the network draws at random"),
        (nn.utils.parametrizations.spectral_norm(nn.Linear(5, 3)), "the network changes its buffers"),
        (nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.1), nn.Linear(4, 3)), "dropout in '1'"),
        (
            nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4), nn.Linear(4, 3)),
            "batch normalization in '1' and 1 more",
        ),
    ],
)
def test_noise_in_a_network_of_ones_own_is_found_and_the_network_left_as_it_was(model, told):
    model.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    _, problem = problems_of(model, batches(), settings=[full()])
    assert problem.startswith(told)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)
    model.train()


def test_frozen_layers_are_not_noisy_and_those_that_train_are():
    """Frozen layers stay in evaluation mode, whatever the rest is in."""
    model = nn.Sequential(
        *(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(0.1), nn.Linear(4, 4)),
        *(nn.BatchNorm1d(4), nn.Linear(4, 3)),
    )
    freeze(model, until="3")
    _, problem = problems_of(model, batches(), settings=[full()])
    assert problem.startswith("batch normalization in '4': ")
    freeze(model)
    assert runs.make_setup(model, batches(), settings=[full()]).noise == []
    assert model.training and not model[1].training and not model[2].training


def test_a_network_of_two_precisions_is_refused_as_a_mistake():
    model = nn.Sequential(nn.Linear(5, 4), Casting(4, 3, dtype=torch.float64))
    with pytest.raises(ModelError, match=r"lbfgs cannot train this network: .* one type"):
        runs.make_setup(model, batches(), settings=[full()])


class Casting(nn.Linear):
    """A layer in a precision of its own."""

    def forward(self, x):
        return super().forward(x.to(self.weight.dtype)).float()


def test_a_network_without_noise_is_none():
    setup = runs.make_setup(Functional(""), batches(), settings=[full()])
    assert setup.noise == [] and setup.steps_per_epoch == 1


def test_clipping_and_bounds_are_refused_though_noise_is_allowed():
    settings = [full(allow_noise=True, clip_norm=0.5), {"regularize": {"max_norm": 2.0}}]
    clip, limit = problems_of("linear", "wine", settings=settings)
    assert "clip_norm=0" in clip and "set regularize.max_norm=0" in limit


def test_penalties_are_no_noise():
    setup = runs.make_setup("linear", "wine", settings=[full(), {"regularize": {"l1": 0.01, "l2": 0.1}}])
    assert setup.noise == [] and setup.penalty is not None


@pytest.mark.parametrize("name", NAMES)
def test_allowed_noise_goes_on_with_a_warning(name, tmp_path):
    noisy = {
        "model": {"name": "mlp", "width": 4, "depth": 1, "dropout": 0.3, "normalization": "none"},
        "data": {"batch_size": 62},
        "stop": {"epochs": 2},
        **full(name, allow_noise=True),
    }
    run = runs.train(None, "wine", settings=[noisy], out=tmp_path / "run")
    assert run.result["stopped"] == "reached 2 epochs" and run.result["steps"] == 4, (
        "mini-batches: 2 an epoch"
    )
    (warning,) = [entry["text"] for entry in run.result["noticed"] if "may be misled" in entry["text"]]
    assert warning.startswith(name) and "data.batch_size = 62" in warning and "model.dropout = 0.3" in warning
    assert all(math.isfinite(row["validation.loss"]) for row in rows_of(run.folder))


def test_there_is_no_rate_to_look_for():
    setup = runs.make_setup("linear", "wine", settings=[full()])
    with pytest.raises(RavineError, match="has no learning rate to look for"):
        range_test(setup)


def test_a_class_of_ones_own_made_from_it_is_one_of_them():
    assert own_optimizer("ravine.optim:LBFGS").full_batch


# The loss: the mean over all items, whatever the chunks.


def step_loss(setup):
    model = setup.model
    loop = SimpleNamespace(
        setup=setup, state=loops.State(), poll=lambda: None, parameters=list(model.parameters())
    )
    return full_batch.StepLoss(loop, setup.optimizer)


def evaluated(settings, data, name="lbfgs", **optimizer):
    """The loss in chunks, its gradient, and the setup."""
    setup = runs.make_setup(None, data, settings=[*settings, full(name, **optimizer)])
    setup.model.double()
    for feed in setup.feeds.values():
        if feed.batches.inputs.is_floating_point():
            feed.batches.inputs = feed.batches.inputs.double()
    if setup.objective.weights is not None:
        weights = setup.objective.weights.double()
        smoothing = setup.recipe.loss.label_smoothing
        setup.objective = replace(
            setup.objective,
            mean=lambda outputs, targets: functional.cross_entropy(
                outputs, targets, weights, label_smoothing=smoothing
            ),
            weights=weights,
        )
    return step_loss(setup), setup


@pytest.mark.parametrize("name", ["lbfgs", "newton"])
@pytest.mark.parametrize(
    ("data", "loss"),
    [
        ("wine", {}),
        ("wine", {"class_weights": "balanced", "label_smoothing": 0.1}),
        ("diabetes", {}),
    ],
)
def test_chunks_give_the_loss_and_the_gradient_of_all_items_at_once(data, loss, name, monkeypatch):
    """The last chunk is smaller, and classes are spread unevenly over them."""
    settings = [{"model": {"name": "linear"}, "loss": loss, "data": {"batch_size": 23}}]
    in_chunks, setup = evaluated(settings, data, name, accumulate=100)
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self)  # the loop's own precision is float32
    assert len(setup.feeds["train"]) > 3
    value = in_chunks()
    if name == "newton":
        value.backward()
    inputs, targets = (torch.cat(parts) for parts in zip(*setup.feeds["train"].epoch(0), strict=True))
    whole = setup.objective(setup.model(inputs), targets)
    expected = torch.autograd.grad(whole, list(setup.model.parameters()))
    assert value.item() == pytest.approx(whole.item(), rel=1e-12)
    for parameter, gradient in zip(setup.model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-12)


def test_every_character_of_a_text_but_the_first_is_predicted_once(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 60)
    small = {"name": "transformer", "width": 8, "depth": 1, "heads": 2, "context": 32}
    setup = runs.make_setup(None, text, settings=[{"model": small}, full()])
    loss = step_loss(setup)
    loss()
    (scores,) = loss.scores.values()
    assert scores.items == len(setup.splits.train) - 1
    assert len(setup.feeds["train"]) == setup.recipe.optimizer.accumulate


@pytest.mark.parametrize("name", NAMES)
def test_the_minimum_is_that_of_minimize(name, tmp_path):
    """Of the last weights: those that are kept have the lowest loss without the penalty."""
    settings = [LINEAR, {"stop": {"epochs": 300}}, full(name, weight_decay=0.1)]
    run = runs.train(None, "wine", settings=settings, out=tmp_path / "run")
    setup = runs.make_setup(None, "wine", settings=settings)
    inputs, targets = (torch.cat(parts).clone() for parts in zip(*setup.feeds["train"].epoch(0), strict=True))
    model = setup.model.double()

    def loss():
        penalty = sum(parameter.square().sum() for parameter in model.parameters())
        return functional.cross_entropy(model(inputs.double()), targets) + 0.05 * penalty

    best = minimize(loss, model, tol=1e-10)
    assert best.success
    tensors, state = checkpoint.load_newest(run.folder / "checkpoints", print)
    weights = checkpoint.unflatten(state["model"], tensors)
    assert run.result["stopped"].startswith("converged")
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(weights[key].double(), tensor, rtol=0, atol=2e-3)


# Whole runs.


def test_a_run_ends_where_it_has_converged_and_says_why(tmp_path):
    settings = [LINEAR, {"stop": {"epochs": 300}}, full(weight_decay=0.1)]
    run = runs.train(None, "wine", settings=settings, out=tmp_path / "run")
    assert run.result["stopped"].startswith("converged: ")
    rows = rows_of(run.folder)
    assert run.result["epochs"] == run.result["steps"] == len(rows) < 100
    # Each row is about the weights that it was written at: the step's end.
    assert rows[0]["train.loss"] < math.log(3) and rows[-1]["gradient_norm"] < 1e-3 < rows[0]["gradient_norm"]


def test_the_training_scores_are_those_of_the_weights_that_the_step_ended_with(tmp_path):
    settings = [LINEAR, {"stop": {"epochs": 5, "monitor": "train.loss"}}, full(weight_decay=0.01)]
    run = runs.train(None, "wine", settings=settings, out=tmp_path / "run")
    row = rows_of(run.folder)[-1]
    assert run.result["best_epoch"] == 5
    assert row["train.loss"] == pytest.approx(run.result["train"]["loss"], rel=1e-5)
    assert row["train.accuracy"] == run.result["train"]["accuracy"]


def test_the_recipe_of_a_run_makes_the_same_run_again(tmp_path):
    run = runs.train(None, "wine", settings=[full(), {"stop": {"epochs": 3}}], out=tmp_path / "run")
    again = runs.train(None, "wine", run.folder / "recipe.toml", out=tmp_path / "again")
    first, second = load_file(run.folder / "model.safetensors"), load_file(again.folder / "model.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)
    written = tomllib.loads((run.folder / "recipe.toml").read_text())
    assert written == tomllib.loads((again.folder / "recipe.toml").read_text())
    assert written["data"]["batch_size"] == 124 and written["optimizer"]["accumulate"] == 1


def test_a_run_on_images_that_are_prepared_anew_each_time_finds_the_same(tmp_path):
    """With `data.memory_gb` too small, nothing prepared is kept; the chunks are the same."""
    settings = [LINEAR, {"stop": {"epochs": 4, "monitor": "train.loss"}}, full()]
    kept = runs.train(None, "digits", settings=settings, out=tmp_path / "kept")
    anew = runs.train(
        None, "digits", settings=[*settings, {"data": {"memory_gb": 1e-6}}], out=tmp_path / "anew"
    )
    one, other = rows_of(kept.folder)[-1], rows_of(anew.folder)[-1]
    assert one["train.loss"] == pytest.approx(other["train.loss"], rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("evaluation", "iterations"), [(2, 1), (7, 1), (3, 5), (20, 5)])
def test_a_run_stopped_within_a_step_ends_bit_identical(name, evaluation, iterations, tmp_path, monkeypatch):
    settings = [
        LINEAR,
        {"data": {"batch_size": 40}},
        full(name, accumulate=4, max_iter=iterations, tolerance_grad=0.0, tolerance_change=0.0),
        {"stop": {"epochs": 6}},
    ]
    whole = runs.train(None, "wine", settings=settings, out=tmp_path / "whole")
    original, calls = full_batch.StepLoss.__call__, 0

    def counted(self):
        nonlocal calls
        calls += 1
        if calls == evaluation:
            self.loop.stop.signum = 2
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(full_batch.StepLoss, "__call__", counted)
        with pytest.raises(Interrupted):
            runs.train(None, "wine", settings=settings, out=tmp_path / "run")
    resumed = runs.resume(tmp_path / "run")
    first, second = (load_file(run.folder / "model.safetensors") for run in (whole, resumed))
    assert all(torch.equal(first[key], second[key]) for key in first)
    keys = ("train.loss", "validation.loss", "gradient_norm", "update_ratios")
    one, other = rows_of(whole.folder), rows_of(resumed.folder)
    assert [[row[key] for key in keys] for row in one] == [[row[key] for key in keys] for row in other]


def test_a_converged_run_that_is_stopped_before_its_end_is_not_trained_on(tmp_path, monkeypatch):
    settings = [LINEAR, {"stop": {"epochs": 300}}, full(weight_decay=0.1)]
    whole = runs.train(None, "wine", settings=settings, out=tmp_path / "whole")
    original = loops.Loop.record

    def stopping(self, row):
        original(self, row)
        if self.state.ended:
            self.save()
            raise signals.StopNow

    with monkeypatch.context() as patch:
        patch.setattr(loops.Loop, "record", stopping)
        with pytest.raises(Interrupted):
            runs.train(None, "wine", settings=settings, out=tmp_path / "run")
    resumed = runs.resume(tmp_path / "run")
    assert resumed.result["stopped"] == whole.result["stopped"]
    assert resumed.result["epochs"] == whole.result["epochs"]


def test_batches_from_python_are_one_step_an_epoch(tmp_path):
    model = nn.Linear(5, 3)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.randn(50, 5), torch.randint(0, 3, (50,))), 16, shuffle=True
    )
    settings = [full(weight_decay=0.1), {"stop": {"epochs": 100}}]
    run = runs.train(model, loader, settings=settings, out=tmp_path / "run")
    assert run.result["steps"] == run.result["epochs"] and run.result["stopped"].startswith("converged")
    written = tomllib.loads((run.folder / "recipe.toml").read_text())
    assert written["optimizer"]["accumulate"] == 4 and written["schedule"]["name"] == "none"


class Overflowing(nn.Linear):
    """Infinite in training, from the start."""

    def forward(self, x):
        return super().forward(x) * (math.inf if self.training else 1.0)


def test_a_loss_that_is_not_finite_from_the_start_is_told_as_ever(tmp_path):
    with pytest.raises(NotFiniteError, match="the training loss became"):
        runs.train(Overflowing(5, 3), batches(), settings=[full()], out=tmp_path / "run")


def test_recipes_of_other_optimizers_are_returned_as_they_are():
    recipe = runs.make_setup("linear", "wine").recipe
    assert quiet.quieted(recipe, {}, "linear", 10, 100) is recipe
    assert quiet.turned_off(recipe, recipe) == []
