"""Failures that speak to the person: what was wrong, where, and what to do.

Everything a user can cause is a `RavineError`; the command line prints its text and ends with its
`exit_code`. Anything else that escapes is a defect of Ravine's and shows a traceback.
"""

import difflib
from collections.abc import Iterable, Sequence


class RavineError(Exception):
    """A failure a person can act on. `exit_code` is what the command line ends with."""

    exit_code = 2


class DataError(RavineError):
    """The data cannot be used as they are."""


class ModelError(RavineError):
    """The model does not fit the data, or cannot be made."""


class TrustError(RavineError):
    """A file names code that would run, and nobody said that the file is trusted."""


class RunError(RavineError):
    """A run folder is missing, incomplete, in the way, or does not match."""


class RecipeError(RavineError):
    """A recipe with mistakes: all of them, told at once."""

    def __init__(self, problems: Sequence[str]) -> None:
        """`problems`: one sentence a mistake, each naming its key."""
        self.problems = tuple(problems)
        count = len(self.problems)
        title = "the recipe has a mistake" if count == 1 else f"the recipe has {count} mistakes"
        super().__init__(title + ":\n" + "\n".join(f"  - {problem}" for problem in self.problems))


class NotFiniteError(RavineError):
    """A loss, gradient or weight became infinite or not-a-number."""

    exit_code = 3


class MemoryLimitError(RavineError):
    """Memory ran out: the message says what to lower."""

    exit_code = 4


class Interrupted(RavineError):  # noqa: N818 - it is a request, no error
    """A signal asked the run to stop; what was trained is in a checkpoint."""

    def __init__(self, signum: int, message: str) -> None:
        self.exit_code = 128 + signum
        super().__init__(message)


def nearest(name: str, valid: Iterable[str]) -> str:
    """`" (did you mean 'adam'?)"`, or an empty string where nothing in `valid` is close."""
    close = difflib.get_close_matches(name, list(valid), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
