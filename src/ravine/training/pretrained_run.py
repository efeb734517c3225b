"""A finished run as a network to start from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..transfer.zoo.card import Card, Pretrained
from . import load as loading
from .preprocessing import Preprocessing
from .preprocessing_steps import Standardize
from .recipe import file_layer, validate
from .run_folder import RunFolder
from .settings import PRETRAINED


def open_run(path: Path) -> Pretrained:
    """The network of a run with its best weights, and what is known of it.

    Raises:
        ModelError: its inputs were prepared in a way that other data cannot share; a hub's library made its
            network; or what it keeps of the network it started from is damaged.
        RunError: no run there, no weights yet, or its network was given as an object.
        TrustError: its network is a person's own code.
    """
    folder = RunFolder.open(path)
    module = loading.load(path)
    recipe = validate([file_layer(folder.path / "recipe.toml")])
    if recipe.model.name == PRETRAINED:
        raise ModelError(
            f"{path} went on from {recipe.transfer.source}, whose library made its network: start from that"
        )
    if recipe.transfer.depth:
        raise ModelError(
            f"{path} is a head on {recipe.transfer.depth}, the layers above left out: start from "
            f"{recipe.transfer.source}, with the same transfer.depth"
        )
    preprocessing = Preprocessing.load(folder.path)
    spec = preprocessing.spec
    kind = spec["kind"]
    if kind not in ("image", "text") or preprocessing.task == "regression":
        raise ModelError(f"{path} is of a {kind}: networks that know images or text can be taken on")
    mean, std = _by_channel(path, preprocessing) if kind == "image" else ((), ())
    result = folder.read_json("result.json") if folder.finished else {}
    origin = _origin(folder)
    card = Card(
        name=path.name,
        architecture=recipe.model.name,
        settings=recipe.model.settings,
        kind=kind,
        shape=preprocessing.output_shape,
        mean=mean,
        std=std,
        outputs=len(spec["classes"]),
        classes=tuple(spec["classes"]),
        data=str(result.get("data", "")),
        licence=origin.licence if origin else "",
        source=f"{path}, which went on from {_told(origin)}" if origin else str(path),
        score=_score(result) if folder.finished else "none: training has not finished",
    )
    return Pretrained(card, module)


def _origin(folder: RunFolder) -> Card | None:
    """Of the network that the run itself started from: its licence holds for what became of it."""
    path = folder.path / "pretrained.json"
    return Card.from_json(folder.read_json(path.name), str(path)) if path.is_file() else None


def _told(origin: Card) -> str:
    return f"{origin.name} ({origin.source})" if origin.source else origin.name


def _score(result: Mapping[str, Any]) -> str:
    scored = result.get("test", {})
    if "bits" in scored:  # of text, whose accuracy says little
        return f"test loss {scored['bits']:.3f} bits per character"
    return f"test accuracy {scored['accuracy']:.1%}" if "accuracy" in scored else ""


def _by_channel(path: Path, preprocessing: Preprocessing) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel's pixels, in [0, 1]."""
    steps = list(preprocessing.steps)
    if len(steps) != 1 or not isinstance(steps[0], Standardize) or steps[0].mean.dim() != 3:
        raise ModelError(
            f"{path} prepares its images by {preprocessing.step}: only a mean and a deviation of each "
            "channel can be taken on, as data.preprocess = 'normalize' has them"
        )
    mean = (steps[0].mean.double() / 255).flatten().tolist()
    std = (1 / (255 * steps[0].scale.double())).flatten().tolist()
    return tuple(mean), tuple(std)
