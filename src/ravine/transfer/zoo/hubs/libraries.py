"""The libraries of the hubs: imported where they are used, and what fails in them told in a sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from textwrap import shorten
from typing import Any

import torch

from ....errors import ModelError, RavineError

_LONGEST = 300


def library(name: str) -> Any:
    """The module of that name.

    Raises:
        ModelError: it is not installed, or cannot be loaded here.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        missing = (error.name or name).partition(".")[0]
        raise ModelError(f'{missing} is not installed: pip install "ravine[zoo]"') from error
    except Exception as error:
        raise ModelError(
            f"{name.partition('.')[0]} is installed but cannot be loaded: {reason(error)}. It and what it "
            f"needs must be made for this torch, {torch.__version__}"
        ) from error


@contextmanager
def told(what: str) -> Iterator[None]:
    """Within, whatever a library raises becomes a `ModelError` that begins with `what`."""
    try:
        yield
    except (RavineError, MemoryError):
        raise
    except Exception as error:
        raise ModelError(f"{what}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """What an error says, as one line."""
    # Libraries that load their parts late hide there which import failed.
    while isinstance(error, ImportError) and error.__cause__ is not None:
        error = error.__cause__
    return shorten(str(error), _LONGEST, placeholder=" ...").rstrip(".") or type(error).__name__
