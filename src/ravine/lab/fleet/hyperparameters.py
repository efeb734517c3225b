"""Many optimizers of one class as one, each member with its own hyperparameters and state."""

import inspect
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ...optim.base import RuleOptimizer
from ...optim.options import DEFAULTS
from ...training.setup import Setup


def fixed(optimizer: RuleOptimizer) -> dict[str, Any]:
    """What all members of a stack must have alike: options that are no numbers, or are not given."""
    (group,) = optimizer.param_groups
    return {
        name: value
        for name, value in group.items()
        if name != "params" and (value is None or isinstance(value, bool | str))
    }


def together(setups: Sequence[Setup], trained: Mapping[str, Tensor]) -> RuleOptimizer:
    """One optimizer of the stacked parameters, with the members' options and state.

    Args:
        setups: of the members; their optimizers are alike (`fixed`), and so are their counts of steps.
        trained: the stacked parameters by name.
    """
    optimizers = [_optimizer(setup) for setup in setups]
    first = optimizers[0]
    # A subclass, such as AdamW, may have settled some of its base's arguments.
    taken = {*inspect.signature(type(first)).parameters, *DEFAULTS} & first.defaults.keys()
    options = {name: _vector([optimizer.param_groups[0][name] for optimizer in optimizers]) for name in taken}
    made = type(first)(trained.values(), engine=first.engine, rounding=first.rounding, **options)
    for position, parameter in enumerate(trained.values()):
        entries = [_entry(optimizer, position) for optimizer in optimizers]
        if entries[0]:
            made.state[parameter] = {
                key: _counter(value) if key in made.counters else torch.stack([each[key] for each in entries])
                for key, value in entries[0].items()
            }
    return made


def hand_back(optimizer: RuleOptimizer, setups: Sequence[Setup]) -> None:
    """Give each member's own optimizer its part of the state, as views."""
    for position, parameter in enumerate(_parameters(optimizer)):
        for member, setup in enumerate(setups):
            own = _optimizer(setup)
            own.state[_parameters(own)[position]] = {
                key: _counter(value) if key in own.counters else value[member]
                for key, value in optimizer.state[parameter].items()
            }


def set_rates(optimizer: RuleOptimizer, rates: Sequence[float]) -> None:
    """The members' learning rates for the next step."""
    optimizer.param_groups[0]["lr"] = _vector(rates)


def _optimizer(setup: Setup) -> RuleOptimizer:
    assert isinstance(setup.optimizer, RuleOptimizer)
    return setup.optimizer


def _parameters(optimizer: RuleOptimizer) -> list[Tensor]:
    return list(chain.from_iterable(group["params"] for group in optimizer.param_groups))


def _entry(optimizer: RuleOptimizer, position: int) -> Mapping[str, Any]:
    parameter = _parameters(optimizer)[position]
    entry: Mapping[str, Any] = optimizer.state.get(parameter, {})
    return entry


def _vector(values: Sequence[Any]) -> Any:
    """The members' values of an option: one for all where they are the same."""
    first = values[0]
    if isinstance(first, tuple):
        return tuple(map(_vector, zip(*values, strict=True)))
    if all(value == first for value in values):
        return first
    return torch.tensor([float(value) for value in values], dtype=torch.float64)


def _counter(value: Any) -> Any:
    """A count of steps, which all members share, on its own."""
    return value.clone() if isinstance(value, Tensor) else value
