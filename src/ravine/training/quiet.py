"""Recipes for optimizers that need full batches without noise: what nobody asked for is turned off."""

from typing import Any

from . import settings
from .recipe import Layer, Recipe, ScheduleSection

# Iterations, each over all items: many more than epochs, because a run ends by itself where it has converged.
ITERATIONS = 200
QUIET_NORMALIZATION = "layer"
# Settings of networks that can make the loss noisy.
NOISY = ("dropout", "normalization")


def is_full_batch(recipe: Recipe) -> bool:
    """Whether the recipe's optimizer works out the loss several times a step."""
    return bool(getattr(settings.part("optimizer", recipe.optimizer.name), "full_batch", False))


def allows_noise(recipe: Recipe) -> bool:
    """Whether a full-batch optimizer goes on though the loss has noise."""
    return bool(recipe.optimizer.settings.get("allow_noise", False))


def quieted(recipe: Recipe, asked: Layer, model: str, batch_size: int, items: int) -> Recipe:
    """The recipe as a full-batch optimizer needs it, as far as the person did not ask for something else.

    What they asked for stays, and is refused later where it is noise (`noise.refuse`). A step takes all
    batches: `optimizer.accumulate` is their number, and an epoch is a step. With `optimizer.allow_noise` the
    noise stays on, and a batch size that was asked for means mini-batches.

    Args:
        recipe: validated; of another optimizer it is returned as it is.
        asked: what the person chose themselves.
        model: the network's name.
        batch_size: items that a forward pass may take at once, where nothing else was asked for.
        items: of the training part (windows of a text).
    """
    if not is_full_batch(recipe):
        return recipe
    noisy = allows_noise(recipe)
    data, optimizer, stop = dict[str, Any](), dict[str, Any](allow_noise=noisy), dict[str, Any]()
    changed: dict[str, Any] = {}
    if not _asked(asked, "data", "batch_size"):
        data["batch_size"] = min(batch_size, items)
        if not _asked(asked, "optimizer", "accumulate"):
            optimizer["accumulate"] = -(-items // min(batch_size, items))
    for key in ("average", "clip_norm"):
        if not _asked(asked, "optimizer", key):
            optimizer[key] = 0.0
    if not _asked(asked, "stop", "epochs"):
        stop["epochs"] = max(1, round(ITERATIONS * recipe.stop.effort))
    if "precision" not in asked:
        changed["precision"] = "fp32"
    if not _asked(asked, "schedule", "name"):
        changed["schedule"] = ScheduleSection(name="none")
    if not noisy:
        changed["model"] = recipe.model.model_copy(update=_quiet_network(recipe, asked, model))
        if "augment" not in asked:
            changed["augment"] = ()
    return recipe.model_copy(
        update={
            "data": recipe.data.model_copy(update=data),
            "optimizer": recipe.optimizer.model_copy(update=optimizer),
            "stop": recipe.stop.model_copy(update=stop),
            **changed,
        }
    )


def turned_off(before: Recipe, after: Recipe) -> list[str]:
    """A sentence on what `quieted` changed in the network and its inputs; none where nothing was."""
    if not is_full_batch(after):
        return []
    old, new = _known(before, after.model.name), after.model.settings
    changed = [f"model.{key} = {new[key]}" for key in NOISY if key in old and old[key] != new[key]]
    if before.augment and not after.augment:
        changed.append("augment = []")
    if before.precision != after.precision:
        changed.append(f"precision = {after.precision}")
    said = f"{after.optimizer.name} needs a loss without noise, so, as nothing else was asked for: "
    return [said + ", ".join(changed)] if changed else []


def _known(recipe: Recipe, model: str) -> dict[str, Any]:
    """The settings of the network with their defaults; of one that is a user's own, nothing."""
    if not settings.is_readable("model", model):
        return {}
    return settings.defaults("model", model) | recipe.model.settings


def _quiet_network(recipe: Recipe, asked: Layer, model: str) -> dict[str, Any]:
    known = _known(recipe, model)
    quiet: dict[str, Any] = {}
    if known.get("dropout") and not _asked(asked, "model", "dropout"):
        quiet["dropout"] = 0.0
    if known.get("normalization") == "batch" and not _asked(asked, "model", "normalization"):
        quiet["normalization"] = QUIET_NORMALIZATION
    return quiet


def _asked(asked: Layer, section: str, key: str) -> bool:
    return key in asked.get(section, {})
