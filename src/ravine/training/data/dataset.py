"""What every reader returns and every later part takes: one data set, before any split."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

Kind = Literal["image", "table", "array", "text"]
Task = Literal["classification", "regression", "language"]
PartName = Literal["train", "validation", "test"]


class Items(Protocol):
    """Inputs too large for memory: raw items fetched by their positions.

    `fetch` must be safe to call from several threads at once.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """(number of items, shape of one item...)."""

    def fetch(self, positions: Tensor) -> Tensor:
        """The raw items at `positions` (int64, 1-D), as one tensor with the items first."""


@dataclass(frozen=True)
class Column:
    """A column of a table: a number, or a category whose codes index `categories`."""

    name: str
    categories: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Dataset:
    """One data set, whole, as raw as a tensor can hold it.

    Attributes:
        name: what to call it, for example "digits" or a file's name.
        kind: "image", "table", "array" (numbers of any shape) or "text".
        task: "classification", "regression" or "language" (next character).
        inputs: items first. Images uint8 (N, C, H, W); tables float32 (N, columns), a missing value
            as not-a-number and a category as its code; arrays float32 (N, ...); text int64 (L,), one
            token a position. Or `Items`, where they do not fit in memory.
        targets: int64 (N,) class numbers, or float32 (N,) values; for text an empty tensor.
        parts: positions (int64) of the items of each part that the source itself gives. Items that
            the source does not assign are under "train".
        classes: names of the classes, in the order of their numbers; for text the vocabulary.
        columns: the input columns of a table, else empty.
        target_name: what is predicted, for example the target column's name.
        item_name: what to call an item in messages and in the record of the splits.
        fingerprint: a digest of the content; it differs when the data differ.
        notes: what a person should know about the reading, for example files left out.
        unreadable: names of the items that cannot be read and were left out.
        options: how the source was read, for reading more of the same later (see each reader).
    """

    name: str
    kind: Kind
    task: Task
    inputs: Tensor | Items
    targets: Tensor
    parts: Mapping[PartName, Tensor]
    classes: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    target_name: str = "target"
    item_name: Callable[[int], str] = str
    fingerprint: str = ""
    notes: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)

    @property
    def item_shape(self) -> tuple[int, ...]:
        """The shape of one raw item; `()` for text."""
        return tuple(self.inputs.shape[1:])

    def fetch(self, positions: Tensor) -> Tensor:
        """The raw items at `positions`, wherever they are kept."""
        if isinstance(self.inputs, Tensor):
            return self.inputs.index_select(0, positions)
        return self.inputs.fetch(positions)


@dataclass(frozen=True)
class Splits:
    """Positions (int64) of the items of each part: disjoint, sorted.

    For text the positions are those of contiguous stretches of characters. `given_test` says that
    the test set came with the data.
    """

    train: Tensor
    validation: Tensor
    test: Tensor
    given_test: bool

    def of(self, part: PartName) -> Tensor:
        """The positions of one part."""
        positions: Tensor = getattr(self, part)
        return positions


def outputs_of(dataset: Dataset) -> int:
    """How many numbers a model must give for each item: one a class, or one value."""
    return 1 if dataset.task == "regression" else len(dataset.classes)


def no_positions() -> Tensor:
    """An empty set of positions."""
    return torch.empty(0, dtype=torch.int64)
