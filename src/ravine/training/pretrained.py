"""A pretrained network in a run (T28): opened, made to fit the data, frozen in part, at rates by layer."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError, RecipeError
from ..models import make
from ..registry import names, register
from ..transfer.depths import depths
from ..transfer.freezing import freeze
from ..transfer.input_adaptation import adapt_channels, require_size
from ..transfer.layer_rates import layer_rates
from ..transfer.surgery import find_head, replace_head
from ..transfer.truncation import truncate
from ..transfer.zoo.card import HUBS, Card, Pretrained
from ..transfer.zoo.opening import open_model
from .data.dataset import Kind
from .preprocessing_statistics import TrainingPart
from .preprocessing_steps import Standardize, Step
from .recipe import Layer, Recipe
from .settings import PRETRAINED, defaults

# Photographs are brought to the network's size, up to this: at 224 pixels a step takes three times as long.
LARGEST_SIDE = 128

# Share of the newest batch in batch normalization's statistics, torch's default.
_MOMENTUM = 0.1

HEAD, ALL = "head", "all"
"""What `transfer.train` says besides the name of a module."""


@register("preprocessing", "pretrained", "as the pretrained network that training starts from had it")
def pretrained(part: TrainingPart) -> list[Step]:
    """Only where there is such a network: `steps_of` gives its steps."""
    raise RecipeError(["data.preprocess: 'pretrained' needs a network to start from, in transfer.source"])


def open_source(source: str) -> Pretrained:
    """The network that a recipe starts from: of a run folder, or whatever the zoo opens.

    Raises:
        ModelError: as `transfer.open_model`; or the run's network cannot be taken on.
        RunError: the run folder is damaged, or has no weights.
    """
    folder = Path(source).expanduser()
    if (folder / "recipe.toml").is_file():
        from .pretrained_run import open_run  # which reads runs, whose recipes may have a source

        return open_run(folder)
    return open_model(source)


def located(source: str) -> str:
    """A source as it is found from any working folder: what is a path here in full, a name as it is."""
    hub, colon, rest = source.partition(":")
    if colon and hub in HUBS:
        return f"{hub}:{Path(rest).absolute()}" if Path(rest).is_dir() else source
    path = Path(source).expanduser()
    return str(path.absolute()) if (path / "recipe.toml").is_file() or path.is_file() else source


def fingerprint(network: nn.Module) -> str:
    """What tells a network's weights from others: SHA-256 of all that its state holds."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def described(card: Card) -> dict[str, Any]:
    """The `[model]` section of a run that starts from a network: what makes one of its shape, in full."""
    if card.architecture in names("model"):
        return {"name": card.architecture, **defaults("model", card.architecture), **card.settings}
    return {"name": PRETRAINED}


def refuse_other_model(card: Card, asked: Layer) -> None:
    """Refuse settings of another network than the one to start from.

    Args:
        card: of the network.
        asked: what the person chose themselves; a run that goes on has chosen its own.

    Raises:
        RecipeError: they say something else of the network; all such settings are told.
    """
    own = described(card)
    problems = [
        f"model.{key} = {value!r}: {card.name}, which training starts from, is as it is; leave it out"
        for key, value in asked.get("model", {}).items()
        if (key, value) != ("name", "auto") and _listed(value) != _listed(own.get(key))
    ]
    if problems:
        raise RecipeError(problems)


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def side_of(card: Card) -> int:
    """The side that photographs are brought to, in pixels."""
    return min(LARGEST_SIDE, *card.shape[1:])


def steps_of(card: Card) -> list[Step]:
    """Raw images as the network knows them: pixels scaled to [0, 1], less the mean, over the deviation."""
    mean, std = (torch.tensor(each, dtype=torch.float64).view(-1, 1, 1) for each in (card.mean, card.std))
    return [Standardize((255 * mean).float(), (1 / (255 * std)).float())]


def refuse_kind(card: Card, kind: Kind) -> None:
    """Refuse data that a network does not know.

    Raises:
        ModelError: they are of another kind.
    """
    if card.kind != kind:
        raise ModelError(f"{card.name} knows data of the kind {card.kind}, and these are of the kind {kind}")


def grey(card: Card, channels: int) -> Card:
    """The card as it is for images of another number of channels: each is prepared as the mean of all."""
    if channels == len(card.mean) or not card.mean:
        return card
    mean, std = (sum(each) / len(each) for each in (card.mean, card.std))
    changes = {"mean": (mean,) * channels, "std": (std,) * channels}
    return Card(**{**vars(card), **changes})


