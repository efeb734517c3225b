"""Which layers to train: the table of advice (T29), its entries tested on the data at hand."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ...errors import Interrupted, ModelError
from ...training.pretrained import headed
from ...training.recipe import Layer, merge, section
from ...training.run import RecipeLike
from ...training.setup import Setup
from ...training.signals import StopNow
from ...transfer.depths import levels
from ..fleet.fleet import Fleet
from .probes import Depth

How = Literal["head", "lower", "top", "all", "one rate"]

# A candidate trains for so many steps, or for all the epochs it would have, on what is left of the training
# part when this share is held out to judge it.
STEPS, HELD_OUT = 300, 0.3

# A linear classifier on frozen features is a small convex problem: L-BFGS solves it, where the steps of a
# recipe for whole networks end far from its solution. It turns off augmentation and mixed precision.
HEAD_ALONE: Layer = {
    "transfer": {"train": "head"},
    "optimizer": {"name": "lbfgs"},
    "loss": {"label_smoothing": 0.0},
    "stop": {"effort": 1.0},
}
# The same where a person wants other steps. Without augmentation the features are worked out once.
BY_STEPS: Layer = {"augment": [], "precision": "fp32"}


@dataclass(frozen=True)
class Candidate:
    """A way to train on from a pretrained network, tried for a while.

    Attributes:
        how: the head alone, on the last features or on those of the lower depth that knows most; the layers
            above that depth; or all, the pretrained ones at a lower rate or at the head's.
        train: the same, as `transfer.train` has it.
        depth: likewise, as `transfer.depth`.
        body: likewise, as `transfer.body`.
        accuracy: on held-out items.
        loss: likewise.
    """

    how: How
    train: str
    depth: str
    body: float
    accuracy: float
    loss: float


def best_below(found: Sequence[Depth]) -> Depth:
    """The depth below the last whose features tell the classes apart best."""
    return max(found[:-1] or found, key=lambda depth: depth.accuracy)


def entries(setup: Setup, found: Sequence[Depth], said: Layer, tell: Callable[[str], None]) -> list[How]:
    """The entries of the table of advice that are worth trying.

    A linear classifier on a lower depth is one of them where the probe there does better than on the last
    features, and where the network can be cut at it. What a person said of depth or rates is not tried
    against.

    Args:
        setup: of the network to start from.
        found: its probes.
        said: the settings of a person.
        tell: called with a sentence where no head can be put on that depth.
    """
    transfer = section(said, "transfer")
    lower = "depth" not in transfer and _can_be_lower(setup, found, tell)
    listed: dict[How, bool] = {
        "head": True,
        "lower": lower,
        "top": True,
        "all": True,
        "one rate": not transfer.keys() & {"body", "decay"},
    }
    return [how for how, tried in listed.items() if tried]


def _can_be_lower(setup: Setup, found: Sequence[Depth], tell: Callable[[str], None]) -> bool:
    best = best_below(found)
    if best.accuracy <= found[-1].accuracy:
        return False
    assert setup.preprocessing is not None
    try:
        headed(copy.deepcopy(setup.network), setup.preprocessing.output_shape, 1, best.name)
    except ModelError as error:
        tell(f"not tried: {error}")
        return False
    return True


def allows_lbfgs(said: Layer) -> bool:
    """Whether a head may be trained by L-BFGS, with a person's settings.

    They ask for no other optimizer and no noise, and features are worked out once for its many steps.
    """
    refused = {key for key, value in section(said, "regularize").items() if value} - {"l1", "l2"}
    return (
        "optimizer" not in said
        and not said.get("augment")
        and not refused
        and "batch_size" not in section(said, "data")
        and said.get("precision", "fp32") == "fp32"
        and section(said, "predict").get("average", "expectation") == "expectation"
    )


def settings_of(how: How, setup: Setup, found: Sequence[Depth]) -> Layer:
    """The settings of a way.

    - head: a linear classifier on the last features.
    - lower: one on the features of the depth below that tell the classes apart best.
    - top: frozen up to the depth whose features tell the classes apart best, and never all but the head.
    - all: every layer, the pretrained ones at a lower rate.
    - one rate: every layer at the head's rate, for data that are quite different.
    """
    if how == "head":
        return {**HEAD_ALONE, "regularize": {"l2": found[-1].l2}}
    if how == "all":
        return {"transfer": {"train": "all"}}
    if how == "one rate":
        return {"transfer": {"train": "all", "body": 1.0}}
    best = best_below(found)
    if how == "lower":
        cut = {"train": "head", "depth": best.name}
        return {**HEAD_ALONE, "transfer": cut, "regularize": {"l2": best.l2}}
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
    held_out = {"data": {"validation": HELD_OUT}}
    # L-BFGS ends by itself.
    short = [way if "optimizer" in way else merge([{"stop": {"epochs": epochs}}, way]) for _, way in ways]
    fleet = Fleet(None, data, short, recipe, settings=[*settings, held_out], trust=trust)
    try:
        fleet.run()
    except StopNow:
        raise Interrupted(
            fleet.signum, "stopped while the ways were tried; there is nothing to keep yet"
        ) from None
    candidates = []
    for (how, _), member in zip(ways, fleet.members, strict=True):
        row = max(member.rows, key=lambda row: -row["validation.loss"], default=None)
        accuracy, loss = (
            (0.0, float("inf")) if row is None else (row["validation.accuracy"], row["validation.loss"])
        )
        told = member.setup.recipe.transfer
        candidates.append(Candidate(how, told.train, told.depth, told.body, accuracy, loss))
    return candidates


def _above(setup: Setup, name: str) -> str:
    """The first module that runs after a depth."""
    assert setup.preprocessing is not None
    found = levels(setup.network, torch.zeros(2, *setup.preprocessing.output_shape, device=setup.device))
    names = [level.name for level in found]
    return found[names.index(name) + 1].first
