"""Pretrained networks of other libraries, from their hubs or from local folders: an extra."""

from torch import nn

from ....errors import ModelError
from ..card import Card, Pretrained
from . import hugging_face, timm_models, torchvision_models
from .libraries import told

__all__ = ["build_hub", "open_hub"]

_HUBS = {"hf": hugging_face, "timm": timm_models, "torchvision": torchvision_models}


def open_hub(kind: str, name: str) -> Pretrained:
    """A pretrained network of another library; no code that comes with it is run, and no pickle opened.

    Args:
        kind: `hf`, `timm` or `torchvision`.
        name: on the hub, or a local folder; for torchvision a name, or NAME=FILE.

    Raises:
        ModelError: there is none, the hub cannot be reached, its files are damaged or do not fit, or the
            library is not installed.
    """
    opened: Pretrained = _HUBS[kind].open_pretrained(name)
    opened.module.eval()
    return opened


def build_hub(card: Card) -> nn.Module:
    """The network of a card from its settings alone, without weights and without a network connection.

    It is in evaluation mode; its weights are as the library begins, drawn from the global random stream.

    Raises:
        ModelError: it cannot be built, or the library is not installed.
    """
    hub = _HUBS[card.architecture]
    with told(f"the network of the card of {card.name} cannot be built"):
        try:
            built: nn.Module = hub.build_network(card.settings)
        except KeyError as error:
            raise ModelError(f"the card of {card.name} lacks {error} in its settings") from error
    return built.eval()
