"""Runs on a caller's own module and batches."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from ravine.errors import DataError, Interrupted, ModelError, RecipeError, RunError
from ravine.training import loop as loops
from ravine.training import run as runs
from ravine.training.load import load, load_predictor

SGD = {"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0}


def batches(count: int = 6, items: int = 8) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    return [(torch.randn(items, 5), torch.randint(0, 3, (items,))) for _ in range(count)]


def test_any_module_and_any_iterable(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    data = {"train": batches(), "validation": batches(2)}
    run = runs.train(model, data, {"stop": {"epochs": 2}}, out=tmp_path / "run")
    assert run.model is model
    again = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    assert torch.equal(load(run.folder, again)[0].weight, model[0].weight)
    with pytest.raises(RunError, match="network from Python"):
        load(run.folder)
    with pytest.raises(RunError, match="batches from Python"):
        load_predictor(run.folder)


def test_training_batches_alone_will_do(tmp_path: Path) -> None:
    run = runs.train(nn.Linear(5, 3), batches(), {"stop": {"epochs": 2}}, out=tmp_path / "run")
    assert run.result["monitor"] == "train.loss"


def test_steps_are_those_of_a_hand_written_loop(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model, twin = nn.Linear(5, 3), nn.Linear(5, 3)
    twin.load_state_dict(model.state_dict())
    recipe = {
        "optimizer": SGD | {"accumulate": 2, "clip_norm": 0.5, "average": 0.0},
        "schedule": {"name": "none"},
        "stop": {"epochs": 3, "monitor": "train.loss"},
    }
    run = runs.train(model, batches(5), recipe, out=tmp_path / "run")
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(3):
        for group in (batches(5)[:2], batches(5)[2:4], batches(5)[4:]):
            for inputs, targets in group:
                loss = functional.cross_entropy(twin(inputs), targets)
                losses.append(loss.item())
                (loss / len(group)).backward()
            nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    epochs = [sum(losses[start : start + 5]) / 5 for start in (0, 5, 10)]
    assert [row["train.loss"] for row in rows] == pytest.approx(epochs, rel=1e-5)
    if run.result["best_epoch"] == 3:
        torch.testing.assert_close(model.weight, twin.weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "empty"),
        (iter(batches()), "only once"),
        ([torch.zeros(3)], "pairs"),
        ([(torch.zeros(3, 5), [0, 1, 2])], "must give tensors"),
        ({"training": batches()}, "must have 'train'"),
    ],
)
def test_batches_that_will_not_do_are_refused(tmp_path: Path, data: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        runs.train(nn.Linear(5, 3), data, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_augmentation_is_refused_where_it_was_asked_for(tmp_path: Path) -> None:
    """And not where a named recipe has it for images."""
    file = tmp_path / "recipe.toml"
    file.write_text('augment = ["shift"]\n')
    for recipe in ({"augment": ["flip"]}, file):
        with pytest.raises(RecipeError, match="augment: batches from Python are trained on as they come"):
            runs.train(nn.Linear(5, 3), batches(), recipe, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    for recipe in ("default", {"augment": []}):
        assert runs.make_setup(nn.Linear(5, 3), batches(), recipe).recipe.augment == ()


def test_a_model_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not fit"):
        runs.train(nn.Linear(5, 2), [(torch.zeros(3, 5), torch.tensor([0, 1, 2]))], out=tmp_path / "run")
    with pytest.raises(ModelError, match=r"torch\.nn\.Module"):
        runs.train("mlp", batches(), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("model", "shape"), [(nn.Linear(5, 1), (8, 1)), (nn.Linear(5, 5), (8, 5)), (nn.Linear(5, 1), (8,))]
)
def test_regression_targets_of_any_shape(tmp_path: Path, model: nn.Module, shape: tuple[int, ...]) -> None:
    model = nn.Sequential(nn.Linear(5, 5), model)
    torch.manual_seed(0)
    data = [(torch.randn(8, 5), torch.randn(shape)) for _ in range(4)]
    run = runs.train(
        model, {"train": data, "validation": data[:2]}, {"stop": {"epochs": 2}}, out=tmp_path / "r"
    )
    with torch.no_grad():
        errors = [
            (run.model(inputs).reshape(shape) - targets).square().mean() for inputs, targets in data[:2]
        ]
    assert run.result["validation"]["loss"] == pytest.approx(float(sum(errors) / 2), rel=1e-5)


def test_a_class_number_out_of_range_in_a_later_batch_is_named(tmp_path: Path) -> None:
    data = [*batches(3), (torch.zeros(2, 5), torch.tensor([1, 3]))]
    with pytest.raises(DataError, match=r"batch 3 has class numbers from 1 to 3, and the model gives 3"):
        runs.train(nn.Linear(5, 3), data, out=tmp_path / "run")


def test_a_model_that_fails_or_gives_no_tensor_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="fails on inputs of shape"):
        runs.train(nn.Linear(4, 3), batches(), out=tmp_path / "run")
    with pytest.raises(ModelError, match="gives a tuple"):
        runs.train(nn.LSTM(5, 3), batches(), out=tmp_path / "run")


class Stream(IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for inputs, targets in batches(4):
            yield from zip(inputs, targets, strict=True)


def test_a_loader_whose_length_is_unknown(tmp_path: Path) -> None:
    run = runs.train(
        nn.Linear(5, 3), DataLoader(Stream(), batch_size=4), {"stop": {"epochs": 2}}, out=tmp_path / "r"
    )
    assert run.result["steps"] == 2 * 8


def test_a_shuffling_loader_resumes_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def parts() -> tuple[nn.Module, DataLoader]:  # type: ignore[type-arg]
        torch.manual_seed(2)
        items = TensorDataset(torch.randn(60, 5), torch.randint(0, 3, (60,)))
        return nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Linear(8, 3)), DataLoader(
            items, 8, shuffle=True
        )

    recipe = {"stop": {"epochs": 4}}
    runs.train(*parts(), recipe, out=tmp_path / "whole")
    monkeypatch.setattr(loops, "TICK_SECONDS", 0.0)
    between = loops.Loop.between_steps

    def stop_at_step_13(self: loops.Loop, *arguments: object) -> None:
        self.stop.signum = 2 if self.state.step == 13 else 0
        between(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(loops.Loop, "between_steps", stop_at_step_13)
        with pytest.raises(Interrupted):
            runs.train(*parts(), recipe, out=tmp_path / "stopped")
    model, loader = parts()
    torch.rand(5)  # whatever the caller's stream is at
    runs.resume(tmp_path / "stopped", model=model, data=loader)
    whole, stopped = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "stopped"))
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)


def test_a_model_that_cannot_be_copied_is_told_what_to_set(tmp_path: Path) -> None:
    class Uncopied(nn.Linear):
        def __deepcopy__(self, memo: object) -> None:
            raise TypeError("no copies")

    with pytest.raises(ModelError, match=r"optimizer\.average = 0"):
        runs.train(Uncopied(5, 3), batches(), out=tmp_path / "run")
    recipe = {"optimizer": {"average": 0.0}, "stop": {"epochs": 1}}
    assert runs.train(Uncopied(5, 3), batches(), recipe, out=tmp_path / "run").result["epochs"] == 1


def test_a_run_on_a_caller_s_network_says_so_and_is_loaded_with_one_of_its_shape(tmp_path):
    """On a data set that Ravine read itself, too: no network of the recipe's would fit the weights."""
    settings = [{"stop": {"epochs": 2}}]
    run = runs.train(nn.Linear(13, 3), "wine", settings=settings, out=tmp_path / "run")
    assert 'name = "given"' in (run.folder / "recipe.toml").read_text()
    with pytest.raises(RunError, match="a network from Python; give one of its shape"):
        load(run.folder)
    assert torch.equal(load(run.folder, nn.Linear(13, 3)).weight, run.model.weight)
    (run.folder / "result.json").unlink()
    with pytest.raises(RunError, match="give one, as model="):
        runs.resume(run.folder)
    assert torch.equal(runs.resume(run.folder, model=nn.Linear(13, 3)).model.weight, run.model.weight)
