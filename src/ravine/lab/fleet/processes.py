"""The processes of a fleet: started, heard, stopped, and started again where one is killed."""

import multiprocessing
import pickle
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from ...errors import RunError
from ...training.signals import StopNow, StopRequest
from .worker import Order, Share, unpacked, work

# A fork has the members as they are here, at once, and needs nothing that can be sent to it. Elsewhere than
# on Linux, system libraries do not survive it.
METHOD = "fork" if sys.platform == "linux" else "spawn"
# Seconds until a fork trains; and until a new process has started Python and loaded torch and Ravine, while
# others do the same: 1.4 s of work on a core of 2024, before its members are made.
FORK, SPAWN = 0.1, 3.0
# A process that ends without a new checkpoint is started again so many times.
RETRIES = 3
# Seconds between two looks at whether a signal came.
_PAUSE = 0.2


class UnableError(Exception):
    """A process could not make its members; nothing was trained that is not in the checkpoints."""


def obstacle(order: Order) -> str:
    """Why other processes cannot make members of what a fleet was made of; empty where they can."""
    if multiprocessing.current_process().daemon:
        return "it is a daemonic process, which can start no others"
    if METHOD == "fork":
        return ""
    try:
        content = pickle.dumps(order)
    except Exception as error:  # noqa: BLE001 - whatever a user's object does when it is pickled
        return f"what it was made of cannot be sent to other processes: {error}"
    program = sys.modules["__main__"]
    path, spec = getattr(program, "__file__", None), getattr(program, "__spec__", None)
    if path is None or (spec is not None and spec.name.endswith("__main__")):  # others do not import it
        if b"__main__" in content:
            return "what it was made of is defined in no file that other processes can import"
        return ""
    with suppress(OSError):
        text = Path(path).read_text(errors="replace")
        if not re.search(r"^if\b.*__name__", text, re.MULTILINE):  # importing it would do all of it again
            return f'{path} does not begin its work under `if __name__ == "__main__":`'
    return ""


def start_takes(making: float) -> float:
    """Seconds until a process trains, where it takes `making` to open the data and to make the members."""
    return FORK if METHOD == "fork" else SPAWN + making


class Processes:
    """Shares of a fleet's members, each trained in a process of its own."""

    def __init__(
        self,
        shares: Sequence[Share],
        stop: StopRequest,
        tell: Callable[[str], None],
        watch: Callable[[int, int, int], None],
    ) -> None:
        """Make ready; nothing is started.

        Args:
            shares: of the members.
            stop: entered by the caller.
            tell: called with each sentence that a process tells, once.
            watch: called with the number of a share, and how many of its epochs are done of how many.
        """
        self._workers = [_Worker(number, share) for number, share in enumerate(shares)]
        self._stop = stop
        self._tell = tell
        self._watch = watch
        self._told: set[str] = set()
        self._stopping = False
        self._problem: Exception | None = None

    def run(self) -> None:
        """Train all shares to their ends. However this ends, no process is left, and checkpoints are whole.

        Raises:
            StopNow: a signal came; every share's checkpoint holds all that was trained.
            UnableError: a process could not make its members.
            RunError: a process was killed again and again.
            Exception: what a process raised, after the others have stopped.
        """
        try:
            for worker in self._workers:
                worker.start()
            while running := [worker for worker in self._workers if worker.running]:
                ready = wait([worker.connection for worker in running], _PAUSE)
                for worker in running:
                    if worker.connection in ready:
                        self._hear(worker)
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

    def _hear(self, worker: "_Worker") -> None:
        """One message of a process, or that it ended."""
        try:
            kind, *content = worker.connection.recv()
        except (EOFError, OSError):
            self._ended(worker)
            return
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
        elif kind == "failed":
            self._problem = self._problem or unpacked(*content)
            worker.kill()
        else:
            self._problem = self._problem or UnableError(content[0])
            worker.kill()

    def _ended(self, worker: "_Worker") -> None:
        """A process is no more: it had done its work, or it was stopped; else it is started again."""
        code = worker.wait()
        if worker.finished or self._stopping:
            return
        if not worker.begun and code > 0:
            self._problem = UnableError(f"a new process ended at once, with exit code {code}")
            return
        names = ", ".join(worker.share.names)
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        if worker.give_up():
            self._problem = RunError(
                f"the process of the members {names} ended {RETRIES + 1} times, now {how}, each time without "
                "a new checkpoint. Where memory is short, run fewer processes: torch.set_num_threads(1) runs "
                "all members in one"
            )
            return
        self._tell(f"a process ended {how}: its members {names} go on from their last checkpoint")
        worker.start()


class _Worker:
    """One share and its process."""

    def __init__(self, number: int, share: Share) -> None:
        self.number, self.share = number, share
        self.begun = self.finished = self._asked = False
        self._process: Any = None
        self._newest = ""
        self._failures = 0

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None

    def start(self) -> None:
        """Start a process that goes on from the newest checkpoint."""
        context: Any = multiprocessing.get_context(METHOD)
        forked = METHOD == "fork"
        self.begun, self._newest = False, self._checkpoint()
        self.connection, theirs = context.Pipe()
        target = _forked(self.connection) if forked else work
        making = self.share.make if forked else pickle.dumps(self.share.make)
        # A daemon, so that the end of this program does not wait for it.
        process = context.Process(target=target, args=(theirs, making), daemon=True)
        with theirs, _without_interrupts():
            try:
                process.start()
            except OSError as error:
                raise UnableError(f"no process can be started: {error}") from error
        self._process = process

    def stop(self) -> None:
        """Ask the process to save and stop at its next step; one that has not begun is ended."""
        if not self.running or self._asked:
            return
        self._asked = True
        if self.begun:
            with suppress(OSError):  # it has ended by itself
                self.connection.send("stop")
        else:
            self.kill()

    def kill(self) -> None:
        """End the process, if there is one."""
        if self.running:
            self._process.kill()
            self.wait()

    def wait(self) -> int:
        """Wait until the process has ended; its exit code, below 0 for a signal."""
        self._process.join()
        code: int = self._process.exitcode
        self._process.close()
        self._process = None
        self.connection.close()
        return code

    def give_up(self) -> bool:
        """Whether the process has ended too often without a new checkpoint."""
        moved = self._checkpoint() != self._newest
        self._failures = 1 if moved else self._failures + 1
        return self._failures > RETRIES

    def _checkpoint(self) -> str:
        """The name of the newest checkpoint."""
        return max((place.name for place in self.share.folder.glob("checkpoints/step-*")), default="")


def _forked(ours: Connection) -> Callable[..., None]:
    """`work` in a fork, which has this process's end of the pipe as well: kept, it would never see it end."""

    def go(*given: Any) -> None:
        ours.close()
        work(*given)

    return go


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """A process that is started within leaves Ctrl-C, which comes to all of them, to this one."""
    if not hasattr(signal, "pthread_sigmask"):  # not on this system
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # its start lets signals through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with warnings.catch_warnings():  # of forks beside threads: what they may hold is not used there
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
