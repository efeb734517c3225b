"""The batches of each part of a data set, by how the data are kept."""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from ..randomness import generator
from .augment import Augmentation, made
from .data.batches import StreamBatches, TensorBatches, TextBatches
from .data.dataset import Dataset, PartName, Splits
from .feed import Feed
from .preprocessing import Preprocessing
from .preprocessing_statistics import TrainingPart
from .quiet import allows_noise, is_full_batch
from .recipe import Recipe

EVALUATION_BATCH = 512
# Characters a window, for a language model that has no setting of that name.
CONTEXT = 128
# Items of the training part that its own final score is taken on, at most.
SAMPLE = 20_000

Use = Literal["shuffled", "whole", "judged"]
"""Training in random order, augmented; training by all items at once; or scoring, in larger batches."""


def make(
    recipe: Recipe, dataset: Dataset, splits: Splits, preprocessing: Preprocessing, device: torch.device
) -> dict[PartName, Feed]:
    """Batches of every part that has items, ready for the model."""
    parts: tuple[PartName, ...] = ("train", "validation", "test")
    maker = _maker(dataset)
    return {
        part: maker(
            recipe,
            dataset,
            drawn(recipe, splits.train) if part == "train" else splits.of(part),
            preprocessing,
            device,
            training_use(recipe) if part == "train" else "judged",
        )
        for part in parts
        if len(splits.of(part))
    }


def training_use(recipe: Recipe) -> Use:
    """How the training part is gone through."""
    return "whole" if is_full_batch(recipe) and not allows_noise(recipe) else "shuffled"


def drawn(recipe: Recipe, positions: Tensor) -> Tensor:
    """What is trained on: every item once, or a bootstrap sample (Breiman 1996)."""
    if not recipe.data.bootstrap:
        return positions
    count = len(positions)
    return positions[torch.randint(count, (count,), generator=generator(recipe.seed, "bootstrap sample"))]


def reseeded(parts: Mapping[PartName, Feed], seed: int) -> dict[PartName, Feed]:
    """The same batches for a run of another seed; the items themselves are shared."""
    return {part: feed.reseeded(seed) for part, feed in parts.items()}


def context_of(recipe: Recipe) -> int:
    """Characters a window of text."""
    return int(recipe.model.settings.get("context", CONTEXT))


def judged(
    recipe: Recipe, dataset: Dataset, positions: Tensor, preprocessing: Preprocessing, device: torch.device
) -> Feed:
    """Items as they are judged: in their order, not augmented."""
    return _maker(dataset)(recipe, dataset, positions, preprocessing, device, "judged")


def clean_train(
    recipe: Recipe, dataset: Dataset, splits: Splits, preprocessing: Preprocessing, device: torch.device
) -> Feed:
    """The training part as it is judged: not augmented, and of a very large one an addressed sample."""
    positions = splits.train
    most = SAMPLE if isinstance(dataset.inputs, Tensor) else SAMPLE // 10
    if len(positions) > most and dataset.kind == "text":
        positions = positions[:most]
    elif len(positions) > most:
        draw = torch.randperm(len(positions), generator=generator(recipe.seed, "train sample"))
        positions = positions[draw[:most].sort().values]
    return judged(recipe, dataset, positions, preprocessing, device)


def _maker(dataset: Dataset) -> "FeedMaker":
    if dataset.kind == "text":
        return _text_feed
    return _tensor_feed if isinstance(dataset.inputs, Tensor) else _stream_feed


FeedMaker = Callable[[Recipe, Dataset, Tensor, Preprocessing, torch.device, Use], Feed]


def _text_feed(
    recipe: Recipe,
    dataset: Dataset,
    positions: Tensor,
    _: Preprocessing,
    device: torch.device,
    use: Use,
) -> Feed:
    batches = TextBatches(
        dataset.fetch(positions),
        context_of(recipe),
        batch_size(recipe, use),
        recipe.seed,
        shuffle=use == "shuffled",
    )
    return Feed(batches, device)


def _stream_feed(
    recipe: Recipe,
    dataset: Dataset,
    positions: Tensor,
    preprocessing: Preprocessing,
    device: torch.device,
    use: Use,
) -> Feed:
    batches = StreamBatches(
        dataset,
        positions,
        min(batch_size(recipe, use), batch_size(recipe, "shuffled")),
        recipe.seed,
        shuffle=use == "shuffled",
        workers=None if recipe.data.workers == "auto" else recipe.data.workers,
    )
    change, mix = _augmentation(recipe, dataset, positions, use)
    return Feed(batches, device, preprocessing, change, recipe.seed, mix)


def _tensor_feed(
    recipe: Recipe,
    dataset: Dataset,
    positions: Tensor,
    preprocessing: Preprocessing,
    device: torch.device,
    use: Use,
) -> Feed:
    """Whole tensors on the device; preprocessed once, unless each epoch changes them first."""
    inputs = dataset.fetch(positions).to(device)
    targets = dataset.targets[positions]
    if dataset.task == "regression":
        targets = preprocessing.scale_targets(targets)
    change, mix = _augmentation(recipe, dataset, positions, use)
    once = change is None and mix is None and inputs.numel() * 4 <= recipe.data.memory_gb * 2**30
    if once:
        with torch.inference_mode():
            inputs = torch.cat([preprocessing(chunk) for chunk in inputs.split(4096)])
        inputs = inputs.clone()  # an inference tensor may not take part in a backward pass
    batches = TensorBatches(
        inputs, targets.to(device), batch_size(recipe, use), recipe.seed, use == "shuffled", positions
    )
    return Feed(batches, device, None if once else preprocessing, change, recipe.seed, mix)


def _augmentation(recipe: Recipe, dataset: Dataset, positions: Tensor, use: Use) -> Augmentation:
    if use != "shuffled" or dataset.kind != "image" or not recipe.augment:
        return Augmentation(None, None)
    return made(recipe.augment, TrainingPart.of(dataset, positions, recipe.seed))


def batch_size(recipe: Recipe, use: Use) -> int:
    """Items a batch."""
    assert isinstance(recipe.data.batch_size, int)
    return max(EVALUATION_BATCH, recipe.data.batch_size) if use == "judged" else recipe.data.batch_size
