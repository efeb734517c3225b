"""How deep each part of a network is: the order in which its modules run, and points to cut it at."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..generalize.tracing import called_modules
from ..modes import evaluating
from ..optim.groups import NORMALIZATIONS

# A part of the network is opened into its children while it holds more than this share of the layers.
_LARGE = 1 / 4


class Level(NamedTuple):
    """A stretch of the network.

    Attributes:
        name: of the module whose output ends it.
        modules: the names of those that run in it, and of those within them.
    """

    name: str
    modules: frozenset[str]


def order_of_calls(model: nn.Module, sample: Tensor | None = None) -> list[str]:
    """The names of all modules that the forward pass calls, in the order in which they are first called.

    Args:
        model: left as it was.
        sample: prepared items (N, ...) to run; without one the network is traced.

    Raises:
        ModelError: it cannot be traced, or fails on the sample.
    """
    return _Calls(model, sample).order


class _Calls:
    """Which modules run, in what order, and what they take and give."""

    def __init__(self, model: nn.Module, sample: Tensor | None) -> None:
        self._model = model
        self._traced = sample is None
        # Tensors are kept, so that no other takes the place of one in memory; with them how often each had
        # been changed in place by then.
        self._taken: dict[str, tuple[Tensor, int]] = {}
        self._given: dict[str, tuple[Tensor, int]] = {}
        if sample is None:
            called = called_modules(model)
        else:
            called = []

            def before(name: str, module: nn.Module, inputs: Any, _: Any) -> None:
                called.append(name)
                if name not in self._taken and (first := _first_tensor(inputs)) is not None:
                    self._taken[name] = first, first._version

            def after(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
                if name not in self._given and (first := _first_tensor(output)) is not None:
                    self._given[name] = first, first._version

            with watched(model, before, before=True), watched(model, after):
                run(model, sample)
        self.order = [name for name in dict.fromkeys(called) if name]

    def children(self, name: str) -> list[str]:
        """The children that are called, themselves or what is within them, in the order of the calls."""
        prefix = f"{name}." if name else ""
        inner = [one.removeprefix(prefix).partition(".")[0] for one in self.order if one.startswith(prefix)]
        return list(dict.fromkeys(f"{prefix}{child}" for child in inner))

    def is_chain(self, name: str) -> bool:
        """Whether a module's children follow each other, each taking what the one before it gave."""
        module, children = self._model.get_submodule(name), self.children(name)
        if len(children) < 2:
            return len(children) == 1
        if isinstance(module, nn.Sequential | nn.ModuleList) or self._traced:
            return isinstance(module, nn.Sequential | nn.ModuleList)
        ends = [(self._given.get(one), self._taken.get(other)) for one, other in pairwise(children)]
        return all(
            given is not None
            and taken is not None
            and given[0].untyped_storage().data_ptr() == taken[0].untyped_storage().data_ptr()
            and given[1] == taken[1]
            for given, taken in ends
        )


def _first_tensor(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    return next((found for each in inner if (found := _first_tensor(each)) is not None), None)


def levels(model: nn.Module, sample: Tensor | None = None) -> list[Level]:
    """The network as stretches from the input to the output, whose last holds the head.

    The children of the network in their order. One that holds more than a quarter of all layers is opened
    into its own, where each of these takes what the one before gave: without a sample that is known of
    `Sequential` and `ModuleList` alone. What has no weights, and a normalization, belongs to the stretch
    before it. So a residual network comes apart into its stem and its blocks, a chain into its layers.

    Args:
        model: left as it was.
        sample: as for `order_of_calls`.

    Raises:
        ModelError: as `order_of_calls`; or nothing that it calls has weights.
    """
    calls = _Calls(model, sample)
    layers = [name for name in calls.order if _is_layer(model.get_submodule(name))]
    if not layers:
        raise ModelError("the network calls no layer with weights, so it has no depths")
    parts = calls.children("")
    at = 0
    while at < len(parts):
        large = _count(parts[at], layers) > max(1.0, _LARGE * len(layers))
        if large and calls.is_chain(parts[at]):
            parts[at : at + 1] = calls.children(parts[at])
        else:
            at += 1
    found: list[list[str]] = []
    for part in parts:
        # What prepares the input belongs to what comes after it.
        begins = bool(found) and _count(part, layers) and any(_count(own, layers) for own in found[-1])
        if begins or not found:
            found.append([part])
        else:
            found[-1].append(part)
    return [
        Level(own[-1], frozenset(name for name, _ in model.named_modules() if within(name, own)))
        for own in found
    ]


def depths(model: nn.Module, sample: Tensor | None = None) -> list[str]:
    """The names of the modules whose outputs are the features of each depth, from the input to the head's.

    Raises:
        ModelError: as `levels`; or there is nothing below the head.
    """
    found = [level.name for level in levels(model, sample)][:-1]
    if not found:
        raise ModelError("the network is one layer: it has no features below its head")
    return found


@contextmanager
def watched(model: nn.Module, see: Any, *, before: bool = False) -> Iterator[None]:
    """Within, `see(name, module, inputs, output)` is called after each module, or before, without output."""

    def hook(name: str) -> Any:
        if before:
            return lambda module, inputs: see(name, module, inputs, None)
        return lambda module, inputs, output: see(name, module, inputs, output)

    handles = [
        module.register_forward_pre_hook(hook(name)) if before else module.register_forward_hook(hook(name))
        for name, module in model.named_modules()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def run(model: nn.Module, sample: Tensor) -> Any:
    """What the network gives for a sample, in evaluation mode and without gradients.

    Raises:
        ModelError: it fails.
    """
    with evaluating(model), torch.no_grad():
        try:
            return model(sample)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            told = str(error).strip().splitlines()[0]
            raise ModelError(
                f"the network failed for inputs of shape {tuple(sample.shape)}: {told}"
            ) from error


def has_weights(module: nn.Module) -> bool:
    """Whether a module has weights of its own, not those within it."""
    return next(module.parameters(recurse=False), None) is not None


def _is_layer(module: nn.Module) -> bool:
    """A normalization belongs to the layer before it."""
    return has_weights(module) and not isinstance(module, NORMALIZATIONS)


def _count(part: str, layers: list[str]) -> int:
    return sum(within(layer, [part]) for layer in layers)


def within(name: str, parts: Iterable[str]) -> bool:
    """Whether a module is one of some parts, or in one."""
    return any(name == part or name.startswith(f"{part}.") for part in parts)
