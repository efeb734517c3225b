"""How a group of members runs: stacked, or in turn; chosen by timing a few steps of copies."""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from ...modes import evaluating
from .member import Member
from .stacked import StackedGroup

How = Literal["stacked", "in turn"]

# A look takes about so long, and each way is timed so often; the least disturbed time counts.
SECONDS, ROUNDS, MOST_STEPS = 0.2, 3, 20
# Outputs of a stack and of its members may differ by rounding, as share of the largest.
SAME = 1e-3


@dataclass(frozen=True)
class Choice:
    """How a group runs, and why."""

    how: How
    why: str


def choose(members: Sequence[Member]) -> Choice:
    """The quicker way for members of one stack; in turn, where the stack does not do what its members do.

    The members, their batches' order and the random streams are left as they were.
    """
    first = members[0]
    inputs, targets = next(iter(first.setup.feeds["train"].epoch(0)))
    state = torch.get_rng_state()
    try:
        copies = [_copy(member) for member in members]
        group = StackedGroup(copies)
        if told := _differs(group, inputs):
            return Choice("in turn", told)
        batch = torch.stack([inputs] * len(members)), torch.stack([targets] * len(members))
        rates = [float(member.setup.schedule.base_lrs[0]) for member in members]

        def stacked() -> None:
            group.backward(*batch)
            group.step(rates)

        alone = _copy(first)
        together = _seconds(stacked)
        single = _seconds(lambda: _step(alone, inputs, targets)) * len(members)
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        if _out_of_memory(error):
            raise
        return Choice("in turn", f"it cannot be stacked: {str(error).splitlines()[0]}")
    finally:
        torch.set_rng_state(state)
    told = f"a step of all takes {1e3 * together:.3g} ms stacked and {1e3 * single:.3g} ms in turn"
    return Choice("stacked" if together < single else "in turn", told)


def _copy(member: Member) -> Member:
    """A member of its own, whose steps are seen by no one."""
    setup = member.setup
    model, optimizer, averaged = copy.deepcopy((setup.model, setup.optimizer, setup.averaged))
    rehearsal = replace(setup, model=model, optimizer=optimizer, averaged=averaged)
    return Member(member.name, member.layer, rehearsal, member.folder.path, member.stop)


def _differs(group: StackedGroup, inputs: torch.Tensor) -> str:
    """What tells a stack from its members, in evaluation; empty where nothing does."""
    with torch.no_grad():
        outputs = group.stack(inputs, training=False, shared=True)
        for member, own in zip(group.members, outputs, strict=True):
            with evaluating(member.setup.model):
                alone = member.setup.model(inputs)
            if own.shape != alone.shape or bool((own - alone).abs().max() > SAME * alone.abs().max()):
                return f"{member.name} gives other outputs in a stack: it holds more than tensors of its own"
    return ""


def _step(member: Member, inputs: torch.Tensor, targets: torch.Tensor) -> None:
    setup = member.setup
    with setup.autocast():
        outputs = setup.model(inputs)
    setup.objective(outputs.float(), targets).backward()
    setup.optimizer.step()
    for parameter in setup.model.parameters():
        parameter.grad = None


def _seconds(work: Callable[[], None]) -> float:
    """Seconds that `work` takes, after having been done once."""
    started = time.perf_counter()
    work()
    work()
    spent = (time.perf_counter() - started) / 2
    steps = min(MOST_STEPS, max(1, int(SECONDS / ROUNDS / spent)))
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(steps):
            work()
        best = min(best, (time.perf_counter() - started) / steps)
    return best


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
