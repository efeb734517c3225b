"""The pages on rules and optimizers say what is so: their code runs and prints what they show."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import ravine.optim
from ravine import registry
from ravine.cli import main
from ravine.optim.options import DEFAULTS
from ravine.training import parts  # noqa: F401  fills the registry

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder of one's own, as a reader has it; its modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("my_rules", None)


def run_page(name, place, capsys):
    """Run every block: modules are saved, Python run, commands called, and what was printed compared."""
    counts = {"module": 0, "python": 0, "text": 0, "command": 0}
    printed, names = "", {"__name__": "page"}  # a block may use what the ones before it made
    for language, text in BLOCK.findall((DOCS / name).read_text()):
        if language == "python" and text.startswith("# my_rules.py\n"):
            (place / "my_rules.py").write_text(text)
            counts["module"] += 1
        elif language == "python":
            capsys.readouterr()
            torch.manual_seed(0)
            exec(compile(text, name, "exec"), names)
            printed = capsys.readouterr().out
            counts["python"] += 1
        elif language == "text":
            # Whether there is a GPU depends on the machine.
            shown, found = (
                [line for line in each.splitlines() if not line.startswith("  gpu ")]
                for each in (text, printed)
            )
            assert shown == found
            counts["text"] += 1
        else:
            for command in text.splitlines():
                program, *arguments = shlex.split(command)
                assert program == "ravine"
                if arguments[0] in (
                    "train",
                    "ensemble",
                    "finetune",
                ):  # one epoch shows that the command works
                    epochs = 3 if "snapshot" in arguments else 1  # one for each of three members
                    arguments += [
                        "--set",
                        f"stop.epochs={epochs}",
                        "--out",
                        str(place / f"run{counts['command']}"),
                    ]
                assert main(arguments) == 0, command
                counts["command"] += 1
    return counts


def test_the_page_on_rules_runs(place, capsys):
    assert run_page("rules.md", place, capsys) == {"module": 1, "python": 4, "text": 3, "command": 2}


def test_the_page_on_optimizers_runs(place, capsys):
    assert run_page("optimizers.md", place, capsys) == {"module": 0, "python": 4, "text": 4, "command": 2}


def test_the_page_on_full_batches_runs(place, capsys):
    assert run_page("full_batch.md", place, capsys) == {"module": 0, "python": 6, "text": 6, "command": 4}


def test_the_page_on_regularization_runs(place, capsys):
    assert run_page("regularization.md", place, capsys) == {"module": 0, "python": 6, "text": 6, "command": 9}


def test_the_rule_of_the_page_is_the_papers(place, capsys):
    """ADOPT's algorithm 2 in NumPy, arXiv:2411.02853, its first gradient before its step 1."""
    module = next(text for _, text in BLOCK.findall((DOCS / "rules.md").read_text()) if "def adopt" in text)
    (place / "my_rules.py").write_text(module)
    from my_rules import adopt

    random = np.random.default_rng(0)
    gradients = random.normal(size=(30, 50)) * 10 ** random.uniform(-4, 1, (30, 50))
    parameter = torch.nn.Parameter(torch.ones(50, dtype=torch.float64))
    optimizer = adopt.optimizer([parameter], lr=0.01, beta2=0.99)
    for gradient in gradients:
        parameter.grad = torch.from_numpy(gradient)
        optimizer.step()

    theta, m, v = np.ones(50), np.zeros(50), gradients[0] ** 2
    for t, gradient in enumerate(gradients[1:], 1):
        m = 0.9 * m + 0.1 * np.clip(gradient / np.maximum(np.sqrt(v), 1e-6), -(t**0.25), t**0.25)
        theta = theta - 0.01 * m
        v = 0.99 * v + 0.01 * gradient**2
    np.testing.assert_allclose(parameter.detach(), theta, rtol=1e-12)


def test_the_page_names_every_optimizer_and_option():
    text = (DOCS / "optimizers.md").read_text()
    classes = [name for name, part in vars(ravine.optim).items() if isinstance(part, type)]
    for name in (*classes, *registry.names("optimizer"), *DEFAULTS):
        assert f"`{name}`" in text or f"`{name}=" in text, name


def test_the_page_on_ensembles_runs(place, capsys):
    assert run_page("ensembles.md", place, capsys) == {"module": 0, "python": 1, "text": 1, "command": 4}


def test_the_page_on_transfer_runs(place, capsys):
    assert run_page("transfer.md", place, capsys) == {"module": 0, "python": 1, "text": 1, "command": 3}


@pytest.mark.parametrize(
    "page", [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md"))], ids=lambda page: page.name
)
def test_what_a_page_points_to_is_there(page):
    pointed = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    assert [target for target in pointed if not (page.parent / target).exists()] == []
