"""Training and evaluation mode of a network, for as long as it is looked at."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


@contextmanager
def evaluating(model: "nn.Module") -> Iterator[None]:
    """Evaluation mode for the block; afterwards each submodule has its own mode again."""
    with _mode(model, train=False):
        yield


@contextmanager
def training(model: "nn.Module") -> Iterator[None]:
    """Training mode for the block, but for what is frozen; afterwards each submodule has its own again."""
    with _mode(model, train=True):
        yield


@contextmanager
def _mode(model: "nn.Module", *, train: bool) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.train(train)
    try:
        yield
    finally:
        for module, before in modes:
            module.training = before
