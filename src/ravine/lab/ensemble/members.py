"""The runs that are to go together: opened, named by what differs, and refused where they do not fit."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import RunError
from ...training.data.dataset import PartName, Task
from ...training.feeds import context_of
from ...training.load import load_predictor
from ...training.predict import Predictor
from ...training.recipe import Layer, Recipe, file_layer, validate
from ...training.run_folder import RunFolder
from ...training.settings import GIVEN
from .parts import shared

# Differences that a name holds at most; above it the folder's name says as much.
_DIFFERENCES = 3


@dataclass(frozen=True)
class Opened:
    """A run that is to be a member.

    Attributes:
        folder: its folder.
        name: what people read.
        recipe: its recipe.
        predictor: the whole way from raw items to answers.
        result: its `result.json`.
        splits: its `splits.json`.
    """

    folder: RunFolder
    name: str
    recipe: Recipe
    predictor: Predictor
    result: Mapping[str, Any]
    splits: Mapping[str, Any]


@dataclass(frozen=True)
class Pool:
    """Runs that fit together.

    Attributes:
        members: at least one.
        part: where they are scored: the test part, or where there is none the validation part.
        steering: whether there is a validation part besides, the same for all, which none was trained on.
    """

    members: Sequence[Opened]
    part: PartName
    steering: bool

    @property
    def task(self) -> Task:
        """What is predicted."""
        return self.members[0].predictor.task

    @property
    def parts(self) -> list[PartName]:
        """Those that all were judged on and none was trained on."""
        return ["validation", "test"] if self.steering else [self.part]

    @property
    def seed(self) -> int:
        """Addresses every draw."""
        return self.members[0].recipe.seed

    @property
    def target_scale(self) -> tuple[float, float]:
        """Mean and deviation that regression targets are standardised with for the loss: the first's."""
        return self.members[0].predictor.preprocessing.target_scale


def open_pool(
    folders: Sequence[str | Path], *, names: Sequence[str] | None = None, trust: bool = False
) -> Pool:
    """Open runs that are to go together.

    Args:
        folders: of two finished runs or more, on the same data, which are scored on the same items.
        names: what to call them; by default by what differs between their recipes.
        trust: a run's recipe may name the network by `module:name`, which runs that code.

    Raises:
        RunError: they are fewer than two; one is no finished run on data and a network that can be opened
            again; two are the same; they differ in their task, classes or items, or in the items that they
            are scored on; one was trained on such items.
        TrustError: a network is code that is not trusted.
        ModelError: one cannot be made.
    """
    paths = [Path(folder) for folder in folders]
    if len(paths) < 2:
        raise RunError("an ensemble takes two runs or more")
    layers = [_recipe(path) for path in paths]
    names = names or _names(paths, layers)
    members = [
        _opened(path, name, layer, trust) for path, name, layer in zip(paths, names, layers, strict=True)
    ]
    _refuse_twins(members)
    first, *others = members
    for other in others:
        _refuse_strangers(first, other)
    part: PartName = "test" if first.splits["counts"]["test"] else "validation"
    _refuse_leaks(members, part)
    return Pool(members, part, part == "test" and _common(members, "validation"))


def _recipe(path: Path) -> Layer:
    folder = RunFolder.open(path)
    if not folder.finished:
        raise RunError(f"{path} is not finished: go on with it first, by ravine train --resume {path}")
    return file_layer(path / "recipe.toml")


def _opened(path: Path, name: str, layer: Layer, trust: bool) -> Opened:
    folder, recipe = RunFolder(path), validate([layer])
    if recipe.model.name == GIVEN:
        raise RunError(
            f"{path} was trained on a network from Python, which nobody could make again from its folder"
        )
    predictor = load_predictor(path, trust=trust)
    return Opened(
        folder, name, recipe, predictor, folder.read_json("result.json"), folder.read_json("splits.json")
    )


