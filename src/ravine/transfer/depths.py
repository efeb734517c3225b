"""How deep each part of a network is: the order in which its modules run, and points to cut it at."""

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from ..errors import ModelError
from ..generalize.residual import values_of
from ..generalize.tracing import Tracer, trace
from ..modes import evaluating
from ..optim.groups import NORMALIZATIONS

# A part of the network is opened into its children while it holds more than this share of the layers.
_LARGE = 1 / 4


class Level(NamedTuple):
    """A stretch of the network.

    Attributes:
        name: of the module whose output ends it.
        modules: the names of those that run in it, and of those within them.
        first: of the module that begins it.
    """

    name: str
    modules: frozenset[str]
    first: str


def all_calls(model: nn.Module, sample: Tensor | None = None) -> list[str]:
    """The names of all modules that the forward pass calls, one a call, in their order.

    Args:
        model: left as it was.
        sample: as for `order_of_calls`.

    Raises:
        ModelError: as `order_of_calls`.
    """
    return [name for name in _Calls(model, sample).calls if name]


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
        self._model, self._sample = model, sample
        self._traced: Tracer | None = None
        # Tensors are kept, so that no other takes the place of one in memory; with them how often each had
        # been changed in place by then.
        self._taken: dict[str, tuple[Tensor, int]] = {}
        self._given: dict[str, tuple[Tensor, int]] = {}
        if sample is None:
            self._traced = traced(model)
            self.calls = self._traced.called
        else:
            self.calls = []

            def before(name: str, module: nn.Module, inputs: Any, _: Any) -> None:
                self.calls.append(name)
                if name not in self._taken and (first := first_tensor(inputs)) is not None:
                    self._taken[name] = first, first._version

            def after(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
                if name not in self._given and (first := first_tensor(output)) is not None:
                    self._given[name] = first, first._version

            with watched(model, before, before=True), watched(model, after):
                run(model, sample)
        self.order = [name for name in dict.fromkeys(self.calls) if name]

    def children(self, name: str) -> list[str]:
        """The modules next within one that are called, in the order of the calls.

        In the place of a child that only holds others, such as a `ModuleList`, are those; an empty
        `Sequential` only hands on.
        """
        prefix = f"{name}." if name else ""
        inner = [one.removeprefix(prefix).partition(".")[0] for one in self.order if one.startswith(prefix)]
        found = []
        for child in dict.fromkeys(f"{prefix}{child}" for child in inner):
            module = self._model.get_submodule(child)
            empty = isinstance(module, nn.Sequential) and not len(module)
            holds = isinstance(module, nn.ModuleList | nn.ModuleDict) or child not in self.order
            if not empty:
                found += self.children(child) if holds else [child]
        return found

    def is_chain(self, name: str) -> bool:
        """Whether a module's children follow each other, each taking what the one before it gave.

        The first takes what the module takes, and what the last gives is what the module gives: a residual
        branch is no chain.
        """
        if self._traced is not None:
            module = self._model.get_submodule(name)
            plain = type(module).forward is nn.Sequential.forward
            return plain or isinstance(module, nn.TransformerEncoder)
        children = self.children(name)
        if not children:
            return False
        ends = [
            (self._taken.get(name), self._taken.get(children[0])),
            *((self._given.get(one), self._taken.get(other)) for one, other in pairwise(children)),
            (self._given.get(children[-1]), self._given.get(name)),
        ]
        return all(
            given is not None
            and taken is not None
            and given[0].untyped_storage().data_ptr() == taken[0].untyped_storage().data_ptr()
            and given[1] == taken[1]
            for given, taken in ends
        )

    def is_cut(self, name: str) -> bool:
        """Whether the network's output follows from what a module gives, and nothing else of the input."""
        return self._separates(name) if self._traced is not None else self._decides(name)

    def _separates(self, name: str) -> bool:
        """Whether every way through the graph from the input to the output leads over a module's output."""
        assert self._traced is not None
        nodes = [node for node, givers in self._traced.givers.items() if name in givers]
        if not nodes:  # within a module of torch's own, of which an encoder's layers are known to be a chain
            owner = name.rpartition(".")[0]
            if isinstance(self._model.get_submodule(owner), nn.ModuleList):
                owner = owner.rpartition(".")[0]
            known = isinstance(self._model.get_submodule(owner), nn.TransformerEncoder)
            return known and (not owner or self._separates(owner))
        reached: set[fx.Node] = set()
        for node in self._traced.graph.nodes:
            comes_in = node.op == "placeholder" or any(source in reached for source in values_of(node))
            if comes_in and node is not nodes[0]:
                reached.add(node)
        return next(node for node in self._traced.graph.nodes if node.op == "output") not in reached

    def _decides(self, name: str) -> bool:
        """Tried: another input, but with what the module gave for the sample, gives the sample's output."""
        assert self._sample is not None
        module = self._model.get_submodule(name)
        kept: list[Any] = []
        other = torch.zeros_like(self._sample) if self._sample.any() else torch.ones_like(self._sample)

        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            if not kept:  # of a module that is called again the first call counts
                # A copy: what follows may change it in place.
                kept.append(copy.deepcopy(output))

        def put(module: nn.Module, inputs: Any, output: Any) -> Any:
            return kept.pop() if kept else None

        found = []
        for hook, inputs in ((keep, self._sample), (put, other)):
            handle = module.register_forward_hook(hook)
            try:
                found.append(first_tensor(run(self._model, inputs)))
            finally:
                handle.remove()
        one, two = found
        return one is not None and two is not None and torch.equal(one, two)


def traced(model: nn.Module) -> Tracer:
    """As `trace`, whose refusal tells the other way: to run a sample."""
    try:
        return trace(model)
    except ModelError as error:
        raise ModelError(
            f"{error}. Give prepared items as sample=, and the network is run on them instead"
        ) from error


def first_tensor(value: Any) -> Tensor | None:
    """A tensor, or the first one of a tuple, list or dict; None where there is none."""
    if isinstance(value, Tensor):
        return value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    return next((found for each in inner if (found := first_tensor(each)) is not None), None)


def levels(model: nn.Module, sample: Tensor | None = None) -> list[Level]:
    """The network as stretches from the input to the output, whose last holds the head.

    The children of the network in their order. One that holds more than a quarter of all layers is opened
    into its own, where each of these takes what the one before gave: without a sample that is known of
    `Sequential` and `TransformerEncoder` alone. What has no weights, and a normalization, belongs to the
    stretch before it. So a residual network comes apart into its stem and its blocks, a chain into its
    layers.

    Args:
        model: left as it was.
        sample: as for `order_of_calls`.

    Raises:
        ModelError: as `order_of_calls`; or nothing that it calls has weights.
    """
    return _levels(model, _Calls(model, sample))


def _levels(model: nn.Module, calls: _Calls) -> list[Level]:
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
        Level(own[-1], frozenset(name for name, _ in model.named_modules() if within(name, own)), own[0])
        for own in found
    ]


