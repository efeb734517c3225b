"""From run folders to an ensemble's: what it holds, what it scores, what is refused, what a kill leaves."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import ravine
from ravine.errors import ModelError, RunError, TrustError
from ravine.generalize.noise.batch_norm import reestimate
from ravine.lab.ensemble import assemble, assemble_selected, assemble_soup, cooking, writing
from ravine.lab.ensemble.members import open_pool
from ravine.training import run as runs
from ravine.training.predict import predict
from ravine.training.progress import Silent
from ravine.training.run import read

QUICK = {"stop": {"epochs": 2}}
PIXELS = {"model": {"name": "cnn", "width": 8}, **QUICK}
PCA = {"model": {"name": "mlp", "width": 16}, "data": {"preprocess": "pca"}, **QUICK}
TINY_TEXT = {"model": {"width": 8, "depth": 1, "heads": 2, "context": 16}, **QUICK}


def trained(out, data, *settings):
    return runs.train(None, data, settings=settings, out=out).folder


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Runs by name: of digits by two networks on two preprocessings; of diabetes; of a text."""
    folder = tmp_path_factory.mktemp("pool")
    (folder / "verse.txt").write_text("the quick brown fox jumps over the lazy dog.\n" * 40)
    for name, data, *settings in (
        ("pixels", "digits", PIXELS),
        ("faster", "digits", PIXELS, {"optimizer": {"lr": 0.01}}),
        ("pca", "digits", PCA),
        ("seed", "digits", PIXELS, {"seed": 1}),
        ("sugar", "diabetes", QUICK, {"model": {"name": "linear"}}),
        ("sugar2", "diabetes", QUICK, {"model": {"name": "linear"}, "optimizer": {"lr": 0.02}}),
        ("text", folder / "verse.txt", TINY_TEXT),
        ("text2", folder / "verse.txt", TINY_TEXT, {"optimizer": {"lr": 0.02}}),
        ("short", folder / "verse.txt", TINY_TEXT, {"model": {"context": 8}}),
    ):
        trained(folder / name, data, *settings)
    return folder


def result_of(folder):
    return json.loads((folder / "result.json").read_text())


def test_members_of_other_kinds_are_kept_whole_and_can_be_moved_as_one(pool, tmp_path):
    made = assemble([pool / "pixels", pool / "pca"], tmp_path / "e", weights=[3, 1])
    moved = made.rename(tmp_path / "elsewhere")
    record = json.loads((moved / "ensemble.json").read_text())
    assert [(member["folder"], member["weight"]) for member in record["members"]] == [
        ("members/00", 0.75),
        ("members/01", 0.25),
    ]
    raw = read("digits")[0].inputs[:50]
    answers = [predict(ravine.load_predictor(pool / name), raw) for name in ("pixels", "pca")]
    expected = 0.75 * answers[0] + 0.25 * answers[1]
    ensemble = ravine.load_predictor(moved)
    torch.testing.assert_close(predict(ensemble, raw), expected, rtol=0, atol=1e-6)
    # As a plain module it takes raw items and gives logarithms of the same probabilities.
    torch.testing.assert_close(ravine.load(moved)(raw.float()).exp(), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        predict(ravine.load_predictor(moved / "members" / "01"), raw), answers[1], rtol=0, atol=0
    )
    assert (moved / "members" / "01" / "preprocessing.safetensors").is_file()


def test_its_scores_are_those_of_its_predictions(pool, tmp_path):
    made = assemble([pool / "pixels", pool / "faster", pool / "pca"], tmp_path / "e")
    told, result = result_of(made)["ensemble"], result_of(made)
    dataset, splits = read("digits", pool / "pixels" / "recipe.toml")
    for part in ("validation", "test"):
        raw, targets = dataset.fetch(splits.of(part)), dataset.targets[splits.of(part)]
        chances = predict(ravine.load_predictor(made), raw)
        assert result[part]["accuracy"] == pytest.approx(
            float((chances.argmax(1) == targets).double().mean())
        )
        kept = load_file(made / "predictions.safetensors")
        torch.testing.assert_close(kept[f"{part}.outputs"].exp(), chances, rtol=0, atol=1e-5)
        assert torch.equal(kept[f"{part}.targets"], targets)
    assert told["part"] == "test" and told["how"] == "runs"
    alone = [result_of(pool / name)["test"]["accuracy"] for name in ("pixels", "faster", "pca")]
    assert [member["scores"]["accuracy"] for member in told["members"]] == pytest.approx(alone)
    gained = result["test"]["accuracy"] - sum(alone) / 3
    assert told["gained"]["mean"]["accuracy"] == pytest.approx(gained)
    best = max(range(3), key=lambda each: validated(pool, ("pixels", "faster", "pca")[each]))
    assert told["best"] == best
    assert told["gained"]["best"]["accuracy"] == pytest.approx(result["test"]["accuracy"] - alone[best])
    assert told["by_number"]["mean"][0] == pytest.approx(sum(alone) / 3)
    assert told["by_number"]["mean"][2] == pytest.approx(result["test"]["accuracy"])
    seconds = [result_of(pool / name)["seconds"] for name in ("pixels", "faster", "pca")]
    assert told["seconds"] == pytest.approx({"all": sum(seconds), "one": sum(seconds) / 3})
    assert told["calibration"]["before"]["loss"] == pytest.approx(result["test"]["loss"], abs=1e-6)
    temperature = json.loads((made / "ensemble.json").read_text())["temperature"]
    assert temperature == told["calibration"]["temperature"] > 0


