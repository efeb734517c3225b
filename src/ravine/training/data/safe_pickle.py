"""Unpickling that can only build plain containers and numeric arrays.

CIFAR's Python layout is pickled. A pickle is a program: unpickled as usual, a stranger's file runs a
stranger's code. Here the only names a pickle may call are those that numpy arrays need, and each of
them is a stand-in of ours: nothing of numpy's own unpickling runs on foreign bytes.
"""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import DataError


def load(path: Path) -> Any:
    """Unpickle dicts, lists, bytes, text, numbers and numeric arrays, and nothing else.

    Text of Python 2 comes as bytes.

    Raises:
        DataError: the pickle is damaged, or asks for anything else.
    """
    try:
        return _plain(_Unpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load())
    except _ForbiddenError as error:
        raise DataError(
            f"{path} is refused: its pickle asks for {error}, which could run foreign code. "
            f"Only numbers, text and numeric arrays are taken."
        ) from error
    except (
        pickle.UnpicklingError, EOFError, OSError, ValueError, TypeError, IndexError, KeyError,
        AttributeError, MemoryError, OverflowError, RecursionError,
    ) as error:  # fmt: skip
        raise DataError(
            f"{path} cannot be read as a pickle: {error or type(error).__name__}. Download it again."
        ) from error


class _ForbiddenError(Exception):
    pass


class _Dtype:
    """Stands in for numpy.dtype: the name of a numeric type and its byte order."""

    def __init__(self, name: str | bytes, *flags: object) -> None:
        self.name = name.decode() if isinstance(name, bytes) else name

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1].decode() if isinstance(state[1], bytes) else state[1]
        self.name = (order if order in ("<", ">") else "") + self.name.lstrip("<>|=")

    def value(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = np.dtype(self.name)
        if dtype.kind not in "iufb":
            raise _ForbiddenError("an array of objects")
        return dtype


class _Array:
    """Stands in for numpy.ndarray: the parts of an array, put together after the unpickling."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, self.dtype, self.fortran, self.content = state

    def value(self) -> npt.NDArray[Any]:
        flat = np.frombuffer(self.content, self.dtype.value())
        return flat.reshape(self.shape, order="F" if self.fortran else "C")


def _reconstruct(kind: object, shape: object, code: object) -> _Array:
    return _Array()


def _frombuffer(content: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", content))
    return array


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", b"latin1"):
        raise _ForbiddenError(f"the encoding {encoding!r}")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _frombuffer for core in ("core", "_core")},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise _ForbiddenError(f"{module}.{name}")
        return _ALLOWED[module, name]


def _plain(value: object) -> Any:
    if isinstance(value, _Array):
        return value.value()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
