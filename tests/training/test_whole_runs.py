"""Whole runs: what they leave, what they refuse, what they do when numbers go bad."""

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from ravine.errors import (
    DataError,
    MemoryLimitError,
    ModelError,
    NotFiniteError,
    RavineError,
    RecipeError,
)
from ravine.training import loop as loops
from ravine.training import run as runs
from ravine.training.load import load, load_predictor
from ravine.training.predict import predict
from ravine.training.run_folder import RunFolder
from ravine.training.signals import StopRequest

SGD = {"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0}
FAST = {"model": {"name": "mlp", "width": 16}, "augment": [], "precision": "fp32", "stop": {"epochs": 3}}


def batches(count: int = 6, items: int = 8) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    return [(torch.randn(items, 5), torch.randint(0, 3, (items,))) for _ in range(count)]


@pytest.fixture(scope="module")
def wine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "wine"
    runs.train(None, "wine", settings=[FAST], out=folder)
    return folder


def test_a_run_is_complete_and_readable_without_ravine(wine: Path) -> None:
    assert {path.name for path in wine.iterdir()} == {
        "recipe.toml", "environment.json", "splits.json", "schedule.json", "preprocessing.json",
        "metrics.jsonl", "checkpoints", "model.safetensors", "predictions.safetensors", "result.json",
        "local_model.first.json", "local_model.best.json",
    }  # fmt: skip
    result = json.loads((wine / "result.json").read_text())
    outputs = load_file(wine / "predictions.safetensors")
    right = (outputs["test.outputs"].argmax(1) == outputs["test.targets"]).double().mean()
    assert result["test"]["accuracy"] == pytest.approx(float(right), abs=1e-12)
    low, high = result["test"]["accuracy_interval"]
    assert low < result["test"]["accuracy"] < high
    loss = functional.cross_entropy(outputs["test.outputs"].double(), outputs["test.targets"])
    assert result["test"]["loss"] == pytest.approx(float(loss), rel=1e-5)
    rows = [json.loads(line) for line in (wine / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert {"step", "seconds", "lr", "train.loss", "validation.loss", "validation.accuracy"} <= rows[0].keys()
    parts = json.loads((wine / "splits.json").read_text())["counts"]
    assert sum(parts.values()) == 178


def test_the_recipe_of_a_run_makes_the_same_run_again(wine: Path, tmp_path: Path) -> None:
    runs.train(None, "wine", wine / "recipe.toml", out=tmp_path / "again")
    first, again = load_file(wine / "model.safetensors"), load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.equal(first[name], again[name]) for name in first)
    recipes = [tomllib.loads((folder / "recipe.toml").read_text()) for folder in (wine, tmp_path / "again")]
    assert recipes[0] == recipes[1]


def test_the_kept_weights_are_the_best_by_the_monitor(tmp_path: Path) -> None:
    # A rate that grows without end: the best epoch comes early, the last ones are bad.
    wild = {"optimizer": {"name": "sgd", "lr": 30.0, "momentum": 0.9}, "schedule": {"name": "none"}}
    settings = [FAST, wild, {"stop": {"epochs": 6}, "model": {"name": "linear"}}]
    run = runs.train(None, "wine", settings=settings, out=tmp_path / "run")
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    losses = [row["validation.loss"] for row in rows]
    assert run.result["best_epoch"] == 1 + losses.index(min(losses))
    assert run.result["validation"]["loss"] == pytest.approx(min(losses), rel=1e-5)


def test_the_planned_rates_are_those_that_were_used(wine: Path) -> None:
    plan = json.loads((wine / "schedule.json").read_text())
    rows = [json.loads(line) for line in (wine / "metrics.jsonl").read_text().splitlines()]
    planned = dict(zip(plan["step"], plan["lr"], strict=True))
    assert [planned[row["step"]] for row in rows[:-1]] == pytest.approx([row["lr"] for row in rows[:-1]])
    assert max(plan["step"]) == rows[-1]["step"] - 1


def test_without_a_validation_part_the_training_loss_chooses(tmp_path: Path) -> None:
    run = runs.train(None, "wine", settings=[FAST, {"data": {"validation": 0.0}}], out=tmp_path / "run")
    assert run.result["monitor"] == "train.loss"
    assert "validation" not in run.result
    assert any("no validation part" in notice["text"] for notice in run.result["noticed"])


def test_what_the_reader_did_is_said_and_kept(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("a,b,c\n" + "".join(f"{i},{i * i},{i % 2}\n" for i in range(80)))
    run = runs.train(None, table, settings=[FAST], out=tmp_path / "run")
    assert any("'c' is taken as the target" in notice["text"] for notice in run.result["noticed"])


@pytest.mark.parametrize("cuts", [(1,), (2, 3), (1, 4, 2), (7,)])
def test_what_an_epoch_counts_does_not_depend_on_when_it_is_folded(cuts: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    waiting = [(torch.randn(8, 3) * 5, torch.randint(0, 3, (8,))) for _ in range(7)]
    setup = runs.make_setup(None, "wine", settings=[FAST])
    whole = loops.Loop(setup, RunFolder(Path()), runs.SILENT, StopRequest())
    parts = loops.Loop(setup, RunFolder(Path()), runs.SILENT, StopRequest())
    whole.pending = list(waiting)
    whole.fold()
    while waiting:
        for size in cuts:
            parts.pending, waiting = waiting[:size], waiting[size:]
            parts.fold()
    assert (parts.state.loss_units, parts.state.correct) == (whole.state.loss_units, whole.state.correct)


def test_the_callers_random_stream_stays_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    runs.train(None, "wine", settings=[FAST, {"model": {"dropout": 0.5}}], out=tmp_path / "run")
    assert torch.equal(torch.rand(3), expected)


def test_patience_counts_evaluations_and_says_so(tmp_path: Path) -> None:
    settings = [FAST, {"optimizer": {"name": "sgd", "lr": 0.0}, "stop": {"epochs": 50, "patience": 4}}]
    result = runs.train(None, "wine", settings=settings, out=tmp_path / "run").result
    assert "4 evaluations" in result["stopped"]
    # With no movement at all only batch norm's statistics move, and they settle.
    assert result["epochs"] == result["best_epoch"] + 4


@pytest.mark.parametrize("data", ["digits", "diabetes", "wine"])
def test_a_loaded_run_predicts_what_was_scored(tmp_path: Path, data: str) -> None:
    run = runs.train(None, data, settings=[FAST], out=tmp_path / "run")
    assert type(load(run.folder)).__module__.startswith("torch.nn"), "a plain module"
    predictor = load_predictor(run.folder)
    setup = runs.make_setup(None, data, settings=[FAST])
    assert setup.dataset is not None and setup.splits is not None
    answers = predict(predictor, setup.dataset.fetch(setup.splits.test))
    kept = load_file(run.folder / "predictions.safetensors")["test.outputs"]
    expected = kept if setup.task == "regression" else kept.softmax(1)
    torch.testing.assert_close(answers, expected, rtol=1e-5, atol=1e-5)


def test_regression_scores_are_in_the_targets_units(tmp_path: Path) -> None:
    run = runs.train(None, "diabetes", settings=[FAST], out=tmp_path / "run")
    kept = load_file(run.folder / "predictions.safetensors")
    error = (kept["test.outputs"] - kept["test.targets"]).double()
    assert run.result["test"]["rmse"] == pytest.approx(float(error.square().mean().sqrt()), rel=1e-5)
    assert float(kept["test.targets"].max()) > 200


class Poisoned(nn.Module):
    """Gives not-a-number from its `after`-th training step on, in the output or only in a gradient."""

    def __init__(self, after: int, gradient_only: bool = False) -> None:
        super().__init__()
        self.head = nn.Linear(5, 3)
        self.after, self.gradient_only, self.calls = after, gradient_only, 0

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.head(x)
        self.calls += self.training
        if not self.training or self.calls <= self.after:
            return outputs
        if self.gradient_only:  # the square root of zero: finite, with an infinite slope
            return outputs + (self.head.weight.sum() * 0).clamp(min=0).sqrt()
        return outputs * float("nan")


class TestNumbersGoBad:
    def test_the_run_stops_at_that_step_with_the_good_weights(self, tmp_path: Path) -> None:
        model = Poisoned(after=8)
        with pytest.raises(
            NotFiniteError, match=r"epoch 2, at step 9: the output of the model was the first.*optimizer\.lr"
        ) as caught:
            runs.train(model, batches(6), {"stop": {"epochs": 9}}, out=tmp_path / "run")
        assert caught.value.exit_code == 3
        kept = load_file(tmp_path / "run" / "model.safetensors")
        assert all(bool(torch.isfinite(tensor).all()) for tensor in kept.values())
        assert not (tmp_path / "run" / "result.json").exists()

    def test_a_gradient_that_is_not_finite_is_named_before_it_does_harm(self, tmp_path: Path) -> None:
        model = Poisoned(after=2, gradient_only=True)
        with pytest.raises(NotFiniteError, match=r"the gradient of .*head.weight is not finite .* at step 3"):
            runs.train(model, batches(6), {"optimizer": {"name": "sgd"}}, out=tmp_path / "run")
        assert bool(torch.isfinite(model.head.weight).all())

    def test_before_the_first_evaluation_some_finite_weights_are_kept(self, tmp_path: Path) -> None:
        with pytest.raises(NotFiniteError):
            runs.train(Poisoned(after=0), batches(6), out=tmp_path / "run")
        kept = load_file(tmp_path / "run" / "model.safetensors")
        assert all(bool(torch.isfinite(tensor).all()) for tensor in kept.values())


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"stop": {"monitor": "validation.acuracy"}}, RecipeError),
        ({"device": "cuda"}, RavineError),
        ({"data": {"validation": 0.6, "test": 0.5}}, DataError),
        ({"model": {"name": "no.such.package:net"}}, ModelError),
        ({"model": {"name": "resnet"}}, ModelError),
    ],
)
def test_refusals_write_nothing(tmp_path: Path, settings: dict, error: type[RavineError]) -> None:
    if settings == {"device": "cuda"} and torch.cuda.is_available():
        settings = {"device": "mps"}
    with pytest.raises(error):
        runs.train(None, "wine", settings=[settings], out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_out_of_memory_says_what_to_lower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def exhausted(self: loops.Loop) -> Iterator[None]:
        raise error

    monkeypatch.setattr(loops.Loop, "train_epoch", exhausted)
    with pytest.raises(MemoryLimitError, match=r"data\.batch_size"):
        runs.train(None, "wine", settings=[FAST], out=tmp_path / "run")


def test_balanced_weights_need_classes(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="class_weights"):
        runs.train(None, "diabetes", {"loss": {"class_weights": "balanced"}}, out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_balanced_weights_make_rare_classes_count(tmp_path: Path) -> None:
    from ravine.training.objective import objective
    from ravine.training.recipe import LossSection

    targets = torch.tensor([0] * 9 + [1])
    outputs = torch.randn(10, 2)
    counts = torch.bincount(targets)
    balanced = objective("classification", LossSection(class_weights="balanced"), counts, torch.device("cpu"))
    by_class = [
        functional.cross_entropy(outputs[targets == label], targets[targets == label]) for label in (0, 1)
    ]
    torch.testing.assert_close(balanced(outputs, targets), sum(by_class) / 2)
