"""What makes a training loss more than a function of the weights (C23): in the recipe, and in the network."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..errors import RecipeError
from ..modes import training
from ..randomness import addressed
from .feed import Feed
from .not_finite import tensors_in
from .quiet import allows_noise
from .recipe import Recipe

# Rounding alone, of sums in another order, stays below this share of the largest output.
SAME = 1e-3
MOST_ITEMS = 64


def sources(recipe: Recipe, model: nn.Module, feed: Feed) -> list[str]:
    """Each source of noise, with how to turn it off; none where the loss is a function of the weights.

    What no name gives away is found by trying: a network is run twice on the same items, and on half of
    them. It is left as it was.

    Args:
        recipe: every value concrete.
        model: the network.
        feed: the training batches.
    """
    return [*_of_recipe(recipe, len(feed)), *_of_network(recipe, model, feed)]


def refuse(recipe: Recipe, found: list[str]) -> None:
    """Refuse what an optimizer cannot bear that needs a function of the weights and its own gradient.

    Args:
        recipe: every value concrete.
        found: the sources of noise.

    Raises:
        RecipeError: there is one, and `optimizer.allow_noise` is false; or gradients are to be clipped, or
            weights to be bound.
    """
    name, clip, limit = recipe.optimizer.name, recipe.optimizer.clip_norm, recipe.regularize.max_norm
    problems = []
    if clip:
        problems.append(
            f"optimizer.clip_norm = {clip}: a clipped gradient is not that of the loss, and the line search "
            "limits steps already; set optimizer.clip_norm=0"
        )
    if limit:
        problems.append(
            f"regularize.max_norm = {limit}: weights that are scaled back are not where the line search "
            "ended; set regularize.max_norm=0, and perhaps regularize.l2"
        )
    if found and not allows_noise(recipe):
        needs = f"optimizer.name = {name!r} needs a loss without noise: turn off what follows, or go on with "
        problems += [f"{needs}it by optimizer.allow_noise=true", *found]
    if problems:
        raise RecipeError(problems)


def _of_recipe(recipe: Recipe, batches: int) -> Iterator[str]:
    size, accumulate = recipe.data.batch_size, recipe.optimizer.accumulate
    if batches > accumulate:
        yield (
            f"data.batch_size = {size}: mini-batches, a step sees {accumulate} of {batches} batches; leave "
            f"it out, or set optimizer.accumulate={batches} for all of them"
        )
    if recipe.augment:
        yield f"augment = {list(recipe.augment)}: images are changed at random; set augment=[]"
    for kind, rate in recipe.regularize.noise.items():
        if rate:
            yield f"regularize.{kind} = {rate}: noise in every pass; set regularize.{kind}=0"
    if recipe.precision != "fp32":
        yield f"precision = {recipe.precision!r}: its rounding hides small differences; set precision=fp32"


def _of_network(recipe: Recipe, model: nn.Module, feed: Feed) -> Iterator[str]:
    settings = recipe.model.settings
    with training(model):  # a frozen layer is not noisy
        active = [(name, module) for name, module in model.named_modules() if module.training]
    dropping = [
        name for name, module in active if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
    ]
    if dropping and settings.get("dropout"):
        yield f"model.dropout = {settings['dropout']}: units are dropped at random; set model.dropout=0"
    elif dropping:
        yield f"dropout in {_listed(dropping)}: units are dropped at random; set its p to 0"
    normalizing = [name for name, module in active if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    mixing = "batch normalization makes an item's output depend on the others of its batch"
    if normalizing and settings.get("normalization") == "batch":
        yield f"model.normalization = 'batch': {mixing}; set model.normalization=layer"
    elif normalizing:
        yield f"batch normalization in {_listed(normalizing)}: {mixing}; use layer or group normalization"
    told = dropping or any(recipe.regularize.noise.values())
    with training(model):
        yield from _tried(model, feed, random=not told, mixes=not normalizing)


def _tried(model: nn.Module, feed: Feed, *, random: bool, mixes: bool) -> Iterator[str]:
    """What two passes over the same items, and one over half of them, tell where nothing was found before."""
    with addressed(0, "noise sources"):
        inputs, _ = next(iter(feed.epoch(0)))
    inputs = inputs[:MOST_ITEMS]
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    # Not their values: what a power iteration writes again and again may have converged here.
    written = {name: buffer._version for name, buffer in model.named_buffers()}
    try:
        draws = _draws(model, inputs) or not _alike(*(_outputs(model, inputs, n) for n in (0, 1)))
        if random and draws:
            yield (
                "the network draws at random: two passes over the same items differ, as with stochastic "
                "depth; turn that off in its code"
            )
        elif mixes and any(buffer._version != written[name] for name, buffer in model.named_buffers()):
            yield (
                "the network changes its buffers in each pass, as spectral normalization does, so that the "
                "next one differs; turn that off in its code"
            )
        elif random and mixes and len(inputs) > 1:
            half = inputs[: len(inputs) // 2]
            if not _alike(_outputs(model, half, 0), _outputs(model, inputs, 0)[: len(half)]):
                yield (
                    "the network mixes items: an item's output depends on the others of its batch; turn that "
                    "off in its code"
                )
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(kept[name])


def _draws(model: nn.Module, inputs: Tensor) -> bool:
    """Whether a pass takes numbers from torch's random streams; what it does with them may seldom be seen."""
    with addressed(0, "noise sources"), torch.no_grad():
        before = _streams(inputs)
        model(inputs)
        return not all(map(torch.equal, before, _streams(inputs)))


def _streams(inputs: Tensor) -> list[Tensor]:
    found = [torch.get_rng_state()]
    if inputs.is_cuda:
        found.append(torch.cuda.get_rng_state(inputs.device))
    return found


def _outputs(model: nn.Module, inputs: Tensor, draw: int) -> Tensor:
    with addressed(draw, "noise sources"), torch.no_grad():
        return next(tensors_in(model(inputs))).float()


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether they differ by rounding alone; what is not finite is told when training begins."""
    difference = (one - other).abs().max()
    return not bool(difference > SAME * one.abs().max())


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0] or 'the model'!r}{more}"
