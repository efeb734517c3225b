"""The features of a frozen body, worked out once: training the head takes no more than the head does."""

from collections.abc import Collection, Iterator

import torch
from torch import Tensor, nn

from ..transfer.features import inputs_of
from . import feeds
from .data.batches import TensorBatches
from .data.dataset import Dataset, PartName, Splits
from .feed import Feed
from .preprocessing import Preprocessing
from .recipe import Recipe


def can_be_cached(recipe: Recipe, dataset: Dataset) -> bool:
    """Whether every epoch and every prediction sees the same features of an item."""
    noise = any(recipe.regularize.noise.values())
    alike = not recipe.augment and not noise and recipe.predict.average == "expectation"
    return recipe.transfer.cache and dataset.kind == "image" and alike


def cached(
    recipe: Recipe,
    dataset: Dataset,
    splits: Splits,
    preprocessing: Preprocessing,
    model: nn.Module,
    head: str,
    parts: Collection[PartName],
) -> tuple[dict[PartName, Feed], Feed]:
    """What the head takes in place of the items.

    Args:
        recipe: of the run.
        dataset: the data.
        splits: its parts.
        preprocessing: of the items.
        model: the whole network, on its device, all but its head frozen.
        head: the head's name.
        parts: that there are.

    Returns:
        batches of features for each part; and those of the training part as it is judged.
    """
    device = next(model.parameters()).device
    size = feeds.batch_size(recipe, "judged")
    judged: dict[PartName, TensorBatches] = {}
    for part in parts:
        positions = splits.of(part)
        items = feeds.judged(recipe, dataset, positions, preprocessing, device)
        targets: list[Tensor] = []
        # In float32 whatever the precision of training is: the final scores are taken on them, too.
        found = inputs_of(model, _inputs(items, targets), head)
        judged[part] = TensorBatches(found, torch.cat(targets), size, recipe.seed, False, positions)
    clean = judged["train"]
    inputs, answers, numbers = clean.inputs, clean.targets, clean.numbers
    if recipe.data.bootstrap:
        chosen = feeds.drawn(recipe, torch.arange(len(numbers)))
        inputs, answers, numbers = (each[chosen.to(each.device)] for each in (inputs, answers, numbers))
    use = feeds.training_use(recipe)
    size = feeds.batch_size(recipe, use)
    train = TensorBatches(inputs, answers, size, recipe.seed, use == "shuffled", numbers)
    made = {part: Feed(batches, device) for part, batches in {**judged, "train": train}.items()}
    return made, Feed(clean, device)


def _inputs(feed: Feed, targets: list[Tensor]) -> Iterator[Tensor]:
    for inputs, answers in feed.epoch(0):
        targets.append(answers)
        yield inputs
