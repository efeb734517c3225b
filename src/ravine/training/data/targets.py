"""From a column of answers to a task, class numbers and class names."""

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...errors import DataError

Answers = npt.NDArray[Any]
MOST_DISTINCT = 20
MOST_NUMBERED_CLASSES = 1000
ITEMS_PER_NUMBERED_CLASS = 10


def decide_task(
    values: Answers, wanted: Literal["auto", "classification", "regression"]
) -> Literal["classification", "regression"]:
    """Tell classification from regression by the answers, unless `wanted` says it.

    Text and booleans are classes. Whole numbers are classes where they are few (at most 20 and at
    most the square root of the number of items, or two at any rate), or where they number classes:
    0, 1, ..., K-1 or 1, ..., K without gaps and with ten items each on average. Other numbers are
    values.
    """
    if wanted != "auto":
        return wanted
    if values.dtype.kind not in "iuf" or not len(values):
        return "classification"
    distinct = np.unique(values)
    if not np.array_equal(distinct, np.round(distinct)):
        return "regression"
    count = len(distinct)
    few = count <= 2 or count <= min(MOST_DISTINCT, math.isqrt(len(values)))
    consecutive = distinct[0] in (0, 1) and distinct[-1] - distinct[0] == count - 1
    enough = count <= MOST_NUMBERED_CLASSES and len(values) >= ITEMS_PER_NUMBERED_CLASS * count
    return "classification" if few or (consecutive and enough) else "regression"


def class_numbers(values: Answers) -> tuple[Tensor, tuple[str, ...]]:
    """Class numbers (int64) of answers of any type, and the classes' names in sorted order."""
    distinct, numbers = np.unique(values, return_inverse=True)
    return torch.from_numpy(numbers.reshape(-1).astype(np.int64)), tuple(map(class_name, distinct))


def class_name(value: object) -> str:
    """What to call a class: 3.0 is "3", True is "true"."""
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def value_targets(values: Answers, where: str) -> Tensor:
    """Regression targets (float32).

    Raises:
        DataError: an answer is text, or not finite in float32.
    """
    if values.dtype.kind not in "iufb":
        raise DataError(
            f"{where} holds text such as {str(values[0])!r}: regression needs numbers. "
            f"Use task=classification, or name another target."
        )
    with np.errstate(over="ignore"):
        numbers = values.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(numbers))
    if bad.size:
        raise DataError(
            f"{where} is not finite at item {bad[0] + 1} ({values[bad[0]]}), and at {bad.size} items in all. "
            f"Remove or correct these items."
        )
    return torch.from_numpy(numbers)


def encode(
    values: Answers, wanted: Literal["auto", "classification", "regression"], where: str
) -> tuple[Literal["classification", "regression"], Tensor, tuple[str, ...]]:
    """Task, targets and classes of a column of answers; `where` names it in messages.

    Raises:
        DataError: an answer is missing or not finite, or text where numbers are needed.
    """
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        value_targets(values, where)
    task = decide_task(values, wanted)
    if task == "regression":
        return task, value_targets(values, where), ()
    targets, classes = class_numbers(values)
    return task, targets, classes
