"""Making a plan: the state that is missing, the cohorts, the engines."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .cohort import Cohort, Entry, share_counts
from .kernels.eager import is_dense
from .options import Group, has, members_of
from .plan import Columns, LiveGroups, Plan
from .sharding import is_sharded

if TYPE_CHECKING:
    from .base import RuleOptimizer


def make_plan(optimizer: "RuleOptimizer", groups: LiveGroups, gradients: list[Tensor]) -> Plan:
    """Look at every parameter that has a gradient once, and share them out.

    Args:
        optimizer: whose parameters they are.
        groups: the parameters and their gradients, group by group.
        gradients: what the rule sees in place of them, in the same order.

    Raises:
        RuntimeError: a gradient is sparse and may not be; the state belongs to another model; the engine
            asked for cannot take a parameter.
        ValueError: a hyperparameter has got one value a member since, and a parameter no such leading axis.
    """
    optimizer.members = members_of(optimizer.param_groups, optimizer.defaults, optimizer.clip_norm)
    if optimizer.members > 1 and any(map(is_sharded, gradients)):
        raise RuntimeError(
            "hyperparameters of one value a member cannot step parameters sharded over processes"
        )
    for group, (_, own) in zip(optimizer.param_groups, groups, strict=True):
        if any(gradient.layout is not torch.strided for gradient in own):
            optimizer.check_sparse(group)
    for live, own in groups:  # before anything is made: a step that is refused must leave no trace
        for parameter, gradient in zip(live, own, strict=True):
            check_gradient(parameter, gradient)
    every = chain.from_iterable(group["params"] for group in optimizer.param_groups)
    numbers = {id(parameter): number for number, parameter in enumerate(every)}
    buckets: defaultdict[tuple[Any, ...], list[tuple[int, Entry]]] = defaultdict(list)
    columns: list[Columns] = []
    for index, (group, (live, _)) in enumerate(zip(optimizer.param_groups, groups, strict=True)):
        rule = optimizer.rule(group)
        keys = (*rule.state, "average") if has(group, "average") else rule.state
        for parameter in live:
            rounding = rounding_of(parameter, optimizer.rounding)
            # Without a step count the random bits would be the same in each step.
            counters = optimizer.counters or (("step",) if rounding == "stochastic" else ())
            spare = ("remainder",) if rounding == "compensated" else ()
            entry: Entry = optimizer.state[parameter] if keys or counters or spare else {}
            first, fresh = complete_state(optimizer, entry, parameter, group, rule.state)
            counts = complete_counters(optimizer, entry, parameter, group, counters)
            if spare and "remainder" not in entry:
                entry["remainder"] = torch.zeros_like(parameter, dtype=torch.int16)
            kind = index, rule, (*keys, *counters, *spare), counters, first, fresh, counts
            buckets[kind].append((len(columns), entry))
            check_state(parameter, entry, (*keys, *spare))
            lay_out_as(parameter, entry, (*keys, *spare))
            rest = [entry[key] for key in keys]
            remainder = entry["remainder"] if spare else None
            columns.append(Columns(numbers[id(parameter)], parameter, rest, rounding, remainder))
    cohorts = [_cohort(optimizer, kind, found) for kind, found in buckets.items()]
    held = [kind[2] for kind in buckets]
    wanted = [wanted_engine(group, optimizer.engine) for group in optimizer.param_groups]
    return Plan(cohorts, columns, groups, gradients, optimizer.state, held, wanted)


def _cohort(optimizer: "RuleOptimizer", kind: tuple[Any, ...], found: list[tuple[int, Entry]]) -> Cohort:
    index, rule, _, counters, first, fresh, _ = kind
    places, entries = map(list, zip(*found, strict=True))
    on_device = bool(optimizer.param_groups[index].get("capturable", False))
    counts = share_counts(entries, counters)
    cohort = Cohort(index, rule, (), optimizer.members, places, entries, first, fresh, counts, on_device)
    # The value of the scale does not matter here, only whether there is one.
    scale = None if optimizer.clip_norm is None or optimizer.redirects else 1.0
    cohort.structure = optimizer.next_update(cohort, cohort.values() or [], scale).around.structure()
    return cohort


def complete_state(
    optimizer: "RuleOptimizer", entry: Entry, parameter: Tensor, group: Group, keys: Sequence[str]
) -> tuple[bool, bool]:
    """Make what is missing of a parameter's state and average; whether there was no state, and no average."""
    first = bool(keys) and all(entry.get(key) is None for key in keys)
    fresh = has(group, "average") and entry.get("average") is None
    for key in keys:
        if entry.get(key) is None:
            entry[key] = optimizer.initial_state(parameter, group, key)
    if fresh:
        wide = torch.promote_types(parameter.dtype, torch.float32)
        entry["average"] = parameter.detach().clone().to(wide)
    return first, fresh


def complete_counters(
    optimizer: "RuleOptimizer", entry: Entry, parameter: Tensor, group: Group, counters: tuple[str, ...]
) -> tuple[float, ...]:
    """Make what is missing of a parameter's counters, as torch keeps them; their values."""
    wide = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
    device = parameter.device if group.get("capturable") else torch.device("cpu")
    for key in counters:
        value = entry.get(key)
        if value is None:
            value = optimizer.initial_counter(group, key)
        if not isinstance(value, Tensor):
            entry[key] = torch.tensor(float(value), dtype=wide, device=device)
        elif group.get("differentiable", False) and value.requires_grad:
            raise RuntimeError("`requires_grad` is not supported for `step` in differentiable mode")
    return tuple(float(entry[key]) for key in counters)


def lay_out_as(parameter: Tensor, entry: Entry, keys: Sequence[str]) -> None:
    """Put state that was loaded, or made before the parameter changed its layout, into the parameter's order.

    A kernel walks all of it together; without one the last bits of a resumed run would be other ones.
    """
    if type(parameter) not in (Tensor, torch.nn.Parameter) or not is_dense(parameter):
        return
    for key in keys:
        held = entry[key]
        if type(held) is Tensor and held.stride() != parameter.stride() and held.device == parameter.device:
            entry[key] = torch.empty_like(parameter, dtype=held.dtype).copy_(held)


def check_gradient(parameter: Tensor, gradient: Tensor) -> None:
    """Refuse a gradient of another shape: a kernel would read beyond it.

    Raises:
        RuntimeError: both shapes.
    """
    if gradient.shape != parameter.shape:
        raise RuntimeError(
            f"a gradient has shape {tuple(gradient.shape)} and its parameter {tuple(parameter.shape)}"
        )


def check_state(parameter: Tensor, entry: Entry, keys: Sequence[str]) -> None:
    """Refuse state of another shape: a kernel would read and write beyond it.

    Raises:
        RuntimeError: both shapes.
    """
    for key in keys:
        if entry[key].shape != parameter.shape:
            raise RuntimeError(
                f"the state {key!r} has shape {tuple(entry[key].shape)} and its parameter "
                f"{tuple(parameter.shape)}: this checkpoint belongs to another model"
            )


def rounding_of(parameter: Tensor, wanted: str) -> str:
    """How a parameter is stored; only bfloat16 is stored in another way than to the nearest value."""
    if parameter.dtype is not torch.bfloat16:
        return "nearest"
    return "stochastic" if wanted == "auto" else wanted


def wanted_engine(group: Group, engine: str) -> str:
    """The engine for a group: autograd follows torch's operators alone, and `fused` means a kernel."""
    if group.get("differentiable", False):
        return "eager"
    return "kernel" if engine == "auto" and group.get("fused") else engine
