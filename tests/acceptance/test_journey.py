"""From data to a trained network in use: train, predict, export, report."""

import csv
import io
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_training_leaves_a_whole_run_and_tells_where(program, tmp_path):
    out = tmp_path / "deep" / "run"
    done = program("train", "digits", "--set", "stop.epochs=3", "--seed", 7, "--device", "cpu", "--out", out)
    assert done.code == 0, done.err
    assert done.err == ""
    lines = done.out.splitlines()
    assert lines[0].startswith("noticed:") or lines[0].startswith("digits ·")
    assert any(line.startswith("●") for line in lines)
    assert any(line.lstrip("● ").startswith("3/3") for line in lines)
    assert any(line.startswith("test accuracy") and "95% interval" in line for line in lines)
    assert f"report  {out / 'report.html'}" in lines
    names = {path.name for path in out.iterdir()}
    assert names >= {
        "recipe.toml", "environment.json", "splits.json", "preprocessing.json", "metrics.jsonl",
        "model.safetensors", "predictions.safetensors", "result.json", "report.html",
    }  # fmt: skip
    assert not [name for name in names if name.startswith(".")]
    result = json.loads((out / "result.json").read_text())
    assert result["epochs"] == 3
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 3
    assert "seed = 7 " in (out / "recipe.toml").read_text()
    environment = json.loads((out / "environment.json").read_text())
    assert environment["command"][1:3] == ["train", "digits"]
    again = program("train", "--resume", out)
    assert again.code == 2
    assert "finished" in again.err


def test_a_runs_recipe_trains_the_same_again(ravine, runs, tmp_path):
    done = ravine("train", "digits", "--recipe", runs / "digits" / "recipe.toml", "--out", tmp_path / "again")
    assert done.code == 0, done.err
    for name in ("recipe.toml", "splits.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (runs / "digits" / name).read_bytes(), name


def test_new_images_are_predicted_as_arrays_and_as_files(program, ravine, runs, tmp_path):
    digits = load_digits()
    pixels = np.round(digits.images[:40] * 255 / 16).astype(np.uint8)
    np.save(tmp_path / "new.npy", pixels[:, None])
    done = program("predict", runs / "digits", tmp_path / "new.npy")
    assert done.code == 0, done.err
    assert done.err == ""
    answers = rows_of(done.out)
    assert [row["item"] for row in answers] == [str(number) for number in range(40)]
    assert list(answers[0]) == ["item", "prediction", *(f"p({digit})" for digit in range(10))]
    for row in answers:
        probabilities = [float(row[f"p({digit})"]) for digit in range(10)]
        assert math.isclose(sum(probabilities), 1, abs_tol=1e-5)
        assert probabilities[int(row["prediction"])] == max(probabilities)
    right = sum(int(row["prediction"]) == label for row, label in zip(answers, digits.target, strict=False))
    assert right > 20  # two epochs; by chance it would be 4

    images = tmp_path / "images"
    images.mkdir()
    for number, image in enumerate(pixels[:3]):
        Image.fromarray(image).save(images / f"{number}.png")
    (images / "torn.png").write_bytes((images / "0.png").read_bytes()[:40])
    refused = ravine("predict", runs / "digits", images)
    assert refused.code == 2
    assert "torn.png" in refused.err and "--skip-bad" in refused.err
    out = tmp_path / "new" / "answers.csv"
    done = ravine("predict", runs / "digits", images, "--skip-bad", "--out", out)
    assert done.code == 0, done.err
    assert "1 files left out, as they cannot be read (torn.png)" in done.err
    kept = rows_of(out.read_text())
    assert [row["item"] for row in kept] == ["0.png", "1.png", "2.png"]
    for row, same in zip(kept, answers, strict=False):
        assert float(row["p(3)"]) == pytest.approx(float(same["p(3)"]), abs=1e-5)


def test_new_rows_are_predicted_whatever_their_order_and_gaps(ravine, runs, tmp_path):
    (tmp_path / "new.csv").write_text("district,rooms\nsouth,3\nnorth,\nnowhere,5\n")
    done = ravine("predict", runs / "prices", tmp_path / "new.csv")
    assert done.code == 0, done.err
    answers = rows_of(done.out)
    assert [row["item"] for row in answers] == ["row 1", "row 2", "row 3"]
    assert all(math.isfinite(float(row["prediction"])) for row in answers)


def test_a_text_is_scored_and_continued(ravine, runs, tmp_path):
    (tmp_path / "start.txt").write_text("the quick brown")
    done = ravine("predict", runs / "text", tmp_path / "start.txt")
    assert done.code == 0, done.err
    row = rows_of(done.out)[0]
    probabilities = {key[2:-1]: float(value) for key, value in row.items() if key.startswith("p(")}
    assert math.isclose(sum(probabilities.values()), 1, abs_tol=1e-5)
    assert max(probabilities, key=probabilities.__getitem__) == row["prediction"]
    said = done.err.splitlines()
    assert said[0].startswith("15 characters: ") and said[0].endswith("bits) a character")
    continued = done.err.partition("like this:\n")[2]
    assert len(continued) == 200 + 1 and set(continued) <= {*probabilities, "\n"}


@pytest.mark.parametrize("run", ["digits", "prices"])
@pytest.mark.parametrize("format", ["pt2", "onnx"])
def test_an_exported_file_answers_as_predict_does(ravine, runs, tmp_path, run, format):
    file = tmp_path / f"model.{format}"
    done = ravine("export", runs / run, file)
    assert done.code == 0, done.err
    assert "largest difference from predict" in done.out
    if run == "digits":
        raw = torch.randint(256, (5, 1, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
        np.save(tmp_path / "raw.npy", raw.numpy())
        told = rows_of(ravine("predict", runs / run, tmp_path / "raw.npy").out)
        wanted = torch.tensor([[float(row[f"p({digit})"]) for digit in range(10)] for row in told])
    else:
        raw = torch.tensor([[3.0, 1.0], [math.nan, 2.0], [7.0, 0.0]])  # north, south, west are 0, 1, 2
        (tmp_path / "raw.csv").write_text("rooms,district\n3,south\n,west\n7,north\n")
        told = rows_of(ravine("predict", runs / run, tmp_path / "raw.csv").out)
        wanted = torch.tensor([float(row["prediction"]) for row in told])
    torch.testing.assert_close(run_file(file, raw), wanted, rtol=1e-4, atol=1e-5)


def run_file(file, raw):
    if file.suffix == ".pt2":
        return torch.export.load(file).module()(raw)
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: raw.numpy()})[0])


