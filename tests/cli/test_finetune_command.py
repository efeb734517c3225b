"""`ravine finetune`: a run folder with a report that says what the pretrained network was worth."""

import json

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from ravine.cli import main
from ravine.models import make
from ravine.transfer.zoo import shelf
from ravine.transfer.zoo.card import Card

QUICK = ("--set", "stop.epochs=2")
CARD = Card(
    name="small",
    architecture="resnet",
    settings={"width": 8, "blocks": [1, 1]},
    shape=(1, 8, 8),
    mean=(0.3,),
    std=(0.3,),
    outputs=5,
    data="some digits",
    licence="CC0",
    score="91% of them",
)


@pytest.fixture(autouse=True)
def zoo(tmp_path, monkeypatch):
    monkeypatch.setenv("RAVINE_ZOO", str(tmp_path / "zoo"))
    torch.manual_seed(0)
    shelf.put(CARD, make(CARD.architecture, CARD.shape, CARD.outputs, CARD.settings).state_dict())


@pytest.fixture
def data(tmp_path):
    digits = load_digits()
    low = np.flatnonzero(digits.target <= 2)[:240]
    path = tmp_path / "low.npz"
    np.savez(path, x=(digits.images[low] * 15).astype(np.uint8), y=digits.target[low])
    return path


@pytest.fixture
def told(capsys):
    def run(*arguments, code=0):
        capsys.readouterr()
        assert main(["finetune", *map(str, arguments)]) == code
        captured = capsys.readouterr()
        return captured.err if code else captured.out

    return run


def test_what_is_measured_and_decided_is_told_and_shown(told, data, tmp_path):
    out = tmp_path / "run"
    text = told(data, "--from", "small", *QUICK, "--seed", 3, "--out", out)
    assert "a linear classifier reaches " in text
    for how in ("head", "top", "all"):
        assert f"\n{how}: " in text and "% of the held-out items" in text
    record = json.loads((out / "transfer.json").read_text())
    scratch = f"after {record['scratch']['epochs']} epochs in "
    assert f"\nfrom scratch: accuracy {record['scratch']['accuracy']:.1%} on the test part {scratch}" in text
    assert text.rstrip().endswith(f"report  {out / 'report.html'}")
    page = (out / "report.html").read_text()
    for said in (
        "What it started from",
        "small (resnet, some digits, 91% of them)",
        "CC0",
        "What each depth knows",
        "tried: the new head alone",
        "tried: the layers above the best depth",
        "tried: all layers",
        f"{record['items']}, {record['items'] / 3:.0f} a class",
    ):
        assert said in page, said
    recipe = (out / "recipe.toml").read_text()
    assert "seed = 3 " in recipe and 'source = "small"' in recipe


def test_one_way_and_the_commands_that_follow(told, capsys, data, tmp_path):
    out = tmp_path / "run"
    text = told(data, "--from", "small", "--how", "head", *QUICK, "--out", out)
    assert "trained: the new head alone" in text and "held-out" not in text
    assert "tried: " not in (out / "report.html").read_text()
    np.save(tmp_path / "new.npy", np.load(data)["x"][:4])
    assert main(["predict", str(out), str(tmp_path / "new.npy")]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "item,prediction,p(0),p(1),p(2)"
    assert main(["export", str(out), str(tmp_path / "net.pt2")]) == 0
    assert main(["report", str(out)]) == 0
    assert "What it started from" in (out / "report.html").read_text()


def test_a_run_is_a_source(told, data, tmp_path):
    assert main(["train", str(data), "--model", "cnn", *QUICK, "--out", str(tmp_path / "first")]) == 0
    told(data, "--from", tmp_path / "first", "--how", "all", *QUICK, "--out", tmp_path / "run")
    record = json.loads((tmp_path / "run" / "transfer.json").read_text())
    assert record["card"]["name"] == "first" and record["train"] == "all"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Missing option '--from'"),
        (("--from", "smal"), "no pretrained network 'smal' (did you mean 'small'?)"),
        (("--from", "absent.pt"), "there is no file absent.pt"),
        (("--from", "small", "--how", "some"), "Invalid value for '--how'"),
        (("--from", "small", "--recipe", "fune"), "fune"),
        (
            ("--from", "small", "--set", "model.name=cnn"),
            "model.name = 'cnn': small, which training starts from",
        ),
        (("--from", "small", "--set", "transfer.train=nothing"), "no module 'nothing'"),
        (
            ("--from", "small", "--how", "all", "--set", "transfer.train=head"),
            "transfer.train: --how all says it, too",
        ),
    ],
)
def test_a_wrong_call_ends_with_2_and_leaves_nothing(told, data, tmp_path, arguments, message):
    assert message in told(data, *arguments, *QUICK, "--out", tmp_path / "run", code=2)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "how", "message"),
    [
        ("wine", "auto", "small knows data of the kind image, and these are of the kind table"),
        ("nowhere", "auto", "nowhere"),
    ],
)
def test_data_that_do_not_fit(told, tmp_path, name, how, message):
    assert message in told(name, "--from", "small", "--how", how, "--out", tmp_path / "run", code=2)
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_there_is_not_written_over(told, data, tmp_path):
    (tmp_path / "run").mkdir()
    assert "exists already" in told(data, "--from", "small", "--out", tmp_path / "run", code=2)


def test_the_help_says_what_to_start_from(told, capsys):
    text = told("--help")
    assert "Usage: ravine finetune" in text and "hf:, timm: or torchvision:NAME" in " ".join(text.split())
    assert main(["--help"]) == 0
    assert {"finetune", "zoo"} <= {line.split()[0] for line in capsys.readouterr().out.splitlines() if line}