def depths(model: nn.Module, sample: Tensor | None = None) -> list[str]:
    """The names of the modules whose outputs are the features of each depth, from the input to the head's.

    Those ends of `levels` from which alone the rest of the network follows: at one branch of several the
    network knows more than that branch.

    Args:
        model: left as it was.
        sample: as for `order_of_calls`, of at least one item; the network runs twice for each level.

    Raises:
        ModelError: as `levels`; or there is nothing below the head.
    """
    calls = _Calls(model, sample)
    found = [level.name for level in _levels(model, calls)][:-1]
    if not found:
        raise ModelError("the network is one layer: it has no features below its head")
    cuts = [name for name in found if calls.is_cut(name)]
    if not cuts:
        raise ModelError(
            f"the network has no depths: what follows {', '.join(found[:5])} takes more than what these give"
        )
    return cuts


@contextmanager
def watched(model: nn.Module, see: Any, *, before: bool = False) -> Iterator[None]:
    """Within, `see(name, module, inputs, output)` is called after each module, or before, without output."""

    def hook(name: str) -> Any:
        if before:
            return lambda module, inputs: see(name, module, inputs, None)
        return lambda module, inputs, output: see(name, module, inputs, output)

    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError(
            "the network is TorchScript, whose layers cannot be looked at: take the one it was made of"
        )
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
