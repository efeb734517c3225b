"""A worker of a fleet: what it is sent, and what it does with its share of the members."""

import gc
import os
import pickle
import platform
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from ...errors import DataError
from ...memory import keep_freed
from ...training.data import embedded
from ...training.data.sources import existing
from ...training.recipe import Layer, file_layer, named_recipes
from ...training.run import RecipeLike
from ...training.run_folder import RunFolder
from ...training.signals import StopNow, StopRequest
from .prepare import ModelLike

if TYPE_CHECKING:
    from .fleet import Fleet

# Seconds between two tellings of how far it is.
_TELLING = 0.3


@dataclass(frozen=True)
class Order:
    """What a fleet was made of: the arguments of `Fleet` that all members share."""

    model: ModelLike
    data: Any
    recipe: RecipeLike
    settings: Sequence[Layer]
    trust: bool
    keep: Collection[int]

    def for_elsewhere(self) -> "Order":
        """The same for a worker with another working folder, and without the recipe's file."""
        data, recipe = self.data, self.recipe
        if isinstance(data, str | Path) and data not in embedded.NAMES and (path := existing(data)):
            data = path.absolute()
        if isinstance(recipe, str | Path) and str(recipe) not in named_recipes() and Path(recipe).exists():
            recipe = file_layer(Path(recipe))
        return replace(self, data=data, recipe=recipe)


@dataclass(frozen=True)
class Share:
    """The members of one process.

    Attributes:
        names: of the members in the whole fleet.
        folder: where the share's checkpoints are; from the newest, if there is one, its members go on.
        make: called in the process, it gives a fleet of these members that keeps its checkpoints there.
    """

    names: Sequence[str]
    folder: Path
    make: "Callable[[Telling], Fleet]"


@dataclass(frozen=True)
class Anew:
    """Members made once more, where a process has nothing of what is in this one: a share's `make`.

    Attributes:
        order: what the fleet was made of.
        layers: the settings of each of the members alone.
        names: of the members in the whole fleet.
        places: the run folders that they are to become.
        split: the seed by which the whole fleet cut its data; None where its first member is the first here,
            too, and says it again.
        folder: where the share's checkpoints are; one is there, from which its members start.
        dtype: torch's default, which networks are made in.
        fingerprint: of the data.
    """

    order: Order
    layers: Sequence[Layer]
    names: Sequence[str]
    places: Sequence[Path]
    split: int | None
    folder: Path
    dtype: torch.dtype
    fingerprint: str

    def __call__(self, told: "Telling") -> "Fleet":
        """The members, as they were left.

        Raises:
            DataError: what is found here as the data are others.
            Exception: whatever is not here as it is there.
        """
        from .fleet import Fleet  # which knows its processes

        torch.set_default_dtype(self.dtype)
        order = self.order
        cut: list[Layer] = [] if self.split is None else [{"data": {"split": self.split}}]
        fleet = Fleet(
            order.model,
            order.data,
            self.layers,
            order.recipe,
            settings=[*cut, *order.settings],
            trust=order.trust,
            folder=self.folder,
            keep=order.keep,
            tell=lambda text: told.send("tell", text),
            watch=told.watch,
        )
        for member, name, place in zip(fleet.members, self.names, self.places, strict=True):
            member.name, member.folder = name, RunFolder(place)
        found = fleet.members[0].setup.dataset
        if found is None or found.fingerprint != self.fingerprint:
            raise DataError(f"the data at {order.data} are not those that the fleet was made of")
        fleet._restore()  # here, so that members which came out otherwise train where they were made
        return fleet


class Line(Protocol):
    """The way of a worker to what started it, and back."""

    def send(self, message: Any, /) -> None:
        """Send a message.

        Raises:
            OSError: there is nobody any more to hear it.
        """

    def recv(self) -> Any:
        """The next message, waited for.

        Raises:
            EOFError, OSError: there will be none any more.
        """


class Telling:
    """What a worker tells what started it."""

    def __init__(self, connection: Line) -> None:
        self._connection = connection
        self._told_at = 0.0

    def send(self, *message: Any) -> None:
        """Send what happened, and its particulars; without anyone to hear it, end."""
        try:
            self._connection.send(message)
        except OSError:
            os._exit(1)

    def watch(self, done: int, planned: int) -> None:
        """Tell how many epochs are done of how many, a few times a second."""
        now = time.monotonic()
        if now - self._told_at > _TELLING:
            self._told_at = now
            self.send("watch", done, planned)


def work(connection: Connection, making: "bytes | Callable[[Telling], Fleet]") -> None:
    """Train a share, as `train` does, in a process that was started for it, and end the process."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a fork has that of the process that started it
    train(connection, making)
    # All is said, and on the disk. With torch in it Python takes a second or more to put its things away.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def train(connection: Line, making: "bytes | Callable[[Telling], Fleet]") -> None:
    """Train a share on one thread.

    What is sent back is one of: ("unable", ...) and ("begun",), at the start; ("tell", text) and ("watch",
    done, planned), on the way; ("done",) and ("failed", ...), at the end. What follows "unable" and "failed"
    is what `unpacked` takes. Nothing is said at the end where it was asked to stop: everything is in the
    share's checkpoint.

    Args:
        connection: any message that comes by it asks to stop; its end ends this process at once.
        making: the share's `make`, or that pickled, which may fail here.
    """
    gc.freeze()  # to look through all that was loaded takes as long as hundreds of small steps
    keep_freed()
    torch.set_num_threads(1)
    told = Telling(connection)
    stops: list[StopRequest] = []
    threading.Thread(target=_listen, args=(connection, stops), daemon=True).start()
    try:
        make = pickle.loads(making) if isinstance(making, bytes) else making
        fleet = make(told)
        stops.append(fleet.members[0].stop)
    except Exception as error:  # noqa: BLE001 - whatever is not here as it is there
        told.send("unable", *_packed(error))
        return
    told.send("begun")
    try:
        fleet.run_here()
    except StopNow:
        pass
    except Exception as error:  # noqa: BLE001 - raised where the fleet was started
        told.send("failed", *_packed(error))
    else:
        told.send("done")


def _listen(connection: Line, stops: Sequence[StopRequest]) -> None:
    try:
        while True:
            connection.recv()
            for stop in stops:
                stop.signum = signal.SIGTERM
    except (EOFError, OSError):  # the process that started this one is gone
        os._exit(1)


def _packed(error: Exception) -> tuple[type[Exception], tuple[Any, ...], dict[str, Any]]:
    """An exception as its class, arguments and attributes: not all can be pickled as they are."""
    error.add_note(f"On {platform.node()}:\n{traceback.format_exc()}")
    found = type(error), error.args, vars(error)
    try:
        pickle.dumps(found)
    except Exception:  # noqa: BLE001 - whatever a user's exception holds
        return RuntimeError, (f"{type(error).__name__}: {error}",), {"__notes__": error.__notes__}
    return found


def unpacked(kind: type[Exception], arguments: tuple[Any, ...], attributes: dict[str, Any]) -> Exception:
    """The exception of a process, with what it says, its attributes, and where it happened as a note."""
    error = kind.__new__(kind, *arguments)
    vars(error).update(attributes)
    return error
