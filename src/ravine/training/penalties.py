"""The penalties of a recipe on the size of weights: a term of the loss, and a bound after every step."""

from collections.abc import Sequence

from torch import Tensor
from torch.optim import Optimizer

from ..errors import RecipeError
from ..generalize.penalties import MaxNorm, Penalty
from .recipe import PENALTIES, RegularizeSection


def put(settings: RegularizeSection, trained: Sequence[Tensor], optimizer: Optimizer) -> Penalty | None:
    """Bound the weights after every step of `optimizer`, and give the term of the loss, where asked for.

    Weights are the parameters of two dimensions or more. Biases and gains are left alone: their size says
    nothing of how much a network bends.

    Args:
        settings: the recipe's `[regularize]`.
        trained: the parameters that the optimizer steps.
        optimizer: gets a hook, where there is a `max_norm`.

    Returns:
        The term l1·Σ|w| + l2·Σw²; None where both strengths are 0.

    Raises:
        RecipeError: there are no weights; or the optimizer lets none be bound, as Schedule-Free ones.
    """
    asked = {name: value for name in PENALTIES if (value := getattr(settings, name))}
    weights = [parameter for parameter in trained if parameter.dim() > 1]
    if not weights:
        problems = [
            f"regularize.{name} = {value}: the network has no weights" for name, value in asked.items()
        ]
        if problems:
            raise RecipeError([f"{problem}, only biases and gains; leave it out" for problem in problems])
    if settings.max_norm:
        try:
            MaxNorm(optimizer, settings.max_norm)
        except ValueError as error:
            raise RecipeError(
                [f"regularize.max_norm = {settings.max_norm}: {error}; set regularize.max_norm=0"]
            ) from error
    if settings.l1 or settings.l2:
        return Penalty(weights, l1=settings.l1, l2=settings.l2)
    return None
