"""Mixup and CutMix in a training: shares as targets in the feed, the loss, the records and after a resume."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_resume import assert_identical, stop_at
from torch import nn

from ravine.cli import main
from ravine.errors import Interrupted, RecipeError
from ravine.generalize.augment import CutMix, Draws, Flip, Mixup
from ravine.lab.range_test import range_test
from ravine.training import full_batch
from ravine.training import loop as loops
from ravine.training import run as runs
from ravine.training.augment import MixupOrCutMix
from ravine.training.evaluate import LOSS_UNIT, class_numbers, count_right
from ravine.training.objective import objective
from ravine.training.recipe import LossSection, validate

CPU = torch.device("cpu")
MIXES = (["mixup"], ["cutmix"], ["mixup", "cutmix"])
PLAIN = {"model": {"name": "mlp", "width": 8, "dropout": 0.0, "normalization": "none"}, "precision": "fp32"}


@pytest.fixture
def colors(tmp_path):
    """Images all of one colour: class 0 is red, 1 green, 2 blue."""
    targets = np.arange(90) % 3
    pixels = np.zeros((90, 3, 8, 8), np.uint8)
    pixels[np.arange(90), targets] = 255
    np.savez(tmp_path / "colors.npz", x=pixels, y=targets)
    return tmp_path / "colors.npz"


@pytest.fixture
def pictures(tmp_path):
    draw = np.random.default_rng(0)
    targets = np.arange(300) % 3
    pixels = draw.integers(0, 128, (300, 8, 8, 3)) + 40 * (targets == np.arange(3)[:, None]).T[:, None, None]
    np.savez(tmp_path / "pictures.npz", x=pixels.astype(np.uint8), y=targets)
    return tmp_path / "pictures.npz"


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# The feed.


@pytest.mark.parametrize("names", MIXES)
def test_the_shares_are_those_of_the_pixels(names, colors):
    settings = {"augment": ["flip", *names], "data": {"preprocess": "none"}}
    setup = runs.make_setup("mlp", colors, settings=[settings])
    seen = 0
    for inputs, shares in setup.feeds["train"].epoch(0):
        torch.testing.assert_close(inputs.mean((2, 3)), shares, rtol=0, atol=1e-6)
        seen += int(((shares > 0.01) & (shares < 0.99)).any(1).sum())
    assert seen > 5
    _, targets = next(iter(setup.feeds["validation"].epoch(0)))
    assert targets.dtype == torch.int64, "what is judged is not mixed"


@pytest.mark.parametrize("names", [["mixup"], ["cutmix"]])
def test_what_is_mixed_is_what_the_other_transforms_give_and_addressed(names, pictures):
    settings = {"augment": ["flip", *names], "data": {"preprocess": "none"}, "seed": 5}
    setup = runs.make_setup("mlp", pictures, settings=[settings])
    feed = setup.feeds["train"]
    mix = {"mixup": Mixup(3), "cutmix": CutMix(3)}[names[0]]
    batches = zip(feed.batches.epoch(2), feed.batches.item_numbers(2), feed.epoch(2), strict=True)
    for (raw, numbers), items, (inputs, shares) in batches:
        draws = Draws(5, 2, items)
        wanted, wanted_shares = mix(Flip()(raw, draws).float() / 255, numbers, draws)
        torch.testing.assert_close(inputs, wanted, rtol=0, atol=1e-6)
        torch.testing.assert_close(shares, wanted_shares)
    whole, rest = list(feed.epoch(2)), list(feed.epoch(2, start=2))
    for one, other in zip(whole[2:], rest, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_where_both_are_named_each_sample_draws_one():
    x = torch.randint(0, 256, (2000, 3, 6, 6), generator=torch.manual_seed(0), dtype=torch.uint8)
    targets, draws = torch.arange(2000) % 3, Draws(1, 0, torch.arange(2000))
    mixup, cutmix = Mixup(3), CutMix(3, p=1.0)
    images, shares = MixupOrCutMix(mixup, cutmix)(x, targets, draws)
    pasted, _ = cutmix(x, targets, draws)
    ways = [(mixup(x, targets, draws)), (pasted / 255, cutmix(x, targets, draws)[1])]
    chosen = [(images == made).flatten(1).all(1) & (shares == wanted).all(1) for made, wanted in ways]
    assert (chosen[0] | chosen[1]).all()
    # Of 2000 tosses of a coin; and where nothing was pasted or blended both are alike.
    assert 900 < int((~chosen[1]).sum()) < 1100 and 800 < int((~chosen[0]).sum()) < 1100


# The loss.


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", ["none", "balanced"])
def test_the_loss_of_shares_in_closed_form(weights, smoothing):
    settings = LossSection(label_smoothing=smoothing, class_weights=weights)
    loss = objective("classification", settings, torch.tensor([70, 25, 5]), CPU)
    draw = torch.manual_seed(0)
    logits, numbers = torch.randn(40, 3, generator=draw), torch.randint(0, 3, (40,), generator=draw)
    shares = torch.rand(40, 3, generator=draw).softmax(1)
    ones = nn.functional.one_hot(numbers, 3).float()
    assert float(loss(logits, ones)) == pytest.approx(float(loss(logits, numbers)), rel=1e-6)
    assert loss.mass(ones) == pytest.approx(loss.mass(numbers), rel=1e-6)
    weighted = torch.ones(3) if loss.weights is None else loss.weights
    each = -((1 - smoothing) * shares + smoothing / 3) * logits.double().log_softmax(1) * weighted
    mass = float((shares * weighted).sum())
    assert float(loss(logits, shares)) == pytest.approx(float(each.sum()) / mass, rel=1e-6)
    assert loss.mass(shares) == pytest.approx(mass, rel=1e-6)
    parts = [(logits[:13], shares[:13]), (logits[13:], shares[13:])]
    total = sum(float(loss(*part)) * loss.mass(part[1]) for part in parts)
    assert total / sum(loss.mass(part[1]) for part in parts) == pytest.approx(
        float(each.sum()) / mass, rel=1e-6
    )


def test_counts_do_not_depend_on_how_the_items_are_cut():
    draw = torch.manual_seed(0)
    for classes in (2, 10, 100):
        logits = torch.randn(137, classes, generator=draw) * 3
        _, shares = Mixup(classes)(
            torch.zeros(137, 1, 1, 1), torch.randint(0, classes, (137,)), Draws(0, 0, torch.arange(137))
        )
        units, right = count_right(logits, shares)
        each = -(shares.double() * logits.double().log_softmax(1)).sum(1)
        assert units * LOSS_UNIT == pytest.approx(float(each.sum()), rel=1e-6)
        assert right == int((logits.argmax(1) == shares.argmax(1)).sum())
        for size in (1, 3, 16, 64):
            cut = [count_right(*part) for part in zip(logits.split(size), shares.split(size), strict=True)]
            assert (sum(part[0] for part in cut), sum(part[1] for part in cut)) == (units, right)


def test_class_numbers_are_those_of_the_greatest_share():
    assert class_numbers(torch.tensor([[0.4, 0.6], [0.5, 0.5]])).tolist() == [1, 0]
    assert class_numbers(torch.tensor([2, 0])).tolist() == [2, 0]


# Whole runs.


@pytest.mark.parametrize("loss", [{}, {"label_smoothing": 0.1, "class_weights": "balanced"}])
def test_what_is_recorded_is_the_plain_loss_against_the_shares(loss, pictures, tmp_path):
    """With steps too short to matter, so that all batches see the same weights."""
    settings = [PLAIN, {"augment": ["mixup"], "loss": loss, "stop": {"epochs": 1}}]
    settings += [{"optimizer": {"name": "sgd", "lr": 1e-12}, "schedule": {"name": "none"}}]
    run = runs.train(None, pictures, settings=settings, out=tmp_path / "run")
    setup = runs.make_setup(None, pictures, settings=settings)
    inputs, shares = (torch.cat(parts) for parts in zip(*setup.feeds["train"].epoch(0), strict=True))
    with torch.no_grad():
        logits = setup.model(inputs)
    (row,) = rows_of(run.folder)
    wanted = nn.functional.cross_entropy(logits.double(), shares.double())
    assert row["train.loss"] == pytest.approx(float(wanted), rel=1e-5)
    assert row["train.accuracy"] == float((logits.argmax(1) == shares.argmax(1)).double().mean())


def test_a_sound_network_is_not_told_to_be_too_small(pictures, tmp_path):
    """Shares cannot be learnt by heart to a loss of 0, class numbers can."""
    settings = [{"augment": ["mixup", "cutmix"], "stop": {"epochs": 2}, "model": {"name": "cnn"}}]
    run = runs.train(None, pictures, settings=settings, out=tmp_path / "run")
    told = [notice["text"] for notice in run.result["noticed"]]
    assert any("items were learnt by heart" in text for text in told)
    assert json.loads((run.folder / "local_model.best.json").read_text())["items"] > 0


def test_a_stopped_run_ends_bit_identical(pictures, tmp_path, monkeypatch):
    """In the middle of an epoch; with what is fitted, what mixes and what weighs."""
    settings = [
        {"augment": ["flip", "pca-color", "mixup", "cutmix"], "data": {"batch_size": 16}},
        {"loss": {"label_smoothing": 0.1, "class_weights": "balanced"}, "stop": {"epochs": 3}},
        {"model": {"name": "cnn", "width": 8, "dropout": 0.2}, "optimizer": {"accumulate": 2}},
    ]
    runs.train(None, pictures, settings=settings, out=tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_at(patch, "between_steps_when_due", 10)
        with pytest.raises(Interrupted):
            runs.train(None, pictures, settings=settings, out=tmp_path / "run")
    assert runs.resume(tmp_path / "run").result["epochs"] == 3
    assert_identical(tmp_path / "whole", tmp_path / "run")


def test_the_range_test_and_full_batches_with_noise_take_shares(pictures):
    setup = runs.make_setup(None, pictures, settings=[PLAIN, {"augment": ["mixup"]}])
    assert range_test(setup, steps=20).rows[0]["loss"] is not None
    noisy = {"augment": ["cutmix"], "optimizer": {"name": "lbfgs", "allow_noise": True}}
    setup = runs.make_setup(None, pictures, settings=[PLAIN, noisy])
    assert setup.noise == ["augment = ['cutmix']: images are changed at random; set augment=[]"]
    loop = SimpleNamespace(
        setup=setup, state=loops.State(), poll=lambda: None, parameters=list(setup.model.parameters())
    )
    loss = full_batch.StepLoss(loop, setup.optimizer)
    value = float(loss())
    inputs, shares = (torch.cat(parts) for parts in zip(*setup.feeds["train"].epoch(0), strict=True))
    assert loss.scores[value].items == len(inputs) == len(setup.splits.train)
    with torch.no_grad():
        wanted = setup.objective(setup.model(inputs), shares)
    assert value == pytest.approx(float(wanted), rel=1e-5)


def test_the_command_line_takes_them(pictures, tmp_path, capsys):
    settings = ['augment=["flip", "pca-color", "mixup"]', "stop.epochs=1", "model.name=mlp"]
    arguments = [argument for text in settings for argument in ("--set", text)]
    assert main(["train", str(pictures), "--out", str(tmp_path / "run"), *arguments]) == 0
    assert 'augment = ["flip", "pca-color", "mixup"]' in (tmp_path / "run" / "recipe.toml").read_text()
    capsys.readouterr()
    for name in ("mixup", "cutmix", "pca-color"):
        assert main(["recipe", name]) == 0
        told = capsys.readouterr().out
        assert f"{name} · augmentation" in told and f'in a recipe: augment = ["{name}"]' in told


# Refusals.


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["mixup", "flip"], "mixup must come last.* write augment = ['flip', 'mixup']"),
        (
            ["cutmix", "crop", "mixup"],
            "cutmix and mixup must come last.* write augment = ['crop', 'cutmix', 'mixup']",
        ),
        (["mixup", "mixup"], "mixup must come last, and once.* write augment = ['mixup']"),
        (["mixupp"], "unknown augmentation 'mixupp' (did you mean 'mixup'?)"),
    ],
)
def test_mistakes_in_the_list_are_told_with_all_others(names, told):
    with pytest.raises(RecipeError) as caught:
        validate([{"augment": names, "precision": "fp8"}])
    precision, problem = caught.value.problems
    begin, _, end = told.partition(".*")
    assert precision.startswith("precision") and begin in problem and problem.endswith(end)


def test_values_to_predict_cannot_be_mixed_as_classes(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 8, 8), np.uint8)
    np.savez(tmp_path / "values.npz", x=pixels, y=np.linspace(0, 1, 60))
    with pytest.raises(RecipeError, match=r"augment: mixup mixes classes, and .* has values to predict"):
        runs.train(None, tmp_path / "values.npz", {"augment": ["mixup"]}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
