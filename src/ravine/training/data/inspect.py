"""What is in a data set: counts, balance, ranges, gaps and duplicates, as plain data for JSON."""

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .batches import StreamBatches
from .content import PARTS
from .dataset import Dataset, Splits

CHUNK = 256
EXAMPLES = 5


def inspect(dataset: Dataset, splits: Splits) -> dict[str, Any]:
    """Look through a data set and its parts.

    Returns:
        `items` (by part and in all), `item_shape`, `classes` (each class's items by part) and
        `imbalance` (largest over smallest class), or `target` (range of a regression's values);
        `values` (range, mean and standard deviation of the inputs), `columns` with `missing` by
        column, `unreadable` files, `duplicates` (see `_duplicates`) and `notes`.
    """
    report: dict[str, Any] = {
        "name": dataset.name,
        "kind": dataset.kind,
        "task": dataset.task,
        "items": {part: len(splits.of(part)) for part in PARTS},
        "given_test": splits.given_test,
        "item_shape": list(dataset.item_shape),
        "target": {"name": dataset.target_name},
        "fingerprint": dataset.fingerprint,
        "unreadable": list(dataset.unreadable),
        "notes": list(dataset.notes),
    }
    report["items"]["total"] = sum(report["items"].values())
    if dataset.task == "regression":
        report["target"] |= _range([dataset.targets])
    elif dataset.task == "classification":
        report |= _classes(dataset, splits)
    if dataset.kind == "text":
        counts = torch.bincount(dataset.fetch(torch.arange(dataset.inputs.shape[0])))
        report["characters"] = dict(zip(dataset.classes, counts.tolist(), strict=True))
        return report
    if isinstance(dataset.inputs, Tensor):
        report["values"] = _range(_chunks(dataset.inputs))
        hashes = [key for chunk in _chunks(dataset.inputs) for key in _hashes(chunk)]
    else:
        seen: list[bytes] = []
        report["values"] = _range(_and_hash(dataset, seen))
        hashes = seen
    if dataset.columns and isinstance(dataset.inputs, Tensor):
        report |= _columns(dataset, dataset.inputs)
    report["duplicates"] = _duplicates(dataset, splits, hashes)
    return report


def _classes(dataset: Dataset, splits: Splits) -> dict[str, Any]:
    counts = {
        part: torch.bincount(dataset.targets[splits.of(part)], minlength=len(dataset.classes)).tolist()
        for part in PARTS
    }
    classes = {
        name: {part: counts[part][number] for part in PARTS} for number, name in enumerate(dataset.classes)
    }
    totals = [sum(by_part.values()) for by_part in classes.values()]
    return {"classes": classes, "imbalance": max(totals) / max(1, min(totals))}


def _range(chunks: Any) -> dict[str, float | None]:
    """Smallest, largest, mean and standard deviation of the values that are not missing."""
    smallest, largest = float("inf"), float("-inf")
    count, total, squares = 0, 0.0, 0.0
    for chunk in chunks:
        values = chunk.double().flatten()
        values = values[~values.isnan()]
        if len(values):
            smallest = min(smallest, float(values.min()))
            largest = max(largest, float(values.max()))
            count += len(values)
            total += float(values.sum())
            squares += float(values.square().sum())
    if not count:
        return {"min": None, "max": None, "mean": None, "std": None}
    mean = total / count
    variance = max(0.0, squares / count - mean * mean)
    return {"min": smallest, "max": largest, "mean": mean, "std": variance**0.5}


def _columns(dataset: Dataset, inputs: Tensor) -> dict[str, Any]:
    gaps = inputs.isnan().sum(0).tolist()
    described: list[dict[str, Any]] = []
    for number, column in enumerate(dataset.columns):
        if column.categories is not None:
            described.append({"name": column.name, "categories": list(column.categories)})
        else:
            described.append({"name": column.name, **_range([inputs[:, number]])})
    missing = {column.name: gap for column, gap in zip(dataset.columns, gaps, strict=True) if gap}
    return {"columns": described, "missing": missing}


def _chunks(inputs: Tensor) -> tuple[Tensor, ...]:
    return inputs.tensor_split(list(range(CHUNK, len(inputs), CHUNK)))


def _hashes(chunk: Tensor) -> list[bytes]:
    rows = chunk.contiguous().flatten(1).numpy()
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows]


def _and_hash(dataset: Dataset, hashes: list[bytes]) -> Iterator[Tensor]:
    """Decode a streamed set once, for its values and its hashes alike."""
    everything = torch.arange(dataset.inputs.shape[0])
    for inputs, _ in StreamBatches(dataset, everything, CHUNK, shuffle=False).epoch(0):
        hashes.extend(_hashes(inputs))
        yield inputs


def _duplicates(dataset: Dataset, splits: Splits, hashes: list[bytes]) -> dict[str, Any]:
    """Items with exactly the same inputs.

    `extra` counts the items beyond the first of each group; `contradictions` the groups whose answers
    differ; `across_parts` the items of validation and test whose inputs are in another part too (by
    pair of parts), which flatters the score; `examples` names some pairs.
    """
    groups: dict[bytes, list[int]] = {}
    for position, key in enumerate(hashes):
        groups.setdefault(key, []).append(position)
    repeated = [positions for positions in groups.values() if len(positions) > 1]
    owner = {position: part for part in PARTS for position in splits.of(part).tolist()}
    across = {"train and validation": 0, "train and test": 0, "validation and test": 0}
    for positions in repeated:
        owners = [owner[position] for position in positions if position in owner]
        for pair in across:
            first, second = pair.split(" and ")
            across[pair] += owners.count(second) if first in owners else 0  # type: ignore[arg-type]
    return {
        "extra": sum(len(positions) - 1 for positions in repeated),
        "contradictions": sum(len(set(dataset.targets[positions].tolist())) > 1 for positions in repeated),
        "across_parts": across,
        "examples": [
            [dataset.item_name(position) for position in positions[:2]] for positions in repeated[:EXAMPLES]
        ],
    }
