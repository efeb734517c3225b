"""Steps of several contenders, timed in turn: what disturbs the machine disturbs all of them alike."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

# A turn has so many steps as fit into this time: one step alone is measured badly where it takes 1 ms.
TURN_SECONDS = 0.03
MOST_STEPS = 200
WARM_UP_STEPS = 3
# Where a step takes longer than this, the one that refills the caches at the start of a turn is left out.
LONG_STEP_SECONDS = 0.2

Clock = Callable[[Callable[[], None]], float]


class Contender(Protocol):
    """Something that takes steps."""

    def prepare(self) -> None:
        """What comes before a step and is not timed."""

    def step(self) -> None:
        """One step; what it computes is there when it returns, or in the device's queue."""


def interleaved(contenders: Sequence[Contender], rounds: int, clock: Clock) -> list[list[float]]:
    """Time contenders in turn: one of each in every round, in the order given.

    Before the first round each takes a few steps that are not counted, and before each turn one: they
    compile, wake threads and fill the caches.

    Args:
        contenders: who steps.
        rounds: how many, at least 1.
        clock: seconds that a call takes, such as `clock_for` gives.

    Returns:
        for each contender the seconds a step in each round, the median of the turn's steps.
    """
    taken: list[list[float]] = [[] for _ in contenders]
    warm = [_steps(contender, WARM_UP_STEPS, clock) for contender in contenders]
    fastest = [min(seconds) for seconds in warm]
    for _ in range(rounds):
        for contender, step_seconds, seconds in zip(contenders, fastest, taken, strict=True):
            if step_seconds < LONG_STEP_SECONDS:
                _steps(contender, 1, clock)
            steps = max(1, min(MOST_STEPS, round(TURN_SECONDS / max(step_seconds, 1e-9))))
            seconds.append(statistics.median(_steps(contender, steps, clock)))
    return taken


def _steps(contender: Contender, steps: int, clock: Clock) -> list[float]:
    taken = []
    for _ in range(steps):
        contender.prepare()
        taken.append(clock(contender.step))
    return taken


def clock_for(device: torch.device) -> Clock:
    """The clock that tells when a step is done on this device."""
    return _cuda_seconds if device.type == "cuda" else _wall_seconds


def _wall_seconds(step: Callable[[], None]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def _cuda_seconds(step: Callable[[], None]) -> float:
    """From an idle device until the last kernel is done, so launches count where they take longer."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    step()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3
