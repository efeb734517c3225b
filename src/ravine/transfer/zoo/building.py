"""Networks from their cards alone, without weights."""

from torch import nn

from ...addresses import is_address
from ...errors import TrustError
from ...models import make
from .card import HUBS, Card


def build(card: Card) -> nn.Module:
    """The network of a card, in evaluation mode; its weights are as its architecture begins.

    Raises:
        ModelError: it cannot be built, or the library of its hub is not installed.
        TrustError: its architecture is `module:name`: a card is read, and must not import code.
    """
    if is_address(card.architecture):
        raise TrustError(
            f"the card of {card.name} says architecture = {card.architecture!r}, which would import and run "
            "code: only networks of ravine.models and of the hubs are built from cards"
        )
    if card.architecture in HUBS:
        from .hubs import build_hub

        return build_hub(card)
    return make(card.architecture, card.shape, card.outputs, card.settings).eval()
