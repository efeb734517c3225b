"""Networks of timm, by name, from the Hugging Face hub, and from the folders that timm writes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ....errors import ModelError, nearest
from ..card import Card, Pretrained
from .fetching import Place, fetched
from .front_matter import said
from .libraries import library, told

# Where weights are, which the settings of a network do not say.
_WHERE = ("file", "hf_hub_id", "hf_hub_filename", "source", "url")


def open_pretrained(name: str) -> Pretrained:
    """A network of timm with its weights.

    Args:
        name: as timm lists it, of a repository on the hub, or a local folder that timm's `save_for_hf` wrote.

    Raises:
        ModelError: as `open_hub`; or it has no head.
    """
    timm = library("timm")
    place = fetched("timm", name, _repository(timm, name))
    if not timm.is_model(place.config.get("architecture", "")):
        raise ModelError(
            f"{place.name}: its config.json has no architecture that timm {timm.__version__} knows. One of "
            "transformers opens with hf:FOLDER"
        )
    with told(f"{place.name} cannot be opened"):
        network = timm.create_model(f"local-dir:{place.folder}", pretrained=True)
    return Pretrained(_card(place, network), network)


def build_network(settings: Mapping[str, Any]) -> nn.Module:
    """The network of a card's settings.

    Raises:
        ModelError: this version of timm does not know it, or cannot build it.
    """
    timm = library("timm")
    name, config, arguments = (settings[key] for key in ("architecture", "pretrained_cfg", "model_args"))
    if not timm.is_model(name):  # timm itself would look on the hub for what a card calls hf-hub:...
        raise ModelError(f"the network {name} cannot be built by timm {timm.__version__}: it has none")
    with told(f"the network {name} cannot be built by timm"):
        network: nn.Module = timm.create_model(
            name, pretrained=False, pretrained_cfg=dict(config), **arguments
        )
    return network


def _repository(timm: Any, name: str) -> str | None:
    """Where the hub has a network that timm lists; None for a folder or a name of the hub's own."""
    if "/" in name or Path(name).expanduser().is_dir():
        return None
    if not timm.is_model(name):
        hint = nearest(name, timm.list_models(pretrained=True))
        raise ModelError(f"timm:{name} is neither a local folder nor a network that timm has{hint}")
    with told(f"timm:{name} has no weights"):
        repository: str | None = timm.models.get_pretrained_cfg(name, allow_unregistered=False).hf_hub_id
    if not repository:
        raise ModelError(f"timm:{name} has no weights as safetensors on the hub")
    return repository


def _card(place: Place, network: Any) -> Card:
    config = {key: value for key, value in network.pretrained_cfg.items() if key not in _WHERE}
    if not network.num_classes:
        raise ModelError(f"{place.name} has no head: take one that was trained to tell classes apart")
    facts = said(place)
    return Card(
        name=place.name,
        architecture="timm",
        settings={
            "architecture": place.config["architecture"],
            "pretrained_cfg": config,
            "model_args": place.config.get("model_args", {}),
        },
        shape=tuple(config["input_size"]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        outputs=network.num_classes,
        classes=_classes(config, network.num_classes),
        **{**facts, "licence": facts["licence"] or config.get("license") or ""},
    )


def _classes(config: Mapping[str, Any], outputs: int) -> tuple[str, ...]:
    names, described = config.get("label_names"), config.get("label_descriptions") or {}
    if not isinstance(names, list | tuple) or len(names) != outputs:
        return ()
    return tuple(str(described.get(name, name)) for name in names)
