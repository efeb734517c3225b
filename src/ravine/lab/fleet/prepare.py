"""The members' trainings, made ready on data that are opened once."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from ...errors import RecipeError
from ...memory import memory_told
from ...randomness import addressed
from ...training.recipe import Layer
from ...training.run import RecipeLike, make_setup
from ...training.setup import Setup

# Settings of `[data]` that change what is read, not how it is cut or batched.
_READING = {"target", "task", "image_size", "skip_bad", "memory_gb"}

ModelLike = Callable[[], nn.Module] | str | None
"""A model's name, a function that makes a network, or None for the recipe's."""


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
    made: list[Setup] = []
    with memory_told():
        for layer in members:
            seed = made[0].recipe.split_seed if made else None
            cut = [] if seed is None else [{"data": {"split": seed}}]
            network = model if model is None or isinstance(model, str) else _made(model, layer)
            read_alike = not _READING & layer.get("data", {}).keys()
            like = made[0] if made and read_alike else None
            try:
                made.append(
                    make_setup(
                        network, data, recipe, settings=[*cut, *settings, layer], trust=trust, like=like
                    )
                )
            except RecipeError as error:
                raise RecipeError([f"member {len(made)}: {problem}" for problem in error.problems]) from error
    return made


def _made(model: Callable[[], nn.Module], layer: Layer) -> nn.Module:
    """A network of the caller's, whose first weights the member's seed decides."""
    with addressed(int(layer.get("seed", 0)), "model"):
        return model()
