"""A folder of class folders of images, with or without train, validation and test folders."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...errors import DataError
from ...registry import register
from . import images
from .dataset import Dataset, PartName
from .options import DataOptions

PART_FOLDERS: dict[str, PartName] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Labelled:
    """An image file, its class and its part."""

    path: Path
    label: str
    part: PartName


@dataclass(frozen=True)
class ImageItems:
    """Image files decoded when they are fetched: (N, channels, side, side), uint8."""

    files: tuple[Path, ...]
    side: int
    channels: int
    max_pixels: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(number of files, channels, side, side)."""
        return (len(self.files), self.channels, self.side, self.side)

    def fetch(self, positions: Tensor) -> Tensor:
        """Decode the files at `positions`.

        Raises:
            DataError: a file cannot be decoded; it is named.
        """
        batch = np.empty((len(positions), *self.shape[1:]), np.uint8)
        for row, position in enumerate(positions.tolist()):
            path = self.files[position]
            try:
                batch[row] = images.decode(path, (self.side, self.side), self.channels, self.max_pixels)
            except images.UnusableImageError as error:
                raise DataError(f"{path} cannot be read: {error}. Remove it and start again.") from error
        return torch.from_numpy(batch)


@register("data", "images", "a folder of class folders of images, with or without train/val/test folders")
def read_image_folder(root: Path, options: DataOptions) -> Dataset:
    """Read a folder of class folders.

    Images become squares: short side to `options.image_size`, cut in the centre. Sets of grey images
    alone have one channel (for streamed sets, where all files are of a grey mode), others three. Sets
    over `options.memory_gb` are decoded when fetched.

    Raises:
        DataError: a class folder is empty, a class outside training is unknown to it, or a file is
            unreadable, truncated or too large (unless `options.skip_bad`).
    """
    found, notes = _find(root)
    headers, bad = _scan([item.path for item in found], options.max_image_pixels)
    readable = tuple(item.path for item in found if item.path not in bad)
    side = options.image_size if options.image_size != "auto" else images.median_short_side(headers)
    grey = all(header.grey for header in headers)
    items = ImageItems(readable, side, 1 if grey else 3, options.max_image_pixels)
    streamed = np.prod(items.shape) > options.memory_gb * 2**30
    inputs: Tensor | ImageItems
    digests: list[bytes] = []
    if streamed:
        digests, broken = images.digest_all(items.files, items.max_pixels)
        inputs = replace(items, files=tuple(path for path in items.files if path not in broken))
        notes.append("the images do not fit in memory: they are decoded as they are needed")
    else:
        decoded, broken = _decode_all(items)
        inputs = torch.from_numpy(decoded)
    bad |= broken
    _report_bad(bad, root, options)
    found = _without(found, bad, root)
    if bad:
        notes.append(f"{len(bad)} images cannot be read and are left out")
    classes = tuple(sorted({item.label for item in found}))
    number = {label: index for index, label in enumerate(classes)}
    names = tuple(item.path.relative_to(root).as_posix() for item in found)
    return Dataset(
        name=root.resolve().name,
        kind="image",
        task="classification",
        inputs=inputs,
        targets=torch.tensor([number[item.label] for item in found], dtype=torch.int64),
        parts=_positions(found),
        classes=classes,
        target_name="class",
        item_name=names.__getitem__,
        fingerprint=_fingerprint(names, digests, side) if streamed else "",
        notes=tuple(notes),
        unreadable=tuple(path.relative_to(root).as_posix() for path in sorted(bad)),
        options={"reader": "images", "max_image_pixels": options.max_image_pixels},
    )


def _find(root: Path) -> tuple[list[Labelled], list[str]]:
    """Every image file with its class and part, in the order of their names; and what was left out."""
    ignored: Counter[str] = Counter()
    found: list[Labelled] = []
    for part, folder in _part_folders(root, ignored):
        class_folders = [path for path in sorted(folder.iterdir()) if _is_visible_folder(path)]
        ignored.update(path.name for path in folder.iterdir() if not path.is_dir())
        if not class_folders:
            raise DataError(
                f"{folder} has no class folders: put the images of each class in a folder of its own."
            )
        for class_folder in class_folders:
            files = list(_image_files(class_folder, ignored))
            if not files:
                raise DataError(f"the class folder {class_folder} has no images. Fill it or remove it.")
            found += [Labelled(path, class_folder.name, part) for path in files]
    notes = []
    if ignored:
        listed = ", ".join(sorted(ignored)[:3]) + (", ..." if len(ignored) > 3 else "")
        notes.append(f"left out, as they are no images: {sum(ignored.values())} ({listed})")
    return found, notes


