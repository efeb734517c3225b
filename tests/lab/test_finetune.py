"""Fine-tuning: measured on the training part alone, decided by held-out items, compared with from scratch."""

import importlib
import json
import re
import shutil
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from ravine.errors import Interrupted, ModelError, RecipeError, RunError
from ravine.lab.transfer import advice, finetune, probes
from ravine.lab.transfer.probes import probe
from ravine.randomness import generator
from ravine.show.report import write_report
from ravine.show.run import read_run
from ravine.training import checkpoint
from ravine.training import loop as loops
from ravine.training import run as runs
from ravine.training import setup as setups
from ravine.training.cached import cached
from ravine.training.load import load_predictor
from ravine.training.recipe import file_layer, validate
from ravine.training.signals import StopNow
from ravine.transfer import depths, features
from ravine.transfer.features import STRENGTHS

# `ravine.lab.transfer.finetune` is the function.
FINETUNE = importlib.import_module("ravine.lab.transfer.finetune")
SHORT = {"stop": {"epochs": 2}}


@pytest.fixture(autouse=True)
def zoo(tmp_path, monkeypatch):
    monkeypatch.setenv("RAVINE_ZOO", str(tmp_path / "zoo"))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A network that knows the digits from 5 to 9."""
    folder = tmp_path_factory.mktemp("source")
    digits = load_digits()
    high = digits.target >= 5
    np.savez(folder / "high.npz", x=(digits.images[high] * 15).astype(np.uint8), y=digits.target[high] - 5)
    settings = [{"model": {"name": "resnet", "width": 8, "blocks": [1, 1]}, **SHORT}]
    return str(runs.train(None, folder / "high.npz", settings=settings, out=folder / "high").folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Some of the digits from 0 to 2."""
    path = tmp_path_factory.mktemp("data") / "low.npz"
    digits = load_digits()
    low = np.flatnonzero(digits.target <= 2)[:240]
    np.savez(path, x=(digits.images[low] * 15).astype(np.uint8), y=digits.target[low])
    return path


