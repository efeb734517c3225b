"""What is known of a pretrained network: enough to build it, to feed it, and to say where it is from."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

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
            ModelError: keys are missing or unknown.
        """
        if not isinstance(record, Mapping):
            raise ModelError(f"{where} is no card of a pretrained network")
        known = {entry.name for entry in fields(cls)}
        missing = {"name", "architecture", "shape", "outputs"} - record.keys()
        if missing or not record.keys() <= known:
            told = [f"lacks {name}" for name in sorted(missing)]
            told += [f"has an unknown {name!r}" for name in sorted(record.keys() - known)]
            raise ModelError(f"{where} is no card of a pretrained network: it {', '.join(told)}")
        lists = {name: tuple(value) for name, value in record.items() if isinstance(value, list)}
        return cls(**{**record, **lists})


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
