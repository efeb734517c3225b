"""Answers for new items: preprocessing, the model, and outputs that a person can read."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor, nn

from .. import files
from ..modes import evaluating
from .data.dataset import Task
from .preprocessing import Preprocessing


class Predictor(nn.Module):
    """Raw items in, answers out: what `predict` runs and `export` writes.

    Outputs are probabilities (N, classes) for classification, values (N,) in the target's own units for
    regression, and for language the probabilities (N, vocabulary) of the character after each text.
    """

    def __init__(self, preprocessing: Preprocessing, model: nn.Module, task: Task) -> None:
        """`model` takes what `preprocessing` gives; its outputs are logits, or standardised values."""
        super().__init__()
        self.preprocessing = preprocessing
        self.model = model
        self.task = task

    def forward(self, raw: Tensor) -> Tensor:
        """Raw items (N, ...), for language int64 tokens (N, T), to answers in float32."""
        outputs: Tensor = self.model(self.preprocessing(raw)).float()
        if self.task == "regression":
            return self.preprocessing.unscale(outputs.flatten())
        if self.task == "language":
            outputs = outputs[:, -1]
        return outputs.softmax(1)


@torch.inference_mode()
def predict(predictor: Predictor, raw: Tensor, batch_size: int = 512) -> Tensor:
    """The answers for raw items, on the CPU; the modules' mode is as before afterwards.

    Args:
        predictor: on any one device.
        raw: items first, on any device.
        batch_size: items at once.
    """
    device = predictor.preprocessing.target_mean.device
    with evaluating(predictor):
        return torch.cat([predictor(batch.to(device)).cpu() for batch in torch.split(raw, batch_size)])


def write_csv(target: Path | TextIO, names: Sequence[str], outputs: Tensor, spec: Mapping[str, Any]) -> None:
    """Answers as CSV: `item`, `prediction` and, but for regression, a probability `p(NAME)` a class.

    Numbers are the shortest decimals that read back to the same float32.

    Args:
        target: a path, written atomically, or an open text file.
        names: of the items.
        outputs: what `predict` gave.
        spec: the preprocessing's; its "task" and "classes" are read.

    Raises:
        RunError: the path cannot be written.
    """
    if not isinstance(target, Path):
        _write_rows(target, names, outputs, spec)
        return

    def write(temporary: Path) -> None:
        # newline="": the csv module ends lines itself.
        with temporary.open("w", encoding="utf-8", newline="") as file:
            _write_rows(file, names, outputs, spec)

    files.write_through(target, write)


def _write_rows(file: TextIO, names: Sequence[str], outputs: Tensor, spec: Mapping[str, Any]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    numbers = outputs.numpy().astype(str)
    if spec["task"] == "regression":
        writer.writerow(("item", "prediction"))
        writer.writerows(zip(names, numbers.tolist(), strict=True))
        return
    classes = spec["classes"]
    writer.writerow(("item", "prediction", *(f"p({name})" for name in classes)))
    for name, best, row in zip(names, outputs.argmax(1).tolist(), numbers.tolist(), strict=True):
        writer.writerow((name, classes[best], *row))
