"""Networks of one shape as one: every tensor with a leading axis of members."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from .backward import Pass, runs
from .batching import Batching
from .direct import chain
from .rates import by_member


class Stack:
    """K networks of one shape, run as one.

    The networks stay what they are: their parameters and buffers become views into the stack, so that each
    sees every step. Dropout rates may differ; each member draws noise of its own.

    Attributes:
        trained: parameters that take gradients, by name: leaves of shape (K, *shape).
        others: frozen parameters and buffers, by name, likewise.
        buffers: those of them that a forward pass in training may change.
        members: K.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        """`networks`: of one class, with tensors of the same names, shapes and types."""
        self.members = len(networks)
        self._template, rates = by_member(networks)
        named = [_tensors(network) for network in networks]
        self.trained: dict[str, Tensor] = {}
        self.others: dict[str, Tensor] = dict(rates)
        for name, first in named[0].items():
            together = torch.stack([tensors[name].detach() for tensors in named])
            # Assigning `data` leaves a parameter the object that optimizers and hooks know.
            for tensors, own in zip(named, together.unbind(), strict=True):
                tensors[name].data = own
            if first.requires_grad:
                self.trained[name] = together.requires_grad_()
            else:
                self.others[name] = together
        self.buffers = [self.others[name] for name, _ in networks[0].named_buffers()]
        self._chain = chain(self._template, {**self.trained, **self.others})
        self._runs = runs(self._chain or [])

    @property
    def knows_gradients(self) -> bool:
        """Whether every layer from the first that is trained on works its gradient out itself."""
        return [run.known for run in self._runs] in ([True], [False, True])

    def __call__(self, inputs: Tensor, *, training: bool, shared: bool = False) -> Tensor:
        """The members' outputs, (K, N, ...).

        Args:
            inputs: (K, N, ...): each member's own; or (N, ...) for all, where `shared`.
            training: noise and batch statistics, and running statistics follow; or evaluation.
            shared: whether all members see the same inputs.
        """
        self._turn(training=training)
        if self._chain is not None:
            outputs = inputs.expand(self.members, *inputs.shape) if shared else inputs
            for step in self._chain:
                outputs = step(outputs)
            return outputs
        forward = vmap(self._one, in_dims=(0, 0, None if shared else 0), randomness="different")
        together: Tensor = forward(self.trained, self.others, inputs)
        return together

    def traced(self, inputs: Tensor) -> Pass | None:
        """A pass in training, without mixed precision and autograd; None where the layers are not known.

        Args:
            inputs: (K, N, ...): each member's own.
        """
        if self._chain is None:
            return None
        self._turn(training=True)
        return Pass(self._runs, inputs)

    def _turn(self, *, training: bool) -> None:
        if self._template.training != training:  # to tell every layer takes as long as a small product
            self._template.train(training)

    def _one(self, trained: dict[str, Tensor], others: dict[str, Tensor], inputs: Tensor) -> Tensor:
        given = {**trained, **others}
        with Batching():
            outputs: Tensor = functional_call(self._template, given, (inputs,))
        # What a forward pass puts in a buffer's place comes back here, and would be lost.
        if assigned := [name for name, buffer in others.items() if given[name] is not buffer]:
            raise NotImplementedError(
                f"its forward pass assigns {assigned[0]}, which is not changed in place"
            )
        return outputs


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; what is shared within the network once."""
    return dict(_named(network))


def _named(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from network.named_parameters()
    yield from network.named_buffers()
