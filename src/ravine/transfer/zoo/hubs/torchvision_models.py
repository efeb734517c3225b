"""Networks of torchvision that classify images, with its own weights or those of a file."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn

from ....errors import ModelError, nearest
from ..card import Card, Pretrained
from ..loading import load_weights
from ..weights import read_weights
from .fetching import offline
from .libraries import library, told

# Their training gives the outputs of two heads more besides.
_AUXILIARY = ("googlenet", "inception_v3")

# As the files of DenseNets write what their modules call norm1, relu1 and conv1.
_DENSE_LAYER = re.compile(r"(\.denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")


def open_pretrained(name: str) -> Pretrained:
    """A network of torchvision with its weights.

    Args:
        name: as torchvision lists it, for the weights it recommends; NAME=FILE for those of a local file, of
            images that were normalized in the same way.

    Raises:
        ModelError: as `open_hub`.
    """
    models = library("torchvision.models")
    network, _, file = name.partition("=")
    shown = f"torchvision:{name}"
    known = models.list_models(module=models)
    if network not in known or network in _AUXILIARY:
        hint = nearest(network, [each for each in known if each not in _AUXILIARY])
        raise ModelError(
            f"{shown} is no network of torchvision's that can be taken on{hint}: name one that classifies "
            "images and gives nothing else, or NAME=FILE"
        )
    recommended = models.get_model_weights(network).DEFAULT
    found = read_weights(Path(file).expanduser()) if file else _downloaded(recommended, shown)
    weights = {_DENSE_LAYER.sub(r"\1\2", key): tensor for key, tensor in found.items()}
    settings = _settings(models, network, recommended, weights)
    module = build_network(settings)
    load_weights(module, weights, file or shown)
    prepared = recommended.transforms()
    card = Card(
        name=shown,
        architecture="torchvision",
        settings=settings,
        shape=(len(prepared.mean), *(2 * list(prepared.crop_size))[:2]),
        mean=tuple(prepared.mean),
        std=tuple(prepared.std),
        outputs=settings["num_classes"],
        **({"source": file} if file else _said(recommended)),
    )
    return Pretrained(card, module)


def build_network(settings: Mapping[str, Any]) -> nn.Module:
    """The network of a card's settings.

    Raises:
        ModelError: this version of torchvision does not know it, or cannot build it.
    """
    arguments = dict(settings)
    name = arguments.pop("name")
    with told(f"the network {name} cannot be built by torchvision"):
        network: nn.Module = library("torchvision.models").get_model(name, weights=None, **arguments)
    return network


def _settings(models: Any, name: str, recommended: Any, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """What `build_network` takes for these weights."""
    settings: dict[str, Any] = {"name": name, "num_classes": len(recommended.meta["categories"])}
    if name.startswith("vit_"):
        settings["image_size"] = recommended.meta["min_size"][0]
    with torch.device("meta"):
        head = list(models.get_model(name, weights=None).state_dict())[-1]
    if head in weights:
        settings["num_classes"] = len(weights[head])
    return settings


def _downloaded(recommended: Any, shown: str) -> dict[str, Tensor]:
    with told(f"{shown} cannot be fetched"):
        try:
            found: dict[str, Tensor] = recommended.get_state_dict(
                progress=False, check_hash=True, weights_only=True, map_location="cpu"
            )
        except URLError as error:
            raise offline(shown, error, f"a file of its weights: {shown}=FILE") from error
    return found


def _said(recommended: Any) -> dict[str, Any]:
    meta = recommended.meta
    scores = meta.get("_metrics", {})
    return {
        "classes": tuple(meta["categories"]),
        "data": ", ".join(scores),
        "licence": meta.get("license", ""),
        "source": recommended.url,
        "score": ", ".join(f"{what} {value}" for each in scores.values() for what, value in each.items()),
        "recipe": meta.get("recipe", ""),
    }
