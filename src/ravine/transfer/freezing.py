"""Frozen for good: weights, running statistics and noise alike stay as they are."""

from collections.abc import Iterator, Sequence
from itertools import chain

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..errors import ModelError
from .depths import all_calls, within
from .surgery import find_head

_RECORD = "_frozen_parameters"


def freeze(model: nn.Module, *, until: str | None = None, sample: Tensor | None = None) -> list[str]:
    """Freeze all that runs before a module, for which the network stays as it is, bit for bit.

    The weights take no gradients, so that no optimizer steps them or keeps a state for them (Adagrad makes
    its state at once: give it `trainable(model)`); batch normalization keeps its statistics, and dropout and
    other noise are off, whatever `model.train()` says. Copies of the network are frozen, too; its state dict
    has the names it had.

    A module without weights that is called on both sides, such as one dropout for all layers, is off on both.
    What the network itself, or a module that is frozen only in part, does in its own code, such as
    `functional.dropout`, is not seen. What an earlier call froze thaws first.

    Args:
        model: changed in place.
        until: the first module that goes on training, with all that runs after it; None the head alone.
        sample: prepared items (N, ...) to find the order by running them; without one the network is traced.

    Returns:
        the names of the modules that are frozen whole.

    Raises:
        ModelError: there is no such module, or it is not called; the network cannot be traced; or a module's
            weights are used before and after it, or not made yet.
    """
    if any(map(is_lazy, chain(model.parameters(), model.buffers()))):
        raise ModelError("the network has lazy layers: run it once on some items first")
    first = find_head(model, sample) if until is None else until
    called = all_calls(model, sample)
    if not first or first not in called:
        raise ModelError(f"the network calls no module {first!r}")
    # The module's parents begin before it and end after it: their other children decide.
    at = called.index(first)
    parents = {first[:dot] for dot, sign in enumerate(first) if sign == "."}
    before = set(called[:at])
    for name in called[at:]:
        if name in before and name not in parents and _holds_tensors(model.get_submodule(name)):
            raise ModelError(f"{name}, which would be frozen, runs again after {first}, which trains")
    trained = {name for name in called[at:] if name not in parents and name not in before}
    kept = {
        name for name, _ in model.named_modules() if name and not any(_related(name, one) for one in trained)
    }
    _refuse_shared(model, trained)
    unfreeze(model)
    for name, module in model.named_modules():
        if name in kept and not isinstance(module.__dict__.get("train"), _Stay):
            module.train = _Stay(module, by_hand=model.training and not module.training)
            module.training = False
        # A part that is frozen only in part may hold weights of its own, such as a position embedding.
        if name in kept or not within(name, trained):
            own = [key for key, p in module.named_parameters(recurse=False) if p.requires_grad]
            module.__dict__[_RECORD] = [*module.__dict__.get(_RECORD, ()), *own]
            for key in own:
                module.get_parameter(key).requires_grad_(False).grad = None
    return sorted(kept)


def unfreeze(model: nn.Module, modules: str | Sequence[str] | None = None) -> None:
    """Let train what `freeze` froze, as it was before; what was frozen otherwise stays.

    Args:
        model: changed in place.
        modules: their names, or one name, with all that is in them; None all of the network.

    Raises:
        ModelError: there is no such module.
    """
    modules = [modules] if isinstance(modules, str) else modules
    known = dict(model.named_modules())
    if missing := [name for name in modules or () if name not in known]:
        raise ModelError(f"the network has no module {missing[0]!r}")
    for name, module in model.named_modules():
        if modules is not None and not within(name, modules):
            continue
        if isinstance(stay := module.__dict__.get("train"), _Stay):
            del module.__dict__["train"]
            module.train(model.training and not stay.by_hand)
        for key in module.__dict__.pop(_RECORD, ()):
            module.get_parameter(key).requires_grad_(True)


def trainable(model: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters that take gradients, each once."""
    return (parameter for parameter in model.parameters() if parameter.requires_grad)


class _Stay:
    """In the place of a frozen module's `train`: it stays in evaluation mode.

    Attributes:
        by_hand: whether it was in evaluation mode before, in a network that was not.
    """

    def __init__(self, module: nn.Module, *, by_hand: bool) -> None:
        self._module, self.by_hand = module, by_hand

    def __call__(self, mode: bool = True) -> nn.Module:
        """Tell those within it, which may have been thawed."""
        for child in self._module.children():
            child.train(mode)
        return self._module


def _related(name: str, other: str) -> bool:
    """Whether one module is the other, or within it."""
    return name == other or name.startswith(f"{other}.") or other.startswith(f"{name}.")


def _holds_tensors(module: nn.Module) -> bool:
    return next(chain(module.parameters(), module.buffers()), None) is not None


def _refuse_shared(model: nn.Module, trained: set[str]) -> None:
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name)
    for names in owners.values():
        before = [name or "the network" for name in names if not within(name, trained)]
        after = [name for name in names if within(name, trained)]
        if before and after:
            raise ModelError(
                f"{before[0]}, which would be frozen, shares its weights with {after[0]}, which trains"
            )