def validated(pool, name):
    scored = result_of(pool / name)["validation"]
    return scored["accuracy"], -scored["loss"]


def test_members_are_named_by_what_differs(pool, tmp_path):
    def names(*folders):
        return [member.name for member in open_pool(folders).members]

    assert names(pool / "text", pool / "text2")[1] == "optimizer.lr = 0.02"
    assert names(pool / "pixels", pool / "pca") == ["pixels", "pca"]  # more than a name can hold
    twin = tmp_path / "pixels"
    shutil.copytree(pool / "pca", twin)
    assert names(pool / "pixels", twin) == [str(pool / "pixels"), str(twin)]
    assert [
        member.name for member in open_pool([pool / "text", pool / "text2"], names=["a", "b"]).members
    ] == [
        "a",
        "b",
    ]


def test_a_regression_is_averaged_in_the_targets_own_units(pool, tmp_path):
    made = assemble([pool / "sugar", pool / "sugar2"], tmp_path / "e")
    result, kept = result_of(made), load_file(made / "predictions.safetensors")
    dataset, splits = read("diabetes")
    answers = [predict(ravine.load_predictor(pool / name), dataset.inputs) for name in ("sugar", "sugar2")]
    given = predict(ravine.load_predictor(made), dataset.inputs)
    torch.testing.assert_close(given, (answers[0] + answers[1]) / 2, rtol=1e-6, atol=1e-4)
    torch.testing.assert_close(kept["test.outputs"], given[splits.test], rtol=1e-5, atol=1e-3)
    error = (given - dataset.targets)[splits.test].double().square().mean().sqrt()
    assert result["test"]["rmse"] == pytest.approx(float(error), rel=1e-5)
    assert "calibration" not in result["ensemble"]
    alone = [each["scores"]["rmse"] for each in result["ensemble"]["members"]]
    assert alone == pytest.approx(
        [result_of(pool / name)["test"]["rmse"] for name in ("sugar", "sugar2")], rel=1e-5
    )


def test_a_language_is_averaged_character_by_character(pool, tmp_path):
    made = assemble([pool / "text", pool / "text2"], tmp_path / "e")
    result = result_of(made)
    for member, name in zip(result["ensemble"]["members"], ("text", "text2"), strict=True):
        assert member["scores"] == pytest.approx(
            {key: result_of(pool / name)["test"][key] for key in member["scores"]}, rel=1e-5
        )
    dataset, splits = read(pool / "verse.txt", pool / "text" / "recipe.toml")
    tokens = dataset.fetch(splits.test)
    window = tokens[:16].unsqueeze(0)
    answers = [predict(ravine.load_predictor(pool / name), window) for name in ("text", "text2")]
    given = predict(ravine.load_predictor(made), window)
    torch.testing.assert_close(given, (answers[0] + answers[1]) / 2, rtol=0, atol=1e-6)
    kept = load_file(made / "predictions.safetensors")
    assert kept["test.loss_by_position"].shape == (16,)
    assert float(kept["test.loss_by_position"].mean()) == pytest.approx(result["test"]["loss"], rel=0.1)
    assert result["ensemble"]["by_number"]["mean"][1] == pytest.approx(result["test"]["bits"], rel=1e-6)


def test_the_selected_are_a_part_of_the_pool_and_weigh_what_they_were_added(pool, tmp_path):
    made = assemble_selected([pool / "pixels", pool / "faster", pool / "pca"], tmp_path / "e")
    told = result_of(made)["ensemble"]
    weights = [member["weight"] for member in told["members"]]
    record = json.loads((made / "ensemble.json").read_text())
    assert record["how"] == told["how"] == "selected"
    assert sum(weights) == pytest.approx(1)
    assert [member["weight"] for member in record["members"]] == [weight for weight in weights if weight]
    assert len(list((made / "members").iterdir())) == len(record["members"])
    scored = result_of(made)["validation"]
    best = max(validated(pool, name) for name in ("pixels", "faster", "pca"))
    assert (scored["accuracy"], -scored["loss"] + 1e-6) >= best


