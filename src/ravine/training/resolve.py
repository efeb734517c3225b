"""Every `auto` of a recipe becomes a value, once the data are known: the run records what it used."""

import math
from typing import Any

from ..errors import RecipeError
from . import feeds, settings
from .data.dataset import Dataset, Kind, Splits
from .quiet import quieted
from .recipe import IMAGE_SIZES, PART_SECTIONS, Layer, Recipe

# Epochs for a training part of one item, as it were: 20 for 50,000 items.
EPOCHS, FEWEST_EPOCHS, MOST_EPOCHS = 4400, 5, 60
# Pixels of a batch: what a network keeps of each for the backward pass is what fills the memory.
MOST_PIXELS = 2**21
# Full batches go through the network in chunks of so many items, and of so many pixels (values, characters).
MOST_ITEMS, FEWEST_ITEMS, CHUNK_VALUES = 4096, 8, 2**17
SMALL_IMAGE = 12


def resolve(recipe: Recipe, dataset: Dataset, splits: Splits, asked: Layer | None = None) -> Recipe:
    """The recipe with every value concrete, each part's defaults filled in.

    Batches are 1/16 of the training part, as a power of two from 16 to 128: small sets need enough
    steps an epoch, large ones enough parallel work. Epochs fall like 1/√items, so that a small set is seen
    more often and a large one still gets more steps in all.

    Args:
        recipe: validated.
        dataset: the data.
        splits: its parts.
        asked: what the person chose themselves, of a named recipe nothing. What such data cannot have is
            refused where it was asked for, and dropped where a named recipe brought it along.

    Raises:
        RecipeError: the person asked for something that such data cannot have.
    """
    asked = asked or {}
    recipe = _usable(recipe, dataset, asked)
    items = len(splits.train)
    name = recipe.model.name
    if name == "auto":
        vectors = recipe.data.preprocess == "pca" and dataset.kind == "image"
        name = "mlp" if vectors else usual_model(dataset.kind, dataset.item_shape)
    recipe = quieted(recipe, asked, name, *_chunks(recipe, dataset, items))
    batch_size, epochs, image_size = recipe.data.batch_size, recipe.stop.epochs, recipe.data.image_size
    if batch_size == "auto":
        batch_size = min(128, max(16, 2 ** round(math.log2(max(items, 1) / 16))))
        if dataset.kind == "image":
            pixels = dataset.item_shape[-2] * dataset.item_shape[-1]
            batch_size = max(8, min(batch_size, 2 ** int(math.log2(MOST_PIXELS / pixels))))
    if epochs == "auto":
        epochs = usual_epochs(items, recipe.stop.effort)
    # Only files are brought to a size; what arrays have may be a size that nobody can ask for.
    if image_size == "auto" and dataset.options.get("reader") == "images":
        side = dataset.item_shape[-1]
        image_size = side if side in IMAGE_SIZES else "auto"
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


def _chunks(recipe: Recipe, dataset: Dataset, items: int) -> tuple[int, int]:
    """Items that a pass over everything takes at once, and items in all; of a text they are windows."""
    if dataset.kind == "text":
        context = feeds.context_of(recipe)
        chunk = max(1, CHUNK_VALUES // 16 // context)
        windows, rest = divmod(max(items - 1, 1), context)
        # What remains of the text is a batch of its own.
        return chunk, -(-windows // chunk) * chunk + bool(rest)
    values = math.prod(dataset.item_shape[-2:] if dataset.kind == "image" else dataset.item_shape)
    return max(FEWEST_ITEMS, min(MOST_ITEMS, CHUNK_VALUES // max(values, 1))), items


def usual_epochs(items: int, effort: float) -> int:
    """Epochs for a training part of so many items, times the effort."""
    usual = min(MOST_EPOCHS, max(FEWEST_EPOCHS, EPOCHS / math.sqrt(max(items, 1))))
    return max(1, round(effort * usual))


def _usable(recipe: Recipe, dataset: Dataset, asked: Layer) -> Recipe:
    """The recipe without what such data cannot have."""
    loss = asked.get("loss", {})
    problems: list[str] = []
    changed: dict[str, Any] = {}
    if recipe.augment and dataset.kind != "image":
        changed["augment"] = ()
        if asked.get("augment"):
            problems.append(f"augment: {dataset.name} has no images to change at random; leave it out")
    if recipe.loss.label_smoothing and dataset.task == "regression":
        changed["loss"] = recipe.loss.model_copy(update={"label_smoothing": 0.0})
        if loss.get("label_smoothing"):
            problems.append(
                f"loss.label_smoothing: {dataset.name} has values to predict, no classes; leave it out"
            )
    if recipe.loss.class_weights != "none" and dataset.task != "classification":
        problems.append(f"loss.class_weights: {dataset.name} has no classes to weigh; leave it out")
    if problems:
        raise RecipeError(problems)
    return recipe.model_copy(update=changed)


def _filled(recipe: Recipe, kind: str, model: str) -> Any:
    """A part's section with the part's defaults written out."""
    section = getattr(recipe, kind)
    name = model if kind == "model" else section.name
    implied = settings.defaults(kind, name) if settings.is_readable(kind, name) else {}
    return type(section).model_validate(implied | section.model_dump() | {"name": name})


def usual_model(kind: Kind, item_shape: tuple[int, ...]) -> str:
    """The name of the network that fits the data: text, images small and large, anything else."""
    if kind == "text":
        return "transformer"
    if kind == "image":
        return "cnn" if min(item_shape[1:]) <= SMALL_IMAGE else "resnet"
    return "mlp"
