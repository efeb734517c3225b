"""A chain's gradients without autograd's graph of it, which costs more than small layers do."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .direct import Step
from .layers import Layer


class Run(NamedTuple):
    """Steps after each other that all know their own gradients, or none of which does."""

    known: bool
    steps: list[Any]


def runs(steps: Iterable[Step]) -> list[Run]:
    """A chain's steps, cut where autograd begins and ends."""
    return [Run(known, list(found)) for known, found in groupby(steps, key=is_known)]


class Pass:
    """A forward pass in training through a chain, and the way back.

    Layers that know their own gradients are asked for them; what lies between is left to autograd.

    Attributes:
        outputs: of the chain, without a gradient.
    """

    def __init__(self, chain: Sequence[Run], inputs: Tensor) -> None:
        self._taken: list[tuple[Layer | None, Any]] = []
        x = inputs
        with torch.no_grad():
            for known, steps in chain:
                x = self._known(steps, x) if known else self._others(steps, x)
        self.outputs = x

    def _known(self, steps: Sequence[Layer], x: Tensor) -> Tensor:
        for step in steps:
            x, kept = step.forward(x)
            self._taken.append((step, kept))
        return x

    def _others(self, steps: Sequence[Step], x: Tensor) -> Tensor:
        given = out = x.detach().requires_grad_(bool(self._taken))
        with torch.enable_grad():
            for step in steps:
                out = step(out)
        if out.requires_grad:
            self._taken.append((None, (given, out)))
        return out.detach()

    def backward(self, gradient: Tensor | None) -> None:
        """Add to the parameters' gradients, from that of `outputs`; once."""
        with torch.no_grad():
            while self._taken:
                step, kept = self._taken.pop()
                assert gradient is not None
                if step is None:
                    given, out = kept
                    torch.autograd.backward(out, gradient)
                    gradient = given.grad
                else:
                    gradient = step.backward(kept, gradient, onward=bool(self._taken))


def is_known(step: Step) -> bool:
    """Whether a step knows its own gradient."""
    return isinstance(step, Layer)
