"""The arithmetic of preprocessing: small pure-tensor modules, each readable from its JSON record.

`to_json` gives what a person, or a program without Ravine, needs to do the same; `from_json` makes the
module again, bit for bit: a float32 survives as the shortest decimal that reads back to it.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class Columns(nn.Module):
    """A raw table (N, columns) as features (N, features): numbers, then missing flags, then one-hot.

    A missing number becomes its column's mean over the training part. A column with missing values in
    the training part also gets a flag, since values are seldom missing by chance. A category is one-hot
    over the categories of the training part; an unknown or missing one is all zeros: a feature that is
    never set in training has weights that training never moves, so it must not be set later.
    """

    name: ClassVar[str] = "columns"

    def __init__(self, numeric: Tensor, fill: Tensor, flagged: Tensor, categorical: Tensor, codes: Tensor):
        """Feature by feature.

        Args:
            numeric: the columns that are numbers (int64).
            fill: what a missing value of each of them becomes (float32).
            flagged: the columns with a missing flag (int64).
            categorical: the column of each one-hot feature (int64).
            codes: the category code that sets each one-hot feature (float32).
        """
        super().__init__()
        self.register_buffer("numeric", numeric)
        self.register_buffer("fill", fill)
        self.register_buffer("flagged", flagged)
        self.register_buffer("categorical", categorical)
        self.register_buffer("codes", codes)

    numeric: Tensor
    fill: Tensor
    flagged: Tensor
    categorical: Tensor
    codes: Tensor

    @property
    def features(self) -> int:
        """How many features come out."""
        return len(self.numeric) + len(self.flagged) + len(self.codes)

    def forward(self, raw: Tensor) -> Tensor:
        """Raw (N, columns) to features (N, features), float32."""
        parts = []
        if len(self.numeric):
            numbers = raw.index_select(1, self.numeric)
            parts.append(torch.where(torch.isnan(numbers), self.fill, numbers))
        if len(self.flagged):
            parts.append(torch.isnan(raw.index_select(1, self.flagged)).to(torch.float32))
        if len(self.codes):
            parts.append((raw.index_select(1, self.categorical) == self.codes).to(torch.float32))
        return torch.cat(parts, dim=1)

    def to_json(self) -> dict[str, Any]:
        """The record that `from_json` reads."""
        return {key: buffer.tolist() for key, buffer in self.named_buffers()}

    @classmethod
    def from_json(cls, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "Columns":
        """The module of a record."""
        integers = {key: torch.tensor(record[key], dtype=torch.int64) for key in ("numeric", "flagged")}
        categorical = torch.tensor(record["categorical"], dtype=torch.int64)
        fill, codes = (torch.tensor(record[key], dtype=torch.float32) for key in ("fill", "codes"))
        return cls(fill=fill, codes=codes, categorical=categorical, **integers)


class Standardize(nn.Module):
    """(x − mean) · scale, in float32. `mean` and `scale` broadcast over items.

    The difference comes first: scaling first would lose the digits of a column whose mean is far larger
    than its spread. Images are scaled from 0..255 in the same pass.
    """

    name: ClassVar[str] = "standardize"

    def __init__(self, mean: Tensor, scale: Tensor):
        """`mean` and `scale` have one shape (float32)."""
        super().__init__()
        self.register_buffer("mean", mean.to(torch.float32))
        self.register_buffer("scale", scale.to(torch.float32))

    mean: Tensor
    scale: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Any numbers (N, ...) to float32 (N, ...)."""
        return (x.to(torch.float32) - self.mean) * self.scale

    def to_json(self) -> dict[str, Any]:
        """The record that `from_json` reads."""
        return {
            "shape": list(self.mean.shape),
            "mean": self.mean.flatten().tolist(),
            "scale": self.scale.flatten().tolist(),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "Standardize":
        """The module of a record."""
        mean, scale = (torch.tensor(record[key], dtype=torch.float32) for key in ("mean", "scale"))
        return cls(mean.reshape(record["shape"]), scale.reshape(record["shape"]))


class Rotate(nn.Module):
    """Flattened features (N, D) times a matrix (D, K), in the shape asked for.

    The matrix is too large for JSON; it lies in `preprocessing.safetensors` under "matrix".
    """

    name: ClassVar[str] = "rotate"

    def __init__(self, matrix: Tensor, shape: tuple[int, ...]):
        """`matrix` (D, K) float32; `shape` of one item afterwards, with K entries."""
        super().__init__()
        self.register_buffer("matrix", matrix.to(torch.float32).contiguous())
        self.shape = tuple(shape)

    matrix: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) with D numbers an item to (N, *shape)."""
        return (x.flatten(1) @ self.matrix).reshape(-1, *self.shape)

    def to_json(self) -> dict[str, Any]:
        """The record that `from_json` reads."""
        return {"matrix": "preprocessing.safetensors", "shape": list(self.shape)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "Rotate":
        """The module of a record, with its matrix from `tensors`."""
        return cls(tensors["matrix"], tuple(record["shape"]))


Step = Columns | Standardize | Rotate

_steps: dict[str, type[Step]] = {step.name: step for step in (Columns, Standardize, Rotate)}


def step_to_json(step: Step) -> dict[str, Any]:
    """A step's record, its name first."""
    return {"name": step.name, **step.to_json()}


def step_from_json(record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Step:
    """The step of a record; `tensors` are those of `preprocessing.safetensors`.

    Raises:
        KeyError: the record lacks a key, or no step has its name.
    """
    return _steps[record["name"]].from_json(record, tensors)