def test_a_soup_is_one_network_of_mean_weights(pool, tmp_path, monkeypatch):
    monkeypatch.setattr(cooking, "greedy", lambda ranked, members: list(range(members)))
    made = assemble_soup([pool / "sugar", pool / "sugar2"], tmp_path / "e")
    states = [load_file(pool / name / "model.safetensors") for name in ("sugar", "sugar2")]
    for name, tensor in load_file(made / "members" / "00" / "model.safetensors").items():
        torch.testing.assert_close(tensor, (states[0][name] + states[1][name]) / 2)
    # A linear network's outputs are linear in its weights.
    dataset, splits = read("diabetes")
    raw = dataset.fetch(splits.test)
    answers = [predict(ravine.load_predictor(pool / name), raw) for name in ("sugar", "sugar2")]
    given = predict(ravine.load_predictor(made), raw)
    torch.testing.assert_close(given, (answers[0] + answers[1]) / 2, rtol=1e-5, atol=1e-3)
    error = (given - dataset.targets[splits.test]).double().square().mean().sqrt()
    assert result_of(made)["test"]["rmse"] == pytest.approx(float(error), rel=1e-5)
    assert "by_number" not in result_of(made)["ensemble"]


def test_a_soups_running_statistics_are_its_own(pool, tmp_path, monkeypatch):
    monkeypatch.setattr(cooking, "greedy", lambda ranked, members: list(range(members)))
    made = assemble_soup([pool / "pixels", pool / "faster"], tmp_path / "e")
    network = ravine.load(made / "members" / "00")
    before = {name: buffer.clone() for name, buffer in network.named_buffers() if "running" in name}
    assert before
    member = open_pool([pool / "pixels", pool / "faster"]).members[0]
    batches = cooking.feeds_of(member)["train"].epoch(0)
    reestimate(network, (inputs for inputs, _ in batches))
    for name, buffer in network.named_buffers():
        if name in before:
            torch.testing.assert_close(buffer, before[name], rtol=1e-5, atol=1e-6)


def test_a_greedy_soup_is_no_worse_than_the_best_on_validation(pool, tmp_path):
    made = assemble_soup([pool / "pixels", pool / "faster"], tmp_path / "e")
    scored = result_of(made)["validation"]
    best = max(validated(pool, name) for name in ("pixels", "faster"))
    assert (scored["accuracy"], -scored["loss"] + 1e-6) >= best


def test_what_does_not_fit_together_is_refused_by_name(pool, tmp_path):
    def refused(*names, how=assemble):
        with pytest.raises(RunError) as caught:
            how([pool / name for name in names], tmp_path / "e")
        assert not (tmp_path / "e").exists()
        return str(caught.value)

    assert "two runs or more" in refused("pixels")
    assert "same network, weight for weight" in refused("pixels", "pca", "pixels")
    assert "differ in their task: classification and regression" in refused("pixels", "sugar")
    assert "differ in model.context: 16 and 8" in refused("text", "short")
    told = refused("pixels", "seed")
    assert "seed was trained on" in told and "test items of" in told and "would be too good" in told
    assert "no run folder" in refused("pixels", "nothing")
    assert "prepare their inputs differently" in refused("pixels", "pca", how=assemble_soup)
    (tmp_path / "e").mkdir()
    with pytest.raises(RunError, match="exists already"):
        assemble([pool / "pixels", pool / "pca"], tmp_path / "e")


def copied(pool, name, target):
    shutil.copytree(pool / name, target)
    return target


def test_runs_that_are_no_whole_runs_are_refused(pool, tmp_path):
    unfinished = copied(pool, "pca", tmp_path / "unfinished")
    (unfinished / "result.json").unlink()
    with pytest.raises(RunError, match=r"unfinished is not finished.*--resume"):
        assemble([pool / "pixels", unfinished])
    code = copied(pool, "pca", tmp_path / "code")
    (code / "recipe.toml").write_text(
        (code / "recipe.toml").read_text().replace('name = "mlp"', 'name = "evil:factory"')
    )
    with pytest.raises(TrustError, match="evil"):
        assemble([pool / "pixels", code])
    ensemble = assemble([pool / "pixels", pool / "pca"], tmp_path / "e")
    for what in (lambda: assemble([ensemble, pool / "pixels"]), lambda: runs.resume(ensemble)):
        with pytest.raises(RunError, match="is an ensemble, not one run"):
            what()
    with pytest.raises(RunError, match="is an ensemble, not one run"):
        ravine.load(ensemble, torch.nn.Linear(1, 1))


