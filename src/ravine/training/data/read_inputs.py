"""More of the same: new files or rows, read as a run's data were read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import DataError
from . import arrays, cifar, idx, images, table, text
from .dataset import Column, Dataset
from .options import DataOptions
from .sources import existing, reading


@dataclass(frozen=True)
class Inputs:
    """New items to predict.

    Attributes:
        items: as raw as in `Dataset.inputs`, items first; for text one row of tokens, (L,).
        names: one for each item; for text the file's.
        unreadable: names of the files that cannot be read and were left out.
    """

    items: Tensor
    names: tuple[str, ...]
    unreadable: tuple[str, ...] = ()


def input_spec(dataset: Dataset) -> dict[str, Any]:
    """What `read_inputs` needs to know of a data set, as plain data for JSON."""
    return {
        "kind": dataset.kind,
        "task": dataset.task,
        "item_shape": list(dataset.item_shape),
        "classes": list(dataset.classes),
        "columns": [
            {
                "name": column.name,
                "categories": None if column.categories is None else list(column.categories),
            }
            for column in dataset.columns
        ],
        "target_name": dataset.target_name,
        "options": dict(dataset.options),
    }


def read_inputs(path: str | Path, spec: Mapping[str, Any], *, skip_bad: bool = False) -> Inputs:
    """Read new items as raw as the run's own, and their names.

    Args:
        path: images: a file, a folder (its folders too), an IDX file of images, a CIFAR batch, .npy or
            .npz; tables: CSV or Parquet, the target not needed; arrays: .npy or .npz; text: a text file.
        spec: what `input_spec` gave for the run's data.
        skip_bad: leave out images that cannot be read.

    Raises:
        DataError: the path is missing or empty, a file is damaged, or it does not fit the run's data.
    """
    found = existing(path)
    if found is None:
        raise DataError(f"nothing to predict at {path}: no such file or folder.")
    with reading(found):
        return _read(found, spec, skip_bad)


def _read(path: Path, spec: Mapping[str, Any], skip_bad: bool) -> Inputs:
    kind = spec["kind"]
    if kind == "image":
        return _images(path, spec, skip_bad)
    if path.is_dir():
        raise DataError(f"{path} is a folder: name one file with the {_FORMATS[kind]} to predict.")
    if kind == "text":
        return Inputs(text.read_tokens(path, spec["classes"]), (path.name,))
    if path.suffix.lower() in (".npy", ".npz"):
        return _array(path, spec)
    if kind == "array" or path.suffix.lower() not in table.SUFFIXES:
        raise DataError(f"{path} does not fit the run's data: name a file with {_FORMATS[kind]}.")
    columns = [
        Column(column["name"], None if column["categories"] is None else tuple(column["categories"]))
        for column in spec["columns"]
    ]
    rows = table.read_rows(path, columns)
    return Inputs(rows, tuple(f"row {number + 1}" for number in range(len(rows))))


_FORMATS = {"table": "rows as CSV or Parquet", "array": "arrays as .npy or .npz", "text": "text"}


def _images(path: Path, spec: Mapping[str, Any], skip_bad: bool) -> Inputs:
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and images.is_image(file))
        if not files:
            raise DataError(f"{path} has no images.")
        return _decode(files, [file.relative_to(path).as_posix() for file in files], spec, skip_bad)
    if images.is_image(path):
        return _decode([path], [path.name], spec, skip_bad)
    if path.suffix.lower() in (".npy", ".npz"):
        return _array(path, spec)
    if path.suffix.lower() == ".bin":
        items, _ = cifar.read_binary(path, hundred=len(spec["classes"]) > 20)
    elif idx.IMAGES.search(path.name):
        items = idx.read_file(path, dimensions=3).unsqueeze(1)
    elif cifar.is_python_batch(path):
        items, _ = cifar.read_python(path)
    else:
        raise DataError(
            f"{path} is not recognised as images: name an image, a folder of images, an IDX file of images, "
            f"a CIFAR batch, or .npy or .npz."
        )
    return _fitting(items, path, spec)


def _decode(files: Sequence[Path], names: Sequence[str], spec: Mapping[str, Any], skip_bad: bool) -> Inputs:
    channels, height, width = spec["item_shape"]
    most = spec["options"].get("max_image_pixels", DataOptions.max_image_pixels)
    batch, bad = images.decode_all(files, (height, width), channels, most)
    if bad and (not skip_bad or len(bad) == len(files)):
        first = min(bad)
        raise DataError(
            f"{len(bad)} of {len(files)} images cannot be read, for one {first}: {bad[first]}. "
            f"Remove them, or go on without them with --skip-bad."
        )
    kept = tuple(name for file, name in zip(files, names, strict=True) if file not in bad)
    left_out = tuple(name for file, name in zip(files, names, strict=True) if file in bad)
    return Inputs(torch.from_numpy(batch), kept, left_out)


def _array(path: Path, spec: Mapping[str, Any]) -> Inputs:
    return _fitting(arrays.to_items(arrays.load_inputs(path), str(path)), path, spec)


def _fitting(items: Tensor, path: Path, spec: Mapping[str, Any]) -> Inputs:
    """Items of the shape and type that the run was trained on."""
    wanted = tuple(spec["item_shape"])
    if tuple(items.shape[1:]) != wanted or (items.dtype == torch.uint8) != (spec["kind"] == "image"):
        raise DataError(
            f"{path} does not fit the run's data: its items have the shape {tuple(items.shape[1:])} and type "
            f"{items.dtype}, but the model was trained on {wanted}, "
            f"{'bytes' if spec['kind'] == 'image' else 'numbers'}."
        )
    return Inputs(items, tuple(map(str, range(len(items)))))