def fitted(
    opened: Pretrained, shape: tuple[int, ...], outputs: int, classes: Sequence[str], depth: str
) -> tuple[nn.Module, str]:
    """The network with an input and a head for the data, and the head's name, empty for a language model.

    The new head's weights are drawn from the global random stream.

    Args:
        opened: its module is changed in place.
        shape: of one prepared item.
        outputs: classes, or 1 for a value.
        classes: their names; of text its characters.
        depth: of the recipe.

    Raises:
        ModelError: the network cannot take their channels or size; it is not sure which layer is its head; or
            none can be put on that depth.
    """
    card, module = opened.card, opened.module
    if card.kind == "text":
        if depth:
            raise ModelError(f"transfer.depth = {depth!r}: a language model is trained whole; leave it out")
        return _with_vocabulary(card, module, classes), ""
    _hasten(module)
    sample = torch.zeros(2, *card.shape)
    head = find_head(module, sample)
    if shape[0] != card.shape[0]:
        adapt_channels(module, shape[0], sample=sample)
    require_size(module, shape)
    if card.architecture in names("model"):
        _require_makeable(card, shape, outputs)
    if depth:
        return module, headed(module, shape, outputs, depth)
    return module, replace_head(module, outputs, at=head)


def _hasten(module: nn.Module) -> None:
    """Let statistics follow as fast as torch's do by default.

    Those of a network that was made for weeks of training follow slowly: in a short one they lag behind
    the weights, and what is judged by them is no network that was trained.
    """
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.momentum is not None:
            layer.momentum = max(layer.momentum, _MOMENTUM)


def headed(module: nn.Module, shape: tuple[int, ...], outputs: int, depth: str) -> str:
    """Put a new head on a depth of a network, whose name is returned.

    Raises:
        ModelError: there is no such depth; or as `transfer.truncate`.
    """
    sample = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    sample = sample.to(next(module.parameters()).device)
    try:
        return truncate(module, depth, outputs, sample=sample)
    except ModelError as error:
        if depth in (known := depths(module, sample)):
            raise
        told = f"transfer.depth: the network has no depth {depth!r}; it has {', '.join(known)}"
        raise ModelError(told) from error


def _require_makeable(card: Card, shape: tuple[int, ...], outputs: int) -> None:
    """Refuse items that the network takes, but that one of its kind cannot be made for, to load the run."""
    try:
        make(card.architecture, shape, outputs, card.settings)
    except ModelError as error:
        raise ModelError(f"{card.name} does not take items of shape {shape}: {error}") from error


def _with_vocabulary(card: Card, module: nn.Module, characters: Sequence[str]) -> nn.Module:
    """A language model of other characters: those that it knows keep their rows, the others begin anew."""
    if card.architecture not in names("model"):
        raise ModelError(
            f"{card.name} has a vocabulary of its own: only Ravine's own language models change it"
        )
    made = make(card.architecture, (), len(characters), card.settings)
    # Of one character more: what has a row for each is larger there.
    larger = make(card.architecture, (), len(characters) + 1, card.settings).state_dict()
    known = {character: row for row, character in enumerate(card.classes)}
    old, new = module.state_dict(), made.state_dict()
    rows = [(row, known[character]) for row, character in enumerate(characters) if character in known]
    for name, tensor in new.items():
        if tensor.shape == larger[name].shape:
            tensor.copy_(old[name])
        else:
            for row, before in rows:
                tensor[row] = old[name][before]
    return made


def frozen(recipe: Recipe, model: nn.Module, head: str, sample: Tensor) -> None:
    """Freeze what `transfer.train` leaves out.

    Raises:
        ModelError: there is no such module, or no head to train alone.
    """
    first = recipe.transfer.train
    if first == ALL:
        return
    if first == HEAD and not head:
        raise ModelError(
            "transfer.train = 'head': a language model's head is its embedding, too; train 'all'"
        )
    freeze(model, until=head if first == HEAD else first, sample=sample)
    depth = recipe.transfer.depth
    if depth and first != HEAD and next(model.get_submodule(first).parameters(), None) is None:
        raise ModelError(f"transfer.train: {first} is left out above transfer.depth = {depth!r}")


def groups(recipe: Recipe, model: nn.Module, sample: Tensor) -> list[dict[str, Any]]:
    """The trained parameters by layer, each at its rate.

    Raises:
        ModelError: the depths of the network cannot be found.
    """
    settings = recipe.transfer
    lr = recipe.optimizer.settings["lr"]
    return layer_rates(model, lr, decay=settings.decay, body=settings.body, sample=sample)
