"""The members' trainings, made ready on data that are opened once."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from torch import nn

from ...errors import ModelError, RecipeError, RunError
from ...memory import memory_told
from ...randomness import addressed
from ...training.recipe import Layer
from ...training.run import RecipeLike, make_setup, seed_of
from ...training.setup import Setup

# Settings of `[data]` that change what is read, not how it is cut or batched.
_READING = {"target", "task", "image_size", "skip_bad", "memory_gb"}

ModelLike = Callable[[], nn.Module] | str | None
"""A model's name, a function that makes a network, or None for the recipe's."""


def layers_of(members: int | Sequence[Layer]) -> list[Layer]:
    """The settings of each member; where only their number is told, its seed.

    Raises:
        RecipeError: there is no member.
    """
    if isinstance(members, int) and not isinstance(members, bool):
        layers: list[Layer] = [{"seed": seed} for seed in range(members)]
    elif isinstance(members, Sequence):
        layers = list(members)
    else:
        raise RecipeError([f"members: a number, or the settings of each, not {members!r}"])
    if not layers:
        raise RecipeError(["members: a fleet has one or more"])
    return layers


def epochs_of(keep: Collection[int]) -> frozenset[int]:
    """Epochs whose weights are kept.

    Raises:
        RunError: they are not numbers from 1 on.
    """
    known = list(keep) if isinstance(keep, Collection) else [keep]
    if any(not isinstance(epoch, int) or epoch < 1 for epoch in known) or not isinstance(keep, Collection):
        raise RunError(f"keep: epochs, counted from 1, such as [5, 10], not {keep!r}")
    return frozenset(known)


def prepare(
    model: ModelLike,
    data: Any,
    recipe: RecipeLike,
    members: Sequence[Layer],
    settings: Sequence[Layer],
    *,
    trust: bool,
) -> list[Setup]:
    """A training for each member, on one cut of the data into parts: that of the first member's seed.

    Raises:
        RavineError: as `ravine.train`, of any member; the settings of which member are told.
    """
    if isinstance(model, nn.Module) or not (model is None or isinstance(model, str) or callable(model)):
        raise ModelError(
            f"each member of a fleet has a network of its own: give a function without arguments that makes "
            f"one, or a model's name, not a {type(model).__name__}"
        )
    made: list[Setup] = []
    seen: dict[int, int] = {}
    with memory_told():
        for layer in members:
            seed = made[0].recipe.split_seed if made else None
            cut = [] if seed is None else [{"data": {"split": seed}}]
            own = layer.get("data", {}) if isinstance(layer, Mapping) else {}
            read_alike = isinstance(own, Mapping) and not _READING & own.keys()
            like = made[0] if made and read_alike else None
            chosen = [*cut, *settings, layer]
            try:
                network = model if model is None or isinstance(model, str) else _made(model, recipe, chosen)
                setup = make_setup(network, data, recipe, settings=chosen, trust=trust, like=like)
            except RecipeError as error:
                raise RecipeError([f"member {len(made)}: {problem}" for problem in error.problems]) from error
            _refuse_shared(setup.model, len(made), seen)
            made.append(setup)
    return made


def _refuse_shared(network: nn.Module, number: int, seen: dict[int, int]) -> None:
    """Refuse a network that has a parameter of an earlier member's: both would train it."""
    for name, tensor in network.named_parameters():
        if seen.setdefault(id(tensor), number) != number:
            raise ModelError(
                f"members {seen[id(tensor)]} and {number} have the same {name}: the function that makes a "
                "network must make a new one each time"
            )


def _made(model: Callable[[], nn.Module], recipe: RecipeLike, settings: Sequence[Layer]) -> nn.Module:
    """A network of the caller's, whose first weights the member's seed decides."""
    with addressed(seed_of(recipe, settings), "model"):
        network = model()
    if not isinstance(network, nn.Module):
        raise ModelError(f"the function that makes a network gave a {type(network).__name__}")
    return network
