"""Many small parameters as one vector, so that a rule is run once for all of them.

On a model of small tensors the time of a step is the number of torch calls, not the arithmetic.
Gradients and parameters are gathered into one vector, the rule runs on it, and the parameters are
scattered back. The state stays in the vector between steps; what the optimizer's `state` holds for each
parameter are views into it.
"""

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .eager import BLOCK, Update, compute_dtype, is_dense

SMALL = 32768
"""Parameters of fewer elements are packed; for larger ones gathering costs more than it saves."""

Entry = MutableMapping[str, Any]
"""What an optimizer's `state` holds for one parameter."""


def fits(parameter: Tensor) -> bool:
    """Whether a parameter is one for packing: small, plain, without gaps in memory."""
    plain = type(parameter) in (Tensor, torch.nn.Parameter) and parameter.layout is torch.strided
    return plain and parameter.numel() < SMALL and is_dense(parameter)


class Pack:
    """Parameters of one device, one dtype and one step count."""

    def __init__(
        self, members: Sequence[tuple[int, Tensor, Entry]], keys: Sequence[str], *, first: bool, counted: bool
    ) -> None:
        """Move the members' state in.

        Args:
            members: the place among the step's gradients, the parameter, its entry.
            keys: the state that the rule keeps, in its order.
            first: no state was there before the next step.
            counted: entries hold a "step".
        """
        self.first = first
        self.places = [place for place, _, _ in members]
        self.parameters = [parameter for _, parameter, _ in members]
        self.entries = [entry for _, _, entry in members]
        self.views: list[tuple[Entry, str, Tensor]] = []
        self.states = [self._adopt(key) for key in keys]
        self.steps = self._adopt_steps() if counted else None
        self.t = 0.0 if self.steps is None else float(self.steps[0])
        self.dtype = compute_dtype([self.parameters[0].detach(), *self.states]).to_real()
        size = sum(_reals(parameter) for parameter in self.parameters)
        device = self.parameters[0].device
        self.x = torch.empty(size, dtype=self.dtype, device=device)
        self.dx = torch.empty(size, dtype=self.dtype, device=device)
        self.x_views = _views(self.x, self.parameters)
        self.inputs = self.x_views + _views(self.dx, self.parameters)

    def _adopt(self, key: str) -> Tensor:
        """Put one kind of state into a vector and views of that into the entries."""
        held = [entry[key] for entry in self.entries]
        size = sum(_reals(parameter) for parameter in self.parameters)
        vector = torch.empty(size, dtype=held[0].dtype.to_real(), device=held[0].device)
        for entry, old, view in zip(self.entries, held, _views(vector, self.parameters), strict=True):
            view.copy_(old)
            self._enter(entry, key, view)
        return vector

    def _adopt_steps(self) -> Tensor:
        vector = torch.stack([entry["step"].cpu() for entry in self.entries])
        for entry, view in zip(self.entries, vector.unbind(), strict=True):
            self._enter(entry, "step", view)
        return vector

    def _enter(self, entry: Entry, key: str, view: Tensor) -> None:
        entry[key] = view
        self.views.append((entry, key, view))

    def intact(self, state: Mapping[Tensor, Entry]) -> bool:
        """Whether the state still is what this pack holds: none was replaced or removed, all counts agree."""
        if self.steps is not None:
            counts: list[float] = self.steps.tolist()
            self.t = counts[0]
            if counts.count(self.t) != len(counts):
                return False
        if not self.views:
            return True
        for parameter, entry in zip(self.parameters, self.entries, strict=True):
            if state.get(parameter) is not entry:
                return False
        return all(entry.get(key) is view for entry, key, view in self.views)

    def count(self) -> float:
        """The number of the step now being taken; 0 where nobody counts."""
        if self.steps is None:
            return 0.0
        self.steps.add_(1)
        self.t += 1
        return self.t

    def step(self, update: Update, gradients: Sequence[Tensor]) -> None:
        """Update the parameters and the state in place; `gradients` are the whole group's."""
        torch._foreach_copy_(self.inputs, self.parameters + [gradients[place] for place in self.places])
        states = [state.to(self.dtype) for state in self.states]
        update.write(self.x, self.dx, *states)
        for held, new in zip(self.states, states, strict=True):
            if held is not new:
                held.copy_(new)
        torch._foreach_copy_(self.parameters, self.x_views)
        self.first = False


def gather_packs(
    members: Sequence[tuple[int, Tensor, Entry, bool]], keys: Sequence[str], *, counted: bool
) -> list[Pack]:
    """Pack what can go together: each pack has fewer than `BLOCK` elements.

    `members`: as for `Pack`, each with whether its state has just been made.
    """
    alike: dict[tuple[Any, ...], list[tuple[int, Tensor, Entry]]] = {}
    room: dict[tuple[Any, ...], int] = {}
    packs = []
    for place, parameter, entry, first in members:
        states = tuple((entry[key].dtype, entry[key].device) for key in keys)
        step = entry["step"].item() if counted else None
        kind = (first, parameter.device, parameter.dtype, states, step)
        if kind in alike and room[kind] < parameter.numel():
            packs.append(Pack(alike.pop(kind), keys, first=first, counted=counted))
        if kind not in alike:
            alike[kind] = []
            room[kind] = BLOCK
        alike[kind].append((place, parameter, entry))
        room[kind] -= parameter.numel()
    packs += [Pack(kin, keys, first=kind[0], counted=counted) for kind, kin in alike.items()]
    return packs


def _reals(tensor: Tensor) -> int:
    return tensor.numel() * (2 if tensor.is_complex() else 1)


def _views(vector: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Views into `vector` with the shapes and the orders of memory of `parameters`."""
    views = []
    offset = 0
    for parameter in parameters:
        part = vector[offset : offset + _reals(parameter)]
        if parameter.is_complex():
            part = torch.view_as_complex(part.view(-1, 2))
        views.append(part.as_strided(parameter.shape, parameter.stride()))
        offset += _reals(parameter)
    return views
