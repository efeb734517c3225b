"""Some training images and what augmentation makes of them, for a person to check."""

import torch
from torch import Tensor

from .setup import Setup

IMAGES, EPOCHS = 6, 6


def sheet(setup: Setup) -> dict[str, Tensor]:
    """Images of the training part, as they are and as the first epochs change them.

    The images are the first of as many classes as there are, at most 6; without classes the first 6. What
    epoch e shows is drawn by the same addresses as in the training itself, so that training sees the same
    pictures, but for mixes: these have the same shares, and their partners from the sheet in place of the
    batch.

    Returns:
        "augmented.images": bytes (R, 1 + E, C, H, W), each image itself and its changed copies of E epochs;
        "augmented.targets": int64 (R,), class numbers, where there are classes. Nothing where nothing is
        augmented.
    """
    feed, dataset, splits = setup.feeds["train"], setup.dataset, setup.splits
    if not feed.augments or dataset is None or splits is None:
        return {}
    classes = dataset.targets if dataset.task == "classification" else None
    items = _chosen(splits.train, classes)
    raw, targets = dataset.fetch(items), dataset.targets[items]
    seen = [feed.augmented(raw, targets, epoch, items)[0] for epoch in range(EPOCHS)]
    images = torch.stack([raw, *(each.round().to(torch.uint8) for each in seen)], 1)
    kept = {"augmented.images": images}
    return kept if classes is None else kept | {"augmented.targets": targets}


def _chosen(items: Tensor, targets: Tensor | None) -> Tensor:
    """The first item of each of the first few classes, or the first few items."""
    if targets is None:
        return items[:IMAGES]
    answers = targets[items]
    first = [int((answers == answer).nonzero()[0]) for answer in answers.unique()[:IMAGES]]
    return items[first]
