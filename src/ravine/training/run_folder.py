"""A run is a folder, complete and readable without Ravine."""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import files
from ..errors import RunError

ENSEMBLE, MEMBERS = "ensemble.json", "members"
"""Of a folder with several runs together: what says so, and where they are."""


class RunFolder:
    """The files of one run, and how they are written.

    Attributes:
        path: the folder.
        rows: how many evaluations `metrics.jsonl` holds.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0
        self._metrics: Any = None

    @classmethod
    @contextmanager
    def making(cls, path: Path) -> Iterator["RunFolder"]:
        """Fill a draft of a new run folder; it appears at `path` whole, when the block ends well.

        Raises:
            RunError: `path` exists, or cannot be made.
        """
        cls.refuse_existing(path)
        draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
        try:
            draft.mkdir(parents=True)
            yield cls(draft)
            draft.rename(path)
            files.sync(path.parent)
        except OSError as error:
            raise RunError(f"cannot make {path}: {error.strerror or error}") from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    @staticmethod
    def refuse_existing(path: Path) -> None:
        """Raise RunError where something is at `path` already."""
        if path.exists():
            raise RunError(f"{path} exists already; give another --out, or remove it first")

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """An existing run.

        Raises:
            RunError: there is no run at `path`, or several together.
        """
        if not (path / "recipe.toml").is_file():
            if (path / ENSEMBLE).is_file():
                raise RunError(f"{path} is an ensemble, not one run: its members are in {path / MEMBERS}")
            reason = (
                "holds no recipe.toml"
                if path.is_dir()
                else "is a file"
                if path.exists()
                else "does not exist"
            )
            raise RunError(f"{path} is no run folder: it {reason}")
        return cls(path)

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints are."""
        return self.path / "checkpoints"

    @property
    def finished(self) -> bool:
        """The final scores have been written."""
        return (self.path / "result.json").is_file()

    def write_text(self, name: str, text: str) -> None:
        """Put a text file atomically. Raises RunError as `files.write_bytes`."""
        files.write_bytes(self.path / name, text.encode())

    def write_json(self, name: str, value: object) -> None:
        """Put a JSON file atomically. Raises RunError as `files.write_bytes`."""
        files.write_json(self.path / name, value)

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Put a safetensors file atomically. Raises RunError as `files.write_bytes`."""
        write_tensors(self.path / name, tensors)

    def read_json(self, name: str) -> Any:
        """A JSON file of the run.

        Raises:
            RunError: it is missing or damaged.
        """
        try:
            return json.loads((self.path / name).read_text())
        except OSError as error:
            raise RunError(f"{self.path / name} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise RunError(f"{self.path / name} is damaged: {error}") from error

    def read_tensors(self, name: str) -> dict[str, Tensor]:
        """A safetensors file of the run.

        Raises:
            RunError: it is missing or damaged.
        """
        return read_tensors(self.path / name)

    def append_row(self, row: Mapping[str, object]) -> None:
        """Add an evaluation to `metrics.jsonl`; it is sure to be on the disk after `flush`."""
        try:
            if self._metrics is None:
                self._metrics = (self.path / "metrics.jsonl").open("ab", buffering=0)
            line = (json.dumps(files.finite_or_null(row), allow_nan=False) + "\n").encode()
            while line:  # a disk that gets full takes a part
                line = line[self._metrics.write(line) :]
        except OSError as error:
            raise RunError(f"cannot write {self.path / 'metrics.jsonl'}: {error.strerror}") from error
        self.rows += 1

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training this run at the same time; a killed process lets go.

        Raises:
            RunError: another process has it.
        """
        try:
            import fcntl
        except ImportError:  # not on this system: nothing is held
            yield
            return
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            raise RunError(f"{self.path} is being trained by another process") from error
        finally:
            os.close(descriptor)

    def clear_drafts(self) -> None:
        """Remove temporary files that a kill left behind."""
        for draft in [*self.path.glob(".*.tmp"), *self.checkpoints.glob(".step-*")]:
            shutil.rmtree(draft) if draft.is_dir() else draft.unlink()

    def flush(self) -> None:
        """Bring `metrics.jsonl` to the disk."""
        if self._metrics is not None:
            try:
                os.fsync(self._metrics.fileno())
            except OSError as error:
                raise RunError(f"cannot write {self.path / 'metrics.jsonl'}: {error.strerror}") from error

    def keep_rows(self, count: int) -> None:
        """Drop evaluations after the first `count`: a resumed run makes them again."""
        path = self.path / "metrics.jsonl"
        lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
        if len(lines) < count:
            raise RunError(f"{path} has {len(lines)} lines where the checkpoint counts {count}")
        files.write_bytes(path, b"".join(lines[:count]))
        self.rows = count

    def read_rows(self) -> list[dict[str, Any]]:
        """Every evaluation so far; a last line that a kill cut short is left out."""
        path = self.path / "metrics.jsonl"
        text = path.read_text() if path.is_file() else ""
        return [json.loads(line) for line in whole_lines(text)]

    def close(self) -> None:
        """Close `metrics.jsonl`."""
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None


def whole_lines(text: str) -> Iterable[str]:
    """The lines that end in a newline."""
    return text.splitlines() if text.endswith("\n") else text.splitlines()[:-1]


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Put tensors at `path` atomically, as safetensors. Raises RunError as `files.write_bytes`."""
    from safetensors.torch import save

    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    files.write_bytes(path, save(whole))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        RunError: it is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(path)
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or 'no such file'}") from error
    except SafetensorError as error:
        raise RunError(f"{path} is damaged: {error}") from error
    return tensors
