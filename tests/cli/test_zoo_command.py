"""`ravine zoo`: what there is, what is known of it, what is added, and whether all of it is whole."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ravine.cli import main
from ravine.models import make
from ravine.training import run as runs
from ravine.transfer import open_model

OWN = ("ravine-cifar10", "ravine-fashion")


@pytest.fixture(autouse=True)
def zoo(tmp_path, monkeypatch):
    monkeypatch.setenv("RAVINE_ZOO", str(tmp_path / "zoo"))
    return tmp_path / "zoo"


@pytest.fixture
def told(capsys):
    def run(*arguments, code=0):
        capsys.readouterr()
        assert main(["zoo", *map(str, arguments)]) == code
        captured = capsys.readouterr()
        return captured.err if code else captured.out

    return run


@pytest.fixture
def file(tmp_path):
    """Weights of a small network for 1×8×8 images and 3 classes, whose layout nobody knows."""
    torch.manual_seed(0)
    network = make("cnn", (1, 8, 8), 3, {"width": 4})
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


@pytest.fixture
def recognised(tmp_path):
    """Weights of a residual network for CIFAR with 7 classes, by the names of another program."""
    layers = {"conv1": (4, 3, 3, 3), "layer1.0.conv1": (4, 4, 3, 3), "layer1.0.conv2": (4, 4, 3, 3)}
    layers |= {"layer2.0.conv1": (8, 4, 3, 3), "layer2.0.conv2": (8, 8, 3, 3)}
    layers |= {"layer3.0.conv1": (16, 8, 3, 3), "layer3.0.conv2": (16, 16, 3, 3)}
    weights = {}
    for name, shape in layers.items():
        weights[f"{name}.weight"] = torch.randn(shape)
        norm = name.replace("conv", "bn")
        for part in ("weight", "bias", "running_mean", "running_var"):
            weights[f"{norm}.{part}"] = torch.ones(shape[0])
    weights |= {"linear.weight": torch.randn(7, 16), "linear.bias": torch.zeros(7)}
    torch.save({"state_dict": weights}, tmp_path / "their.th")
    return tmp_path / "their.th"


KNOWN = ("--architecture", "cnn", "--set", "width=4", "--shape", "1,8,8", "--outputs", "3")


def test_the_list_has_every_network_with_its_licence(told, file):
    told("add", "mine", file, *KNOWN, "--licence", "MIT", "--data", "photographs [of cats]", "--score", "90%")
    lines = told("list").splitlines()
    assert lines[0].split() == ["name", "network", "images", "trained", "on", "score", "licence"]
    assert [line.split()[0] for line in lines[1:]] == [*OWN, "mine"]
    assert "3×32×32" in lines[1] and "Apache-2.0" in lines[1]
    assert lines[3].split() == ["mine", "cnn", "1×8×8", "photographs", "[of", "cats]", "90%", "MIT"]


def test_all_that_is_known_of_a_network(told):
    text = told("show", "ravine-cifar10")
    said = {line.split()[0]: line[13:] for line in text.splitlines()}
    assert said["architecture"] == "resnet" and said["shape"] == "[3, 32, 32]"
    assert said["licence"].startswith("Apache-2.0") and "% of 1,000 test images" in said["score"]
    assert len(said["sha256"]) == 64 and "airplane" in said["classes"]


def test_a_file_with_its_network_told(told, file, zoo):
    text = told("add", "mine", file, *KNOWN, "--mean", "0.25", "--std", "0.125", "--licence", "MIT")
    assert text == f"{zoo / 'mine'}\n"
    opened = open_model("mine")
    torch.manual_seed(0)
    network = make("cnn", (1, 8, 8), 3, {"width": 4}).eval()
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(opened.module(x), network(x))
    card = opened.card
    assert (card.mean, card.std, card.licence, card.source) == ((0.25,), (0.125,), "MIT", str(file))


def test_a_file_whose_layout_is_known(told, recognised):
    told("add", "theirs", recognised)
    card = open_model("theirs").card
    assert (card.architecture, card.outputs, card.name) == ("resnet", 7, "theirs")
    assert card.mean == (0.485, 0.456, 0.406)


def test_what_a_layout_does_not_say_is_taken(told, recognised):
    told("add", "theirs", recognised, "--mean", "0.25,0.5,0.75", "--std", "0.5,0.25,0.125")
    card = open_model("theirs").card
    assert (card.mean, card.std) == ((0.25, 0.5, 0.75), (0.5, 0.25, 0.125))


@pytest.mark.parametrize(
    ("options", "told_of"),
    [
        (("--outputs", "10"), "--outputs: FILE is of a layout that says what its network is; leave it out"),
        (
            ("--shape", "3,32,32", "--set", "width=4", "--mean", "0.5,0.5,0.5"),
            "--set, --shape: FILE is of a layout that says what its network is; leave them out",
        ),
        (("--mean", "3,3"), "--mean '3,3': write 3 numbers, at least 0, with commas between"),
        (("--std", ""), "--std '': write 3 numbers, at least 1e-06, with commas between"),
    ],
)
def test_what_a_layout_says_is_not_said_again(told, recognised, zoo, options, told_of):
    text = told("add", "theirs", recognised, *options, code=2)
    assert text == f"error: {told_of.replace('FILE', str(recognised))}\n"
    assert not zoo.exists()


def test_a_run_is_kept_with_its_recipe(told, tmp_path, zoo):
    settings = {"model": {"name": "cnn", "width": 4}, "stop": {"epochs": 1}}
    run = runs.train(None, "digits", settings=[settings], out=tmp_path / "run")
    told("add", "digits", run.folder, "--licence", "CC0")
    opened = open_model("digits")
    card = opened.card
    assert (card.data, card.licence, card.source) == ("digits", "CC0", str(run.folder))
    assert card.classes == tuple("0123456789") and card.score.startswith("test accuracy ")
    assert (zoo / "digits" / "recipe.toml").read_text() == (run.folder / "recipe.toml").read_text()
    kept, best = opened.module.state_dict(), run.model.state_dict()
    assert kept.keys() == best.keys() and all(torch.equal(kept[name], best[name]) for name in best)
    assert "recipe.toml" in told("show", "digits")


@pytest.fixture
def text_run(tmp_path):
    """Of a language model, trained for one epoch."""
    (tmp_path / "play.txt").write_text("abc abd bad cab dab. " * 60)
    model = {"name": "transformer", "width": 16, "depth": 1, "heads": 2, "context": 16}
    settings = [{"model": model, "stop": {"epochs": 1}}]
    return runs.train(None, tmp_path / "play.txt", settings=settings, out=tmp_path / "run")


def test_a_language_model_is_scored_in_bits(told, text_run):
    told("add", "play", text_run.folder)
    score = f"test loss {text_run.result['test']['bits']:.3f} bits per character"
    assert open_model("play").card.score == score


def test_a_run_that_has_not_finished_says_so(told, text_run):
    (text_run.folder / "result.json").unlink()
    told("add", "play", text_run.folder)
    assert open_model("play").card.score == "none: training has not finished"


@pytest.mark.parametrize(
    ("options", "told_of"),
    [
        (("--architecture", "cnn"), "--architecture: RUN is a run, which knows its network; leave it out"),
        (
            ("--mean", "0.5", "--outputs", "3"),
            "--outputs, --mean: RUN is a run, which knows its network; leave them out",
        ),
    ],
)
def test_what_a_run_knows_is_not_said_again(told, text_run, options, told_of, zoo):
    text = told("add", "play", text_run.folder, *options, code=2)
    assert text == f"error: {told_of.replace('RUN', str(text_run.folder))}\n"
    assert not zoo.exists()


def test_the_licence_of_what_a_run_started_from_stays_with_it(told, tmp_path):
    settings = [{"transfer": {"source": "ravine-fashion", "train": "head"}, "stop": {"epochs": 1}}]
    run = runs.train(None, "digits", settings=settings, out=tmp_path / "run")
    told("add", "mine", run.folder)
    card, origin = open_model("mine").card, open_model("ravine-fashion").card
    assert card.licence == origin.licence != ""
    assert card.source == f"{run.folder}, which went on from ravine-fashion (Ravine)"
    assert f"licence      {origin.licence}\n" in told("show", "mine")
    told("add", "other", run.folder, "--licence", "MIT", "--source", "here")
    card = open_model("other").card
    assert (card.licence, card.source) == ("MIT", "here")


def test_files_and_runs_are_shown_as_networks_of_the_zoo_are(told, recognised, text_run):
    said = {line.split()[0]: line[13:] for line in told("show", recognised).splitlines()}
    assert (said["name"], said["architecture"], said["outputs"]) == ("their", "resnet", "7")
    said = {line.split()[0]: line[13:] for line in told("show", text_run.folder).splitlines()}
    assert said["architecture"] == "transformer" and said["source"] == str(text_run.folder)
    assert "hf:no/such/place: there is no such folder" in told("show", "hf:no/such/place", code=2)


def test_a_card_is_shown_though_its_weights_are_damaged(told, file, zoo, text_run, monkeypatch):
    told("add", "mine", file, *KNOWN)
    (zoo / "mine" / "weights.safetensors").unlink()
    assert "architecture cnn" in told("show", "mine")
    text_run.folder.rename(text_run.folder.with_name("mine"))
    monkeypatch.chdir(text_run.folder.parent)
    assert "architecture transformer" in told("show", "mine"), "what is here comes first, as in a recipe"


def test_check_finds_the_damaged_one(told, file, zoo):
    for name in ("one", "two"):
        told("add", name, file, *KNOWN)
    lines = told("check").splitlines()
    assert lines == [f"{name}: as it should be" for name in (*OWN, "one", "two")]
    path = zoo / "two" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    assert main(["zoo", "check"]) == 2
    (zoo / "one" / "card.json").write_text("{}")
    assert told("check", code=2) == "error: 2 of 4 networks cannot be used\n"


def test_check_tells_of_each(capsys, told, file, zoo):
    told("add", "one", file, *KNOWN)
    (zoo / "one" / "weights.safetensors").unlink()
    assert main(["zoo", "check"]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"{name}: as it should be" for name in OWN]
    assert lines[2].startswith("one: ") and lines[2].endswith("weights.safetensors is missing")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "ravine-cifar"), "no pretrained network 'ravine-cifar' (did you mean 'ravine-cifar10'?)"),
        (("add", "mine", "absent.pt"), "there is no file absent.pt"),
        (("add", "ravine-fashion", "FILE", *KNOWN), "there is a network 'ravine-fashion' already"),
        (("add", "a/b", "FILE", *KNOWN), "'a/b' is no name for a network"),
        (("add", "mine", "FILE"), "is of no layout that is known"),
        (("add", "mine", "FILE", "--architecture", "cnn"), "--architecture needs --shape and --outputs, too"),
        (("add", "mine", "FILE", *KNOWN[:-1], "4"), "does not fit the network: of another shape: "),
        (("add", "mine", "FILE", *KNOWN, "--set", "width"), "'width' is not key=value"),
        (("add", "mine", "FILE", *KNOWN, "--set", "wide=4"), "no setting 'wide'"),
        (
            ("add", "mine", "FILE", *KNOWN, "--set", "width=abc"),
            "model 'cnn': width = 'abc': input should be",
        ),
        (("add", "mine", "FILE", *KNOWN, "--architecture", "cnm"), "'cnm'"),
        (("add", "mine", "FILE", *KNOWN, "--architecture", "os:getcwd"), "would import and run code"),
        (("add", "mine", "FILE", *KNOWN, "--shape", "8,8"), "--shape '8,8': write 3 whole numbers"),
        (("add", "mine", "FILE", *KNOWN, "--shape", "1x8x8"), "--shape '1x8x8': write 3 whole numbers"),
        (
            ("add", "mine", "FILE", *KNOWN, "--shape", "0,8,8"),
            "--shape '0,8,8': write 3 whole numbers, at least 1",
        ),
        (("add", "mine", "FILE", *KNOWN, "--shape", "1,8.5,8"), "--shape '1,8.5,8': write 3 whole numbers"),
        (("add", "mine", "FILE", *KNOWN, "--mean", "0.1,0.2"), "--mean '0.1,0.2': write 1 numbers"),
        (("add", "mine", "FILE", *KNOWN, "--std", "0"), "--std '0': write 1 numbers, at least 1e-06"),
        (("add", "mine", "FILE", *KNOWN, "--std", "nan"), "--std 'nan': write 1 numbers"),
        (("list", "all"), "unexpected extra argument"),
    ],
)
def test_a_wrong_call_ends_with_2_and_keeps_nothing(told, file, zoo, arguments, message):
    text = told(*(file if argument == "FILE" else argument for argument in arguments), code=2)
    assert message in text
    assert not zoo.exists()


def test_a_payload_is_refused(told, tmp_path, zoo):
    trap = tmp_path / "trap"

    class Payload:
        def __reduce__(self):
            return type(trap).touch, (trap,)

    torch.save({"state_dict": {}, "hook": Payload()}, tmp_path / "evil.pt")
    np.savez(tmp_path / "evil.npz", a=np.array([Payload()], dtype=object))
    for name in ("evil.pt", "evil.npz"):
        assert f"{name} is refused: it holds pickled objects" in told("add", "x", tmp_path / name, code=2)
    assert not trap.exists() and not zoo.exists()


def test_a_card_that_is_damaged_is_named(told, file, zoo):
    told("add", "mine", file, *KNOWN)
    path = zoo / "mine" / "card.json"
    path.write_text(json.dumps({"name": "mine"}))
    reason = f"{path} is no card of a pretrained network: it lacks architecture, lacks outputs, lacks shape"
    assert told("show", "mine", code=2) == f"error: {reason}\n"


def test_one_damaged_card_hides_no_other_network(capsys, told, file, zoo):
    for name in ("bad", "card", "good"):
        told("add", name, file, *KNOWN)
    for name, changes in {"bad": {"data": 5}, "card": {"settings": {"width": [1]}}}.items():
        path = zoo / name / "card.json"
        path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}))
    lines = told("list").splitlines()
    assert [line.split()[0] for line in lines[1:]] == [*OWN, "card", "good", "bad:"]
    reason = f"{zoo / 'bad' / 'card.json'} is damaged: data: input should be a valid string"
    assert lines[-1] == f"bad: {reason}"
    assert main(["zoo", "check"]) == 2
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        *(f"{name}: as it should be" for name in OWN),
        f"bad: {reason}",
        "card: model 'cnn': width = [1]: input should be a valid integer",
        "good: as it should be",
    ]
    assert captured.err == "error: 2 of 5 networks cannot be used\n"
