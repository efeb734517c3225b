"""Whether models answer the same questions about the same items, none of which any was trained on."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ...errors import RunError
from ...training.data.dataset import PartName
from ...training.feeds import context_of
from ...training.recipe import Recipe
from .parts import shared

_REMEDY = (
    "Parts are cut by data.split (the seed, unless it is set), data.validation and data.test: "
    "train with the same ones, such as data.split=0, or give data that come with a test part of their own"
)


class Candidate(NamedTuple):
    """What is known of a model before it answers anything.

    Attributes:
        name: what messages call it.
        recipe: its recipe.
        spec: its preprocessing's.
        splits: its `splits.json`.
    """

    name: str
    recipe: Recipe
    spec: Mapping[str, Any]
    splits: Mapping[str, Any]


def scored_part(candidates: Sequence[Candidate]) -> PartName:
    """The part that all can be scored on together: the test part, or where there is none the validation part.

    Raises:
        RunError: they differ in their task, classes or items, or in the items that they are scored on; one
            was trained on such items; there are none.
    """
    first, *others = candidates
    for other in others:
        _refuse_stranger(first, other)
    part: PartName = "test" if first.splits["counts"]["test"] else "validation"
    if not first.splits["counts"][part]:
        raise RunError(f"{first.name} has neither a test nor a validation part to score on")
    for other in candidates:
        _refuse_leak(first, other, part)
    return part


def has_common(candidates: Sequence[Candidate], part: PartName) -> bool:
    """Whether all have the same items as this part, and none was trained on one."""
    first = candidates[0].splits
    return bool(first["counts"][part]) and all(
        other.splits[part] == first[part] and not shared(other.splits, "train", first, part)
        for other in candidates
    )


def refuse_without_validation(steering: bool, use: str) -> None:
    """Refuse to choose by items that do not exist, or that some member was trained on.

    Args:
        steering: whether runs have a validation part in common besides the scored one.
        use: what it is needed for, as the beginning of a sentence.

    Raises:
        RunError: they have none.
    """
    if not steering:
        raise RunError(
            f"{use} a validation part, and these runs have none in common besides the part that they "
            f"are scored on. {_REMEDY}"
        )


def _refuse_stranger(first: Candidate, other: Candidate) -> None:
    """Refuse what answers other questions, or takes other items."""
    pair = f"{first.name} and {other.name}"
    for key, name in (("task", "task"), ("classes", "classes"), ("item_shape", "items' shape")):
        if first.spec[key] != other.spec[key]:
            told = f"{_told(first.spec[key])} and {_told(other.spec[key])}"
            raise RunError(f"{pair} differ in their {name}: {told}")
    if first.splits["fingerprint"] != other.splits["fingerprint"] or first.spec != other.spec:
        raise RunError(f"{pair} were trained on different data, or on data that were read differently")
    contexts = [context_of(candidate.recipe) for candidate in (first, other)]
    if first.spec["task"] == "language" and contexts[0] != contexts[1]:
        raise RunError(f"{pair} differ in model.context: {contexts[0]} and {contexts[1]} characters")


def _told(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _refuse_leak(first: Candidate, other: Candidate, part: PartName) -> None:
    """Refuse to score on items that another was trained on, or that are others for it."""
    leaked = shared(other.splits, "train", first.splits, part)
    if leaked:
        raise RunError(
            f"{other.name} was trained on {leaked:,} of the {part} items of {first.name}: "
            f"it knows their answers, and a score on them would be too good. {_REMEDY}"
        )
    if other.splits[part] != first.splits[part]:
        raise RunError(
            f"{first.name} and {other.name} have different {part} parts, so that there are "
            f"no items to score them on together. {_REMEDY}"
        )
