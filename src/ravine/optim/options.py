"""What every optimizer takes besides its own arguments: the engine, and what is composed around the rule."""

from collections.abc import Collection, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, Literal, TypedDict, get_args

import torch
from torch import Tensor

from ..errors import nearest

Engine = Literal["auto", "eager", "cpu", "gpu"]
Rounding = Literal["auto", "nearest", "stochastic", "compensated"]


class Options(TypedDict, total=False):
    """Keyword arguments of every optimizer here.

    Attributes:
        engine: what runs the rule: "cpu" and "gpu" are its compiled kernels, "eager" torch's operators;
            "auto" takes the kernel of the parameter's device.
        clip_norm: the gradients of all parameters together are scaled down to this norm, above 0.
        clip_value: each element of the gradient is cut to [-clip_value, clip_value], above 0; after
            `clip_norm`.
        l1: penalty λ·Σ|x|, at least 0: λ·sign(x) is added to the gradient. With a coupled
            `weight_decay` this is the elastic net.
        proximal: take `l1` and `weight_decay` as a proximal step after the update instead of in the
            gradient: small weights become exactly zero.
        average: keep a moving average of the parameters with this decay, in [0, 1); 0 keeps none.
            `with optimizer.averaged():` puts it in their place.
        rounding: how 16-bit parameters are stored: to the "nearest" value, "stochastic", or
            "compensated" (16 more bits are kept in the state, so that nothing is lost). "auto" is
            stochastic for bfloat16 and nearest otherwise.
    """

    engine: Engine
    clip_norm: float | None
    clip_value: float | None
    l1: float
    proximal: bool
    average: float
    rounding: Rounding


Group = dict[str, Any]
"""One of an optimizer's parameter groups."""

DEFAULTS: Options = {
    "engine": "auto",
    "clip_norm": None,
    "clip_value": None,
    "l1": 0.0,
    "proximal": False,
    "average": 0.0,
    "rounding": "auto",
}


def check_options(defaults: Group, options: Options) -> dict[str, Any]:
    """The options with what was left out.

    Args:
        defaults: the optimizer's own arguments.
        options: as given.

    Raises:
        TypeError: there is no such option.
        ValueError: a value out of range.
        RuntimeError: options that exclude each other.
    """
    for name in options:
        if name not in DEFAULTS:
            raise TypeError(f"there is no argument {name!r}{nearest(name, [*defaults, *DEFAULTS])}")
    chosen: dict[str, Any] = {**DEFAULTS, **options}
    for name, kind in (("engine", Engine), ("rounding", Rounding)):
        if chosen[name] not in get_args(kind):
            raise ValueError(f"Invalid {name}: {chosen[name]!r}; valid are {', '.join(get_args(kind))}")
    _check_above_zero("clip_norm", chosen["clip_norm"])
    if defaults.get("fused"):
        if defaults.get("differentiable"):
            raise RuntimeError("`fused` does not support `differentiable`")
        if defaults.get("foreach"):
            raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
        if chosen["engine"] == "eager":
            raise RuntimeError("`fused` asks for a kernel, and engine='eager' for none")
    return chosen


def check_group(group: Group) -> None:
    """Refuse a group's options that are out of range, or are the whole optimizer's.

    Raises:
        ValueError: the option, and what it may be.
    """
    for name in ("engine", "clip_norm", "rounding"):
        if name in group:
            raise ValueError(
                f"{name} is the whole optimizer's, not a group's: give it to the optimizer itself"
            )
    _check_above_zero("clip_value", group["clip_value"])
    if not holds(group["l1"] >= 0):
        raise ValueError(f"Invalid l1: {group['l1']}; it must be at least 0")
    if not (holds(group["average"] >= 0) and holds(group["average"] < 1)):
        raise ValueError(f"Invalid average: {group['average']}; it must be in [0, 1)")


def _check_above_zero(name: str, value: Any) -> None:
    if value is not None and not holds(value > 0):
        raise ValueError(f"Invalid {name}: {value}; it must be above 0")


def holds(condition: bool | Tensor) -> bool:
    """Whether a comparison is true of every member."""
    return bool(condition.all()) if isinstance(condition, Tensor) else condition


def members_of(groups: Sequence[Group], names: Collection[str], clip_norm: Any) -> int:
    """How many members the hyperparameters name; 1 where none has several values.

    A hyperparameter of K values holds one for each of K members, and every parameter's leading axis is
    theirs. `names` are the hyperparameters': groups may hold other tensors too.

    Raises:
        ValueError: the numbers of values differ, or a parameter has no such leading axis.
    """
    lengths: list[tuple[str, int]] = []
    for name, value in chain([("clip_norm", clip_norm)], *(group.items() for group in groups)):
        if name not in names and name != "clip_norm":
            continue
        values = value if isinstance(value, tuple | list) else (value,)
        for index, each in enumerate(values):
            if isinstance(each, Tensor) and each.numel() > 1:
                lengths.append((f"{name}[{index}]" if len(values) > 1 else name, each.numel()))
    longest, members = max(lengths, key=itemgetter(1), default=("", 1))
    for name, length in lengths:
        if length != members:
            raise ValueError(f"{name} has {length} values and {longest} {members}")
        for parameter in chain.from_iterable(group["params"] for group in groups):
            if parameter.dim() == 0 or parameter.shape[0] != members:
                raise ValueError(
                    f"Tensor {name} must be 1-element, or hold a value a member: it holds {members} values, "
                    f"and a parameter of shape {tuple(parameter.shape)} has no leading axis of {members}"
                )
    return members


class MemberValues(Tensor):
    """A hyperparameter of one value a member, as the groups hold it.

    torch's schedulers change a learning rate that is a tensor by `fill_`, which takes one value alone.
    """

    # What is computed from it is a plain tensor.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def fill_(self, value: Any) -> Tensor:
        """Take a value for each member, or one for all."""
        return self.copy_(torch.as_tensor(value))

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        memo[id(self)] = copied = self.detach().clone().as_subclass(MemberValues)
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A plain tensor in checkpoints: torch.load takes no other by default."""
        return self.as_subclass(Tensor).__reduce_ex__(protocol)


def let_members_be_scheduled(group: Group) -> None:
    """Make tensors of one value a member such that schedulers can change them."""
    for name, value in group.items():
        if isinstance(value, Tensor) and value.numel() > 1 and not value.requires_grad:
            group[name] = value.detach().as_subclass(MemberValues)


def has(group: Group, name: str) -> bool:
    """Whether an option is given: not zero, for one member at least."""
    value = group[name]
    return bool((value != 0).any()) if isinstance(value, Tensor) else value != 0


def number(group: Group, name: str) -> Any:
    """A group's option as the arithmetic takes it."""
    return as_number(group, group[name])


def as_number(group: Group, value: Any) -> Any:
    """A number, or float64 tensor of one value a member.

    A 0-dim tensor stays one where autograd or a captured graph must see it.
    """
    if not isinstance(value, Tensor):
        return value
    if value.numel() > 1:
        return value.flatten().double()
    if group.get("differentiable", False) or group.get("capturable", False):
        return value.squeeze()
    return value.item()
