"""Where pretrained networks are kept: those that come with Ravine, and a person's own.

Each is a folder with `card.json`, `weights.safetensors` and, if it is known, the recipe that trained it.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from ... import files
from ...errors import ModelError, RunError, nearest
from .card import HUBS, Card
from .weights import checksum

CARD, WEIGHTS, RECIPE = "card.json", "weights.safetensors", "recipe.toml"


def own_folder() -> Path:
    """Where a person's networks are: `$RAVINE_ZOO`, or `ravine/zoo` in the cache folder."""
    if chosen := os.environ.get("RAVINE_ZOO"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ravine" / "zoo"


def shelves() -> list[Path]:
    """The folders of all networks: Ravine's own first."""
    places = [Path(str(resources.files(__package__))) / "own", own_folder()]
    # What begins with a dot is a draft that a kill left.
    return [path.parent for place in places for path in sorted(place.glob(f"[!.]*/{CARD}"))]


def card_of(folder: Path) -> Card:
    """The card of a network's folder.

    Raises:
        ModelError: it is missing or damaged.
    """
    path = folder / CARD
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    return Card.from_json(record, str(path))


def find(name: str) -> Path:
    """The folder of a network.

    Raises:
        ModelError: there is none of that name; the message has the nearest.
    """
    known = {folder.name: folder for folder in shelves()}
    if name not in known:
        hint = nearest(name, known) or f"; there are {', '.join(known) or 'none'}"
        raise ModelError(
            f"there is no pretrained network {name!r}{hint}. A file of weights, a run folder or "
            f"{', '.join(f'{hub}:NAME' for hub in HUBS)} will do, too"
        )
    return known[name]


def weights_of(folder: Path, card: Card) -> Path:
    """The file with a network's weights, which is the one of its card.

    Raises:
        ModelError: it is missing, or was altered.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise ModelError(f"{path} is missing")
    if checksum(path) != card.sha256:
        raise ModelError(f"{path} was altered or cut off: it is not the file whose checksum its card has")
    return path


def put(card: Card, weights: Mapping[str, Tensor], recipe: str = "") -> Path:
    """Keep a network among a person's own, whole or not at all.

    Args:
        card: its `sha256` is filled in.
        weights: of the network that the card builds.
        recipe: that trained it, as TOML.

    Returns:
        its folder.

    Raises:
        ModelError: the name is taken, or no name for a folder.
        RunError: the disk is full, or the place cannot be written.
    """
    # No dot and no colon: files and networks of hubs are told by theirs.
    if not re.fullmatch(r"[\w-]+", card.name):
        raise ModelError(f"{card.name!r} is no name for a network: use letters, digits, - and _")
    if card.name in {folder.name for folder in shelves()}:
        raise ModelError(f"there is a network {card.name!r} already; give another name")
    place = own_folder() / card.name
    draft = place.with_name(f".{card.name}.{os.getpid()}")
    try:
        draft.mkdir(parents=True)
        files.write_bytes(draft / WEIGHTS, save({name: t.contiguous() for name, t in weights.items()}))
        if recipe:
            files.write_bytes(draft / RECIPE, recipe.encode())
        record = {**card.to_json(), "sha256": checksum(draft / WEIGHTS)}
        files.write_json(draft / CARD, record)
        draft.replace(place)
    except OSError as error:
        raise RunError(f"cannot write {place}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return place
