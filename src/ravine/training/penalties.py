"""The penalties of a recipe on the size of weights: a term of the loss, and a bound after every step."""

from torch import nn
from torch.optim import Optimizer

from ..errors import RecipeError
from ..generalize.penalties import MaxNorm, Penalty
from ..optim.groups import param_groups
from .recipe import RegularizeSection


def put(settings: RegularizeSection, model: nn.Module, optimizer: Optimizer) -> Penalty | None:
    """Bound the weights after every step of `optimizer`, and give the term of the loss, where asked for.

    The term is of the `penalized` parameters, the bound of `generalize.penalties.unit_weights`.

    Args:
        settings: the recipe's `[regularize]`.
        model: the network; its frozen parameters are left alone.
        optimizer: steps its other parameters, and gets a hook, where there is a `max_norm`.

    Returns:
        The term l1·Σ|w| + l2·Σw²; None where both strengths are 0.

    Raises:
        RecipeError: there are no weights; or the optimizer lets none be bound, as Schedule-Free ones.
    """
    weights = list(penalized(model).values())
    problems = [
        f"regularize.{name} = {value}: the network has no weights, only biases and gains; leave it out"
        for name, value in (("l1", settings.l1), ("l2", settings.l2))
        if value and not weights
    ]
    if settings.max_norm:
        try:
            MaxNorm(optimizer, settings.max_norm, model=model)
        except ValueError as error:
            problems.append(f"regularize.max_norm = {settings.max_norm}: {error}; set regularize.max_norm=0")
    if problems:
        raise RecipeError(problems)
    if settings.l1 or settings.l2:
        return Penalty(weights, l1=settings.l1, l2=settings.l2)
    return None


def penalized(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that `l1` and `l2` are of, by name: those that are trained and that weight decay is for.

    As `optim.param_groups` has it, biases, what belongs to normalization layers, and other parameters of one
    dimension or none are left alone: their size says nothing of how much a network bends. Embeddings are
    penalized like all matrices.
    """
    return {
        name: parameter
        for group in param_groups(model, weight_decay=1.0)
        for name, parameter in group["params"]
        if group["weight_decay"] and parameter.requires_grad
    }
