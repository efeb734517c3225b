"""SIGINT and SIGTERM ask a run to stop at the next batch instead of ending it at once."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class StopNow(Exception):  # noqa: N818 - no error: the way out of nested loops
    """A signal asked to stop.

    Attributes:
        whole: whether what is in memory is where a run can go on from.
    """

    whole = True


class StopRequest:
    """While entered, `signum` is the signal that asked to stop, or 0.

    A second signal of the same kind does what it does by default: it ends the process. Signals can only be
    caught in the main thread; elsewhere this does nothing.
    """

    def __init__(self) -> None:
        self.signum = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._before[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before.clear()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        signal.signal(signum, self._before[signum])
