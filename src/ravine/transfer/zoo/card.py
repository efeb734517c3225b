"""What is known of a pretrained network: enough to build it, to feed it, and to say where it is from."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from torch import nn

from ...errors import ModelError

HUBS = ("hf", "timm", "torchvision")


@dataclass(frozen=True, kw_only=True)
class Card:
    """A pretrained network, as JSON has it; what is not known is empty.

    Attributes:
        name: in the zoo.
        architecture: a network of `ravine.models`, or the hub it is from.
        settings: of the architecture; of a hub's, what its library builds it from.
        kind: what it takes.
        shape: of one prepared item: (channels, height, width) it was trained at; () for text.
        mean: of each channel's pixels, scaled to [0, 1]; empty for text.
        std: their standard deviations.
        outputs: of the head.
        classes: their names; for text the characters of the vocabulary.
        data: what it was trained on.
        licence: of the weights.
        source: where they are from.
        score: what it reached, and on what.
        recipe: how to train it again.
        sha256: of the file with the weights.
    """

    name: str
    architecture: str
    settings: dict[str, Any] = field(default_factory=dict)
    kind: Literal["image", "text"] = "image"
    shape: tuple[int, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    outputs: int
    classes: tuple[str, ...] = ()
    data: str = ""
    licence: str = ""
    source: str = ""
    score: str = ""
    recipe: str = ""
    sha256: str = ""

    def to_json(self) -> dict[str, Any]:
        """The record that `from_json` reads."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, record: Mapping[str, Any], where: str) -> "Card":
        """The card of a record; `where` is what messages call it.

        Raises:
            ModelError: keys are missing or unknown, or values are of another type, number or size than theirs
                must be: each is told.
        """
        if not isinstance(record, Mapping):
            raise ModelError(f"{where} is no card of a pretrained network")
        known = {entry.name for entry in fields(cls)}
        missing = {"name", "architecture", "shape", "outputs"} - record.keys()
        if missing or not record.keys() <= known:
            told = [f"lacks {name}" for name in sorted(missing)]
            told += [f"has an unknown {name!r}" for name in sorted(record.keys() - known)]
            raise ModelError(f"{where} is no card of a pretrained network: it {', '.join(told)}")
        try:
            # As JSON, whose lists may be tuples: strict Python values may not.
            card = _adapter().validate_json(json.dumps(dict(record)), strict=True)
        except ValidationError as error:
            told = [f"{item['loc'][0]}: {item['msg'][0].lower()}{item['msg'][1:]}" for item in error.errors()]
            raise ModelError(f"{where} is damaged: {'; '.join(dict.fromkeys(told))}") from error
        if told := _mistakes(card):
            raise ModelError(f"{where} is damaged: {'; '.join(told)}")
        return card


@cache
def _adapter() -> TypeAdapter[Card]:
    return TypeAdapter(Card)


def _mistakes(card: Card) -> list[str]:
    """What values of the right types cannot be together."""
    told = []
    if card.outputs < 1:
        told.append(f"outputs: {card.outputs} is less than 1")
    if card.classes and len(card.classes) != card.outputs:
        told.append(f"classes: {len(card.classes)} names for {card.outputs} outputs")
    if card.kind == "text":
        return told + (["shape: that of text is empty"] if card.shape else [])
    if len(card.shape) != 3 or min(card.shape) < 1:
        return [*told, "shape: that of images is (channels, height, width), each at least 1"]
    for name, values in (("mean", card.mean), ("std", card.std)):
        if len(values) != card.shape[0]:
            told.append(f"{name}: {len(values)} values for {card.shape[0]} channels")
    if not all(map(math.isfinite, card.mean)):
        told.append("mean: its values must be finite")
    if not all(0 < value < math.inf for value in card.std):
        told.append("std: its values must be finite and greater than 0")
    return told


@dataclass
class Pretrained:
    """A network that was trained before.

    Attributes:
        card: what is known of it.
        module: takes prepared items (N, *shape), gives (N, outputs), or (N, T, outputs) for text; in
            evaluation mode, with its own head.
    """

    card: Card
    module: nn.Module
