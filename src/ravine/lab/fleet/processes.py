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

from ...training.signals import StopRequest
from .crew import PAUSE, Crew, Message, Worker
from .worker import Order, Share, work

# A fork has the members as they are here, at once, and needs nothing that can be sent to it. Elsewhere than
# on Linux, system libraries do not survive it.
METHOD = "fork" if sys.platform == "linux" else "spawn"
# Seconds until a fork trains; and until a new process has started Python and loaded torch and Ravine, while
# others do the same: 1.4 s of work on a core of 2024, before its members are made.
FORK, SPAWN = 0.05, 3.0
# A process that ends without a new checkpoint is started again so many times.
RETRIES = 3


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


class Processes(Crew["_Worker"]):
    """Shares of a fleet's members, each trained in a process of its own.

    A process that cannot make its members is an `UnableError`.
    """

    name = "process"
    advice = "Where memory is short, run fewer processes: torch.set_num_threads(1) runs all members in one"

    def __init__(
        self,
        shares: Sequence[Share],
        stop: StopRequest,
        tell: Callable[[str], None],
        watch: Callable[[int, int, int], None],
    ) -> None:
        """As `Crew`, of the shares."""
        workers = [_Worker(number, share) for number, share in enumerate(shares)]
        super().__init__(workers, RETRIES, stop, tell, watch)

    def _messages(self, running: Sequence["_Worker"]) -> Iterator[tuple["_Worker", Message | None]]:
        ready = wait([worker.connection for worker in running], PAUSE)
        for worker in running:
            if worker.connection in ready:
                try:
                    message = worker.connection.recv()
                except (EOFError, OSError):
                    message = None
                yield worker, message

    def _unable(self, error: Exception) -> Exception:
        return UnableError(f"{type(error).__name__}: {error}")


class _Worker(Worker):
    """One share and its process."""

    connection: Connection
    _process: Any = None

    @property
    def running(self) -> bool:
        return self._process is not None

    def _start(self) -> None:
        context: Any = multiprocessing.get_context(METHOD)
        forked = METHOD == "fork"
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

    def _ask(self) -> None:
        with suppress(OSError):  # it has ended by itself
            self.connection.send("stop")

    def kill(self) -> None:
        if self.running:
            self._process.kill()
            self._wait()

    def ended(self) -> str:
        code = self._wait()
        if not self.begun and code > 0:
            raise UnableError(f"a new process ended at once, with exit code {code}")
        return f"by signal {-code}" if code < 0 else f"with exit code {code}"

    def _wait(self) -> int:
        """Wait until the process has ended; its exit code, below 0 for a signal."""
        self._process.join()
        code: int = self._process.exitcode
        self._process.close()
        self._process = None
        self.connection.close()
        return code


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
