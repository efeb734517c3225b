"""Frozen for good: weights, running statistics and noise alike stay as they are."""

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from ..errors import ModelError
from .depths import order_of_calls, within
from .surgery import find_head

_RECORD = "_frozen_parameters"


def freeze(model: nn.Module, *, until: str | None = None, sample: Tensor | None = None) -> list[str]:
    """Freeze all that runs before a module, for which the network stays as it is, bit for bit.

    The weights take no gradients, so that no optimizer keeps a state for them; batch normalization keeps its
    statistics, and dropout and other noise are off, whatever `model.train()` says. Copies of the network are
    frozen, too; its state dict has the names it had.

    Args:
        model: changed in place.
        until: the first module that goes on training, with all that runs after it; None the head alone.
        sample: prepared items (N, ...) to find the order by running them; without one the network is traced.

    Returns:
        the names of the modules that are frozen whole.

    Raises:
        ModelError: there is no such module, or it is not called; the network cannot be traced; or a weight is
            used before and after it.
    """
    first = find_head(model, sample) if until is None else until
    called = order_of_calls(model, sample)
    if first not in called:
        raise ModelError(f"the network calls no module {first!r}")
    # The module's parents begin before it and end after it: their other children decide.
    at = called.index(first)
    parents = {first[:dot] for dot, sign in enumerate(first) if sign == "."}
    trained = {name for name in called[at:] if name not in parents}
    kept = {
        name for name, _ in model.named_modules() if name and not any(_related(name, one) for one in trained)
    }
    _refuse_shared(model, kept, trained)
    for name, module in model.named_modules():
        if name in kept:
            module.eval()
            module.train = _stay
        # A part that is frozen only in part may hold weights of its own, such as a position embedding.
        if name in kept or not within(name, trained):
            own = [key for key, p in module.named_parameters(recurse=False) if p.requires_grad]
            module.__dict__[_RECORD] = [*module.__dict__.get(_RECORD, ()), *own]
            for key in own:
                module.get_parameter(key).requires_grad_(False).grad = None
    return sorted(kept)


def unfreeze(model: nn.Module, modules: Sequence[str] | None = None) -> None:
    """Let train what `freeze` froze, as it was before; what was frozen otherwise stays.

    Args:
        model: changed in place.
        modules: their names, with all that is in them; None all of the network.
    """
    for name, module in model.named_modules():
        if modules is not None and not within(name, modules):
            continue
        if module.__dict__.get("train") is _stay:
            del module.__dict__["train"]
            module.train(model.training)
        for key in module.__dict__.pop(_RECORD, ()):
            module.get_parameter(key).requires_grad_(True)


def trainable(model: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters that take gradients, each once."""
    return (parameter for parameter in model.parameters() if parameter.requires_grad)


def _stay(mode: bool = True) -> None:
    """In the place of a frozen module's `train`: it stays in evaluation mode."""


def _related(name: str, other: str) -> bool:
    """Whether one module is the other, or within it."""
    return name == other or name.startswith(f"{other}.") or other.startswith(f"{name}.")


def _refuse_shared(model: nn.Module, kept: set[str], trained: set[str]) -> None:
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name)
    for names in owners.values():
        before = [name for name in names if name in kept]
        after = [name for name in names if within(name, trained)]
        if before and after:
            raise ModelError(
                f"{before[0]}, which would be frozen, shares its weights with {after[0]}, which trains"
            )
