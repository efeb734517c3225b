"""How an optimizer's parameters are stepped: which by which kernel, and which by torch's operators."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from operator import attrgetter, is_, itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import sharding
from .cohort import Cohort, Entry
from .engines import engine_of
from .kernels.eager import Update
from .kernels.lane import Lane, lane_of
from .kernels.llvm import Layout
from .kernels.table import Table, real_dtype
from .kernels.trace import Program, trace

LiveGroups = Sequence[tuple[list[Tensor], list[Tensor]]]
"""The parameters that have gradients, and these, group by group."""

UpdateOf = Callable[[Cohort, Sequence[Any], Any], Update]
"""What a cohort's next step is, given its counters and the scale of the gradients."""


# Each step looks at every parameter; these run at the speed of C.
GRADIENT, DTYPE = attrgetter("grad"), attrgetter("dtype")

LaneKind = tuple[str, Program, Layout, torch.device]


Pick = Callable[[Sequence[Any]], Sequence[Any]]


class Columns(NamedTuple):
    """A parameter and what belongs to it.

    Attributes:
        number: its place among all of the optimizer's parameters.
        parameter: itself.
        rest: its state, its average.
        rounding: how it is stored.
        remainder: where rounding is "compensated".
    """

    number: int
    parameter: Tensor
    rest: list[Tensor]
    rounding: str
    remainder: Tensor | None


@dataclass(frozen=True)
class Seats:
    """A lane and who is in it.

    Attributes:
        lane: the kernel with its table.
        count: how many parameters.
        pick: picks theirs out of what belongs to all that the step takes.
        numbers: their places among all of the optimizer's parameters.
        cohorts: the numbers of their cohorts.
        first: the first of each cohort's sets of scalars, by the cohort's number.
    """

    lane: Lane
    count: int
    pick: Pick
    numbers: list[int]
    cohorts: list[int]
    first: dict[int, int]


