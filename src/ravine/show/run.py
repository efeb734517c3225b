"""A run folder, read for looking at: without torch, and also when the run never finished."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RunError
from .metric import HEADLINES, Metric, metric_named

if TYPE_CHECKING:
    from numpy import ndarray


LOCAL_MODELS = ("first", "best")


class NothingToDrawError(RunError):
    """The run holds nothing of what was asked for, for example no predictions of a test part."""


@dataclass(frozen=True)
class Run:
    """What a run folder holds.

    Attributes:
        folder: where it is.
        recipe_text: `recipe.toml` as written; empty where there is none.
        environment: `environment.json`.
        preprocessing: `preprocessing.json`.
        rows: the lines of `metrics.jsonl`, in their order.
        planned_rates: `schedule.json`: `step` and `lr`; empty where there is none.
        local_models: the training loss around the "first" and the "best" weights (`local_model.*.json`),
            as far as it was recorded.
        ablation: `ablation.json`: the run's scores again without each of its regularizers; empty where that
            was not asked for.
        transfer: `transfer.json`: what a pretrained network was found to be worth; empty for other runs.
        result: `result.json`; empty for a run that has not finished.
    """

    folder: Path
    recipe_text: str
    environment: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    result: Mapping[str, Any]
    planned_rates: Mapping[str, Any] = field(default_factory=dict)
    local_models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    ablation: Mapping[str, Any] = field(default_factory=dict)
    transfer: Mapping[str, Any] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether the run came to its final scores."""
        return bool(self.result)

    @cached_property
    def recipe(self) -> Mapping[str, Any]:
        """The recipe as nested tables.

        Raises:
            RunError: `recipe.toml` is no TOML.
        """
        try:
            return tomllib.loads(self.recipe_text)
        except tomllib.TOMLDecodeError as error:
            raise RunError(f"{self.folder / 'recipe.toml'} is no TOML: {error}") from error

    @property
    def name(self) -> str:
        """What to call the data; the folder's name where no file tells."""
        told = self.result.get("data") or Path(str(self.environment.get("data") or "")).name
        return str(told or self.folder.resolve().name)

    @property
    def task(self) -> str:
        """classification, regression or language; guessed from the metrics as a last resort."""
        told = self.result.get("task") or self.preprocessing.get("task")
        if told:
            return str(told)
        measured = {key.partition(".")[2] for row in self.rows[:1] for key in row}
        return next(
            (task for task, metric in reversed(HEADLINES.items()) if metric in measured), "classification"
        )

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of their numbers; empty for regression."""
        told = self.result.get("classes") or self.preprocessing.get("classes") or []
        return [str(name) for name in told]

    @property
    def headline(self) -> Metric:
        """The metric that sums the run up in one number."""
        return metric_named(HEADLINES.get(self.task, "loss"))

    @property
    def monitor(self) -> str:
        """The watched value, for example "validation.loss"."""
        return str(
            self.result.get("monitor") or self.recipe.get("stop", {}).get("monitor") or "validation.loss"
        )

    def series(self, key: str) -> "ndarray[Any, Any]":
        """One value of every line of `metrics.jsonl` as float64; not-a-number where a line has none."""
        import numpy

        return numpy.array([_number(row.get(key)) for row in self.rows], dtype=numpy.float64)

    @property
    def progress(self) -> "tuple[ndarray[Any, Any], str]":
        """Where each row is, and in what unit: "epoch" where each evaluation has its own, else "step"."""
        import numpy

        epochs = self.series("epoch")
        if len(epochs) and (numpy.diff(epochs) > 0).all():
            return epochs, "epoch"
        return self.series("step"), "step"

    @property
    def best_row(self) -> int | None:
        """The position in `rows` of the best evaluation, or None where nothing was measured."""
        import numpy

        values = self.series(self.monitor)
        if metric_named(self.monitor.rpartition(".")[2]).higher_is_better:
            values = -values
        if "best_epoch" in self.result:
            values[self.series("epoch") != self.result["best_epoch"]] = numpy.nan
        return None if numpy.isnan(values).all() else int(numpy.nanargmin(values))

    @cached_property
    def predictions(self) -> Mapping[str, "ndarray[Any, Any]"]:
        """The tensors of `predictions.safetensors`, by name; empty where there is no such file.

        Raises:
            RunError: the file is damaged.
        """
        return _tensors(self.folder / "predictions.safetensors")

    @cached_property
    def augmented(self) -> Mapping[str, "ndarray[Any, Any]"]:
        """The tensors of `augmented.safetensors`, by name; empty where there is no such file.

        Raises:
            RunError: the file is damaged.
        """
        return _tensors(self.folder / "augmented.safetensors")

    def predicted(self, task: str) -> "tuple[str, ndarray[Any, Any], ndarray[Any, Any]]":
        """(part, outputs, targets) of the test part, or of the validation part where there is no test.

        Raises:
            NothingToDrawError: the run is of another task, or kept no predictions.
        """
        if self.task != task:
            raise NothingToDrawError(f"{self.folder} is a {self.task} run, not {task}")
        for part in ("test", "validation"):
            targets = self.predictions.get(f"{part}.targets")
            outputs = self.predictions.get(f"{part}.outputs")
            if targets is not None and outputs is not None and len(targets):
                return part, outputs, targets
        raise NothingToDrawError(f"{self.folder} has no predictions: it has not come to its final scores")

    def require_rows(self, *keys: str) -> None:
        """Check that each of `keys` was measured at least once.

        Raises:
            NothingToDrawError: one was not.
        """
        import numpy

        for key in keys:
            if not numpy.isfinite(self.series(key)).any():
                raise NothingToDrawError(f"{self.folder} has no measured {key}")


def read_run(folder: Path | str) -> Run:
    """Read a run folder, finished or not.

    Raises:
        RunError: there is no such folder, it is no run, or one of its files is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RunError(f"there is no run folder {folder}")
    if not any((folder / name).is_file() for name in ("recipe.toml", "metrics.jsonl", "result.json")):
        raise RunError(
            f"{folder} is no run folder: it has no recipe.toml, metrics.jsonl or result.json. "
            "Give the folder that `ravine train` made."
        )
    return Run(
        folder=folder,
        recipe_text=_text(folder / "recipe.toml"),
        environment=_table(folder / "environment.json"),
        preprocessing=_table(folder / "preprocessing.json"),
        rows=_lines(folder / "metrics.jsonl"),
        result=_table(folder / "result.json"),
        planned_rates=_table(folder / "schedule.json"),
        local_models={
            which: model for which in LOCAL_MODELS if (model := _table(folder / f"local_model.{which}.json"))
        },
        ablation=_table(folder / "ablation.json"),
        transfer=_table(folder / "transfer.json"),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def _table(path: Path) -> Mapping[str, Any]:
    text = _text(path)
    if not text:
        return {}
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise RunError(f"{path} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise RunError(f"{path} should hold a JSON object, not a {type(value).__name__}")
    return value


def _tensors(path: Path) -> Mapping[str, "ndarray[Any, Any]"]:
    if not path.is_file():
        return {}
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def _lines(path: Path) -> list[Mapping[str, Any]]:
    """The lines of a JSONL file. A last line that was cut off while it was written is left out."""
    lines = _text(path).split("\n")
    rows: list[Mapping[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise RunError(f"{path}, line {number}: no JSON: {error}") from error
        if not isinstance(row, dict):
            raise RunError(f"{path}, line {number}: should be a JSON object")
        rows.append(row)
    return rows


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
