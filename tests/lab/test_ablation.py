"""A run again without each of its regularizers: one thing changes, nothing is trained twice, all is kept."""

import json
import os
import signal
from contextlib import nullcontext

import pytest
import torch
from safetensors.torch import load_file

from ravine.errors import Interrupted, RunError, TrustError
from ravine.lab.ablation import ablate, regularizers
from ravine.training import run as runs
from ravine.training.progress import Silent
from ravine.training.recipe import validate
from ravine.training.run_folder import RunFolder

SMALL = {
    "model": {"name": "mlp", "width": 16, "dropout": 0.25},
    "optimizer": {"weight_decay": 0.1},
    "stop": {"epochs": 3},
}
KEYS = ["model.dropout", "optimizer.weight_decay"]


def small(out, *settings, data="wine"):
    return runs.train(None, data, settings=[SMALL, *settings], out=out)


def test_every_regularizer_of_a_recipe_and_how_it_is_turned_off():
    recipe = validate(
        [
            {
                "augment": ["flip", "crop"],
                "regularize": {"dropout": 0.5, "l2": 1e-4},
                "loss": {"label_smoothing": 0.1},
                "optimizer": {"name": "adamw", "weight_decay": 0.01},
            }
        ]
    )
    assert {each.key: each.without for each in regularizers(recipe)} == {
        "augment.flip": {"augment": ["crop"]},
        "augment.crop": {"augment": ["flip"]},
        "regularize.dropout": {"regularize": {"dropout": 0.0}},
        "regularize.l2": {"regularize": {"l2": 0.0}},
        "optimizer.weight_decay": {"optimizer": {"weight_decay": 0.0}},
        "loss.label_smoothing": {"loss": {"label_smoothing": 0.0}},
    }


def test_without_the_only_noise_nothing_is_sampled():
    """Samples of a network without noise are refused, so the closed form takes their place."""
    sampled = {"predict": {"average": "samples"}}
    one = validate([{"regularize": {"dropout": 0.5}, **sampled}])
    two = validate([{"regularize": {"dropout": 0.5, "drop_connect": 0.1}, **sampled}])
    off = {"regularize": {"dropout": 0.0}, "predict": {"average": "expectation"}}
    assert {each.key: each.without for each in regularizers(one)}["regularize.dropout"] == off
    assert all("predict" not in each.without for each in regularizers(two))


def test_each_is_the_training_with_that_one_setting_changed(tmp_path):
    run = small(tmp_path / "run")
    told = ablate(run.folder)
    assert [row["key"] for row in told["without"]] == KEYS
    assert json.loads((run.folder / "ablation.json").read_text())["run"]["test"]["loss"] == pytest.approx(
        run.result["test"]["loss"]
    )
    for row, off in zip(
        told["without"], ({"model": {"dropout": 0}}, {"optimizer": {"weight_decay": 0}}), strict=True
    ):
        alone = small(tmp_path / row["key"], off)
        mine = load_file(run.folder / "without" / row["key"] / "model.safetensors")
        assert all(
            torch.equal(mine[name], tensor)
            for name, tensor in load_file(alone.folder / "model.safetensors").items()
        )
        assert row["test"]["loss"] == alone.result["test"]["loss"]
        gained = run.result["test"]["accuracy"] - alone.result["test"]["accuracy"]
        assert row["part"] == "test" and row["gained"]["accuracy"] == pytest.approx(gained)
        low, high = row["gained"]["accuracy_interval"]
        assert low <= row["gained"]["accuracy"] <= high


def test_gains_of_a_regression_are_in_the_targets_own_units(tmp_path):
    run = small(tmp_path / "run", data="diabetes")
    row = ablate(run.folder)["without"][0]
    other = json.loads((run.folder / "without" / row["key"] / "result.json").read_text())
    for name in ("rmse", "mae", "loss", "r2"):
        gained = run.result["test"][name] - other["test"][name]
        assert row["gained"][name] == pytest.approx(gained, rel=1e-3, abs=1e-6)