def _names(paths: Sequence[Path], layers: Sequence[Layer]) -> list[str]:
    """What differs between the recipes; where that does not tell the runs apart, their folders."""
    flat = [dict(_flat(layer)) for layer in layers]
    common = [key for key in flat[0] if all(key in settings for settings in flat)]
    differing = [key for key in common if len({settings[key] for settings in flat}) > 1]
    names = [", ".join(f"{key} = {settings[key]}" for key in differing) for settings in flat]
    if len(differing) <= _DIFFERENCES and len(set(names)) == len(names):
        return names
    folders = [path.resolve().name for path in paths]
    return folders if len(set(folders)) == len(folders) else [str(path) for path in paths]


def _flat(layer: Layer) -> Iterator[tuple[str, str]]:
    """A recipe's settings by dotted key, as people write them."""
    for key, value in layer.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}.{name}", told) for name, told in _flat(value))
        else:
            yield key, value if isinstance(value, str) else json.dumps(value)


def _refuse_twins(members: Sequence[Opened]) -> None:
    seen: dict[str, Opened] = {}
    for member in members:
        with (member.folder.path / "model.safetensors").open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest in seen:
            raise RunError(
                f"{seen[digest].folder.path} and {member.folder.path} are the same network, weight for "
                "weight: together they know no more than one. Name each run once"
            )
        seen[digest] = member


def _refuse_strangers(first: Opened, other: Opened) -> None:
    """Refuse what answers other questions, or takes other items."""
    pair = f"{first.folder.path} and {other.folder.path}"
    mine, its = first.predictor.preprocessing.spec, other.predictor.preprocessing.spec
    for key, name in (("task", "task"), ("classes", "classes"), ("item_shape", "items' shape")):
        if mine[key] != its[key]:
            raise RunError(f"{pair} differ in their {name}: {_told(mine[key])} and {_told(its[key])}")
    if first.splits["fingerprint"] != other.splits["fingerprint"] or mine != its:
        raise RunError(f"{pair} were trained on different data, or on data that were read differently")
    contexts = [context_of(member.recipe) for member in (first, other)]
    if mine["task"] == "language" and contexts[0] != contexts[1]:
        raise RunError(f"{pair} differ in model.context: {contexts[0]} and {contexts[1]} characters")


def _told(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _refuse_leaks(members: Sequence[Opened], part: PartName) -> None:
    """Refuse to score on items that some member was trained on, or that are others for others."""
    first = members[0]
    if not first.splits["counts"][part]:
        raise RunError(f"{first.folder.path} has neither a test nor a validation part to score on")
    for other in members:
        leaked = shared(other.splits, "train", first.splits, part)
        if leaked:
            raise RunError(
                f"{other.folder.path} was trained on {leaked:,} of the {part} items of {first.folder.path}: "
                f"it knows their answers, and a score on them would be too good. {_REMEDY}"
            )
        if other.splits[part] != first.splits[part]:
            raise RunError(
                f"{first.folder.path} and {other.folder.path} have different {part} parts, so that there are "
                f"no items to score them on together. {_REMEDY}"
            )


_REMEDY = (
    "Parts are cut by data.split (the seed, unless it is set), data.validation and data.test: "
    "train with the same ones, such as data.split=0, or give data that come with a test part of their own"
)


def _common(members: Sequence[Opened], part: PartName) -> bool:
    """Whether all have the same items as this part, and none was trained on one."""
    first = members[0].splits
    return bool(first["counts"][part]) and all(
        member.splits[part] == first[part] and not shared(member.splits, "train", first, part)
        for member in members
    )


def refuse_without_validation(pool: Pool, use: str) -> None:
    """Refuse to choose by items that do not exist, or that some member was trained on.

    Args:
        pool: whose.
        use: what the validation part is needed for, as the beginning of a sentence.

    Raises:
        RunError: there is no validation part besides the scored one that all runs have in common.
    """
    if not pool.steering:
        raise RunError(
            f"{use} a validation part, and these runs have none in common besides the part that they "
            f"are scored on. {_REMEDY}"
        )
