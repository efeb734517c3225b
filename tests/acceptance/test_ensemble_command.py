"""`ravine ensemble`: runs together, then predicted with, exported and reported like one run."""

import json

import numpy as np
import pytest
import torch
from test_journey import rows_of, run_file

import ravine as package


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    folder = tmp_path_factory.mktemp("members")
    quick = ("--set", "stop.epochs=2")
    from ravine.cli import main

    pixels = ("--model", "cnn", "--set", "model.width=8")
    pca = ("--model", "mlp", "--set", "model.width=16", "--set", "data.preprocess=pca")
    for name, settings in (("pixels", pixels), ("pca", pca)):
        assert main(["train", "digits", *settings, *quick, "--out", str(folder / name)]) == 0
    return [folder / "pixels", folder / "pca"]


@pytest.fixture(scope="module")
def raw():
    return torch.randint(256, (7, 1, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def test_it_is_scored_and_told(program, members, tmp_path):
    out = tmp_path / "e"
    done = program("ensemble", *members, "--out", out)
    assert (done.code, done.err) == (0, "")
    said = done.out.splitlines()
    assert said[0] == "accuracy on the test part"
    assert [line.split()[0] for line in said[1:4]] == ["pixels", "pca", "ensemble"]
    assert "95% interval" in said[3]
    assert said[4].startswith("gained on the mean member: ") and " points (" in said[4]
    assert said[5].startswith("gained on the best on validation (p")
    assert said[6].startswith("expected calibration error ")
    assert said[7] == f"report  {out / 'report.html'}"
    assert {path.name for path in out.iterdir()} == {
        "ensemble.json", "members", "preprocessing.json", "predictions.safetensors", "result.json",
        "report.html",
    }  # fmt: skip
    assert "The ensemble" in (out / "report.html").read_text()


@pytest.mark.parametrize("format", ["pt2", "onnx"])
def test_python_predict_and_export_give_the_mean_of_the_members(ravine, members, raw, tmp_path, format):
    out, file, new = tmp_path / "e", tmp_path / f"e.{format}", tmp_path / "new.npy"
    assert ravine("ensemble", *members, "--out", out).code == 0
    np.save(new, raw.numpy())

    def predicted(run):
        answers = rows_of(ravine("predict", run, new).out)
        return torch.tensor([[float(row[f"p({digit})"]) for digit in range(10)] for row in answers])

    mean = sum(predicted(member) for member in members) / 2
    with torch.no_grad():
        in_python = package.load_predictor(out)(raw)
    assert ravine("export", out, file).code == 0
    for given in (predicted(out), in_python, run_file(file, raw)):
        torch.testing.assert_close(given, mean, rtol=0, atol=1e-6)


def test_runs_are_selected_or_averaged_into_one(ravine, members, tmp_path):
    done = ravine("ensemble", *members, "--how", "selected", "--out", tmp_path / "best")
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "best" / "ensemble.json").read_text())["how"] == "selected"
    refused = ravine("ensemble", *members, "--how", "soup", "--out", tmp_path / "soup")
    assert refused.code == 2 and "prepare their inputs differently" in refused.err
    assert not (tmp_path / "soup").exists()


def test_a_language_ensemble_is_predicted_with_and_exported(ravine, runs, tmp_path):
    other = tmp_path / "other"
    recipe = ("--recipe", runs / "text" / "recipe.toml", "--set", "optimizer.lr=0.02")
    assert ravine("train", runs / "verse.txt", *recipe, "--out", other).code == 0
    done = ravine("ensemble", runs / "text", other, "--out", tmp_path / "e")
    assert done.code == 0, done.err
    assert done.out.startswith("bits per character on the test part\n  optimizer.lr = ")
    (tmp_path / "start.txt").write_text("the quick brown")
    rows = [
        rows_of(ravine("predict", run, tmp_path / "start.txt").out)[0]
        for run in (runs / "text", other, tmp_path / "e")
    ]
    for key in (key for key in rows[0] if key.startswith("p(")):
        mean = (float(rows[0][key]) + float(rows[1][key])) / 2
        assert float(rows[2][key]) == pytest.approx(mean, abs=1e-6)
    assert ravine("export", tmp_path / "e", tmp_path / "e.pt2").code == 0


def test_a_table_with_gaps_is_exported_too(ravine, runs, tmp_path):
    other = tmp_path / "other"
    recipe = ("--recipe", runs / "prices" / "recipe.toml", "--set", "optimizer.lr=0.02")
    assert ravine("train", runs / "prices.csv", *recipe, "--out", other).code == 0
    assert ravine("ensemble", runs / "prices", other, "--out", tmp_path / "e").code == 0
    done = ravine("export", tmp_path / "e", tmp_path / "e.onnx")
    assert done.code == 0, done.err


def test_what_takes_one_run_refuses_it(ravine, members, tmp_path):
    assert ravine("ensemble", *members, "--out", tmp_path / "e").code == 0
    for arguments in (
        ("train", "--resume", tmp_path / "e"),
        ("ablate", tmp_path / "e"),
        ("ensemble", tmp_path / "e", members[0]),
    ):
        done = ravine(*arguments)
        assert done.code == 2 and "is an ensemble, not one run" in done.err
    alone = ravine("ensemble", members[0])
    assert alone.code == 2 and "two runs or more" in alone.err
    wrong = ravine("ensemble", *members, "--how", "stew")
    assert wrong.code == 2 and "soup" in wrong.err


def test_an_ensemble_is_trained_predicts_and_is_exported(ravine, tmp_path):
    out = tmp_path / "out"
    quick = ("--set", "stop.epochs=2", "--set", "model.width=8")
    done = ravine("ensemble", "wine", "--members", 3, "--vary", "lr=0.01,0.003", *quick, "--out", out)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert "members stacked" in lines[0] or "members in turn" in lines[0]
    assert any(line.startswith("gained on the mean member: ") for line in lines)
    assert lines[-1] == f"report  {out / 'report.html'}"
    assert ravine("export", out, tmp_path / "all.pt2").code == 0
    assert not (tmp_path / "out.training").exists()
    mixed = ravine("ensemble", out / "members" / "00", out / "members" / "01", "--members", 2)
    assert mixed.code == 2 and "taken as they are" in mixed.err
    of_data = ravine("ensemble", out / "members" / "00", out / "members" / "01", "--how", "bagging")
    assert of_data.code == 2 and "trains on one DATA" in of_data.err