class Stops(Silent):
    """Ctrl-C at the second evaluation."""

    def __init__(self):
        self.seen = 0

    def evaluated(self, row, best):
        self.seen += 1
        if self.seen == 2:
            os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupted_one_goes_on_and_what_is_done_stays(tmp_path):
    run, headings = small(tmp_path / "run"), []

    def watching(heading):
        headings.append(heading)
        return nullcontext(Stops() if len(headings) == 2 else Silent())

    with pytest.raises(Interrupted, match=r"ravine ablate .*run$") as stopped:
        ablate(run.folder, watching=watching)
    assert stopped.value.exit_code == 128 + signal.SIGINT
    assert not (run.folder / "ablation.json").exists()
    told = ablate(run.folder, watching=watching)
    assert headings == [
        "without model.dropout = 0.25 (1 of 2)",
        "without optimizer.weight_decay = 0.1 (2 of 2)",
        "without optimizer.weight_decay = 0.1 (2 of 2)",
    ]
    whole = small(tmp_path / "whole")
    assert told == ablate(whole.folder)
    assert ablate(run.folder, watching=watching) == told and len(headings) == 3


def test_refusals(tmp_path):
    with pytest.raises(RunError, match="no run folder"):
        ablate(tmp_path / "nothing")
    plain = small(tmp_path / "plain", {"model": {"dropout": 0.0}, "optimizer": {"weight_decay": 0.0}})
    with pytest.raises(RunError, match="no regularizer to leave out"):
        ablate(plain.folder)
    (plain.folder / "result.json").unlink()
    with pytest.raises(RunError, match=r"not finished.*--resume"):
        ablate(plain.folder)
    given = runs.train(
        torch.nn.LazyLinear(3), "wine", settings=[{"stop": {"epochs": 1}}], out=tmp_path / "given"
    )
    with pytest.raises(RunError, match="a program gave it"):
        ablate(given.folder)


def test_code_that_only_the_run_names_is_not_imported(tmp_path):
    run = small(tmp_path / "run")
    recipe = run.folder / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('name = "mlp"', 'name = "evil:factory"'))
    with pytest.raises(TrustError, match="evil"):
        ablate(run.folder)


def test_changed_data_are_refused_before_anything_is_trained(tmp_path):
    data = tmp_path / "data.csv"
    data.write_text("a,b,target\n" + "".join(f"{n % 7},{n % 3},{'xy'[n % 2]}\n" for n in range(60)))
    run = small(tmp_path / "run", data=data)
    data.write_text(data.read_text().replace("6,", "8,"))
    with pytest.raises(RunError, match=r"data\.csv have changed"):
        ablate(run.folder)
    assert not (run.folder / "without").exists()


def test_what_was_trained_by_another_recipe_is_not_compared(tmp_path):
    run = small(tmp_path / "run")
    ablate(run.folder)
    recipe = run.folder / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("dropout = 0.25", "dropout = 0.5"))
    with pytest.raises(RunError, match=r"weight_decay is a training of another recipe"):
        ablate(run.folder)


def test_a_training_that_goes_bad_without_it_is_told_and_the_others_go_on(tmp_path):
    wild = {"optimizer": {"name": "sgd", "lr": 1e4, "weight_decay": 0.0}, "regularize": {"max_norm": 1.0}}
    run = small(tmp_path / "run", wild)
    told = ablate(run.folder)
    rows = {row["key"]: row for row in told["without"]}
    assert set(rows) == {"regularize.max_norm", "model.dropout"}
    assert "became" in rows["regularize.max_norm"]["failed"] and "gained" not in rows["regularize.max_norm"]
    assert "gained" in rows["model.dropout"]


def test_two_at_once_are_refused(tmp_path):
    run = small(tmp_path / "run")
    with RunFolder(run.folder).locked(), pytest.raises(RunError, match="another process"):
        ablate(run.folder)


def test_settings_that_are_no_strengths_are_left_alone():
    recipe = validate([{"model": {"name": "mynet:make", "dropout": "spatial"}}])
    assert all(each.key != "model.dropout" for each in regularizers(recipe))
