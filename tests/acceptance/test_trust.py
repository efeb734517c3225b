"""A recipe or a run folder of a stranger is read; its code runs only where a person says so."""

import shutil
import sys
import tomllib

import numpy as np
import pytest

import ravine as library
from ravine.errors import TrustError
from ravine.training.run import make_setup

SOURCE = """
from pathlib import Path
from torch import nn

def make(shape, outputs):
    with Path("calls.txt").open("a") as file:
        file.write("called ")
    return nn.Linear(shape[0], outputs)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a module of one's own, where each call of it leaves a trace."""
    (tmp_path / "strange_networks.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def calls(place):
    """How often the network was made since the last question."""

    def count():
        trace = place / "calls.txt"
        made = trace.read_text().split() if trace.is_file() else []
        trace.unlink(missing_ok=True)
        return len(made)

    return count


@pytest.fixture
def run(ravine, place, calls):
    """A run on a network of one's own, named on the command line."""
    arguments = ("--set", "stop.epochs=1", "--out", place / "run")
    done = ravine("train", "wine", "--model", "strange_networks:make", *arguments)
    assert done.code == 0, done.err
    assert calls() == 1
    return place / "run"


def refused(done):
    assert done.code == 2, done
    assert "would import 'strange_networks' and call its 'make'" in done.err
    assert "add --trust" in done.err
    return True


def test_a_run_of_a_stranger_runs_no_code_unless_trusted(ravine, place, run, calls):
    np.save(place / "new.npy", np.ones((1, 13), np.float32))
    for command in (
        ("predict", run, "new.npy"),
        ("export", run, "model.pt2"),
        ("lr", "wine", "--recipe", run / "recipe.toml"),
    ):
        assert refused(ravine(*command))
    with pytest.raises(TrustError, match="trust=True"):
        library.load(run)
    with pytest.raises(TrustError, match="trust=True"):
        library.load_predictor(run)
    assert ravine("report", run).code == 0
    assert calls() == 0
    assert ravine("export", run, "model.pt2", "--trust").code == 0
    assert library.load(run, trust=True).out_features == 3
    assert library.load_predictor(run, trust=True).model.out_features == 3
    assert calls() == 3


def test_a_run_is_resumed_with_its_code_only_where_trusted(ravine, place, run, calls):
    shutil.copytree(run, place / "cut")
    (place / "cut" / "result.json").unlink()
    assert refused(ravine("train", "--resume", place / "cut"))
    with pytest.raises(TrustError, match="trust=True"):
        library.resume(place / "cut")
    assert calls() == 0
    done = ravine("train", "--resume", place / "cut", "--trust")
    assert done.code == 0, done.err
    assert calls() == 1


def test_a_recipe_file_runs_no_code_unless_trusted(ravine, run, calls):
    recipe = run / "recipe.toml"
    assert tomllib.loads(recipe.read_text())["model"]["name"] == "strange_networks:make"
    assert refused(ravine("train", "wine", "--recipe", recipe))
    assert calls() == 0
    make_setup(None, "wine", recipe, trust=True)
    make_setup("strange_networks:make", "wine", recipe)
    make_setup(None, "wine", recipe, settings=[{"model": {"name": "strange_networks:make"}}])
    make_setup(None, "wine", {"model": {"name": "strange_networks:make"}})
    assert calls() == 4
    make_setup("mlp", "wine", recipe)
    make_setup(None, "wine", recipe, settings=[{"model": {"name": "linear"}}])
    assert calls() == 0


def test_a_recipe_that_would_run_a_command(ravine, place):
    (place / "evil.toml").write_text('[model]\nname = "os:system"\ncommand = "touch broken-in"\n')
    done = ravine("train", "wine", "--recipe", "evil.toml")
    assert done.code == 2
    assert "would import 'os' and call its 'system'" in done.err
    assert not (place / "broken-in").exists()


OWN_RULE = """
from pathlib import Path
from ravine.optim import rule

with Path("calls.txt").open("a") as file:
    file.write("imported ")

@rule()
def descent(x, dx, t, lr=0.01):
    return (x - lr * dx,)
"""


@pytest.fixture
def rule_run(ravine, place, calls, request):
    """A run with an optimizer of one's own, its module forgotten afterwards."""
    name = f"strange_rules_{request.node.name}"
    (place / f"{name}.py").write_text(OWN_RULE)
    arguments = ("--set", f"optimizer.name={name}:descent", "--set", "optimizer.lr=0.1")
    done = ravine("train", "wine", *arguments, "--set", "stop.epochs=1", "--out", place / "ruled")
    assert done.code == 0, done.err
    assert calls() == 1
    del sys.modules[name]
    return place / "ruled"


def test_an_optimizer_of_a_stranger_is_imported_only_where_trusted(ravine, place, rule_run, calls):
    recipe = rule_run / "recipe.toml"
    name = tomllib.loads(recipe.read_text())["optimizer"]["name"]
    told = (
        f"says optimizer.name = {name!r}: that would import {name.partition(':')[0]!r} and call its 'descent'"
    )
    shutil.copytree(rule_run, place / "cut")
    (place / "cut" / "result.json").unlink()
    for command in (
        ("train", "wine", "--recipe", recipe),
        ("train", "wine", "--model", "mlp", "--recipe", recipe),
        ("lr", "wine", "--recipe", recipe),
        ("train", "--resume", place / "cut"),
    ):
        done = ravine(*command)
        assert done.code == 2 and told in done.err and "add --trust" in done.err
    # What needs no optimizer never looks at it.
    np.save(place / "new.npy", np.ones((1, 13), np.float32))
    for command in (
        ("predict", rule_run, "new.npy"),
        ("report", rule_run),
        ("inspect", "wine", "--recipe", recipe),
    ):
        assert ravine(*command).code == 0
    make_setup(None, "wine", recipe, settings=[{"optimizer": {"name": "adam"}}])
    assert calls() == 0
    done = ravine("train", "--resume", place / "cut", "--trust")
    assert done.code == 0, done.err
    assert calls() == 1
