"""One optimizer on one set of tensors: its time, its peers', and the share of the machine's bandwidth."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ...errors import RavineError
from . import peers, problems
from .bandwidth import Copy, traffic
from .configurations import Configuration
from .problems import ProblemSet
from .timing import Contender, clock_for, interleaved

RAVINE, COPY = "ravine", "copy"
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Result:
    """What was measured of one configuration on one set.

    Attributes:
        configuration: what was timed.
        problem: on which tensors.
        seconds: median seconds a step by contender: "ravine", "copy", "torch fused" and others that begin
            with a package's name, and "beside NAME" for more of Ravine's.
        first_step: seconds of Ravine's first step, in which it compiles what was not compiled before.
        traffic: bytes that a step cannot but move; None where it is not elementwise.
        copy_traffic: bytes that the copy reads and writes.
    """

    configuration: Configuration
    problem: ProblemSet
    seconds: Mapping[str, float]
    first_step: float
    traffic: int | None
    copy_traffic: int

    @property
    def ravine(self) -> float:
        """Seconds of Ravine's step."""
        return self.seconds[RAVINE]

    def fastest(self, package: str) -> tuple[str, float] | None:
        """The fastest implementation of a package, and its seconds; None where it lacks the rule."""
        mine = {name: taken for name, taken in self.seconds.items() if name.startswith(f"{package} ")}
        if not mine:
            return None
        name = min(mine, key=mine.__getitem__)
        return name.removeprefix(f"{package} "), mine[name]

    @property
    def ratio(self) -> float | None:
        """Ravine's time by torch's fastest; None where torch lacks the rule."""
        theirs = self.fastest("torch")
        return None if theirs is None else self.ravine / theirs[1]

    @property
    def bandwidth(self) -> float | None:
        """Bytes a second that Ravine's step moved."""
        return None if self.traffic is None else self.traffic / self.ravine

    @property
    def copy_bandwidth(self) -> float:
        """Bytes a second that the copy moved."""
        return self.copy_traffic / self.seconds[COPY]

    @property
    def share(self) -> float | None:
        """Ravine's bandwidth by the copy's."""
        return None if self.bandwidth is None else self.bandwidth / self.copy_bandwidth

    def record(self) -> dict[str, Any]:
        """Everything, as JSON has it."""
        fastest = self.fastest("torch")
        return {
            "name": self.configuration.name,
            "optimizer": self.configuration.optimizer,
            "settings": dict(self.configuration.settings),
            "set": self.problem.name,
            "seconds": dict(self.seconds),
            "torch": None if fastest is None else fastest[0],
            "ratio": self.ratio,
            "traffic_bytes": self.traffic,
            "bytes_per_second": self.bandwidth,
            "copy_bytes_per_second": self.copy_bandwidth,
            "share_of_copy": self.share,
            "first_step_seconds": self.first_step,
        }


def measure(
    configuration: Configuration,
    problem: ProblemSet,
    *,
    rounds: int = 11,
    device: torch.device = CPU,
    beside: Sequence[Configuration] = (),
) -> Result:
    """Time a step of one optimizer and of its peers, in turn.

    Args:
        configuration: Ravine's optimizer; peers are looked for by its class and name.
        problem: the tensors.
        rounds: how many turns each has, at least 1.
        device: where, of those that `device_named` gives.
        beside: more of Ravine's optimizers to be timed in the same rounds, as "beside NAME".

    Raises:
        RavineError: no rounds.
    """
    if rounds < 1:
        raise RavineError(f"a comparison needs at least 1 round, not {rounds}")
    if configuration.matrices_only:
        problem = problem.matrices
    clock = clock_for(device)
    gradients = problems.gradients(problem, device)
    ours = peers.ravine(configuration, problem, gradients)
    ours.prepare()
    first_step = clock(ours.step)
    copy = Copy(ours.parameters)
    contenders: dict[str, Contender] = {RAVINE: ours}
    contenders |= peers.peers(configuration, problem, gradients)
    for other in beside:
        contenders[f"beside {other.name}"] = peers.ravine(other, problem, gradients)
    contenders[COPY] = copy
    taken = interleaved(list(contenders.values()), rounds, clock)
    return Result(
        configuration,
        problem,
        {name: statistics.median(seconds) for name, seconds in zip(contenders, taken, strict=True)},
        first_step,
        traffic(ours.optimizer) if configuration.elementwise else None,
        copy.traffic,
    )


def device_named(name: str) -> torch.device:
    """The device "cpu" or "cuda".

    Raises:
        RavineError: it is not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise RavineError("there is no cuda device here; use --device cpu")
    return torch.device(name)


@contextmanager
def using_threads(threads: int | None) -> Iterator[int]:
    """Let torch and Ravine compute with so many threads in a block; None leaves them as they are.

    Yields:
        how many they are.

    Raises:
        RavineError: fewer than 1.
    """
    before = torch.get_num_threads()
    if threads is None:
        yield before
        return
    if threads < 1:
        raise RavineError(f"there must be at least 1 thread, not {threads}")
    torch.set_num_threads(threads)
    try:
        yield threads
    finally:
        torch.set_num_threads(before)
