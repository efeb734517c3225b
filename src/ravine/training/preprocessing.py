"""From raw items to what a model takes (T33); travels with the run and into exports."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from .. import files
from ..errors import RunError
from ..registry import lookup
from .data.dataset import Dataset, Splits, Task
from .data.read_inputs import input_spec
from .preprocessing_statistics import TrainingPart
from .preprocessing_steps import Rotate, Step, step_from_json, step_to_json

RECORD = "preprocessing.json"
TENSORS = "preprocessing.safetensors"


class Preprocessing(nn.Module):
    """Raw items in, model inputs out: a pure-tensor module, exportable, with its statistics as buffers.

    Attributes:
        spec: what inputs are (`input_spec` of the data set), as JSON has it.
        step: the name of the way, for example "normalize".
        output_shape: the shape of one preprocessed item, which models get as `shape`; () for text.
    """

    target_mean: Tensor
    target_deviation: Tensor

    def __init__(
        self,
        spec: Mapping[str, Any],
        step: str,
        steps: Sequence[Step],
        target_scale: tuple[float, float] = (0.0, 1.0),
    ):
        """`target_scale`: mean and standard deviation of a regression's training targets."""
        super().__init__()
        self.spec = dict(spec)
        self.step = step
        self.steps = nn.ModuleList(steps)
        self.register_buffer("target_mean", torch.tensor(target_scale[0], dtype=torch.float32))
        self.register_buffer("target_deviation", torch.tensor(target_scale[1], dtype=torch.float32))
        self.output_shape: tuple[int, ...] = ()
        if self.spec["kind"] != "text":
            example = torch.zeros(1, *self.spec["item_shape"])
            self.output_shape = tuple(self(example).shape[1:])

    @classmethod
    def fit(
        cls,
        dataset: Dataset,
        splits: Splits,
        step: str,
        seed: int = 0,
        own: Sequence[Step] | None = None,
    ) -> "Preprocessing":
        """Take the statistics from the training part alone.

        Args:
            dataset: the data.
            splits: its parts; only `train` is looked at.
            step: a registered "preprocessing"; text has none and ignores it.
            seed: addresses the sample of the training items, where they are too many to read all.
            own: steps in place of what `step` would learn; None lets it.

        Raises:
            RecipeError: no such step.
            DataError: too many features to decorrelate, or none that varies.
        """
        way = lookup("preprocessing", step)
        spec = input_spec(dataset)
        if dataset.kind == "text":
            return cls(spec, "none", [])
        part = TrainingPart.of(dataset, splits.train, seed)
        steps = ([] if part.columns is None else [part.columns]) + (way(part) if own is None else list(own))
        scale = (0.0, 1.0)
        if dataset.task == "regression":
            targets = dataset.targets[splits.train].to(torch.float64)
            scale = float(targets.mean()), float(targets.std(correction=0)) or 1.0
        return cls(spec, step, steps, scale)

    @property
    def task(self) -> Task:
        """What is predicted."""
        return cast(Task, self.spec["task"])

    @property
    def target_scale(self) -> tuple[float, float]:
        """Mean and standard deviation that regression targets are standardised with; else (0, 1)."""
        return float(self.target_mean), float(self.target_deviation)

    def forward(self, raw: Tensor) -> Tensor:
        """Raw items (N, ...) to float32 (N, *output_shape); text (N, T) stays int64 tokens."""
        if self.spec["kind"] == "text":
            return raw
        x = raw.to(torch.float32)
        for step in self.steps:
            x = step(x)
        return x

    def scale_targets(self, targets: Tensor) -> Tensor:
        """Regression targets in their own units to standardised ones."""
        return (targets - self.target_mean) / self.target_deviation

    def unscale(self, outputs: Tensor) -> Tensor:
        """Standardised outputs of a regression to the target's own units."""
        return outputs * self.target_deviation + self.target_mean

    def save(self, folder: Path) -> None:
        """Write `preprocessing.json` and, where there is a matrix, `preprocessing.safetensors`.

        Raises:
            RunError: the place cannot be written.
        """
        for step in self.steps:
            if isinstance(step, Rotate):
                files.write_bytes(folder / TENSORS, save_tensors({"matrix": step.matrix.cpu()}))
        mean, deviation = self.target_scale
        record = {
            **self.spec,
            "step": self.step,
            "steps": [step_to_json(cast(Step, step)) for step in self.steps],
            "output_shape": list(self.output_shape),
            "target_scale": {"mean": mean, "deviation": deviation},
        }
        files.write_json(folder / RECORD, record)

    @classmethod
    def load(cls, folder: Path) -> "Preprocessing":
        """What `save` wrote, bit for bit.

        Raises:
            RunError: a file is missing or damaged.
        """
        path = folder / RECORD
        try:
            record = json.loads(path.read_bytes())
            steps = record.pop("steps")
            tensors = {}
            if any(step["name"] == Rotate.name for step in steps):
                tensors = load_tensors((folder / TENSORS).read_bytes())
            scale = record.pop("target_scale")
            name, shape = record.pop("step"), tuple(record.pop("output_shape"))
            made = [step_from_json(step, tensors) for step in steps]
            loaded = cls(record, name, made, (scale["mean"], scale["deviation"]))
            if loaded.output_shape != shape:
                raise ValueError(f"the steps give {loaded.output_shape}, not {shape}")
        except OSError as error:
            raise RunError(
                f"cannot read {error.filename or path}: {error.strerror}. Is {folder} a run folder?"
            ) from error
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            IndexError,
            RuntimeError,
            SafetensorError,
        ) as error:
            raise RunError(f"{path} is damaged ({type(error).__name__}: {error}); train again.") from error
        return loaded
