"""How a group of members runs: stacked, compiled too, or in turn; chosen by timing steps of copies."""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from ...memory import is_memory_error
from ...modes import evaluating
from .member import Member
from .stacked import StackedGroup

How = Literal["stacked", "compiled", "in turn"]

# A look takes about so many seconds, or this share of the training that it is for where that is more.
LOOK, SHARE = 0.1, 0.05
# The ways are timed so often, one after the other, and the least disturbed time of each counts; a time is of
# as many steps as go into so many seconds.
ROUNDS, BLOCK = 3, 0.02
# A way so many times slower than the other is looked at no more.
HOPELESS = 3.0
# Where stacks are compiled: on a CPU as many processes as cores bring more, and none of them may compile. The
# compiling takes about so many seconds, once for the look and once more for the training.
COMPILED_ON, COMPILING = ("cuda",), 15.0
# Outputs of a stack and of its members may differ by rounding, as share of the largest.
SAME = 1e-3


@dataclass(frozen=True)
class Choice:
    """How a group runs, and why.

    Attributes:
        how: all members at once, by `torch.compile` too, or one after the other.
        why: in words.
        seconds: of a step of all members, by each way that was timed.
    """

    how: How
    why: str
    seconds: Mapping[How, float] = field(default_factory=dict)


def choose(members: Sequence[Member]) -> Choice:
    """The quicker way for members of one stack; in turn, where the stack does not do what its members do.

    The members, their batches' order and the random streams are left as they were.

    Raises:
        MemoryError, RuntimeError: so many at once do not fit into the memory (`memory.is_memory_error`).
    """
    first = members[0]
    inputs, targets = next(iter(first.setup.feeds["train"].epoch(0)))
    state = torch.get_rng_state()
    try:
        copies = [_copy(member) for member in members]
        group = StackedGroup(copies)
        if len(members) == 1 and not group.without_autograd:
            return Choice("in turn", "there is one of its kind")
        if told := _differs(group, inputs):
            return Choice("in turn", told)
        batch = torch.stack([inputs] * len(members)), torch.stack([targets] * len(members))
        if len(members) == 1:  # quicker at nearly every size: nothing is left to timing
            group.backward(*batch)
            return Choice("stacked", "its layers work their gradients out themselves")
        rates = [float(member.setup.schedule.base_lrs[0]) for member in members]

        alone, left = _copy(first), batches_left(first)
        stacked = partial(_step_stacked, group, batch, rates)
        seconds = _compare(stacked, lambda: _step(alone, inputs, targets), len(members), left)
        if first.setup.device.type in COMPILED_ON and SHARE * left * min(seconds.values()) > COMPILING:
            seconds |= _compiled(copies, batch, rates, left)
    except Exception as error:  # whatever a network does under vmap that it does not alone
        if is_memory_error(error):
            raise
        told = (str(error).splitlines() or [type(error).__name__])[0]
        return Choice("in turn", f"it cannot be stacked: {told}")
    finally:
        torch.set_rng_state(state)
    told = (
        f"a step of all takes {' and '.join(f'{1e3 * taken:.3g} ms {how}' for how, taken in seconds.items())}"
    )
    return Choice(min(seconds, key=seconds.__getitem__), told, seconds)


def seconds_in_turn(members: Sequence[Member]) -> float:
    """Seconds that a batch of every member takes in turn, without what it takes to record and to judge.

    The members, their batches' order and the random streams are left as they were. 0 where the first member
    cannot be copied to try it.
    """
    state = torch.get_rng_state()
    try:
        alone = _copy(members[0])
        inputs, targets = next(iter(alone.setup.feeds["train"].epoch(0)))
        _step(alone, inputs, targets)
        return len(members) * _timed(lambda: _step(alone, inputs, targets), BLOCK)
    except (RuntimeError, ValueError, TypeError, NotImplementedError):
        return 0.0
    finally:
        torch.set_rng_state(state)


def batches_left(member: Member) -> int:
    """Batches until a member has had all its epochs."""
    state, setup = member.state, member.setup
    epochs = setup.recipe.stop.epochs
    assert isinstance(epochs, int)
    return (epochs - state.epoch) * len(setup.feeds["train"]) - state.batch


def _copy(member: Member) -> Member:
    """A member of its own, whose steps are seen by no one."""
    setup = member.setup
    model, optimizer, averaged = copy.deepcopy((setup.model, setup.optimizer, setup.averaged))
    rehearsal = replace(setup, model=model, optimizer=optimizer, averaged=averaged)
    return Member(member.name, member.layer, rehearsal, member.folder.path, member.stop)


def _differs(group: StackedGroup, inputs: Tensor) -> str:
    """What tells a stack from its members, in evaluation; empty where nothing does."""
    with torch.no_grad():
        outputs = group.stack(inputs, training=False, shared=True)
        for member, own in zip(group.members, outputs, strict=True):
            with evaluating(member.setup.model):
                alone = member.setup.model(inputs)
            if own.shape != alone.shape or bool((own - alone).abs().max() > SAME * alone.abs().max()):
                return f"{member.name} gives other outputs in a stack: it holds more than tensors of its own"
    return ""


def _step_stacked(group: StackedGroup, batch: tuple[Tensor, Tensor], rates: Sequence[float]) -> None:
    with group.threads():
        group.backward(*batch)
        group.step(rates)


def _compiled(
    members: Sequence[Member], batch: tuple[Tensor, Tensor], rates: Sequence[float], batches: int
) -> dict[How, float]:
    """Seconds of a compiled step with its share of the compiling; nothing where it cannot be compiled."""
    started = time.perf_counter()
    try:
        step = partial(_step_stacked, StackedGroup(members, compiled=True), batch, rates)
        step()
        compiling = time.perf_counter() - started
        return {"compiled": _timed(step, BLOCK) + compiling / batches}
    except Exception:  # noqa: BLE001 - whatever a compiler does not know, the stack itself does
        return {}


def _step(member: Member, inputs: Tensor, targets: Tensor) -> None:
    setup = member.setup
    with setup.autocast():
        outputs = setup.model(inputs)
    setup.objective(outputs.float(), targets).backward()
    if not setup.full_batch:  # whose steps are over all batches
        setup.optimizer.step()
    for parameter in setup.model.parameters():
        parameter.grad = None


def _compare(
    stacked: Callable[[], None], single: Callable[[], None], members: int, batches: int
) -> dict[How, float]:
    """Seconds of a step of all members by each way.

    Args:
        stacked: a step of all.
        single: a step of one; those of the others take as long.
        members: how many there are.
        batches: that the training still has.
    """
    started = time.perf_counter()
    single()  # the first step makes ready what later ones find
    in_turn = members * _timed(single, BLOCK)
    look = max(LOOK, SHARE * batches * in_turn)
    first = _timed(stacked)
    if first > max(look, HOPELESS * in_turn):  # what it made ready took less than this
        return {"stacked": first, "in turn": in_turn}
    together = _timed(stacked, BLOCK)
    for _ in range(ROUNDS - 1):
        differ = max(together, in_turn) > HOPELESS * min(together, in_turn)
        if differ or time.perf_counter() - started > look:
            break
        together = min(together, _timed(stacked, BLOCK))
        in_turn = min(in_turn, members * _timed(single, BLOCK))
    return {"stacked": together, "in turn": in_turn}


def _timed(work: Callable[[], None], least: float = 0.0) -> float:
    """Seconds that `work` takes, over as many calls as go into `least` seconds, and one at least."""
    started, calls, taken = time.perf_counter(), 0, 0.0
    while not calls or taken < least:
        work()
        calls += 1
        taken = time.perf_counter() - started
    return taken / calls
