"""One argument, recognised by what it is."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ... import registry
from ...errors import DataError, nearest
from . import arrays, cifar, embedded, idx, image_folder, images, table, text
from .content import check, digest
from .dataset import Dataset
from .options import DataOptions
from .sources import existing, reading

Reader = Callable[[Path, DataOptions], Dataset]

# Files that lie beside data and are none.
ASIDE = re.compile(r"(readme|licen[cs]e|copying|citation|notice|thumbs\.db|desktop\.ini)", re.IGNORECASE)


def open_data(source: str | Path, options: DataOptions | None = None) -> Dataset:
    """Open a data set, recognised by what it is.

    Args:
        source: the name of an embedded set (`digits`, `wine`, `breast_cancer`, `diabetes`), or a path:
            a folder of IDX files, of CIFAR batches, of class folders of images or of .npy files; a
            CSV, TSV, Parquet, .npz, .npy or text file, or a folder with one of these. A path that
            is called like an embedded set is written ./digits.
        options: how to read it.

    Raises:
        DataError: there is nothing at the path, it is not recognised, or the data cannot be used.
    """
    options = options or DataOptions()
    if isinstance(source, str) and source in embedded.NAMES:
        dataset: Dataset = registry.lookup("data", source)(options)
    else:
        path = existing(source)
        if path is None:
            raise DataError(
                f"no data at {source}: no such file or folder{nearest(str(source), embedded.NAMES)}. "
                f"Embedded sets are {', '.join(embedded.NAMES)}."
            )
        with reading(path):
            dataset = (_recognise_folder if path.is_dir() else _recognise_file)(path)(path, options)
    check(dataset)
    return dataset if dataset.fingerprint else replace(dataset, fingerprint=digest(dataset))


def _recognise_folder(folder: Path) -> Reader:
    visible = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    entries = [path for path in visible if path.is_dir() or not ASIDE.match(path.name)]
    if not entries:
        raise DataError(f"{folder} is an empty folder: there are no data in it.")
    if idx.is_idx_folder(folder):
        return idx.read_idx
    if cifar.is_cifar_folder(folder):
        return cifar.read_cifar
    if any(path.is_dir() for path in entries):
        return image_folder.read_image_folder
    if any(path.suffix == ".npy" for path in entries):
        return arrays.read_arrays
    if len(entries) == 1:
        reader = _recognise_file(entries[0])
        return lambda _, options: reader(entries[0], options)
    if any(images.is_image(path) for path in entries):
        raise DataError(
            f"{folder} has images but no class folders: put the images of each class in a folder of its own."
        )
    raise DataError(
        f"{folder} is not recognised: it has {len(entries)} files such as {entries[0].name}. Name one file, "
        f"or a folder of IDX files, CIFAR batches, class folders of images, or .npy files."
    )


def _recognise_file(path: Path) -> Reader:
    if path.stat().st_size == 0:
        raise DataError(f"{path} is an empty file: there are no data in it.")
    if path.suffix.lower() in table.SUFFIXES:
        return table.read_table
    if path.suffix.lower() in (".npz", ".npy"):
        return arrays.read_arrays
    if images.is_image(path):
        raise DataError(
            f"{path} is a single image. Name a folder that has a folder of images for each class."
        )
    if idx.IMAGES.search(path.name) or path.suffix.lower() == ".bin":
        raise DataError(f"{path} is one file of a set. Name the folder that it lies in, {path.parent}.")
    return text.read_text
