"""Ray workers that train shares of a fleet's members, on one machine or many; an extra."""

import json
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...errors import RavineError, RunError
from ...training import checkpoint
from ...training.setup import Setup
from ...training.signals import StopRequest
from . import processes
from .crew import PAUSE, Crew, Message, Worker
from .worker import Anew, Share, Telling, train

if TYPE_CHECKING:
    from .fleet import Fleet

# Of these messages the newest says all that those before it do.
_NEWEST = ("watch", "saved")


def require() -> None:
    """Refuse before anything is made where Ray is not installed.

    Raises:
        RavineError: it is not; the message says how to install it.
    """
    if find_spec("ray") is None:
        raise RavineError("engine = 'ray' needs Ray: pip install 'ravine[ray]'")


def refuse(setups: Sequence[Setup]) -> None:
    """Refuse, before anything is trained, what Ray workers cannot train.

    Raises:
        RunError: batches from Python, or another device than the CPU.
    """
    for setup in setups:
        if setup.dataset is None:
            raise RunError(
                "engine = 'ray': batches from Python stay in the process that has them; give the data as a "
                "path that every machine can read, or by name"
            )
        if setup.device.type != "cpu":
            raise RunError(f"engine = 'ray' trains on CPUs, not on {setup.device}: set device = 'cpu'")


@contextmanager
def connected() -> Iterator[None]:
    """Within, there is a cluster: the one that is used already, or one that Ray finds or starts for it.

    Raises:
        RavineError: Ray can do neither.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        try:
            ray.init()
        except Exception as error:
            raise RavineError(f"engine = 'ray': no cluster can be joined or started: {error}") from error
        yield
    finally:
        ray.shutdown()
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray has put its own there


def count(members: int) -> int:
    """How many workers there are for so many members: at most as many as the cluster has CPUs."""
    import ray

    return max(1, min(members, int(ray.cluster_resources().get("CPU", 0))))


class RayWorkers(Crew["_Worker"]):
    """Shares of a fleet's members, each trained by a Ray worker.

    What keeps a worker from making its members is raised as it is; as a `RunError`, if no person was meant.
    """

    name = "Ray worker"
    advice = "Where memory is short, let fewer train beside each other: give each machine's Ray fewer CPUs"

    def __init__(
        self,
        shares: Sequence[Share],
        stop: StopRequest,
        tell: Callable[[str], None],
        watch: Callable[[int, int, int], None],
    ) -> None:
        """As `Crew`, of the shares, whose `make` is an `Anew`."""
        workers = [_Worker(number, share) for number, share in enumerate(shares)]
        super().__init__(workers, processes.RETRIES, stop, tell, watch)

    def _messages(self, running: Sequence["_Worker"]) -> Iterator[tuple["_Worker", Message | None]]:
        import ray

        answers = [worker.answer for worker in running]
        ray.wait(answers, timeout=PAUSE)
        ready, _ = ray.wait(answers, num_returns=len(answers), timeout=0)
        for worker in running:
            if worker.answer in ready:
                for message in worker.receive():
                    yield worker, message

    def _unable(self, error: Exception) -> Exception:
        if isinstance(error, RavineError):
            return error
        told = RunError(f"a Ray worker cannot make its members: {type(error).__name__}: {error}")
        told.__cause__ = error
        return told


class _Worker(Worker):
    """One share and its Ray worker, an actor."""

    answer: Any
    _actor: Any = None
    _died: Exception | None = None

    @property
    def running(self) -> bool:
        return self._actor is not None

    def _start(self) -> None:
        import ray
        from ray import cloudpickle

        loaded = checkpoint.load_newest(self.share.folder / "checkpoints", lambda text: None)
        assert loaded is not None and isinstance(self.share.make, Anew)
        try:
            making = cloudpickle.dumps(_Afar(self.share.make, _packed(0, *loaded)))
        except Exception as error:  # whatever a user's object does when it is pickled
            raise RunError(f"what the fleet was made of cannot be sent to Ray workers: {error}") from error
        # It answers while it trains, and hears meanwhile that it should stop.
        actor = ray.remote(num_cpus=1, max_restarts=0, max_concurrency=2)(_Actor)
        self._died = None
        self._actor = actor.remote(making)
        self.answer = self._actor.hear.remote()

    def receive(self) -> list[Message | None]:
        """What it sent since; checkpoints are in the share's folder before anything else is heard."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            messages: list[Message | None] = ray.get(self.answer)
        except RayTaskError:  # a defect, not an end
            raise
        except RayError as error:
            self._died = error
            return [None]
        self.answer = self._actor.hear.remote()
        for message in messages:
            if message is not None and message[0] == "saved":
                checkpoint.save(self.share.folder / "checkpoints", *_opened(*message[1:]))
        return [message for message in messages if message is None or message[0] != "saved"]

    def _ask(self) -> None:
        self._actor.stop.remote()

    def kill(self) -> None:
        import ray

        if self.running:
            with suppress(Exception):  # whatever is wrong with the cluster, it must not hide what was before
                ray.kill(self._actor)
            self._actor = self.answer = None

    def ended(self) -> str:
        self.kill()
        if self._died is None:
            return "by itself"
        if getattr(self._died, "actor_init_failed", False):
            raise RunError(f"a Ray worker cannot start: {self._died}") from self._died
        return f'with "{str(self._died).strip().splitlines()[0]}"'


