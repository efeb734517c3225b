"""Every `auto` of a recipe becomes a value, once the data are known: the run records what it used."""

import math
from typing import Any

from . import models, settings
from .data.dataset import Dataset, Splits
from .recipe import PART_SECTIONS, Recipe

# Epochs for a training part of one item, as it were: 20 for 50,000 items.
EPOCHS, FEWEST_EPOCHS, MOST_EPOCHS = 4400, 5, 60
# Pixels of a batch: what a network keeps of each for the backward pass is what fills the memory.
MOST_PIXELS = 2**21


def resolve(recipe: Recipe, dataset: Dataset, splits: Splits) -> Recipe:
    """The recipe with every value concrete, each part's defaults filled in.

    Batches are 1/16 of the training part, as a power of two from 16 to 128: small sets need enough
    steps an epoch, large ones enough parallel work. Epochs fall like 1/√items, so that a small set is seen
    more often and a large one still gets more steps in all.
    """
    items = len(splits.train)
    name = recipe.model.name
    if name == "auto":
        name = models.auto(dataset.kind, dataset.item_shape)
    batch_size, epochs, image_size = recipe.data.batch_size, recipe.stop.epochs, recipe.data.image_size
    if batch_size == "auto":
        batch_size = min(128, max(16, 2 ** round(math.log2(max(items, 1) / 16))))
        if dataset.kind == "image":
            pixels = dataset.item_shape[-2] * dataset.item_shape[-1]
            batch_size = max(8, min(batch_size, 2 ** int(math.log2(MOST_PIXELS / pixels))))
    if epochs == "auto":
        usual = min(MOST_EPOCHS, max(FEWEST_EPOCHS, EPOCHS / math.sqrt(max(items, 1))))
        epochs = max(1, round(recipe.stop.effort * usual))
    if image_size == "auto" and dataset.kind == "image":
        image_size = dataset.item_shape[-1]
    task = "auto" if dataset.task == "language" else dataset.task
    return recipe.model_copy(
        update={
            "data": recipe.data.model_copy(
                update={"batch_size": batch_size, "image_size": image_size, "task": task}
            ),
            "stop": recipe.stop.model_copy(update={"epochs": epochs}),
            **{kind: _filled(recipe, kind, name) for kind in PART_SECTIONS},
        }
    )


def _filled(recipe: Recipe, kind: str, model: str) -> Any:
    """A part's section with the part's defaults written out."""
    section = getattr(recipe, kind)
    name = model if kind == "model" else section.name
    implied = settings.defaults(kind, name) if settings.is_registered(kind, name) else {}
    return type(section).model_validate(implied | section.model_dump() | {"name": name})
