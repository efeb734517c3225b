"""A run's data once more, ready for its network: for what its kept predictions do not tell."""

import torch

from ...training import feeds, run
from ...training.data.dataset import PartName
from ...training.feed import Feed
from .members import Opened


def feeds_of(member: Opened) -> dict[PartName, Feed]:
    """The batches of each part, on the CPU, as they were in training.

    Raises:
        RunError: the data are not known, or have changed.
        DataError: they cannot be used any more.
    """
    dataset, parts = run.read_again(member.folder)
    return feeds.make(member.recipe, dataset, parts, member.predictor.preprocessing, torch.device("cpu"))
