"""Pretrained networks by name, by file and from hubs."""

from pathlib import Path

from ...errors import ModelError
from .building import build
from .card import HUBS, Card, Pretrained
from .layouts import LAYOUTS, recognised, require_whole
from .loading import load_weights
from .shelf import card_of, find, weights_of
from .weights import read_weights

SUFFIXES = (".safetensors", ".npz", ".th", ".pt", ".pth", ".bin")


def open_model(name: str | Path) -> Pretrained:
    """A pretrained network, ready to use.

    Args:
        name: of one in the zoo (`ravine zoo list`); a file of weights whose layout is known; or `hf:`,
            `timm:` or `torchvision:` and a name on that hub or a local folder.

    Raises:
        ModelError: there is none, its file is damaged or was altered, its layout is not known, or the library
            of its hub is not installed.
    """
    name = str(name)
    hub, _, rest = name.partition(":")
    if hub in HUBS:
        from .hubs import open_hub

        return open_hub(hub, rest)
    path = Path(name).expanduser()
    if path.suffix in SUFFIXES or path.is_file():
        return open_file(path)
    if (path / "recipe.toml").is_file():
        raise ModelError(f"{name} is a run folder: ravine.load opens it, and finetune starts from it")
    folder = find(name)
    card = card_of(folder)
    weights = weights_of(folder, card)
    module = build(card)
    load_weights(module, read_weights(weights), str(weights))
    return Pretrained(card, module)


def open_file(path: Path, card: Card | None = None) -> Pretrained:
    """The network of a file of weights.

    Args:
        path: of the file.
        card: of its network, by whose names the file keeps the weights; None recognises it.

    Raises:
        ModelError: the file is damaged, its layout is not known or not whole, or it does not fit the card.
    """
    weights = read_weights(path)
    if card is None:
        layout = recognised(weights)
        if layout is None:
            raise ModelError(
                f"{path} is of no layout that is known ({'; '.join(each.told for each in LAYOUTS)}): name "
                f"its network with: ravine zoo add NAME {path} --architecture ... --shape ... --outputs ..."
            )
        require_whole(layout, weights, str(path))
        card, weights = layout.card(weights, path.stem), layout.renamed(weights)
    module = build(card)
    load_weights(module, weights, str(path))
    return Pretrained(card, module)
