"""The runs that are to go together: opened, named by what differs, and refused where they do not fit."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import RunError
from ...training.data.dataset import PartName, Task
from ...training.load import load_predictor
from ...training.predict import Predictor
from ...training.recipe import Layer, Recipe, file_layer, validate
from ...training.run_folder import RunFolder
from ...training.settings import GIVEN
from .fitting import Candidate, has_common, scored_part
from .plan import flat

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

    @property
    def candidate(self) -> Candidate:
        """What is known of it before it answers."""
        return Candidate(str(self.folder.path), self.recipe, self.predictor.preprocessing.spec, self.splits)


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
    names = names or differences(layers, paths)
    members = [
        _opened(path, name, layer, trust) for path, name, layer in zip(paths, names, layers, strict=True)
    ]
    _refuse_twins(members)
    candidates = [member.candidate for member in members]
    part = scored_part(candidates)
    return Pool(members, part, part == "test" and has_common(candidates, "validation"))


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


def differences(layers: Sequence[Layer], paths: Sequence[Path]) -> list[str]:
    """What differs between the settings of runs; where that does not tell them apart, their folders."""
    known = [{key: _told(value) for key, value in flat(layer)} for layer in layers]
    common = [key for key in known[0] if all(key in settings for settings in known)]
    differing = [key for key in common if len({settings[key] for settings in known}) > 1]
    names = [", ".join(f"{key} = {settings[key]}" for key in differing) for settings in known]
    if len(differing) <= _DIFFERENCES and len(set(names)) == len(names):
        return names
    folders = [path.resolve().name for path in paths]
    return folders if len(set(folders)) == len(folders) else [str(path) for path in paths]


def _told(value: Any) -> str:
    """A setting as people write it."""
    return value if isinstance(value, str) else json.dumps(value)


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
