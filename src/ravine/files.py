"""Files that are whole or absent, never half: temporary file, flush, fsync, rename."""

import json
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from .errors import RunError


def make_folder(path: Path) -> None:
    """Make a folder and those above it; nothing where it is there.

    Raises:
        RunError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make {path}: {error.strerror or error}") from error


def write_bytes(path: Path, content: bytes) -> None:
    """Put `content` at `path` atomically; an older file there stays whole until the rename.

    Raises:
        RunError: the disk is full or the place cannot be written; the older file is untouched.
    """
    write_through(path, lambda temporary: temporary.write_bytes(content))


def write_json(path: Path, value: Any) -> None:
    """Put `value` at `path` atomically, as indented JSON. Not-a-number and infinity become null."""
    write_bytes(path, (json.dumps(finite_or_null(value), indent=2, allow_nan=False) + "\n").encode())


def finite_or_null(value: Any) -> Any:
    """`value` with each float that JSON has no word for replaced by None."""
    if isinstance(value, dict):
        return {key: finite_or_null(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_null(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


def write_through(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a temporary file beside `path`, then sync it and rename it into place.

    Raises:
        RunError: as `write_bytes`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        write(temporary)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}. {_advice(error)}") from error
    finally:
        with suppress(OSError):  # it must not hide what went wrong before
            temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Ask the operating system to bring a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _advice(error: OSError) -> str:
    import errno

    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "Free some space and resume: what was written before is whole."
    return "What was written before is whole."
