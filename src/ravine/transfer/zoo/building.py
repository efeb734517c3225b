"""Networks from their cards alone, without weights."""

from torch import nn

from ...models import make
from .card import HUBS, Card


def build(card: Card) -> nn.Module:
    """The network of a card, in evaluation mode; its weights are as its architecture begins.

    Raises:
        ModelError: it cannot be built, or the library of its hub is not installed.
    """
    if card.architecture in HUBS:
        from .hubs import build_hub

        return build_hub(card)
    return make(card.architecture, card.shape, card.outputs, card.settings).eval()
