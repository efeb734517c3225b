"""Which layers to train: the table of advice (T29), its entries tested on the data at hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ...errors import Interrupted
from ...training.recipe import Layer
from ...training.run import RecipeLike
from ...training.setup import Setup
from ...training.signals import StopNow
from ...transfer.depths import levels
from ..fleet.fleet import Fleet
from .probes import Depth

How = Literal["head", "top", "all"]

# A candidate trains for so many steps, or for all the epochs it would have, on what is left of the training
# part when this share is held out to judge it.
STEPS, HELD_OUT = 300, 0.3

# A linear classifier on frozen features, whose images are not augmented, so that they are worked out once: in
# float32, as they are.
HEAD_ALONE: Layer = {"transfer": {"train": "head"}, "augment": [], "precision": "fp32"}


@dataclass(frozen=True)
class Candidate:
    """A way to train on from a pretrained network, tried for a while.

    Attributes:
        how: the head alone, the layers above the depth that knows most, or all.
        train: the same, as `transfer.train` has it.
        accuracy: on held-out items.
        loss: likewise.
    """

    how: How
    train: str
    accuracy: float
    loss: float


def settings_of(how: How, setup: Setup, found: Sequence[Depth]) -> Layer:
    """The settings of a way.

    - head: a linear classifier on the last features.
    - top: frozen up to the depth whose features tell the classes apart best, and never all but the head.
    - all: every layer, the pretrained ones at a lower rate.
    """
    if how == "head":
        return HEAD_ALONE
    if how == "all":
        return {"transfer": {"train": "all"}}
    best = max(found[:-1] or found, key=lambda depth: depth.accuracy)
    assert setup.preprocessing is not None
    return {"transfer": {"train": _above(setup, best.name)}}


def epochs_of(setup: Setup) -> int:
    """How long a candidate is tried."""
    whole = setup.recipe.stop.epochs
    assert isinstance(whole, int)
    return min(whole, -(-STEPS // setup.steps_per_epoch))


def test(
    ways: Sequence[tuple[How, Layer]],
    data: Any,
    recipe: RecipeLike,
    settings: Sequence[Layer],
    epochs: int,
    *,
    trust: bool,
) -> list[Candidate]:
    """Train each way for a while, side by side, and judge it on held-out items.

    Those are of the training part, or the validation part where the data come with one.

    Args:
        ways: each with its settings.
        data: as for `ravine.train`.
        recipe: likewise.
        settings: of all, the network to start from among them.
        epochs: to train each for.
        trust: as for `ravine.train`.

    Raises:
        Interrupted: SIGINT or SIGTERM came.
    """
    short = {"stop": {"epochs": epochs}, "data": {"validation": HELD_OUT}}
    fleet = Fleet(None, data, [way for _, way in ways], recipe, settings=[*settings, short], trust=trust)
    try:
        fleet.run()
    except StopNow:
        raise Interrupted(
            fleet.signum, "stopped while the ways were tried; there is nothing to keep yet"
        ) from None
    candidates = []
    for (how, way), member in zip(ways, fleet.members, strict=True):
        row = max(member.rows, key=lambda row: -row["validation.loss"], default=None)
        accuracy, loss = (
            (0.0, float("inf")) if row is None else (row["validation.accuracy"], row["validation.loss"])
        )
        candidates.append(Candidate(how, way["transfer"]["train"], accuracy, loss))
    return candidates


def _above(setup: Setup, name: str) -> str:
    """The first module that runs after a depth."""
    assert setup.preprocessing is not None
    found = levels(setup.network, torch.zeros(2, *setup.preprocessing.output_shape, device=setup.device))
    names = [level.name for level in found]
    return found[names.index(name) + 1].first
