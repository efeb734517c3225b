"""A run's data once more, ready for its network: for what its kept predictions do not tell."""

import torch

from ...errors import RunError
from ...training import feeds, run
from ...training.data.dataset import PartName
from ...training.data.splits import to_json
from ...training.feed import Feed
from .members import Opened


def feeds_of(member: Opened) -> dict[PartName, Feed]:
    """The batches of each part, on the CPU, as they were in training.

    Raises:
        RunError: the data are not known, or have changed.
        DataError: they cannot be used any more.
    """
    folder, splits = member.folder, member.splits
    source = folder.read_json("environment.json")["data"]
    if source is None:
        raise RunError(f"{folder.path} was trained on what a program gave it: its data cannot be read again")
    dataset, parts = run.read(source, folder.path / "recipe.toml")
    now = {"fingerprint": dataset.fingerprint, **to_json(dataset, parts)}
    if any(now[key] != splits[key] for key in ("fingerprint", "validation", "test")):
        raise RunError(
            f"the data at {source} have changed since {folder.path} was trained; bring the old ones back"
        )
    return feeds.make(member.recipe, dataset, parts, member.predictor.preprocessing, torch.device("cpu"))