def test_networks_and_batches_from_python_are_refused(pool, tmp_path):
    quick = {"stop": {"epochs": 1}}
    given = runs.train(torch.nn.LazyLinear(3), "wine", settings=[quick], out=tmp_path / "network")
    other = runs.train(None, "wine", settings=[quick], out=tmp_path / "wine")
    with pytest.raises(RunError, match="on a network from Python"):
        assemble([other.folder, given.folder])
    batches = [(torch.randn(8, 3), torch.randint(2, (8,))) for _ in range(3)]
    fed = runs.train(
        torch.nn.Linear(3, 2), batches, settings=[quick], out=tmp_path / "batches", progress=Silent()
    )
    with pytest.raises(RunError, match="from Python"):
        assemble([other.folder, fed.folder])


def test_other_data_under_the_same_name_are_refused(pool, tmp_path):
    other = copied(pool, "pca", tmp_path / "other")
    splits = json.loads((other / "splits.json").read_text())
    (other / "splits.json").write_text(json.dumps({**splits, "fingerprint": "0"}))
    with pytest.raises(RunError, match="different data"):
        assemble([pool / "pixels", other])


def test_different_test_items_are_refused_even_if_nobody_was_trained_on_them(pool, tmp_path):
    other = copied(pool, "pca", tmp_path / "other")
    splits = json.loads((other / "splits.json").read_text())
    first, _, rest = splits["test"].partition(" ")
    (other / "splits.json").write_text(json.dumps({**splits, "test": rest}))
    with pytest.raises(RunError, match="different test parts"):
        assemble([pool / "pixels", other])
    assert first


def test_without_a_common_validation_part_nothing_is_fitted_or_chosen(pool, tmp_path):
    other = copied(pool, "pca", tmp_path / "other")
    splits = json.loads((other / "splits.json").read_text())
    _, _, rest = splits["validation"].partition(" ")
    (other / "splits.json").write_text(json.dumps({**splits, "validation": rest}))
    made = assemble([pool / "pixels", other], tmp_path / "e")
    result = result_of(made)
    assert result["ensemble"]["calibration"]["temperature"] is None and "validation" not in result
    assert "no validation part in common" in result["noticed"][0]["text"]
    for how in (assemble_selected, assemble_soup):
        with pytest.raises(RunError, match="none in common"):
            how([pool / "pixels", other], tmp_path / "e2")


def test_soups_of_other_shapes_are_refused(pool, tmp_path):
    wide = trained(tmp_path / "wide", "digits", PIXELS, {"model": {"width": 12}})
    with pytest.raises(ModelError, match="only networks of one shape can be averaged"):
        assemble_soup([pool / "pixels", wide])


def test_damaged_predictions_are_refused(pool, tmp_path):
    other = copied(pool, "pca", tmp_path / "other")
    kept = load_file(other / "predictions.safetensors")
    save_file({**kept, "test.targets": kept["test.targets"].flip(0)}, other / "predictions.safetensors")
    with pytest.raises(RunError, match="other items"):
        assemble([pool / "pixels", other])


def test_wrong_weights_are_refused(pool):
    for weights in ([1.0], [1.0, 0.0]):
        with pytest.raises(ValueError, match="Invalid weights"):
            assemble([pool / "pixels", pool / "pca"], weights=weights)


def test_an_interruption_in_the_middle_leaves_nothing(pool, tmp_path, monkeypatch):
    seen = []

    def interrupted(source, target):
        seen.append(target)
        if len(seen) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(writing.shutil, "copyfile", interrupted)
    monkeypatch.setattr(writing.files, "sync", lambda path: None)
    with pytest.raises(KeyboardInterrupt):
        assemble([pool / "pixels", pool / "pca"], tmp_path / "e")
    assert len(seen) == 4 and not list(tmp_path.iterdir())


KILLED = """
import os, signal, sys
from ravine.lab.ensemble import assemble, writing

copy, seen = writing.shutil.copyfile, []
def kill(source, target):
    seen.append(copy(source, target))
    if len(seen) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
writing.shutil.copyfile = kill
assemble(sys.argv[2:], sys.argv[1])
"""


def test_a_kill_in_the_middle_leaves_no_ensemble_and_the_next_call_makes_it(pool, tmp_path):
    members = [pool / "pixels", pool / "pca"]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "e"), *map(str, members)], capture_output=True
    )
    assert done.returncode == -9, done.stderr
    assert not (tmp_path / "e").exists()
    assert (assemble(members, tmp_path / "e") / "result.json").is_file()
