"""Workers that train shares of a fleet's members: heard, stopped, and started again where one is killed."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from ...errors import RunError
from ...training.signals import StopNow, StopRequest
from .worker import Share, unpacked

Message = tuple[Any, ...]

# Seconds between two looks at whether a signal came.
PAUSE = 0.2


class Worker(ABC):
    """One share and what trains it.

    Attributes:
        number: of the share.
        share: what is trained.
        begun: whether it has made the members, and trains them.
        finished: whether they are trained to their ends.
    """

    def __init__(self, number: int, share: Share) -> None:
        self.number, self.share = number, share
        self.begun = self.finished = self._asked = False
        self._newest = ""
        self._failures = 0

    @property
    @abstractmethod
    def running(self) -> bool:
        """Whether it has been started, and has not ended as far as is known."""

    @abstractmethod
    def _start(self) -> None:
        """Start it; it goes on from the newest checkpoint."""

    @abstractmethod
    def _ask(self) -> None:
        """Ask it to save and stop at its next step."""

    @abstractmethod
    def kill(self) -> None:
        """End it, if it runs."""

    @abstractmethod
    def ended(self) -> str:
        """Put away what has ended; how it did, to follow "it ended".

        Raises:
            Exception: it could not start, nor would another.
        """

    def start(self) -> None:
        """Start it; it goes on from the newest checkpoint."""
        self.begun, self._newest = False, self._checkpoint()
        self._start()

    def stop(self) -> None:
        """Ask it to save and stop at its next step; one that has not begun is ended."""
        if not self.running or self._asked:
            return
        self._asked = True
        if self.begun:
            self._ask()
        else:
            self.kill()

    def give_up(self, retries: int) -> bool:
        """Whether it has ended more often than `retries` without a new checkpoint."""
        moved = self._checkpoint() != self._newest
        self._failures = 1 if moved else self._failures + 1
        return self._failures > retries

    def _checkpoint(self) -> str:
        """The name of the newest checkpoint."""
        return max((place.name for place in self.share.folder.glob("checkpoints/step-*")), default="")


W = TypeVar("W", bound=Worker)


class Crew(ABC, Generic[W]):
    """The workers of all shares, from their starts to their ends.

    Attributes:
        name: of a worker, in words.
        advice: what to do where workers are killed again and again.
    """

    name: ClassVar[str]
    advice: ClassVar[str]

    def __init__(
        self,
        workers: Sequence[W],
        retries: int,
        stop: StopRequest,
        tell: Callable[[str], None],
        watch: Callable[[int, int, int], None],
    ) -> None:
        """Make ready; nothing is started.

        Args:
            workers: one a share.
            retries: how often a worker that ends without a new checkpoint is started again.
            stop: entered by the caller.
            tell: called with each sentence that a worker tells, once.
            watch: called with the number of a share, and how many of its epochs are done of how many.
        """
        self._workers = workers
        self._retries = retries
        self._stop = stop
        self._tell = tell
        self._watch = watch
        self._told: set[str] = set()
        self._stopping = False
        self._problem: Exception | None = None

    @abstractmethod
    def _messages(self, running: Sequence[W]) -> Iterable[tuple[W, Message | None]]:
        """What workers sent, as `worker.train` does, and None of one that is no more; waited for `PAUSE`."""

    @abstractmethod
    def _unable(self, error: Exception) -> Exception:
        """What is raised where a worker cannot make its members for this reason."""

    def run(self) -> None:
        """Train all shares to their ends. However this ends, no worker is left, and checkpoints are whole.

        Raises:
            StopNow: a signal came; every share's checkpoint holds all that was trained.
            RunError: a worker was killed again and again.
            Exception: what a worker raised, after the others have stopped.
        """
        try:
            for worker in self._workers:
                worker.start()
            while running := [worker for worker in self._workers if worker.running]:
                for worker, message in self._messages(running):
                    if worker.running:  # else it was ended for what it sent before
                        self._hear(worker, message)
                if self._stop.signum or self._problem is not None:
                    self._stopping = True
                    for worker in running:
                        worker.stop()
        finally:
            for worker in self._workers:
                worker.kill()
        if self._problem is not None:
            raise self._problem
        if not all(worker.finished for worker in self._workers):
            raise StopNow

    def _hear(self, worker: W, message: Message | None) -> None:
        """One message of a worker, or that it ended."""
        if message is None:
            self._ended(worker)
            return
        kind, *content = message
        if kind == "begun":
            worker.begun = True
        elif kind == "tell":
            if content[0] not in self._told:
                self._told.add(content[0])
                self._tell(content[0])
        elif kind == "watch":
            self._watch(worker.number, *content)
        elif kind == "done":
            worker.finished = True
        else:
            error = unpacked(*content)
            self._problem = self._problem or (error if kind == "failed" else self._unable(error))
            worker.kill()

    def _ended(self, worker: W) -> None:
        """A worker is no more: it had done its work, or it was stopped; else it is started again."""
        try:
            how = worker.ended()
        except Exception as error:  # noqa: BLE001 - raised when the others have stopped
            if not self._stopping:
                self._problem = self._problem or error
            return
        if worker.finished or self._stopping:
            return
        names = ", ".join(worker.share.names)
        if worker.give_up(self._retries):
            self._problem = self._problem or RunError(
                f"the {self.name} of the members {names} ended {self._retries + 1} times, now {how}, each "
                f"time without a new checkpoint. {self.advice}"
            )
            return
        self._tell(f"a {self.name} ended {how}: its members {names} go on from their last checkpoint")
        worker.start()