def _part_folders(root: Path, ignored: Counter[str]) -> list[tuple[PartName, Path]]:
    """The folders that hold class folders, each with its part.

    A folder named train makes the layout one of parts only where it holds folders itself: "train"
    may be a class, beside "plane".
    """
    folders = {path.name.lower(): path for path in sorted(root.iterdir()) if _is_visible_folder(path)}
    parts = [(part, folders[name]) for name, part in PART_FOLDERS.items() if name in folders]
    training = [folder for part, folder in parts if part == "train"]
    if not training or not any(_is_visible_folder(path) for path in training[0].iterdir()):
        return [("train", root)]
    ignored.update(path.name for path in root.iterdir() if path not in {folder for _, folder in parts})
    return parts


def _is_visible_folder(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith((".", "__MACOSX"))


def _image_files(folder: Path, ignored: Counter[str]) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(place, name)
            if images.is_image(path):
                yield path
            else:
                ignored[name] += 1


def _scan(files: Sequence[Path], max_pixels: int) -> tuple[list[images.Header], dict[Path, str]]:
    headers, bad = [], {}
    for path in files:
        try:
            headers.append(images.read_header(path, max_pixels))
        except images.UnusableImageError as error:
            bad[path] = str(error)
    return headers, bad


def _decode_all(items: ImageItems) -> tuple[npt.NDArray[np.uint8], dict[Path, str]]:
    """All images that can be decoded, with one channel if that says it all; and the bad files."""
    batch, bad = images.decode_all(items.files, (items.side, items.side), items.channels, items.max_pixels)
    if items.channels == 3 and images.grey_levels_only(batch):
        batch = np.ascontiguousarray(batch[:, :1])
    return batch, bad


def _report_bad(bad: dict[Path, str], root: Path, options: DataOptions) -> None:
    if not bad or options.skip_bad:
        return
    raise DataError(
        f"{len(bad)} of the images in {root} cannot be read:\n{_listed(bad, root)}\n"
        f"Mend or remove them, or go on without them with --skip-bad."
    )


def _without(found: Sequence[Labelled], bad: dict[Path, str], root: Path) -> list[Labelled]:
    """What is left without the bad files; a class must not vanish with them."""
    kept = [item for item in found if item.path not in bad]
    left = {(item.part, item.label) for item in kept}
    for item in found:
        if (item.part, item.label) not in left:
            raise DataError(
                f"none of the images in {item.path.parent} can be read, so a class would vanish. In all "
                f"{len(bad)} images cannot be read:\n{_listed(bad, root)}\n"
                f"Replace them, or remove the class folder."
            )
    return kept


def _listed(bad: dict[Path, str], root: Path, most: int = 5) -> str:
    lines = [f"  - {path.relative_to(root).as_posix()}: {reason}" for path, reason in sorted(bad.items())]
    return "\n".join(lines[:most] + ([f"  - and {len(lines) - most} more"] if len(lines) > most else []))


def _positions(found: Sequence[Labelled]) -> dict[PartName, Tensor]:
    parts: dict[PartName, list[int]] = {}
    for position, item in enumerate(found):
        parts.setdefault(item.part, []).append(position)
    return {part: torch.tensor(positions) for part, positions in parts.items()}


def _fingerprint(names: Sequence[str], digests: Sequence[bytes], side: int) -> str:
    """A digest of the files' names and contents, and of the side they are brought to."""
    hasher = hashlib.blake2b(str(side).encode(), digest_size=16)
    for name, digest in zip(names, digests, strict=True):
        hasher.update(f"{name}\0".encode() + digest)
    return hasher.hexdigest()
