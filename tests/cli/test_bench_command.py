import json
import math

import pytest
import torch

from ravine.cli import main
from ravine.lab.bench import SETS, ProblemSet, configurations


@pytest.fixture(autouse=True)
def tiny_sets(monkeypatch):
    for name, shapes in (("large", ((8, 8), (8,))), ("many", ((3,), (2, 2), (1,)))):
        monkeypatch.setitem(SETS, name, ProblemSet(name, shapes))


@pytest.fixture
def told(capsys):
    def run(*arguments, code=0):
        assert main(["bench", *arguments]) == code
        captured = capsys.readouterr()
        return captured.err if code else captured.out

    return run


def test_a_table_for_each_set(told):
    lines = told("adam", "sgd+momentum", "--rounds", "1").splitlines()
    heads = [line.split()[0] for line in lines if line]
    assert heads == [
        "large:",
        "optimizer",
        "adam",
        "sgd+momentum",
        "many:",
        "optimizer",
        "adam",
        "sgd+momentum",
    ]
    assert lines[0].startswith("large: 2 tensors, 0.00 M parameters, ") and "CPU thread" in lines[0]
    for title in ("ravine ms", "torch ms", "ratio", "GB/s", "of copy", "first step s"):
        assert title in lines[1]


def test_one_set_and_every_optimizer(told):
    lines = told("--set", "many", "--rounds", "1").splitlines()
    assert [line.split()[0] for line in lines[2:] if line] == list(configurations())


def test_threads_are_those_asked_for(told):
    before = torch.get_num_threads()
    assert ", 1 CPU thread\n" in told("sgd", "--set", "many", "--rounds", "1", "--threads", "1")
    assert torch.get_num_threads() == before


def test_the_file_has_every_figure(told, tmp_path):
    file = tmp_path / "new" / "figures.json"
    text = told("adam", "sgd+nesterov", "--rounds", "2", "--json", str(file))
    assert f"figures {file}" in text
    assert list(file.parent.iterdir()) == [file]
    content = json.loads(file.read_text())
    assert content["versions"]["torch"] == torch.__version__
    assert content["threads"] == torch.get_num_threads() and content["rounds"] == 2
    results = content["results"]
    assert [(one["set"], one["name"]) for one in results] == [
        *(("large", "adam"), ("large", "sgd+nesterov"), ("many", "adam"), ("many", "sgd+nesterov"))
    ]
    assert results[1]["optimizer"] == "sgd"
    assert results[1]["settings"] == {"momentum": 0.9, "nesterov": True}
    assert results[0]["traffic_bytes"] == 28 * 72
    for one in results:
        numbers = [value for value in one.values() if isinstance(value, float)]
        for number in [*one["seconds"].values(), *numbers]:
            assert math.isfinite(number) and number > 0
        assert {"ravine", "copy", "torch fused"} <= set(one["seconds"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["admw"], "error: unknown optimizer 'admw' (did you mean 'adamw'?)"),
        (["adam", "--rounds", "0"], "Invalid value for '--rounds'"),
        (["adam", "--threads", "0"], "Invalid value for '--threads'"),
        (["adam", "--set", "small"], "Invalid value for '--set'"),
        (["adam", "--device", "cuda"], "error: there is no cuda device here; use --device cpu"),
        (["adam", "--json", "."], "error: . is a folder; name a file in it"),
    ],
)
def test_a_wrong_call_ends_with_2_before_anything_is_timed(told, monkeypatch, arguments, message):
    def never(*arguments, **options):
        raise AssertionError("something was timed")

    monkeypatch.setattr("ravine.lab.bench.measure", never)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert message in told(*arguments, code=2)


def test_the_help_names_the_sets(told):
    text = told("--help")
    assert "Usage: ravine bench" in text and "<large|many|both>" in text
