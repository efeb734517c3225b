"""IDX, the format of MNIST and its kin (LeCun, http://yann.lecun.com/exdb/mnist/).

A file is a magic number (0, 0, the type of the values, the number of dimensions), the dimensions as
big-endian 32-bit integers, and the values.
"""

import gzip
import math
import re
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from ...errors import DataError
from ...registry import register
from .content import consecutive_parts
from .dataset import Dataset, PartName
from .options import DataOptions
from .targets import class_numbers

FILE = re.compile(r"(train|t10k|test)[-_.](images|labels)[-_.]idx[13][-_.]ubyte(\.gz)?$")
IMAGES = re.compile(r"idx3[-_.]ubyte(\.gz)?$")
UNSIGNED_BYTE = 0x08


def is_idx_folder(folder: Path) -> bool:
    """Whether a folder has an IDX file under its official name."""
    return any(FILE.search(path.name) for path in folder.iterdir())


@register("data", "idx", "a folder of IDX files under their official names, gzipped or not (MNIST and kin)")
def read_idx(folder: Path, options: DataOptions) -> Dataset:
    """Read a folder of IDX files: train-images-idx3-ubyte and so on; t10k is the test part.

    Raises:
        DataError: a file is missing, truncated or has a wrong magic number, or labels and images
            differ in number.
    """
    files: dict[tuple[PartName, str], Path] = {}
    for path in sorted(folder.iterdir()):
        if match := FILE.search(path.name):
            part: PartName = "train" if match[1] == "train" else "test"
            files.setdefault((part, match[2]), path)
    images, labels, lengths = [], [], {}
    for part in ("train", "test"):
        if (part, "images") not in files and (part, "labels") not in files and part == "test":
            continue
        images.append(_part_file(files, folder, part, "images"))
        labels.append(_part_file(files, folder, part, "labels"))
        if len(images[-1]) != len(labels[-1]):
            raise DataError(
                f"{folder}: {len(images[-1])} images but {len(labels[-1])} labels in the {part} part. "
                f"The files do not belong together, or one is not whole."
            )
        if images[-1].shape[1:] != images[0].shape[1:]:
            raise DataError(f"{folder}: the images of the train and test parts differ in size.")
        lengths[part] = len(images[-1])
    targets, classes = class_numbers(torch.cat(labels).numpy())
    return Dataset(
        name=folder.resolve().name,
        kind="image",
        task="classification",
        inputs=torch.cat(images).unsqueeze(1) if len(images) > 1 else images[0].unsqueeze(1),
        targets=targets,
        parts=consecutive_parts(lengths),
        classes=classes,
        target_name="label",
        options={"reader": "idx"},
    )


def _part_file(files: dict[tuple[PartName, str], Path], folder: Path, part: PartName, what: str) -> Tensor:
    if (part, what) not in files:
        raise DataError(
            f"{folder} has IDX files, but the {what} of the {part} part are missing. Official names are "
            f"train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, "
            f"t10k-labels-idx1-ubyte, each with or without .gz."
        )
    return read_file(files[part, what], dimensions=3 if what == "images" else 1)


def read_file(path: Path, dimensions: int) -> Tensor:
    """The unsigned bytes of one IDX file, gzipped or not, as a uint8 tensor.

    Raises:
        DataError: the magic number is not that of unsigned bytes in so many dimensions, the length
            is not what the dimensions say, or the gzip stream is damaged.
    """
    header_length = 4 + 4 * dimensions
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(header_length)
            shape = _shape(header, dimensions, path)
            length = math.prod(shape)
            # One byte more than is right shows a file that is too long, and bounds a gzip bomb.
            content = bytearray(file.read(length + 1))
    except (EOFError, zlib.error, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}. Copy or download it again.") from error
    if len(content) != length:
        have = "more" if len(content) > length else f"{header_length + len(content)} bytes"
        raise DataError(
            f"{path} has the wrong length: its header announces {'×'.join(map(str, shape))} values, so "
            f"{header_length + length} bytes, but there are {have}. Copy or download it again."
        )
    return torch.frombuffer(content, dtype=torch.uint8).reshape(shape)


def _shape(header: bytes, dimensions: int, path: Path) -> tuple[int, ...]:
    expected = bytes((0, 0, UNSIGNED_BYTE, dimensions))
    if header[:4] != expected:
        raise DataError(
            f"{path} has a bad magic number: {header[:4].hex() or 'nothing'} where {expected.hex()} "
            f"belongs (unsigned bytes in {dimensions} dimensions). It is no such IDX file, or damaged."
        )
    if len(header) != 4 + 4 * dimensions:
        raise DataError(f"{path} ends within its header. Copy or download it again.")
    shape = struct.unpack(f">{dimensions}I", header[4:])
    if 0 in shape:
        raise DataError(f"{path} is empty: its header announces {'×'.join(map(str, shape))} values.")
    return shape
