"""A path that a person gave: whether anything is there, and what the system says against reading it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import DataError


def existing(source: str | Path) -> Path | None:
    """The path, with ~ expanded; None where nothing is there.

    Raises:
        DataError: the system does not let us look, or cannot: permission denied, a name too long.
    """
    path = Path(source)
    with reading(path):
        try:
            path = path.expanduser()
        except RuntimeError as error:  # no such user, or one without a home folder
            raise DataError(f"{source} cannot be found: {error}") from error
        return path if path.exists() else None


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what the system says against reading `path`, or a file in it, into a `DataError`."""
    try:
        yield
    except PermissionError as error:
        raise DataError(f"{error.filename or path} may not be read: permission denied.") from error
    except OSError as error:
        raise DataError(f"{error.filename or path} cannot be read: {error.strerror or error}.") from error
