"""NumPy files: an .npz with named arrays, or .npy files side by side."""

import lzma
import math
import os
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib import format as npy
from torch import Tensor

from ...errors import DataError, nearest
from ...registry import register
from .content import consecutive_parts
from .dataset import Dataset, PartName
from .options import DataOptions
from .targets import encode

Array = npt.NDArray[Any]
INPUT_NAMES = ("x", "data", "images", "inputs", "features")
TARGET_NAMES = ("y", "labels", "label", "targets", "target", "classes")
ZIP = b"PK"
# What damaged archives and headers raise.
DAMAGE = (
    ValueError, OSError, EOFError, KeyError, TypeError, OverflowError, RuntimeError,
    SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip
PART_WORDS: dict[str, PartName] = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}


@register("data", "arrays", "an .npz with x and y (x_train, x_test, ...), or x.npy beside y.npy")
def read_arrays(path: Path, options: DataOptions) -> Dataset:
    """Read arrays by their names: x, data, images, ... and y, labels, targets, ...; _train and so on.

    Bytes (N, H, W), (N, H, W, C) or (N, C, H, W) are images; other arrays become float32. Answers may
    be one-hot rows.

    Raises:
        DataError: an array is missing, pickled, of the wrong length, or not finite.
    """
    found = load(path)
    inputs: list[Array] = []
    answers: list[Array] = []
    lengths: dict[PartName, int] = {}
    for part in ("train", "validation", "test"):
        x = _pick(found, INPUT_NAMES, part)
        if x is None:
            continue
        names = (options.target,) if options.target != "auto" else TARGET_NAMES
        y = _pick(found, names, part)
        if y is None:
            raise DataError(
                f"{path} has {x!r} but no answers for it: call them y{x[1:] if x[0] in 'xX' else ''}"
                f"{nearest(names[0], found)}, or name them with data.target. It has {', '.join(found)}."
            )
        if len(found[x]) != len(found[y]):
            raise DataError(f"{path}: {x!r} has {len(found[x])} items but {y!r} has {len(found[y])}.")
        inputs.append(found[x])
        answers.append(_answers(found[y], f"{y!r} of {path}"))
        lengths[part] = len(found[x])
    if "train" not in lengths:
        raise DataError(
            f"{path} has no array called x (or {', '.join(INPUT_NAMES[1:])}): only {', '.join(found)}."
        )
    if len({array.shape[1:] for array in inputs}) > 1 or len({array.dtype for array in inputs}) > 1:
        raise DataError(
            f"{path}: the parts differ in shape or type: {[array.shape[1:] for array in inputs]}."
        )
    tensor = to_items(np.concatenate(inputs) if len(inputs) > 1 else inputs[0], str(path))
    task, targets, classes = encode(np.concatenate(answers), options.task, f"the target of {path}")
    return Dataset(
        name=path.resolve().stem if path.suffix != ".npy" else path.resolve().parent.name,
        kind="image" if tensor.dtype == torch.uint8 else "array",
        task=task,
        inputs=tensor,
        targets=targets,
        parts=consecutive_parts(lengths),
        classes=classes,
        options={"reader": "arrays"},
    )


def load(path: Path) -> dict[str, Array]:
    """The arrays of an .npz, a folder of .npy files, or an .npy file and those beside it, by name.

    Raises:
        DataError: a file is damaged, needs unpickling, or does not fit in the memory that is free.
    """
    if path.suffix.lower() == ".npz":
        return _load_file(path)
    folder = path if path.is_dir() else path.parent
    return {file.stem: _load_file(file)[file.stem] for file in sorted(folder.glob("*.npy"))}


def load_inputs(path: Path) -> Array:
    """The inputs of an .npy file, or of an .npz: its array called x, data, ..., or its only array.

    Raises:
        DataError: as `load`; or none of several arrays is called so.
    """
    found = _load_file(path)
    name = _pick(found, INPUT_NAMES, "train") or _pick(found, INPUT_NAMES, "test")
    if name is None and len(found) != 1:
        raise DataError(
            f"{path} has no array called x (or {', '.join(INPUT_NAMES[1:])}): only {', '.join(found)}."
        )
    return found[name or next(iter(found))]


def _load_file(path: Path) -> dict[str, Array]:
    try:
        with path.open("rb") as file:
            if file.read(2) == ZIP:
                return _members(file, path)
            size = file.seek(0, os.SEEK_END)
            _refuse_too_large(size, path)
            file.seek(0)
            return {path.stem: _array(file, size, str(path))}
    except PermissionError:
        raise
    except DAMAGE as error:
        raise DataError(f"{path} cannot be read: {error}. It is damaged; save it again.") from error


