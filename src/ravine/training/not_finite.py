"""What went bad first? The first tensor, or the first module, that is no longer finite."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..randomness import addressed


def first_not_finite(tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]) -> str | None:
    """The name of the first tensor that holds an infinity or not-a-number, or None."""
    pairs = tensors.items() if isinstance(tensors, Mapping) else tensors
    return next((name for name, tensor in pairs if not torch.isfinite(tensor).all()), None)


def state_and_gradients(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Each parameter, gradient and buffer of a model with what to call it: for `first_not_finite`."""
    for name, parameter in model.named_parameters():
        yield f"parameter {name}", parameter.detach()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            yield f"gradient of {name}", parameter.grad
    for name, buffer in model.named_buffers():
        yield f"buffer {name}", buffer


def first_bad_activation(model: nn.Module, inputs: Tensor) -> str | None:
    """The name of the first module whose output is not finite, "the inputs" if they are not, or None.

    Runs in the mode the model is in, as the bad step did; buffers and random streams are put back.
    """
    if not torch.isfinite(inputs).all():
        return "the inputs"
    found: list[str] = []

    def look(name: str, module: nn.Module, output: object) -> None:
        if not found and not all(torch.isfinite(tensor).all() for tensor in tensors_in(output)):
            found.append(name or "the model")

    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with (
            addressed(0, "first_bad_activation"),
            torch.no_grad(),
            hooked(dict(model.named_modules()), look),
        ):
            model(inputs)
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(kept[name])
    return found[0] if found else None


def tensors_in(value: object) -> Iterator[Tensor]:
    """Every tensor in what a module gave, however nested."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


@contextmanager
def hooked(modules: Mapping[str, nn.Module], look: Callable[..., None]) -> Iterator[None]:
    """`look(name, module, output)` after each call of one of `modules`."""

    def hook_of(name: str) -> Callable[[nn.Module, object, object], None]:
        return lambda module, _, output: look(name, module, output)

    handles = [module.register_forward_hook(hook_of(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