@pytest.fixture(scope="module")
def measured(source, data, tmp_path_factory):
    """A run whose way was measured, what was told, and the short trainings."""
    told, fleets = [], []
    original = advice.Fleet

    def kept(*arguments, **options):
        fleets.append(original(*arguments, **options))
        return fleets[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(advice, "Fleet", kept)
        out = tmp_path_factory.mktemp("auto") / "run"
        folder = finetune(data, source, settings=[SHORT], out=out, tell=told.append)
    return folder, told, fleets


def record_of(folder):
    return json.loads((folder / "transfer.json").read_text())


def recipe_of(folder):
    return validate([file_layer(folder / "recipe.toml")])


def from_source(source):
    return {"transfer": {"source": source}}


def test_what_was_measured_is_recorded(measured, source, data):
    folder, told, _ = measured
    record = record_of(folder)
    card = record["card"]
    assert (card["architecture"], card["source"], card["data"]) == ("resnet", source, "high")
    result = json.loads((folder / "result.json").read_text())
    assert (
        record["asked"] == "auto" and record["items"] == result["items"]["train"] and record["classes"] == 3
    )
    setup = runs.make_setup(None, data, "finetune", settings=[from_source(source)])
    sample = torch.zeros(2, 1, 8, 8)
    assert [depth["name"] for depth in record["depths"]] == depths(setup.network, sample)
    for depth in record["depths"]:
        assert 1 / 3 < depth["accuracy"] <= 1 and 0 <= depth["similarity"] <= 1
    assert [way["how"] for way in record["tried"]] == ["head", "top", "all", "one rate"]
    assert record["measuring"] > 0
    best = max(record["depths"], key=lambda depth: depth["accuracy"])
    assert f"{best['accuracy']:.1%} on those of {best['name']}, the best" in told[0]
    for way, sentence in zip(record["tried"], told[1:5], strict=True):
        assert sentence == f"{way['how']}: {way['accuracy']:.1%} of the held-out items"
    assert told[6].startswith("from scratch for as long")


def test_the_best_on_held_out_items_is_what_is_trained(measured):
    folder, told, _ = measured
    record = record_of(folder)
    best = max(record["tried"], key=lambda way: (way["accuracy"], -way["loss"]))
    assert told[5].startswith(f"trained: {best['how']}")
    assert record["train"] == best["train"] == recipe_of(folder).transfer.train


def test_ways_are_tried_on_the_training_items_alone(measured, source, data):
    """The test part is that of the run; of its other items 30 % of all are held out."""
    _, _, (fleet,) = measured
    setup = runs.make_setup(None, data, "finetune", settings=[from_source(source)])
    test = set(setup.splits.test.tolist())
    for member in fleet.members:
        splits = member.setup.splits
        assert set(splits.test.tolist()) == test
        judged, trained = set(splits.validation.tolist()), set(splits.train.tolist())
        assert not judged & trained and not (judged | trained) & test
        assert len(judged) == pytest.approx(0.3 * 240, abs=3)
        assert member.setup.recipe.stop.epochs == 2


def test_the_run_from_scratch_is_there_and_whole(measured):
    folder, *_ = measured
    scratch, record = folder / "scratch", record_of(folder)["scratch"]
    result = json.loads((scratch / "result.json").read_text())
    assert result["test"].items() <= record.items()
    assert record["model"] == recipe_of(scratch).model.name == recipe_of(folder).model.name == "resnet"
    assert record["epochs"] == result["epochs"] and record["seconds"] == result["timing"]["training"]
    splits = [json.loads((place / "splits.json").read_text()) for place in (scratch, folder)]
    assert splits[0] == splits[1]
    recipes = [recipe_of(place) for place in (scratch, folder)]
    assert not recipes[0].transfer.source and recipes[0].model.settings == recipes[1].model.settings
    assert recipes[0].data.preprocess != "pretrained", "it knows nothing of the other images"
    assert load_predictor(scratch)(torch.zeros(1, 1, 8, 8, dtype=torch.uint8)).shape == (1, 3)


def test_all_layers_are_compared_with_as_many_epochs_from_scratch(source, data, tmp_path, monkeypatch):
    """They take as long: nothing is left to timing."""
    monkeypatch.setattr(FINETUNE, "seconds_in_turn", None)
    folder = finetune(data, source, "all", settings=[{"stop": {"epochs": 3}}], out=tmp_path / "run")
    assert record_of(folder)["scratch"]["epochs"] == 3


def same(one, other):
    return one.shape == other.shape and torch.equal(one, other)


def trains(name, how, record):
    """Whether a way trains a weight: "top" those above the depth that is best, the last left out."""
    if how != "top":
        return how == "all" or name.startswith("head.")
    best = max(record["depths"][:-1], key=lambda depth: depth["accuracy"])["name"]
    stretches = {"stem": "stem.", "stages.stage1.block1": "stages.stage1.", "pool": "stages.stage2."}
    frozen = list(stretches.values())[: list(stretches).index(best) + 1]
    return not name.startswith(tuple(frozen))


@pytest.mark.parametrize("how", ["head", "top", "all"])
def test_a_way_that_was_asked_for(source, data, tmp_path, how):
    folder = finetune(data, source, how, settings=[SHORT], out=tmp_path / "run")
    record, recipe = record_of(folder), recipe_of(folder)
    assert record["asked"] == how and record["tried"] == [] and len(record["depths"]) > 1
    assert record["train"] == recipe.transfer.train and recipe.transfer.source == source
    before, after = (load_file(f"{place}/model.safetensors") for place in (source, folder))
    moved = {name.rpartition(".")[0] for name in before if not same(before[name], after[name])}
    assert moved == {name.rpartition(".")[0] for name in before if trains(name, how, record)}
    assert bool(recipe.augment) == (how != "head"), "features of a frozen body are worked out once"
    assert (folder / "scratch" / "result.json").is_file()


@pytest.mark.parametrize(
    ("scores", "taken"),
    [
        ([(0.9, 1.0), (0.8, 0.1), (0.7, 0.1), (0.8, 0.1)], "head"),
        ([(0.5, 1.0), (0.8, 0.9), (0.7, 0.1), (0.6, 0.1)], "top"),
        ([(0.5, 1.0), (0.8, 0.9), (0.81, 2.0), (0.7, 0.1)], "all"),
        ([(0.5, 1.0), (0.8, 0.9), (0.81, 2.0), (0.82, 3.0)], "one rate"),
        ([(0.8, 0.5), (0.8, 0.4), (0.8, 0.6), (0.8, 0.5)], "top"),
        ([(0.0, float("inf")), (0.0, float("inf")), (0.3, 1.0), (0.0, float("inf"))], "all"),
    ],
)
def test_auto_takes_the_candidate_with_the_best_held_out_accuracy(
    source, data, tmp_path, monkeypatch, scores, taken
):
    """Of equal ones that with the least loss."""

    def made_up(ways, *_, **__):
        return [
            advice.Candidate(how, way["transfer"]["train"], "", way["transfer"].get("body", 0.3), *score)
            for (how, way), score in zip(ways, scores, strict=True)
        ]

    monkeypatch.setattr(advice, "test", made_up)
    monkeypatch.setattr(FINETUNE, "_from_scratch", lambda *_: {})
    folder = finetune(data, source, settings=[{"stop": {"epochs": 1}}], out=tmp_path / "run")
    record = record_of(folder)
    (way,) = (way for way in record["tried"] if way["how"] == taken)
    assert record["train"] == way["train"] == recipe_of(folder).transfer.train
    assert record["body"] == way["body"] == recipe_of(folder).transfer.body
    assert [each["accuracy"] for each in record["tried"]] == [score for score, _ in scores]


def test_what_a_person_said_of_the_layers_is_not_tried_against(source, data, tmp_path, monkeypatch):
    monkeypatch.setattr(advice, "test", None)
    settings = [SHORT, {"transfer": {"train": "stages.stage2"}}]
    folder = finetune(data, source, settings=settings, out=tmp_path / "run")
    assert record_of(folder)["train"] == recipe_of(folder).transfer.train == "stages.stage2"
    with pytest.raises(RecipeError, match=r"transfer\.train: --how head says it, too"):
        finetune(data, source, "head", settings=settings, out=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_probes_are_on_the_training_part_alone(source, data):
    """Whatever the other items and their classes are, they say the same."""
    setup = runs.make_setup(None, data, "finetune", settings=[from_source(source)])
    found = probe(setup)
    others = torch.cat((setup.splits.validation, setup.splits.test))
    setup.dataset.inputs[others] = 255 - setup.dataset.inputs[others]
    setup.dataset.targets[others] = (setup.dataset.targets[others] + 1) % 3
    assert probe(setup) == found
    setup.dataset.inputs[setup.splits.train] = 0
    blind = probe(setup)
    assert all(depth.accuracy < 0.6 and depth.similarity == 0 for depth in blind)
    assert found[-1].accuracy > 0.8


def test_a_probe_says_how_strong_a_penalty_does_best(source, data):
    """As scikit-learn finds it on the same folds; for all training items, and features as they are."""
    setup = runs.make_setup(None, data, "finetune", settings=[from_source(source)])
    found = probe(setup)[-1]
    assert len(setup.splits.train) < probes.FEW
    items = setup.splits.train[
        torch.randperm(len(setup.splits.train), generator=generator(0, "probe")).sort().values
    ]
    targets = setup.dataset.targets[items].numpy()
    (own,) = features(setup.network, [setup.preprocessing(setup.dataset.fetch(items))], found.name)
    own = own.double().numpy()
    scale = np.sqrt(own.var(0).mean())
    order = torch.randperm(len(items), generator=generator(0, "folds"))
    losses = dict.fromkeys(STRENGTHS, 0.0)
    for fold in order.tensor_split(probes.FOLDS):
        rest = np.setdiff1d(np.arange(len(items)), fold)
        for strength in STRENGTHS:
            fitted = LogisticRegression(C=1 / (strength * len(rest)), tol=1e-8, max_iter=10_000)
            fitted.fit(own[rest] / scale, targets[rest])
            told = fitted.predict_proba(own[fold] / scale)
            losses[strength] += log_loss(targets[fold], told, labels=[0, 1, 2]) * len(fold) / len(items)
    best = min(losses, key=losses.get)
    share = (1 - 1 / probes.FOLDS) / 2
    assert found.l2 == pytest.approx(best * scale**2 * share, rel=1e-4)


def knows(name, accuracy):
    return probes.Depth(name, accuracy, 0.5, 1e-3)


@pytest.mark.parametrize(
    ("settings", "last", "listed"),
    [
        ({}, 0.7, ["head", "lower", "top", "all", "one rate"]),
        ({}, 0.8, ["head", "top", "all", "one rate"]),
        ({"transfer": {"depth": "stages.stage1"}}, 0.7, ["head", "top", "all", "one rate"]),
        ({"transfer": {"body": 0.5}}, 0.7, ["head", "lower", "top", "all"]),
        ({"transfer": {"decay": 0.5}}, 0.8, ["head", "top", "all"]),
    ],
)
def test_a_lower_depth_is_an_entry_where_it_knows_more_than_the_last(source, data, settings, last, listed):
    """And where nobody said which to take; likewise one rate for all layers."""
    setup = runs.make_setup(None, data, "finetune", settings=[from_source(source), settings])
    before = {name: tensor.clone() for name, tensor in setup.network.state_dict().items()}
    assert advice.entries(setup, [knows("stem", 0.8), knows("pool", last)], settings, print) == listed
    after = setup.network.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


def test_a_depth_that_no_head_can_be_put_on_is_no_entry(source, data, monkeypatch):
    def refused(*_):
        raise ModelError("no head can be put on the features of stem: what lies between changes them")

    setup = runs.make_setup(None, data, "finetune", settings=[from_source(source)])
    found, told = [knows("stem", 0.8), knows("pool", 0.7)], []
    monkeypatch.setattr(advice, "headed", refused)
    assert advice.entries(setup, found, {}, told.append) == ["head", "top", "all", "one rate"]
    assert told == ["not tried: no head can be put on the features of stem: what lies between changes them"]


def test_a_head_on_the_lower_depth_that_knows_most(source, data, tmp_path, monkeypatch):
    """Tried beside the others, and trained where it does best: without the layers above."""
    found = [knows("stem", 0.8), knows("pool", 0.7)]
    monkeypatch.setattr(FINETUNE, "probe", lambda setup: found)
    original, tried = advice.test, []

    def preferred(*arguments, **options):
        tried.extend(original(*arguments, **options))
        return [replace(way, accuracy=float(way.how == "lower")) for way in tried]

    monkeypatch.setattr(advice, "test", preferred)
    told = []
    folder = finetune(data, source, settings=[SHORT], out=tmp_path / "run", tell=told.append)
    assert [(way.how, way.train, way.depth, way.body) for way in tried] == [
        ("head", "head", "", 0.3),
        ("lower", "head", "stem", 0.3),
        ("top", "stages.stage1.block1", "", 0.3),
        ("all", "all", "", 0.3),
        ("one rate", "all", "", 1.0),
    ]
    assert all(way.accuracy > 1 / 3 for way in tried)
    recipe, record = recipe_of(folder), record_of(folder)
    assert (recipe.transfer.train, recipe.transfer.depth) == ("head", "stem") and (
        "trained: lower, as --how head --set transfer.depth=stem asks for" in told
    )
    assert (recipe.optimizer.name, recipe.regularize.l2) == ("lbfgs", 1e-3)
    assert (record["train"], record["depth"]) == ("head", "stem")
    kept = load_file(folder / "model.safetensors")
    assert all(name.startswith(("stem", "head")) for name in kept)
    assert not recipe_of(folder / "scratch").transfer.depth and record["scratch"]["accuracy"] > 0
    page = write_report(folder).read_text()
    assert "the new head alone, without the layers above stem, as measured" in page
    assert "tried: a head on the best lower depth, stem" in page


@pytest.mark.parametrize("each", [2, 1])
def test_a_few_images_are_probed_one_by_one(source, tmp_path, each):
    """Two classes: of so few images each is judged by the others; of one alone nothing can be."""
    pixels = np.random.default_rng(0).integers(0, 256, (2 * each, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "few.npz", x_train=pixels, y_train=[0, 1] * each, x_test=pixels, y_test=[0, 1] * each)
    found = probe(
        runs.make_setup(
            None,
            tmp_path / "few.npz",
            "finetune",
            settings=[from_source(source), {"data": {"validation": 0.0}}],
        )
    )
    assert all(depth.accuracy * 2 * each % 1 == pytest.approx(0, abs=1e-6) for depth in found)


def test_a_failure_from_scratch_loses_nothing(source, data, tmp_path, monkeypatch):
    def fails(*_):
        raise RunError("the disk is full")

    monkeypatch.setattr(FINETUNE, "_from_scratch", fails)
    with pytest.raises(RunError, match="the disk is full"):
        finetune(data, source, "all", settings=[SHORT], out=tmp_path / "run")
    assert record_of(tmp_path / "run")["train"] == "all"
    assert json.loads((tmp_path / "run" / "result.json").read_text())["test"]


@pytest.fixture
def stopping(monkeypatch):
    """Stop the next training at a step, as SIGTERM would."""
    monkeypatch.setattr(loops, "TICK_SECONDS", 0.0)
    between = loops.Loop.between_steps

    @contextmanager
    def at(step, where=""):
        def stop(self, *arguments):
            if self.state.step == step and self.folder.path.name.endswith(where):
                self.stop.signum = 15
            between(self, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(loops.Loop, "between_steps", stop)
            yield

    return at


def test_what_was_measured_is_there_when_the_training_is_stopped(source, data, tmp_path, stopping):
    def again():
        return finetune(data, source, "top", settings=[SHORT], out=tmp_path / "run")

    told = f"stopped; everything is kept in {tmp_path / 'run'}. Go on with the same command and --out"
    with stopping(2), pytest.raises(Interrupted, match=re.escape(told)) as stopped:
        again()
    assert stopped.value.exit_code == 143
    record = record_of(tmp_path / "run")
    assert record["depths"] and record["train"] == recipe_of(tmp_path / "run").transfer.train != "all"
    with stopping(1, "scratch"), pytest.raises(Interrupted, match=re.escape(told)):
        again()
    assert record_of(tmp_path / "run") == record
    assert not (tmp_path / "run" / "scratch" / "result.json").exists()
    write_report(tmp_path / "run")
    assert again() == tmp_path / "run"
    finished = record_of(tmp_path / "run")
    assert finished == record | {"scratch": finished["scratch"]}
    assert read_run(tmp_path / "run").transfer == finished
    with pytest.raises(RunError, match="exists already"):
        again()
    whole = finetune(data, source, "top", settings=[SHORT], out=tmp_path / "whole")
    one, other = (load_file(folder / "model.safetensors") for folder in (tmp_path / "run", whole))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_another_fine_tuning_is_not_gone_on_with(source, data, tmp_path, stopping):
    with stopping(2), pytest.raises(Interrupted):
        finetune(data, source, "top", settings=[SHORT], out=tmp_path / "run")
    for how, settings, told in (
        ("all", SHORT, "--how"),
        ("top", {**SHORT, "seed": 7}, "settings"),
        ("all", {"stop": {"epochs": 3}}, "--how and settings"),
    ):
        with pytest.raises(RunError, match=f"run was begun with other {told}: go on with the same command"):
            finetune(data, source, how, settings=[settings], out=tmp_path / "run")
    other = np.load(data)
    np.savez(tmp_path / "other.npz", x=other["x"][:200], y=other["y"][:200])
    with pytest.raises(RunError, match="run was begun on other data: give those, or another --out"):
        finetune(tmp_path / "other.npz", source, "top", settings=[SHORT], out=tmp_path / "run")
    record = record_of(tmp_path / "run")
    del record["source"]  # as an older version wrote it
    (tmp_path / "run" / "transfer.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match="run was begun with other --from"):
        finetune(data, source, "top", settings=[SHORT], out=tmp_path / "run")
    for damaged in ("{}", "[]", '{"asked": 3}'):
        (tmp_path / "run" / "transfer.json").write_text(damaged)
        with pytest.raises(RunError, match=r"transfer\.json is damaged"):
            finetune(data, source, "top", settings=[SHORT], out=tmp_path / "run")


def test_a_source_that_is_gone_is_told_before_what_is_there(source, data, tmp_path, stopping):
    shutil.copytree(source, tmp_path / "source")
    with stopping(2), pytest.raises(Interrupted):
        finetune(data, tmp_path / "source", "top", settings=[SHORT], out=tmp_path / "run")
    shutil.move(tmp_path / "source", tmp_path / "elsewhere")
    with pytest.raises(RunError, match=r"source, which .*run was begun from, is not there any more"):
        finetune(data, tmp_path / "source", "top", settings=[SHORT], out=tmp_path / "run")


def test_a_comparison_that_was_done_but_not_recorded(source, data, tmp_path, monkeypatch):
    """Killed between the two."""
    folder = finetune(data, source, "all", settings=[SHORT], out=tmp_path / "run")
    record = record_of(folder)
    (folder / "transfer.json").write_text(
        json.dumps({key: value for key, value in record.items() if key != "scratch"})
    )
    monkeypatch.setattr(runs, "start", None)
    finetune(data, source, "all", settings=[SHORT], out=folder)
    assert record_of(folder) == record


def test_a_signal_while_the_ways_are_tried(source, data, tmp_path, monkeypatch):
    def stopped(fleet):
        fleet._stop.signum = 2
        raise StopNow

    monkeypatch.setattr(advice.Fleet, "run", stopped)
    with pytest.raises(Interrupted, match="stopped while the ways were tried") as told:
        finetune(data, source, settings=[SHORT], out=tmp_path / "run")
    assert told.value.exit_code == 130 and not (tmp_path / "run").exists()


def test_a_head_goes_on_from_another_folder_and_not_on_another_body(
    source, data, tmp_path, monkeypatch, stopping
):
    """Its checkpoint holds the head alone."""
    body = shutil.copytree(source, tmp_path / "body")
    monkeypatch.chdir(tmp_path)
    with stopping(2), pytest.raises(Interrupted):
        finetune(data, "body", "head", settings=[SHORT], out="run")
    kept = (body / "model.safetensors").read_bytes()
    changed = {name: tensor + 1 for name, tensor in load_file(body / "model.safetensors").items()}
    save_file(changed, body / "model.safetensors")
    with pytest.raises(RunError, match=r"body has changed since run was started from it\. Bring the old one"):
        runs.resume("run")
    (body / "model.safetensors").write_bytes(kept)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    runs.resume("../run")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["epochs"] == 2


@pytest.mark.parametrize(
    ("source_given", "settings", "kind", "told"),
    [
        ("", {}, ModelError, "no network is named to start from: ravine zoo list shows some"),
        (
            "ravine-fashion",
            {"transfer": {"source": "ravine-cifar10"}},
            RecipeError,
            "transfer.source: --from ravine-fashion says it, too; give one of them",
        ),
    ],
)
def test_a_source_is_named_once(data, tmp_path, source_given, settings, kind, told):
    with pytest.raises(kind, match=re.escape(told)):
        finetune(data, source_given, settings=[SHORT, settings], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_head_is_not_refused_for_layers_that_do_not_train(source, data, tmp_path):
    """L-BFGS takes no batch normalization that trains; a frozen one is none, one from scratch is."""
    told = []
    settings = [{**SHORT, "optimizer": {"name": "lbfgs"}}]
    folder = finetune(
        data, source, "head", recipe="default", settings=settings, out=tmp_path / "run", tell=told.append
    )
    assert recipe_of(folder).optimizer.name == "lbfgs" and record_of(folder)["train"] == "head"
    scratch = record_of(folder)["scratch"]
    assert told[-1] == "by the recipe finetune, as what was asked for cannot train from scratch"
    assert scratch["refused"][0].startswith("optimizer.name = 'lbfgs' needs a loss without noise")
    assert recipe_of(folder / "scratch").optimizer.name == "adamw" and scratch["accuracy"] > 0
    assert "; by the recipe finetune, as the run's own cannot" in write_report(folder).read_text().replace(
        "&#x27;", "'"
    )
    again = finetune(data, source, recipe=folder / "recipe.toml", out=tmp_path / "again")
    assert recipe_of(again).data.batch_size == record_of(again)["items"]
    assert recipe_of(again / "scratch").data.batch_size < record_of(again)["items"]


def test_a_head_alone_is_the_penalized_regression_that_the_probe_found_best(
    source, data, tmp_path, monkeypatch
):
    worked_out = []
    monkeypatch.setattr(setups, "cached", lambda *given: worked_out.append(given) or cached(*given))
    settings = [{"data": {"validation": 0.0}, "stop": {"monitor": "train.loss"}}]
    folder = finetune(data, source, "head", settings=settings, out=tmp_path / "run")
    assert len(worked_out) == 1
    recipe = recipe_of(folder)
    l2 = record_of(folder)["depths"][-1]["l2"]
    assert (recipe.optimizer.name, recipe.loss.label_smoothing, recipe.regularize.l2) == ("lbfgs", 0.0, l2)
    setup = runs.make_setup(None, data, folder / "recipe.toml")
    features, targets = setup.feeds["train"].batches.inputs, setup.feeds["train"].batches.targets
    expected = LogisticRegression(C=1 / (2 * l2 * len(targets)), tol=1e-10, max_iter=10_000)
    expected.fit(features.double().numpy(), targets.numpy())
    # Where the search ended, which need not be where the loss without the penalty was least.
    tensors, state = checkpoint.load_newest(folder / "checkpoints", print)
    found = setup.whole.get_submodule(setup.head)
    found.load_state_dict(checkpoint.unflatten(state["model"], tensors))
    chances = torch.softmax(found(features), 1).detach().numpy()
    np.testing.assert_allclose(chances, expected.predict_proba(features.numpy()), atol=2e-3)


@pytest.mark.parametrize(
    ("said", "optimizer", "caches"),
    [
        ({"augment": ["shift"]}, "adamw", False),
        ({"precision": "bf16"}, "adamw", True),
        ({"data": {"batch_size": 16}}, "adamw", True),
        ({"regularize": {"dropout": 0.1}}, "adamw", False),
        ({"regularize": {"max_norm": 3.0}}, "adamw", True),
        ({"optimizer": {"lr": 0.01}}, "adamw", True),
        ({"regularize": {"l2": 0.01}}, "lbfgs", True),
        ({"data": {"validation": 0.2}}, "lbfgs", True),
        ({"augment": []}, "lbfgs", True),
        ({"precision": "fp32"}, "lbfgs", True),
        ({"regularize": {"dropout": 0.0, "max_norm": 0.0}}, "lbfgs", True),
        ({"predict": {"average": "flip"}}, "adamw", False),
        ({"transfer": {"cache": False}}, "lbfgs", False),
    ],
)
def test_lbfgs_gives_way_to_what_it_does_not_go_with(source, data, tmp_path, said, optimizer, caches):
    folder = finetune(data, source, "head", settings=[SHORT, said], out=tmp_path / "run")
    recipe = recipe_of(folder)
    asked = said.get("regularize", {}).get("l2")
    assert recipe.optimizer.name == optimizer and (asked is None or recipe.regularize.l2 == asked)
    assert ("features" in json.loads((folder / "result.json").read_text())["timing"]) == caches


def test_what_a_person_said_of_a_section_leaves_the_rest_of_it(source, data, tmp_path):
    said = {"stop": {"patience": 3}, "loss": {"class_weights": "balanced"}, "regularize": {"l1": 1e-4}}
    folder = finetune(data, source, "head", settings=[said], out=tmp_path / "run")
    recipe, l2 = recipe_of(folder), record_of(folder)["depths"][-1]["l2"]
    assert (recipe.stop.epochs, recipe.stop.patience) == (200, 3)
    assert (recipe.loss.label_smoothing, recipe.loss.class_weights) == (0.0, "balanced")
    assert (recipe.regularize.l1, recipe.regularize.l2) == (1e-4, l2)


@pytest.mark.parametrize("how", ["auto", "head", "all"])
@pytest.mark.parametrize("name", ["regularize", "data", "transfer"])
def test_a_section_that_is_none(source, data, tmp_path, how, name):
    with pytest.raises(RecipeError, match=name):
        finetune(data, source, how, settings=[SHORT, {name: 3}], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("how", ["auto", "head", "top", "all"])
def test_a_part_of_a_network_is_compared_with_a_whole_one_by_seconds(
    source, data, tmp_path, monkeypatch, how
):
    """Epochs of both do not take as long."""
    monkeypatch.setattr(FINETUNE, "seconds_in_turn", lambda members: 1e6)
    settings = [SHORT, {"transfer": {"depth": "stages.stage1.block1"}}]
    folder = finetune(data, source, how, settings=settings, out=tmp_path / "run")
    record = record_of(folder)
    assert record["depth"] == "stages.stage1.block1" and record["scratch"]["epochs"] == 1
    assert ", without the layers above stages.stage1.block1" in write_report(folder).read_text()


def test_a_head_that_was_measured_is_compared_by_seconds(source, data, tmp_path, monkeypatch):
    original = advice.test

    def preferred(*arguments, **options):
        tried = original(*arguments, **options)
        return [replace(way, accuracy=float(way.how == "head")) for way in tried]

    monkeypatch.setattr(advice, "test", preferred)
    monkeypatch.setattr(FINETUNE, "seconds_in_turn", lambda members: 1e6)
    folder = finetune(data, source, settings=[SHORT], out=tmp_path / "run")
    assert record_of(folder)["train"] == "head" and record_of(folder)["scratch"]["epochs"] == 1


def test_a_setting_for_the_head_alone_is_how_head(source, data, tmp_path):
    """And where L-BFGS gives way, that is told."""
    told = []
    said = {"transfer": {"train": "head"}, **SHORT}
    folder = finetune(data, source, settings=[said], out=tmp_path / "set", tell=told.append)
    assert recipe_of(folder) == recipe_of(
        finetune(data, source, "head", settings=[SHORT], out=tmp_path / "how")
    )
    steps = "a head trains in the recipe's steps: what was asked for does not go with L-BFGS"
    assert steps not in told
    folder = finetune(
        data, source, settings=[said, {"optimizer": {"lr": 0.01}}], out=tmp_path / "lr", tell=told.append
    )
    assert steps in told and recipe_of(folder).optimizer.name == "adamw"


def test_a_key_pressed_between_the_training_and_the_comparison(source, data, tmp_path, monkeypatch):
    def pressed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(FINETUNE, "_from_scratch", pressed)
    with pytest.raises(
        Interrupted, match=r"everything is kept in .*run\. Go on with the same command"
    ) as told:
        finetune(data, source, "all", settings=[SHORT], out=tmp_path / "run")
    assert told.value.exit_code == 130
    monkeypatch.undo()
    finetune(data, source, "all", settings=[SHORT], out=tmp_path / "run")
    assert record_of(tmp_path / "run")["scratch"]["accuracy"] > 0


def test_what_a_person_said_of_a_head_stays(source, data, tmp_path):
    said = {"augment": ["shift"], "precision": "bf16", **SHORT}
    for recipe, settings in (("finetune", [said]), (said, [])):
        folder = finetune(
            data, source, "head", recipe=recipe, settings=settings, out=tmp_path / str(recipe)[:3]
        )
        assert (recipe_of(folder).augment, recipe_of(folder).precision) == (("shift",), "bf16")
    folder = finetune(data, source, "head", settings=[SHORT], out=tmp_path / "head")
    assert (recipe_of(folder).augment, recipe_of(folder).precision) == ((), "fp32")


def test_a_cached_head_is_the_uncached_one_with_the_recipe_as_it_is(source, data, tmp_path):
    heads = []
    for cache in (True, False):
        settings = [{"transfer": {"cache": cache}}, SHORT]
        folder = finetune(data, source, "head", settings=settings, out=tmp_path / str(cache))
        heads.append(load_file(folder / "model.safetensors"))
    for name, tensor in heads[0].items():
        torch.testing.assert_close(heads[1][name], tensor, rtol=1e-4, atol=1e-5)


def test_a_runs_own_recipe_fine_tunes_again(source, data, tmp_path):
    """It names the source, the layers and what it was prepared with, which no start from nothing has."""
    first = finetune(data, source, "all", settings=[SHORT], out=tmp_path / "first")
    again = finetune(data, source, "all", recipe=first / "recipe.toml", out=tmp_path / "again")
    assert record_of(again)["scratch"]["accuracy"] > 0
    auto = finetune(data, source, recipe=first / "recipe.toml", out=tmp_path / "auto")
    assert record_of(auto)["tried"] == [] and record_of(auto)["train"] == "all"
    for how, name, told in (("head", source, "transfer.train"), ("all", "ravine-cifar10", "transfer.source")):
        with pytest.raises(RecipeError, match=told):
            finetune(data, name, how, recipe=first / "recipe.toml", out=tmp_path / "other")


def test_a_recipe_that_starts_from_nothing_says_nothing_of_layers(source, data, tmp_path):
    plain = runs.train("cnn", data, settings=[SHORT], out=tmp_path / "plain").folder
    text = (plain / "recipe.toml").read_text()
    kept = {
        key: value for key, value in file_layer(plain / "recipe.toml").items() if key in ("transfer", "stop")
    }
    assert 'train = "all"' in text
    folder = finetune(data, source, recipe=kept, settings=[SHORT], out=tmp_path / "auto")
    assert len(record_of(folder)["tried"]) == 4


def test_all_layers_are_a_way_that_can_be_asked_for(source, data, tmp_path):
    """By a setting, too, whatever its default is."""
    said = {"transfer": {"train": "all"}, **SHORT}
    folder = finetune(data, source, settings=[said], out=tmp_path / "auto")
    assert record_of(folder)["tried"] == [] and record_of(folder)["train"] == "all"
    with pytest.raises(RecipeError, match=r"transfer\.train: --how head says it, too"):
        finetune(data, source, "head", settings=[said], out=tmp_path / "head")


def test_a_way_that_there_is_none_of(source, data, tmp_path):
    with pytest.raises(RecipeError, match="how: 'heads' is none of auto, head, top, all"):
        finetune(data, source, "heads", out=tmp_path / "run")


def test_frozen_layers_need_a_network_to_start_from(data, tmp_path):
    with pytest.raises(RecipeError, match=r"transfer\.train: nothing is frozen without a network"):
        runs.train("cnn", data, settings=[{"transfer": {"train": "head"}}], out=tmp_path / "run")


def test_from_scratch_has_the_time_of_working_out_the_features_too(source, data, tmp_path, monkeypatch):
    given = []
    original = FINETUNE._from_scratch

    def kept(*arguments):
        given.append(arguments[5])
        return original(*arguments)

    monkeypatch.setattr(FINETUNE, "_from_scratch", kept)
    folder = finetune(data, source, "head", settings=[SHORT], out=tmp_path / "run")
    timing = json.loads((folder / "result.json").read_text())["timing"]
    assert given == [timing["features"] + timing["training"]] and timing["features"] > 0
    noticed = json.loads((folder / "result.json").read_text())["noticed"]
    assert not [each for each in noticed if "lower the learning rate" in each["text"]]


def test_data_are_opened_once_beside_the_trials(source, data, tmp_path, monkeypatch):
    opened = []
    original = runs.open_data
    monkeypatch.setattr(runs, "open_data", lambda *given: opened.append(given) or original(*given))
    finetune(data, source, "head", settings=[SHORT], out=tmp_path / "head")
    assert len(opened) == 1
    finetune(data, source, "auto", settings=[SHORT], out=tmp_path / "auto")
    assert len(opened) == 3


def test_what_is_there_is_not_written_over(source, data, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(runs, "make_setup", None)
    with pytest.raises(RunError, match="exists already"):
        finetune(data, source, out=tmp_path / "run")


def test_a_source_that_is_not_there(data, tmp_path):
    with pytest.raises(ModelError, match="there is no pretrained network 'nothing'"):
        finetune(data, "nothing", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_values_of_images_train_all_layers(source, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (120, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "values.npz", x=pixels, y=pixels.mean((1, 2)) / 7)
    with pytest.raises(ModelError, match="--how top is for images to classify: train all"):
        finetune(tmp_path / "values.npz", source, "top", settings=[SHORT], out=tmp_path / "run")
    folder = finetune(tmp_path / "values.npz", source, settings=[SHORT], out=tmp_path / "run")
    record = record_of(folder)
    assert (record["train"], record["depths"], record["tried"], record["classes"]) == ("all", [], [], 0)
    assert record["scratch"]["rmse"] > 0


def test_text_trains_whole_and_has_no_head(tmp_path):
    (tmp_path / "one.txt").write_text("abc abd bad cab dab. " * 60)
    (tmp_path / "two.txt").write_text("zab zad baz. " * 100)
    tiny = {"model": {"name": "transformer", "width": 16, "depth": 1, "heads": 2, "context": 16}, **SHORT}
    source = str(runs.train(None, tmp_path / "one.txt", settings=[tiny], out=tmp_path / "one").folder)
    for how, told in (
        ("head", "a language model's head is its embedding, too"),
        ("top", "--how top is for images to classify"),
    ):
        with pytest.raises(ModelError, match=told):
            finetune(tmp_path / "two.txt", source, how, settings=[SHORT], out=tmp_path / "run")
        assert not (tmp_path / "run").exists()
    folder = finetune(tmp_path / "two.txt", source, settings=[SHORT], out=tmp_path / "run")
    record = record_of(folder)
    assert (record["train"], record["depths"], record["tried"]) == ("all", [], [])
    assert record["card"]["kind"] == "text" and record["scratch"]["model"] == "transformer"
    assert recipe_of(folder / "scratch").model.settings == recipe_of(folder).model.settings