class Plan:
    """Made for the parameters that have gradients; used for as long as nothing about them changes."""

    def __init__(
        self,
        cohorts: list[Cohort],
        columns: list[Columns],
        groups: LiveGroups,
        gradients: Sequence[Tensor],
        state: Mapping[Tensor, Entry],
        keys: Sequence[tuple[str, ...]],
        engines: Sequence[str],
    ) -> None:
        """Share the parameters out.

        Args:
            cohorts: of the parameters that have gradients.
            columns: one a parameter.
            groups: the parameters and their gradients, group by group; only counted.
            gradients: what the rule sees in place of them; only looked at, never kept.
            state: the optimizer's.
            keys: the state that each cohort's entries must go on holding.
            engines: the engine wanted by each group.

        Raises:
            RuntimeError: the engine asked for cannot take a parameter.
        """
        self.cohorts = cohorts
        self.columns = columns
        self.live = [each.parameter for each in columns]
        self.shares = [len(each) for each, _ in groups]
        self.strides = strides(gradients)
        self.sizes = list(map(Tensor.numel, gradients))
        self.dtypes = list(map(DTYPE, gradients))
        self.entries = list(state.values())
        self.kept = []
        for cohort, names in zip(cohorts, keys, strict=True):
            values = list(held(cohort.entries, names))
            self.kept.append((cohort.entries, names, values, list(map(Tensor.data_ptr, values))))
        self.alone: list[tuple[int, int]] = []
        riders: defaultdict[LaneKind, list[tuple[int, int]]] = defaultdict(list)
        for number, cohort in enumerate(cohorts):
            for place in cohort.places:
                kind = self._kind(cohort, columns[place], gradients[place], engines[cohort.group])
                (self.alone if kind is None else riders[kind]).append((number, place))
        self.seats = [self._seat(kind, found) for kind, found in riders.items()]
        places = [place for found in riders.values() for _, place in found]
        self.aboard = selection(places, len(columns))
        self.addresses = list(map(Tensor.data_ptr, self.aboard(self.live)))
        self.laid_out = list(map(Tensor.stride, self.aboard(self.live)))
        self.shapes = list(map(described, self.aboard(self.live)))

    def _kind(self, cohort: Cohort, columns: Columns, gradient: Tensor, wanted: str) -> LaneKind | None:
        tensors = [columns.parameter, gradient, *columns.rest]
        engine = engine_of(tensors, cohort.members, wanted)
        spare = columns.remainder
        if engine == "eager" or (spare is not None and spare.stride() != columns.parameter.stride()):
            return None
        try:
            program = trace(cohort.rule, cohort.structure)
        except TypeError as error:
            if wanted == "auto":
                return None
            raise RuntimeError(f"the rule {cohort.rule.name!r} has no kernel: {error}") from error
        layout = Layout(tuple(real_dtype(tensor) for tensor in tensors), columns.rounding)
        return engine, program, layout, columns.parameter.device

    def _seat(self, kind: LaneKind, riders: Sequence[tuple[int, int]]) -> Seats:
        """Make a lane for the parameters that one kernel can step."""
        engine, program, layout, device = kind
        first: dict[int, int] = {}
        sets = 0
        for number, _ in riders:
            if number not in first:
                first[number] = sets
                sets += self.cohorts[number].members
        found = [self.columns[place] for _, place in riders]
        stretches = [[each.parameter for each in found]]
        stretches += [[each.rest[number] for each in found] for number in range(len(layout.dtypes) - 2)]
        if layout.rounding == "compensated":
            stretches.append([each.remainder for each in found if each.remainder is not None])
        kind_of_lane = lane_of(engine)
        table = Table(
            layout,
            stretches,
            [first[number] for number, _ in riders],
            [self.cohorts[number].members for number, _ in riders],
            kind_of_lane.chunk,
        )
        lane = kind_of_lane(program, layout, table, sets, device)
        places = [place for _, place in riders]
        pick = selection(places, len(self.columns))
        numbers = [each.number for each in found]
        return Seats(lane, len(found), pick, numbers, [number for number, _ in riders], first)

    def holds(
        self,
        groups: LiveGroups,
        live: Sequence[Tensor],
        gradients: Sequence[Tensor],
        state: Mapping[Tensor, Entry],
    ) -> bool:
        """Whether the plan still is right: same parameters, gradients alike, state untouched by others."""
        if [len(each) for each, _ in groups] != self.shares or not same(live, self.live):
            return False
        if strides(gradients) != self.strides:
            return False
        # `p.data` was cut: neither strides nor addresses tell, and its gradient may be of before or after.
        if list(map(Tensor.numel, gradients)) != self.sizes or list(map(Tensor.numel, live)) != self.sizes:
            return False
        if not same(state.values(), self.entries):
            return False
        if list(map(DTYPE, gradients)) != self.dtypes:
            return False
        for entries, keys, values, places in self.kept:
            if not same(held(entries, keys), values) or list(map(Tensor.data_ptr, values)) != places:
                return False
        if list(map(Tensor.stride, self.aboard(live))) != self.laid_out:  # transposed where it lies
            return False
        addresses = list(map(Tensor.data_ptr, self.aboard(live)))
        if addresses != self.addresses:
            if list(map(described, self.aboard(live))) != self.shapes:
                return False
            self.addresses = addresses
        return True

    def updates(self, update_of: UpdateOf, scale: Any) -> list[Update] | None:
        """Every cohort's next step, or None where that is another rule or structure than was planned for."""
        updates = []
        for cohort in self.cohorts:
            counters = cohort.values()
            if counters is None:
                return None
            update = update_of(cohort, counters, scale)
            if update.rule is not cohort.rule or update.around.structure() != cohort.structure:
                return None
            if not update.fits(cohort.members):
                return None
            updates.append(update)
        return updates

    def point(self, gradients: Sequence[Tensor]) -> None:
        """Tell the lanes where everything lies."""
        start = 0
        for seats in self.seats:
            end = start + seats.count
            seats.lane.table.point(0, self.addresses[start:end])
            seats.lane.table.point(1, list(map(Tensor.data_ptr, seats.pick(gradients))))
            start = end

    def squares(self, gradients: Sequence[Tensor], members: int) -> Tensor:
        """The gradients' sums of squares, one a member: float64, where the first of them is."""
        sums = [seats.lane.squares().view(-1, members).sum(0) for seats in self.seats]
        if self.alone:
            sums.append(squares_of([gradients[place] for _, place in self.alone], members))
        return added(sums)

    def run(self, updates: Sequence[Update]) -> None:
        """Step the parameters that have kernels."""
        for seats in self.seats:
            for number, first in seats.first.items():
                cohort, update = self.cohorts[number], updates[number]
                numbers = update.around.numbers(cohort.structure)
                scalars = seats.lane.program.scalars(update.t, *update.values, *numbers)
                seats.lane.fill(first, cohort.members, scalars)
            if seats.lane.layout.rounding == "stochastic":
                steps = {number: updates[number].counters[0] for number in seats.first}
                seats.lane.count(seats.numbers, seats.cohorts, steps)
            seats.lane.run()


