"""Checkpoints: tensors as safetensors, the rest as JSON, a checksum over both; the newest two are kept.

A checkpoint is a folder that is written beside its place, synced, and renamed into it: one that is there
is whole, unless the disk damaged it later, and then the checksum tells and the one before is taken.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import files
from ..errors import RunError

KEPT = 2


def save(folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
    """Write the checkpoint of a step and drop all but the newest two.

    Args:
        folder: where checkpoints are.
        step: optimizer steps taken.
        tensors: by name.
        state: what JSON can hold.

    Raises:
        RunError: it cannot be written, for example because the disk is full; the older ones are untouched.
    """
    from safetensors.torch import save as pack

    # A run may be saved several times at one step: around an evaluation, and whenever it is stopped there. Of
    # those only the newest are left, so their number says nothing.
    taken = [int(place.name.rpartition("-")[2]) for place in folder.glob(f"step-{step:09d}-*")]
    serial = max(taken, default=-1) + 1
    place = folder / f"step-{step:09d}-{serial:03d}"
    draft = folder / f".{place.name}.{os.getpid()}"
    content = pack({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})
    try:
        draft.mkdir(parents=True)
        _put(draft / "tensors.safetensors", content)
        record = {"checksum": _digest(content, state), "state": state}
        _put(draft / "state.json", json.dumps(record).encode())
        files.sync(draft)
        draft.rename(place)
        files.sync(folder)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise RunError(
            f"cannot write the checkpoint {place}: {error.strerror or error}. The one before is whole: "
            "free some space and go on with --resume."
        ) from error
    for old in sorted(folder.glob("step-*"))[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return place


def load_newest(folder: Path, tell: Callable[[str], None]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest checkpoint that is whole; None where there is none at all.

    Args:
        folder: where checkpoints are.
        tell: called with a sentence for each damaged one that is passed over.

    Raises:
        RunError: there are checkpoints, and all are damaged.
    """
    places = sorted(folder.glob("step-*"), reverse=True)
    for place in places:
        try:
            return _load(place)
        except RunError as error:
            tell(f"{error}; falling back to the one before")
    if places:
        raise RunError(f"every checkpoint in {folder} is damaged; the run cannot be resumed")
    return None


def _load(place: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        content = (place / "tensors.safetensors").read_bytes()
        record = json.loads((place / "state.json").read_bytes())
        state: dict[str, Any] = record["state"]
        if record["checksum"] != _digest(content, state):
            raise RunError(f"the checkpoint {place} is damaged: its checksum does not match")
        return load(content), state
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise RunError(f"the checkpoint {place} is damaged: {error}") from error


def _put(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    files.sync(path)


def _digest(content: bytes, state: Mapping[str, Any]) -> str:
    digest = hashlib.blake2b(content, digest_size=16)
    digest.update(json.dumps(state, sort_keys=True).encode())
    return digest.hexdigest()


def flatten(prefix: str, value: Any, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON, its tensors moved to `tensors` under names that start with `prefix`.

    Dictionaries with whole numbers as keys, such as an optimizer's state, come back the same from
    `unflatten`.
    """
    if isinstance(value, Tensor):
        tensors[prefix] = value
        return {"tensor": prefix}
    if isinstance(value, dict):
        return {"items": [[key, flatten(f"{prefix}.{key}", item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        items = [flatten(f"{prefix}.{index}", item, tensors) for index, item in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": items}
    if isinstance(value, bool | int | float | str | None):
        return {"value": value}
    raise TypeError(f"{prefix} cannot be kept in a checkpoint: it is a {type(value).__name__}")


def unflatten(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `flatten`."""
    ((form, content),) = value.items()
    if form == "tensor":
        return tensors[content]
    if form == "items":
        return {key: unflatten(item, tensors) for key, item in content}
    if form in ("list", "tuple"):
        items = [unflatten(item, tensors) for item in content]
        return items if form == "list" else tuple(items)
    return content


def clone(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies that later steps do not change."""
    return {name: torch.clone(tensor.detach()) for name, tensor in tensors.items()}
