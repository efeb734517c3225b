"""Files of weights, of whatever program, as plain tensors: nothing in them is ever run."""

import hashlib
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from ...errors import ModelError

# Where files keep their weights beside what a training left there too.
_WRAPPINGS = ("state_dict", "model_state_dict", "model", "net")
_PARALLEL = "module."
_ZIP = b"PK"
_PICKLE = b"\x80"
_PICKLED = (
    "{path} is refused: it holds pickled objects besides tensors, which could run foreign code. "
    "Save its state_dict alone, or as .safetensors"
)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file, of one that torch wrote, or of an `.npz`, by their names there.

    Wrappings such as {"state_dict": ...} and the prefix of `DataParallel` are taken off.

    Raises:
        ModelError: there is no such file; it is damaged, or of another kind; it holds pickled objects besides
            tensors, which could run foreign code; a tensor in it is no plain one; or a number is not finite.
    """
    if not path.is_file():
        raise ModelError(f"there is no file {path}")
    try:
        weights = _reader(path)(path)
    except (ModelError, MemoryError):
        raise
    except Exception as error:  # each reader has many ways to end on a file that is damaged
        raise ModelError(f"{path} is damaged or cut off: {_first_line(error)}. Download it again.") from error
    if not weights:
        raise ModelError(f"{path} holds no tensors")
    if all(name.startswith(_PARALLEL) for name in weights):
        weights = {name.removeprefix(_PARALLEL): tensor for name, tensor in weights.items()}
    if odd := [name for name, tensor in weights.items() if not _is_plain(tensor)]:
        raise ModelError(
            f"{path}: the weights {', '.join(odd[:5])} are sparse, quantised or without values; save them as "
            "plain numbers"
        )
    bad = [name for name, tensor in weights.items() if not _is_finite(tensor)]
    if bad:
        raise ModelError(f"{path}: the weights {', '.join(bad[:5])} are not finite")
    return weights


def checksum(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta


def _is_finite(tensor: Tensor) -> bool:
    if tensor.is_floating_point() and tensor.itemsize == 1:  # which torch cannot ask
        tensor = tensor.float()
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _reader(path: Path) -> Callable[[Path], dict[str, Tensor]]:
    if path.suffix == ".safetensors":
        return load_file
    if path.suffix == ".npz":
        return _arrays
    return _torch_file


def _arrays(path: Path) -> dict[str, Tensor]:
    # Opened here: of an archive that is damaged NumPy would leave the file open.
    with path.open("rb") as file:
        if file.read(2) != _ZIP:  # which NumPy would take for a pickle
            raise ValueError("it is no archive of arrays")
        file.seek(0)
        try:
            with np.load(file, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        except ValueError as error:
            if "allow_pickle" not in str(error):
                raise
            raise ModelError(_PICKLED.format(path=path)) from error


def _torch_file(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        if not file.read(2).startswith((_ZIP, _PICKLE)):
            raise ValueError("it is no file of weights that torch wrote")
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" not in str(error) and "Unsupported class" not in str(error):
            raise ValueError("it is no file of weights that torch wrote") from error
        raise ModelError(_PICKLED.format(path=path)) from error
    for _ in _WRAPPINGS:  # not without end: a mapping may hold itself
        if isinstance(found, Mapping):
            found = next((found[key] for key in _WRAPPINGS if isinstance(found.get(key), Mapping)), found)
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ModelError(f"{path} holds no state_dict: names with a tensor each")
    return {str(name): tensor.detach() for name, tensor in found.items()}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
