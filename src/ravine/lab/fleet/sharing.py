"""How members are shared out among workers, and whether among processes: by timing, as `choice` does."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ...memory import free_bytes, is_memory_error
from .choice import Choice, batches_left, seconds_in_turn
from .member import Member
from .threads import one_thread

# Processes are taken where their time is below this share of one process's: theirs is the less certain.
WORTH = 0.9
# Processes that start in this share of their work, and of which the longest takes this much of their mean,
# are taken at once: threads within an operation cannot do better than that.
QUICK, EVEN = 0.05, 1.1

Way = Callable[[list[Member]], Choice]
"""How a group of members runs."""


@dataclass(frozen=True)
class Sharing:
    """Members by workers.

    Attributes:
        shares: the members of each worker.
        choices: how each share's groups run in it, and why, by the names of their members.
        told: the same in words.
    """

    shares: list[list[Member]]
    choices: dict[tuple[str, ...], Choice]
    told: list[str]


def cores() -> int:
    """How many processes there may be: as many as torch may have threads."""
    return torch.get_num_threads()


def pays(shared: float, alone: float) -> bool:
    """Whether processes are worth it, by the seconds until all is trained with them and without."""
    return shared < WORTH * alone


def share_out(
    found: Sequence[list[Member]], here: Way, there: Way, start: float, obstacle: Callable[[], str]
) -> Sharing | str:
    """The members dealt out to processes, where that is quicker.

    Args:
        found: the groups of members that are to be trained.
        here: how a group runs in this process.
        there: the same, found out anew: it is asked on one thread, for as many members as a process gets.
        start: seconds until a process trains.
        obstacle: why there can be no other processes; empty where there can be.

    Returns:
        what is in the way, where processes would pay; empty where they would not.
    """
    members = sum(map(len, found))
    count = min(cores(), members)
    if count < 2 or any(group[0].setup.device.type != "cpu" for group in found):
        return ""
    if any(group[0].setup.dataset is None for group in found):
        return "batches from Python stay in the process that has them"
    if start > sum(batches_left(group[0]) * seconds_in_turn(group) for group in found) / count:
        return ""
    if (in_the_way := obstacle()) or (count := min(count, _fitting())) < 2:
        return in_the_way or "the free memory is not enough for two of it"
    with one_thread():
        parts = [group[::count] for group in found]
        choices = [_look(part, there) for part in parts]
        shared = [_seconds_left(part, choice) for part, choice in zip(parts, choices, strict=True)]
    each = {
        member.name: seconds / len(part)
        for group, part, seconds in zip(found, parts, shared, strict=True)
        for member in group
    }
    shares = deal(found, count)
    longest = max(sum(each[member.name] for member in share) for share in shares)
    if start > longest:
        return ""
    whole = f"about {start + longest:.3g} s in all on {count} processes"
    if start > QUICK * longest or count * longest > EVEN * sum(each.values()):
        alone = sum(_seconds_left(group, _look(group, here)) for group in found)
        if not pays(start + longest, alone):
            return ""
        whole += f" and {alone:.3g} s on one"
    choices = [replace(choice, why=f"{whole}; {choice.why}") for choice in choices]
    return _shared(shares, found, choices, "processes")


def spread(found: Sequence[list[Member]], count: int, there: Way, workers: str) -> Sharing:
    """The members dealt out to so many workers, whether that is quicker or not.

    Args:
        found: as for `share_out`.
        count: of the workers, at most one a member.
        there: as for `share_out`.
        workers: what they are called.
    """
    with one_thread():
        choices = [_look(group[::count], there) for group in found]
    return _shared(deal(found, count), found, choices, workers)


def deal(found: Sequence[list[Member]], count: int) -> list[list[Member]]:
    """Members dealt out one by one, group after group: each share has about as many of each group."""
    members = [member for group in found for member in group]
    return [members[first::count] for first in range(count)]


def _look(group: list[Member], way: Way) -> Choice:
    """How a group runs; judged by half of it where the memory does not hold all of it at once."""
    try:
        return way(group)
    except (MemoryError, RuntimeError) as error:
        if len(group) < 2 or not is_memory_error(error):
            raise
    half = group[: len(group) // 2]
    choice = _look(half, way)
    seconds = {how: taken * len(group) / len(half) for how, taken in choice.seconds.items()}
    return replace(choice, seconds=seconds)


def _shared(
    shares: list[list[Member]], found: Sequence[list[Member]], choices: Sequence[Choice], workers: str
) -> Sharing:
    """Members by workers, and the same in words."""
    told = [
        f"{len(group)} members on {len(shares)} {workers}, {choice.how}: {choice.why}"
        for group, choice in zip(found, choices, strict=True)
    ]
    return Sharing(shares, _by_share(shares, found, choices), told)


def _by_share(
    shares: Sequence[list[Member]], found: Sequence[list[Member]], choices: Sequence[Choice]
) -> dict[tuple[str, ...], Choice]:
    """Each group's choice, for the part of it that is in each share."""
    by_share: dict[tuple[str, ...], Choice] = {}
    for share in shares:
        for group, choice in zip(found, choices, strict=True):
            names = tuple(member.name for member in share if member in group)
            if names:
                by_share[names] = choice
    return by_share


def _seconds_left(group: Sequence[Member], choice: Choice) -> float:
    """About how long a group trains still, if none of its members ends early."""
    seconds = choice.seconds.get(choice.how)
    return batches_left(group[0]) * (seconds_in_turn(group) if seconds is None else seconds)


def _fitting() -> int:
    """How many processes of this one's size the free memory holds; many, where the system does not tell."""
    free = free_bytes(torch.device("cpu"))
    if free is None:
        return sys.maxsize
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return free // (pages * os.sysconf("SC_PAGE_SIZE"))
