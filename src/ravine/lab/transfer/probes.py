"""How much each depth of a pretrained network knows of some data (T29), before anything is trained."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ...randomness import generator
from ...training import feeds
from ...training.setup import Setup
from ...transfer.depths import depths
from ...transfer.features import feature_similarity, features, linear_probe

# Items that are looked at, at most: what is asked is which depth, not the last tenth of a per cent.
MOST = 2000
# Where there are few items, each is judged by a probe that was fitted to the others.
FEW, FOLDS = 1000, 5
HELD_OUT = 0.3


@dataclass(frozen=True)
class Depth:
    """What the features of one depth are worth.

    Attributes:
        name: of the module that gives them.
        accuracy: of a linear classifier on them, on items it was not fitted to.
        similarity: of the features and the classes: linear CKA, from 0 to 1.
    """

    name: str
    accuracy: float
    similarity: float


def probe(setup: Setup) -> list[Depth]:
    """Probe every depth of the network that training would start from, on the training part alone.

    Args:
        setup: of a classification of images; its network is left as it was.

    Raises:
        ModelError: there is one training image alone.
    """
    assert setup.dataset is not None and setup.splits is not None and setup.preprocessing is not None
    positions = setup.splits.train
    drawn = torch.randperm(len(positions), generator=generator(setup.recipe.seed, "probe"))
    positions = positions[drawn[:MOST].sort().values]
    feed = feeds.judged(setup.recipe, setup.dataset, positions, setup.preprocessing, setup.device)
    names = depths(setup.network, next(iter(feed.epoch(0)))[0][:2])
    found = features(setup.network, (inputs for inputs, _ in feed.epoch(0)), names)
    targets = setup.dataset.targets[positions]
    classes = functional.one_hot(targets).float()
    return [
        Depth(name, _accuracy(own, targets, setup.recipe.seed), feature_similarity(own, classes))
        for name, own in zip(names, found, strict=True)
    ]


def _accuracy(own: Tensor, targets: Tensor, seed: int) -> float:
    """Of probes on items they were not fitted to."""
    count = len(targets)
    order = torch.randperm(count, generator=generator(seed, "folds"))
    folds = order.tensor_split(min(FOLDS, count)) if count < FEW else (order[: round(HELD_OUT * count)],)
    right = judged = 0.0
    for fold in folds:
        rest = torch.ones(count, dtype=torch.bool)
        rest[fold] = False
        found = linear_probe(own[rest], targets[rest], own[fold], targets[fold])
        right += found.accuracy * len(fold)
        judged += len(fold)
    return right / judged