def live_of(parameters: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Those of a group's parameters that have gradients, and these."""
    gradients = list(map(GRADIENT, parameters))
    if not any(map(is_, gradients, repeat(None))):
        return parameters, gradients
    live = [parameter for parameter in parameters if parameter.grad is not None]
    return live, list(map(GRADIENT, live))


def squares_of(gradients: Sequence[Tensor], members: int) -> Tensor:
    """The sums of the squares of some gradients, one a member of their leading axis: float64."""
    whole = [each for each in gradients if not sharding.is_sharded(each)]
    dense = (_dense(each, members) for each in whole)
    sums = [each.abs().double().square().reshape(members, -1).sum(1) for each in dense]
    if len(whole) < len(gradients):
        sums += sharding.sums_of_squares(filter(sharding.is_sharded, gradients))
    return added(sums)


def _dense(gradient: Tensor, members: int) -> Tensor:
    if not gradient.is_sparse:
        return gradient
    return gradient.coalesce().values() if members == 1 else gradient.to_dense()


def added(sums: Sequence[Tensor]) -> Tensor:
    """The sum of tensors, on the device of the first: one on the CPU would wait for a GPU."""
    total, *others = sums
    for each in others:
        total = total + each.to(total.device)
    return total


def resolved(gradients: list[Tensor]) -> list[Tensor]:
    """Gradients that lie in memory as they are: autograd leaves some as the conjugate or negative of that."""
    if any(map(Tensor.is_conj, gradients)) or any(map(Tensor.is_neg, gradients)):
        return [gradient.resolve_conj().resolve_neg() for gradient in gradients]
    return gradients


def selection(places: Sequence[int], count: int) -> Pick:
    """What picks the places, in their order, out of `count` things."""
    if list(places) == list(range(count)):
        return lambda things: things
    if len(places) < 2:
        return lambda things: [things[place] for place in places]
    return itemgetter(*places)


def same(found: Any, expected: Sequence[Any]) -> bool:
    """Whether two sequences hold the same objects."""
    found = list(found)
    return len(found) == len(expected) and all(map(is_, found, expected))


def held(entries: Sequence[Entry], keys: Sequence[str]) -> Iterator[Any]:
    """What the entries hold under the keys; None for what is missing."""
    if not keys:
        return iter(())
    try:
        found = list(map(itemgetter(*keys), entries))
    except KeyError:
        return iter(())
    return iter(found) if len(keys) == 1 else chain.from_iterable(found)


def strides(gradients: Sequence[Tensor]) -> list[Any]:
    """How each gradient lies in memory; None for a sparse one."""
    try:
        return list(map(Tensor.stride, gradients))
    except RuntimeError:
        return [None if gradient.layout is not torch.strided else gradient.stride() for gradient in gradients]


def described(parameter: Tensor) -> tuple[Any, ...]:
    """What a kernel relies on in a parameter."""
    return parameter.dtype, parameter.device, parameter.shape, parameter.stride()
