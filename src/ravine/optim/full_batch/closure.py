"""What an optimizer's closure and parameters are to a full-batch method: a function of one flat vector."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .objective import Objective

Groups = Sequence[dict[str, Any]]


class Closure:
    """A closure, with the penalty ½·weight_decay·‖x‖² of each group added to its loss.

    Attributes:
        losses: the closure's own loss for each value of the sum seen so far.
    """

    def __init__(self, closure: Callable[[], Any], groups: Groups, name: str) -> None:
        """`name` is the optimizer's, for messages."""
        self._closure, self._name = closure, name
        self._decayed = [(p, float(group["weight_decay"])) for group in groups for p in live(group["params"])]
        self.losses: dict[float, float] = {}

    def value_and_gradients(self) -> tuple[Tensor, list[Tensor]]:
        """The value, and its gradients where the closure has called backward: copies; zero where none came.

        Raises:
            RuntimeError: backward was not called, or left a sparse gradient.
        """
        found = self._closure()
        loss = float(found.detach() if isinstance(found, Tensor) else found)
        given = [parameter.grad for parameter, _ in self._decayed]
        if all(gradient is None for gradient in given):
            raise RuntimeError(
                f"{self._name}: the closure left no gradient: it must call backward() on the loss it returns"
            )
        if any(gradient is not None and gradient.is_sparse for gradient in given):
            raise RuntimeError(f"{self._name} does not support sparse gradients")
        with torch.no_grad():
            penalty = sum(float(penalty) for penalty in self._penalties())
            gradients = [
                torch.zeros_like(p) if p.grad is None else torch.add(p.grad, p, alpha=decay)
                for p, decay in self._decayed
            ]
        return self._noted(torch.tensor(loss + penalty, dtype=torch.float64), loss), gradients

    def value(self) -> Tensor:
        """The value with its graph: of a closure that does not call backward.

        Raises:
            RuntimeError: it called backward, or there is no graph.
        """
        for parameter, _ in self._decayed:
            parameter.grad = None
        loss = self._closure()
        backward = any(parameter.grad is not None for parameter, _ in self._decayed)
        if backward or not (isinstance(loss, Tensor) and loss.requires_grad):
            raise RuntimeError(
                f"{self._name}: the closure must return the loss as a tensor with its graph, and not call "
                "backward(): second derivatives are taken of it"
            )
        return self._noted(sum(self._penalties(), loss), float(loss.detach()))

    def _penalties(self) -> Iterable[Tensor]:
        for parameter, decay in self._decayed:
            if decay:
                yield parameter.square().sum() * (decay / 2)

    def _noted(self, value: Tensor, loss: float) -> Tensor:
        self.losses[float(value.detach())] = loss
        return value


def objective_of(closure: Closure, parameters: Sequence[Tensor], *, graph: bool) -> Objective:
    """The function of a flat vector, which takes the parameters' place at each evaluation.

    Args:
        closure: the function.
        parameters: those that require a gradient.
        graph: whether the closure returns a graph, or calls backward itself.
    """
    if graph:
        return Objective(closure.value, _Variables(parameters))
    return Objective(closure.value_and_gradients, _Variables(parameters), jac=True)


def live(parameters: Iterable[Tensor]) -> list[Tensor]:
    """Those that are not frozen."""
    return [parameter for parameter in parameters if parameter.requires_grad]


class _Variables(nn.Module):
    """Tensors as a module's parameters, which an `Objective` changes in place; any leaf will do."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        super().__init__()
        self._tensors = tensors

    def named_parameters(self, *_: Any, **__: Any) -> Iterator[tuple[str, Any]]:
        return ((str(number), tensor) for number, tensor in enumerate(self._tensors))
