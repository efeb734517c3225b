"""How much each depth of a pretrained network knows of some data (T29), before anything is trained."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ...randomness import generator
from ...training import feeds
from ...training.setup import Setup
from ...transfer.depths import depths
from ...transfer.features import (
    STRENGTHS,
    Probe,
    feature_scale,
    feature_similarity,
    features,
    linear_probes,
)

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
        l2: of the penalty with which that classifier does best, as `regularize.l2` for the training part.
    """

    name: str
    accuracy: float
    similarity: float
    l2: float


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
    depths_found = []
    for name, own in zip(names, found, strict=True):
        best, fitted = _best(own, targets, setup.recipe.seed)
        # The penalty of a mean loss is a prior, of which each item takes its share; and λ·Σw², not λ·Σw²/2.
        strength = best.strength * fitted / len(setup.splits.train)
        l2 = 0.5 * strength * feature_scale(own) ** 2
        depths_found.append(Depth(name, best.accuracy, feature_similarity(own, classes), l2))
    return depths_found


def _best(own: Tensor, targets: Tensor, seed: int) -> tuple[Probe, float]:
    """The probe with the least loss on items it was not fitted to, and how many it was fitted to."""
    count = len(targets)
    order = torch.randperm(count, generator=generator(seed, "folds"))
    folds = order.tensor_split(min(FOLDS, count)) if count < FEW else (order[: round(HELD_OUT * count)],)
    judged = sum(map(len, folds))
    summed = torch.zeros(len(STRENGTHS), 2, dtype=torch.float64)
    for fold in folds:
        rest = torch.ones(count, dtype=torch.bool)
        rest[fold] = False
        found = linear_probes(own[rest], targets[rest], own[fold], targets[fold])
        summed += torch.tensor([[each.accuracy, each.loss] for each in found]) * len(fold)
    accuracies, losses = (summed / judged).T.tolist()
    best = losses.index(min(losses))
    return Probe(accuracies[best], losses[best], STRENGTHS[best]), count - judged / len(folds)
