"""A run stopped anywhere and resumed ends bit-identical to one that was not (contract 4)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import ravine.training.parts  # noqa: F401  # fills the registry
from ravine import registry
from ravine.errors import Interrupted, RunError
from ravine.training import loop as loops
from ravine.training import run as runs
from ravine.training.run_folder import RunFolder

# Everything that has a memory or draws at random: averages, dropout, augmentation, momentum, accumulation.
SETTINGS = {
    "seed": 3,
    "augment": ["shift"],
    "model": {"name": "cnn", "width": 8, "dropout": 0.2},
    "optimizer": {"name": "adamw", "lr": 0.003, "average": 0.9, "accumulate": 2, "clip_norm": 1.0},
    "stop": {"epochs": 3},
}
TIMES = ("seconds", "samples_per_second")


def trained(folder: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]], dict[str, Any]]:
    """The weights, the metrics and the result of a run, times left out."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    result = json.loads((folder / "result.json").read_text())
    for record in [*rows, result]:
        for key in (*TIMES, "timing"):
            record.pop(key, None)
    return load_file(folder / "model.safetensors"), rows, result


def assert_identical(left: Path, right: Path) -> None:
    (weights, rows, result), (others, other_rows, other_result) = trained(left), trained(right)
    assert rows == other_rows
    assert result == other_result
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def stop_at(monkeypatch: pytest.MonkeyPatch, method: str, call: int) -> None:
    """Ask the loop to stop, as a signal would, when `method` is called for the `call`-th time."""
    original: Callable[..., Any] = getattr(loops.Loop, method)
    calls = 0

    def counted(self: loops.Loop, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            self.stop.signum = 2
        return original(self, *arguments)

    monkeypatch.setattr(loops.Loop, method, counted)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    runs.train(None, "digits", settings=[SETTINGS], out=folder)
    return folder


@pytest.mark.parametrize(
    ("method", "call"), [("train_epoch", 2), ("evaluate", 2), ("record", 1), ("record", 3)]
)
def test_a_stopped_and_resumed_run_is_bit_identical(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, call: int
) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, method, call)
        with pytest.raises(Interrupted, match="--resume") as caught:
            runs.train(None, "digits", settings=[SETTINGS], out=tmp_path / "run")
    assert caught.value.exit_code == 130
    runs.resume(tmp_path / "run")
    assert_identical(whole, tmp_path / "run")


def test_stopping_at_every_step_is_bit_identical(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    monkeypatch.setattr(loops, "TICK_SECONDS", 0.0)
    original = loops.Loop.between_steps
    interruptions = 0

    def stop_now_and_then(self: loops.Loop, *arguments: Any) -> None:
        if self.state.step % 5 == 0 and self.state.step != self.stopped_at:
            self.stop.signum = 15
        original(self, *arguments)

    monkeypatch.setattr(loops.Loop, "stopped_at", -1, raising=False)
    monkeypatch.setattr(loops.Loop, "between_steps", stop_now_and_then)
    action: Callable[[], object] = lambda: runs.train(None, "digits", settings=[SETTINGS], out=folder)  # noqa: E731
    while True:
        try:
            action()
            break
        except Interrupted as stop:
            interruptions += 1
            assert stop.exit_code == 143
            newest = max(folder.glob("checkpoints/step-*")).name
            monkeypatch.setattr(loops.Loop, "stopped_at", int(newest.split("-")[1]))
            action = lambda: runs.resume(folder)  # noqa: E731
    assert interruptions >= 4
    assert_identical(whole, folder)


@pytest.mark.parametrize("name", registry.names("optimizer"))
def test_every_optimizer_resumes_bit_identically(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {
        "seed": 3,
        "model": {"name": "mlp", "width": 16, "depth": 1},
        "optimizer": {"name": name},
        "stop": {"epochs": 3},
    }
    runs.train(None, "wine", settings=[settings], out=tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_at(patch, "evaluate", 2)
        with pytest.raises(Interrupted):
            runs.train(None, "wine", settings=[settings], out=tmp_path / "run")
    runs.resume(tmp_path / "run")
    assert_identical(tmp_path / "whole", tmp_path / "run")


def test_resuming_a_finished_run_or_changed_data_is_refused(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="finished"):
        runs.resume(whole)
    table = tmp_path / "t.csv"
    table.write_text("a,y\n" + "".join(f"{i},{i % 2}\n" for i in range(60)))
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, "train_epoch", 1)
        with pytest.raises(Interrupted):
            runs.train(None, table, out=tmp_path / "run")
    table.write_text("a,y\n" + "".join(f"{i},{i % 2}\n" for i in range(61)))
    with pytest.raises(RunError, match="changed"):
        runs.resume(tmp_path / "run")


def test_a_run_that_exists_is_not_written_over(whole: Path) -> None:
    before = sorted(whole.rglob("*"))
    with pytest.raises(RunError, match="exists already"):
        runs.train(None, "digits", settings=[SETTINGS], out=whole)
    assert sorted(whole.rglob("*")) == before


def test_a_recipe_that_was_changed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, "train_epoch", 2)
        with pytest.raises(Interrupted):
            runs.train(None, "wine", settings=[{"stop": {"epochs": 5}}], out=tmp_path / "run")
    recipe = tmp_path / "run" / "recipe.toml"
    text = recipe.read_text()
    recipe.write_text(text.replace("epochs = 5 ", "epochs = 50"))
    with pytest.raises(RunError, match=r"recipe\.toml was changed"):
        runs.resume(tmp_path / "run")
    recipe.write_text(text)
    assert runs.resume(tmp_path / "run").result["epochs"] == 5


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, "train_epoch", 2)
        with pytest.raises(Interrupted):
            runs.train(None, "wine", settings=[{"stop": {"epochs": 3}}], out=tmp_path / "run")
    with RunFolder(tmp_path / "run").locked(), pytest.raises(RunError, match="another process"):
        runs.resume(tmp_path / "run")
    assert runs.resume(tmp_path / "run").result["epochs"] == 3