def test_a_language_model_is_exported(ravine, runs, tmp_path):
    done = ravine("export", runs / "text", tmp_path / "model.pt2")
    assert done.code == 0, done.err
    assert (tmp_path / "model.pt2").is_file()


def test_the_report_is_drawn_again(ravine, runs):
    page = runs / "digits" / "report.html"
    page.unlink()
    done = ravine("report", runs / "digits")
    assert (done.code, done.out) == (0, f"{page}\n")
    assert "test accuracy" in page.read_text().lower()


def test_the_range_test_suggests_and_draws(ravine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = ravine("lr", "wine")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == "mlp on wine with adamw"
    key, _, rate = lines[1].partition("=")
    assert key == "optimizer.lr" and 1e-4 < float(rate) < 0.1
    assert lines[-1] == "picture lr-wine.html"
    page = (tmp_path / "lr-wine.html").read_text()
    assert f"optimizer.lr={rate}" in page and "<script" in page
    assert [path.name for path in tmp_path.iterdir()] == ["lr-wine.html"]  # no run is left
    elsewhere = ravine("lr", "wine", "--set", "optimizer.name=sgd", "--out", "a/b.html")
    assert elsewhere.out.startswith("mlp on wine with sgd\n")
    assert (tmp_path / "a" / "b.html").is_file()


def test_each_regularizer_is_left_out_in_turn(ravine, tmp_path):
    run = tmp_path / "run"
    quick = ("--set", "stop.epochs=2", "--set", "model.width=16", "--set", "optimizer.weight_decay=0")
    assert ravine("train", "wine", *quick, "--set", "model.dropout=0.2", "--out", run).code == 0
    done = ravine("ablate", run)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == "without model.dropout = 0.2 (1 of 1)"
    assert lines[-2].startswith("model.dropout = 0.2: ") and lines[-1] == f"report  {run / 'report.html'}"
    assert "What each regularizer is worth" in (run / "report.html").read_text()
    assert (run / "without" / "model.dropout" / "report.html").is_file()
    plain = ravine("ablate", run / "without" / "model.dropout")
    assert plain.code == 2 and "no regularizer to leave out" in plain.err