def _members(file: IO[bytes], path: Path) -> dict[str, Array]:
    """The arrays of an .npz, an archive of .npy files."""
    with zipfile.ZipFile(file) as archive:
        _refuse_too_large(sum(member.file_size for member in archive.infolist()), path)
        arrays = {}
        for member in archive.infolist():
            with archive.open(member) as content:
                where = f"{member.filename} in {path}"
                arrays[member.filename.removesuffix(".npy")] = _array(content, member.file_size, where)
        return arrays


def _array(file: IO[bytes], size: int, where: str) -> Array:
    """An array in NumPy's format. Its header is judged before anything is made of it.

    Raises:
        DataError: it holds objects, is no array, or is shorter than its header says.
        ValueError: its header is damaged.
    """
    if file.read(len(npy.MAGIC_PREFIX)) != npy.MAGIC_PREFIX:
        raise DataError(f"{where} is no NumPy array, or it is damaged. Save it again with numpy.")
    file.seek(0)
    read_header = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if dtype.hasobject:
        raise DataError(
            f"{where} holds Python objects, which could run foreign code: save plain numeric arrays."
        )
    announced = math.prod(shape) * dtype.itemsize
    present = size - file.tell()
    if min(shape, default=0) < 0 or announced > present:
        raise DataError(
            f"{where} cannot be read: its header announces {announced:,} bytes of numbers, but there are "
            f"{present:,}. It is truncated or damaged; save it again."
        )
    file.seek(0)
    array: Array = npy.read_array(file, allow_pickle=False)
    return array


def _refuse_too_large(size: int, path: Path) -> None:
    free = available_memory()
    if size > free:
        raise DataError(
            f"{path} is too large: {size / 2**30:,.1f} GiB once unpacked, and {free / 2**30:,.1f} GiB of "
            f"memory are free. Split it, or choose smaller types such as float32."
        )


def available_memory() -> int:
    """Bytes that can still be had without swapping; where the system does not say, all of the memory."""
    told = Path("/proc/meminfo")
    if told.exists():
        for line in told.read_text("ascii", "replace").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _pick(found: Mapping[str, Array], names: tuple[str, ...], part: PartName) -> str | None:
    """The name of the array that is called one of `names` and belongs to a part."""
    for name in names:
        for key in found:
            words = key.lower().split("_")
            parts = [PART_WORDS[word] for word in words if word in PART_WORDS] or ["train"]
            rest = "_".join(word for word in words if word not in PART_WORDS)
            if parts[0] == part and name.lower() in (rest, key.lower()):
                return key
    return None


def _answers(array: Array, where: str) -> Array:
    """Answers as a vector: a single column is flattened, one-hot rows become numbers."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 2 and array.dtype.kind in "iufb" and _is_one_hot(array):
        numbers: Array = np.argmax(array, axis=1)
        return numbers
    if array.ndim != 1 or array.dtype.kind not in "iufbUS":
        raise DataError(
            f"{where} has the shape {array.shape} and type {array.dtype}: one answer an item is needed, "
            f"a number or a class (or one-hot rows)."
        )
    return array.astype(str) if array.dtype.kind == "S" else array


def _is_one_hot(array: Array) -> bool:
    return bool(np.isin(array, (0, 1)).all() and (array.sum(axis=1) == 1).all())


def to_items(array: Array, where: str) -> Tensor:
    """An array as raw items: images uint8 (N, C, H, W), anything else float32.

    Raises:
        DataError: the array is no numbers, has no item dimension, or is not finite.
    """
    if array.dtype.kind not in "iufb" or array.ndim < 2:
        raise DataError(
            f"the inputs of {where} have the shape {array.shape} and type {array.dtype}: numbers are "
            f"needed, with the items first."
        )
    if array.dtype == np.uint8 and array.ndim == 3:
        return torch.from_numpy(np.array(array)[:, None])
    if array.dtype == np.uint8 and array.ndim == 4 and array.shape[-1] in (1, 3):
        return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))
    if array.dtype == np.uint8 and array.ndim == 4 and array.shape[1] in (1, 3):
        return torch.from_numpy(np.array(array))
    with np.errstate(over="ignore"):
        numbers = array.astype(np.float32)
    bad = np.argwhere(~np.isfinite(numbers))
    if len(bad):
        place = tuple(map(int, bad[0]))
        raise DataError(
            f"the inputs of {where} are not finite: {array[place]} at {list(place)}, and {len(bad)} such "
            f"values in all. Remove or correct them."
        )
    return torch.from_numpy(numbers)
