"""Parameter groups: which parameters weight decay is for."""

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from ..errors import nearest
from .base import Group, Number

NORMALIZATIONS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def param_groups(
    model: nn.Module, weight_decay: Number, *, no_decay: Iterable[str] = (), **options: Any
) -> list[Group]:
    """A model's parameters in two groups: with weight decay and without.

        optimizer = AdamW(param_groups(model, weight_decay=0.1), lr=3e-4)

    Without it are biases, whatever belongs to a normalization layer, and every other parameter of one
    dimension or none: gains and offsets, whose size says nothing about how complex the network is.
    Embeddings are decayed like all matrices; name them in `no_decay` otherwise.

    A parameter that several layers share is there once. Frozen parameters are there too: an optimizer
    passes them over for as long as they have no gradient, and they may be unfrozen later.

    Args:
        model: the network.
        weight_decay: of the first group, at least 0.
        no_decay: further parameters without it: names as in `named_parameters()`, or patterns such as
            "*.pos_embed".
        **options: what both groups take besides, such as `lr`.

    Returns:
        The groups that are not empty, their parameters named as `named_parameters()` names them.

    Raises:
        ValueError: a name in `no_decay` is that of no parameter.
    """
    if isinstance(no_decay, str):
        no_decay = [no_decay]
    patterns = list(no_decay)
    parameters = list(_parameters(model))
    known = [name for name, _, _ in parameters]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise ValueError(f"no_decay: the model has no parameter {pattern!r}{nearest(pattern, known)}")
    decayed: list[tuple[str, nn.Parameter]] = []
    spared: list[tuple[str, nn.Parameter]] = []
    for name, parameter, is_gain in parameters:
        exempt = is_gain or any(fnmatchcase(name, pattern) for pattern in patterns)
        (spared if exempt else decayed).append((name, parameter))
    return [
        {"params": members, "weight_decay": decay, **options}
        for members, decay in ((decayed, weight_decay), (spared, 0.0))
        if members
    ]


def _parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, bool]]:
    """Each parameter once, with its name, and whether it is a bias or a gain."""
    seen = set()
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix=path, recurse=False):
            if parameter in seen:
                continue
            seen.add(parameter)
            words = name.rpartition(".")[2].split("_")
            yield (
                name,
                parameter,
                isinstance(module, NORMALIZATIONS) or parameter.dim() < 2 or "bias" in words,
            )
