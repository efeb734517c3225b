"""The sets of tensors on which optimizers are timed: a few large ones, and many small ones."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...randomness import generator

Shape = tuple[int, ...]
Gradients = Sequence[list[Tensor]]

# A network of each kind, none of its tensors above 4,160 elements: an embedding of 65 characters with a
# layer and its norm, two convolutions, and a classifier.
_SMALL_NETWORKS: tuple[Shape, ...] = (
    *((65, 64), (64, 64), (64,), (64,), (64,)),
    *((16, 1, 3, 3), (16,), (16, 16, 3, 3), (16,)),
    *((32, 64), (10, 32), (10,)),
)


@dataclass(frozen=True)
class ProblemSet:
    """Parameters to step, by their shapes.

    Attributes:
        name: as the command line calls it.
        shapes: of every parameter.
    """

    name: str
    shapes: tuple[Shape, ...]

    @property
    def elements(self) -> int:
        """Of all parameters together."""
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def matrices(self) -> "ProblemSet":
        """Only those of two axes."""
        return ProblemSet(self.name, tuple(shape for shape in self.shapes if len(shape) == 2))

    @property
    def description(self) -> str:
        """A line: the name, how many tensors, how many elements."""
        return f"{self.name}: {len(self.shapes)} tensors, {self.elements / 1e6:.2f} M parameters"


LARGE = ProblemSet("large", ((512, 512),) * 64 + ((512,),) * 64)
MANY = ProblemSet("many", _SMALL_NETWORKS * 10)
SETS = {problem.name: problem for problem in (LARGE, MANY)}


def parameters(problem: ProblemSet, device: torch.device) -> list[Tensor]:
    """Fresh leaves of normal values, the same for everyone who asks."""
    return [values.requires_grad_() for values in _normal(problem, device, "parameters", 1.0)]


def gradients(problem: ProblemSet, device: torch.device) -> Gradients:
    """Two sets of gradients, to be taken in turn: in training, too, they are other tensors at each step."""
    return [_normal(problem, device, f"gradients {number}", 0.1) for number in range(2)]


class GradientFeed:
    """Gives parameters their next gradients, in tensors of its own: some optimizers write into them.

    Only those that were written into are written anew. To copy them all would wake torch's threads, which
    then wait busily for more work while a step is timed.
    """

    def __init__(self, drawn: Gradients) -> None:
        """`drawn`: the values, which several may share."""
        self._drawn = drawn
        self._given = [[gradient.clone() for gradient in turn] for turn in drawn]
        self._versions = [_versions(turn) for turn in self._given]
        self._turn = 0

    def __call__(self, parameters: Iterable[Tensor]) -> None:
        """Set every parameter's gradient."""
        turn = self._turn = 1 - self._turn
        given = self._given[turn]
        if _versions(given) != self._versions[turn]:
            torch._foreach_copy_(given, self._drawn[turn])
            self._versions[turn] = _versions(given)
        for parameter, gradient in zip(parameters, given, strict=True):
            parameter.grad = gradient


def _versions(tensors: Iterable[Tensor]) -> list[int]:
    """How often each was written into, as torch counts."""
    return [tensor._version for tensor in tensors]


def _normal(problem: ProblemSet, device: torch.device, purpose: str, scale: float) -> list[Tensor]:
    draw = generator(0, "bench", purpose, device=device)
    return [torch.randn(shape, generator=draw, device=device) * scale for shape in problem.shapes]
