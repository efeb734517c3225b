"""Which members can be one stack: those alike in everything that is no number of their own."""

from collections.abc import Hashable, Sequence
from typing import Any

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from ...optim.base import RuleOptimizer
from .hyperparameters import fixed
from .member import Member
from .rates import rates_of


def why_not(member: Member) -> str:
    """Why a member cannot be part of a stack; empty where it may be."""
    setup = member.setup
    recipe, optimizer = setup.recipe, setup.optimizer
    if setup.full_batch:
        return f"{recipe.optimizer.name} works out its loss several times a step"
    if not isinstance(optimizer, RuleOptimizer) or optimizer.redirects:
        return f"{recipe.optimizer.name} looks at whole tensors, not at each element"
    if hasattr(optimizer, "eval"):
        return f"{recipe.optimizer.name} keeps two sets of weights"
    if len(optimizer.param_groups) > 1:
        return "its optimizer has several groups of parameters"
    if recipe.optimizer.accumulate > 1:
        return "optimizer.accumulate is above 1"
    if recipe.regularize.max_norm:
        return "regularize.max_norm bounds each network by itself"
    if any(module._backward_hooks or module._backward_pre_hooks for module in setup.model.modules()):
        return "its network has hooks on the way back"
    if any(each._backward_hooks or each._post_accumulate_grad_hooks for each in setup.model.parameters()):
        return "its parameters have hooks"
    return ""


def kind(member: Member) -> Hashable:
    """What members of one stack have alike; equal for two of them, and only then, in one stack."""
    setup, state = member.setup, member.state
    optimizer = setup.optimizer
    assert isinstance(optimizer, RuleOptimizer)
    weighed = setup.recipe.loss.class_weights != "none"
    return (
        _structure(setup.model),
        type(optimizer),
        optimizer.engine,
        tuple(sorted(fixed(optimizer).items())),
        setup.recipe.loss if weighed else "",
        setup.recipe.precision,
        setup.recipe.data.batch_size,
        _items(member),
        setup.feeds["train"].mix is None,
        setup.averaged is None,
        setup.penalty is None,
        (state.epoch, state.batch, state.step),
    )


def _items(member: Member) -> int:
    """Items an epoch, which a bag has as many of."""
    setup = member.setup
    return len(setup.feeds["train"]) if setup.splits is None else len(setup.splits.train)


def _structure(network: nn.Module) -> Hashable:
    """Classes, settings and tensors of every layer, but for the dropout rates that members may have apart.

    Settings are what a layer tells of itself, and the plain values that it holds: many act in training alone.
    """
    free = rates_of(network)
    layers = tuple(
        (name, _class(module), () if name in free else (module.extra_repr(), *_plain_values(module)))
        for name, module in network.named_modules()
    )
    tensors = [*network.named_parameters(), *network.named_buffers()]
    return layers, tuple((name, t.shape, t.dtype, t.requires_grad) for name, t in tensors)


def _class(module: nn.Module) -> type:
    """A layer's class; of one with parametrizations, which has a class of its own, what it is made of."""
    made = type(module)
    return made.__bases__[0] if is_parametrized(module) else made


def _plain_values(module: nn.Module) -> list[tuple[str, str]]:
    values = vars(module).items()
    return [(key, repr(value)) for key, value in values if key != "training" and _is_plain(value)]


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def groups(members: Sequence[Member]) -> list[list[Member]]:
    """The members that train on, those of one stack together, in their order."""
    found: dict[Any, list[Member]] = {}
    for member in members:
        key = id(member) if why_not(member) else kind(member)
        found.setdefault(key, []).append(member)
    return list(found.values())
