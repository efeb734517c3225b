"""A text file as a next-character language model's data."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...errors import DataError
from ...registry import register
from .dataset import Dataset
from .options import DataOptions

SHORTEST = 100


@register("data", "text", "a text file (UTF-8): a language model predicts the next character")
def read_text(path: Path, options: DataOptions) -> Dataset:
    """Read a text: one token a character, numbered in the order of the code points.

    Raises:
        DataError: the file is empty, shorter than 100 characters, of one character only, binary, or
            not UTF-8.
    """
    points = _code_points(path)
    if len(points) < SHORTEST:
        raise DataError(
            f"{path} has {len(points)} characters: too short for a language model, which needs "
            f"{SHORTEST} at the very least and learns from many thousands."
        )
    used = np.flatnonzero(np.bincount(points))
    if len(used) < 2:
        raise DataError(f"{path} is one character over and over: there is nothing to learn.")
    number = np.zeros(int(used[-1]) + 1, np.int64)
    number[used] = np.arange(len(used))
    return Dataset(
        name=path.resolve().parent.name if path.stem == "input" else path.stem,
        kind="text",
        task="language",
        inputs=torch.from_numpy(number[points]),
        targets=torch.empty(0, dtype=torch.int64),
        parts={"train": torch.arange(len(points))},
        classes=tuple(map(chr, used)),
        target_name="next character",
        options={"reader": "text"},
    )


def read_tokens(path: Path, vocabulary: Sequence[str]) -> Tensor:
    """The tokens (int64) of a text under a given vocabulary.

    Raises:
        DataError: the text is empty, not UTF-8, or has a character outside the vocabulary.
    """
    points = _code_points(path)
    known = np.array([ord(character) for character in vocabulary])
    tokens = np.searchsorted(known, points).clip(max=len(known) - 1)
    bad = np.flatnonzero(known[tokens] != points)
    if bad.size:
        line = int((points[: bad[0]] == ord("\n")).sum()) + 1
        raise DataError(
            f"{path} has a character that the model has never seen: {chr(points[bad[0]])!r} on line "
            f"{line} ({bad.size} such characters in all). Replace or remove them."
        )
    return torch.from_numpy(tokens.astype(np.int64))


def _code_points(path: Path) -> npt.NDArray[np.uint32]:
    content = path.read_bytes()
    if not content:
        raise DataError(f"{path} is empty.")
    if b"\0" in content:
        raise DataError(f"{path} is binary, not a text (byte {content.index(0)} is zero).")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is no UTF-8 text: byte {error.start} ({content[error.start]:#04x}) is wrong there. "
            f"Convert it, for example with `iconv -t utf-8`."
        ) from error
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)