class _Actor:
    """What runs in a Ray worker: it trains in a thread of its own, and answers what happened."""

    def __init__(self, making: bytes) -> None:
        self._line = _Queues()
        threading.Thread(target=self._work, args=(making,), daemon=True).start()

    def _work(self, making: bytes) -> None:
        try:
            train(self._line, making)
        finally:
            self._line.end()

    def hear(self) -> list[Message | None]:
        """What happened since this was asked before, waited for; None where there will be no more."""
        return self._line.take()

    def stop(self) -> None:
        """Save and stop at the next step."""
        self._line.asked.put("stop")


class _Queues:
    """A `Line` within a process, whose other end asks for what was sent.

    Attributes:
        asked: what is sent to the training.
    """

    def __init__(self) -> None:
        self.asked: SimpleQueue[str] = SimpleQueue()
        self._sent: list[Message | None] = []
        self._changed = threading.Condition()

    def send(self, message: Message, /) -> None:
        """Put the message where it is asked for, in the place of those that it makes needless."""
        with self._changed:
            if message[0] in _NEWEST:
                self._sent = [old for old in self._sent if old is None or old[0] != message[0]]
            self._sent.append(message)
            self._changed.notify()

    def end(self) -> None:
        """Send that there will be no more."""
        with self._changed:
            self._sent.append(None)
            self._changed.notify()

    def recv(self) -> str:
        """What the training is asked, waited for."""
        return self.asked.get()

    def take(self) -> list[Message | None]:
        """All that was sent and not taken, waited for."""
        with self._changed:
            self._changed.wait_for(lambda: self._sent)
            sent, self._sent = self._sent, []
        return sent


@dataclass(frozen=True)
class _Afar:
    """Members made on a machine that has no disk in common with the fleet's: a Ray worker's `make`.

    Attributes:
        anew: how they are made.
        newest: their newest checkpoint.
    """

    anew: Anew
    newest: tuple[int, bytes, str]

    def __call__(self, told: Telling) -> "Fleet":
        """The members, as they were left; their checkpoints are sent to where the fleet is."""
        with tempfile.TemporaryDirectory(prefix="ravine-") as place:
            checkpoint.save(Path(place) / "checkpoints", *_opened(*self.newest))
            fleet = replace(self.anew, folder=Path(place))(told)

        def send(folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
            told.send("saved", *_packed(step, tensors, state))

        fleet._put = send
        return fleet


def _packed(step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> tuple[int, bytes, str]:
    """A checkpoint as it is now, whatever trains on meanwhile, to be sent."""
    from safetensors.torch import save

    own = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    return step, save(own), json.dumps(state)


def _opened(step: int, content: bytes, state: str) -> tuple[int, dict[str, Tensor], dict[str, Any]]:
    """The inverse of `_packed`."""
    from safetensors.torch import load

    return step, load(content), json.loads(state)
