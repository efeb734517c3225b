"""The forward pass of anyone's network as a graph: which modules run, in what order, and who gives what."""

import copy
import inspect
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from ..errors import ModelError
from .noise import NoisyPart

# What takes sizes, which a trace would not let them take.
MAKERS = (torch.arange, torch.zeros, torch.ones, torch.full, torch.empty, torch.rand, torch.randn)


def called_modules(model: nn.Module) -> list[str]:
    """The names of the modules that the forward pass calls, in the order in which it first does.

    What is inside of a module of torch's own follows it in the order of registration.

    Raises:
        ModelError: the network cannot be traced symbolically.
    """
    return list(dict.fromkeys(trace(model).called))


class Tracer(fx.Tracer):
    """A symbolic trace that keeps who is called, and who gives what.

    Attributes:
        called: the names of the modules, once a call; after a leaf, of what is inside of it.
        givers: the names of the modules that return a value or a tuple that begins with it, the inner first.
    """

    def __init__(self) -> None:
        super().__init__(autowrap_functions=MAKERS)
        self._autowrap_search.append(torch)
        self.called: list[str] = []
        self.givers: dict[fx.Node, list[str]] = defaultdict(list)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Noise, whatever is in it, and what runs torch's own code."""
        own = str(getattr(m.forward, "__module__", ""))
        of_torch = own.startswith(("torch.nn.", "torch.ao.nn.")) and not isinstance(m, nn.Sequential)
        return of_torch or isinstance(m, NoisyPart) or is_drop_path(m)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Note the call, then go in, or take the module as it is."""
        name = self.path_of_module(m)
        self.called.append(name)
        if self.is_leaf_module(m, name):
            self.called += _inside(m, name)
        given = super().call_module(m, forward, args, kwargs)
        first = given[0] if isinstance(given, tuple | list) and given else given
        # What only hands on what it took gives nothing.
        if isinstance(first, fx.Proxy) and not any(first is taken for taken in (*args, *kwargs.values())):
            self.givers[first.node].append(name)
        return given


def trace(model: nn.Module) -> Tracer:
    """The pass of a network in training mode, arguments with a default at their default.

    Raises:
        ModelError: the network cannot be traced symbolically.
    """
    tracer = Tracer()
    try:
        # A copy without its parameters: tracing leaves proxies in what a network keeps, and runs what it does
        # to its buffers. Hooks, ours among them, may keep what they see elsewhere.
        shared = (value for module in model.modules() for value in vars(module).values())
        tensors = [*model.parameters(), *(value for value in shared if isinstance(value, torch.Tensor))]
        twin = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors}).train()
        for module in twin.modules():
            module._forward_pre_hooks.clear()
            module._forward_hooks.clear()
        if tracer.is_leaf_module(twin, ""):
            tracer.called = ["", *_inside(twin, "")]
            tracer.graph = fx.Graph()
            tracer.graph.call_module("", (tracer.graph.placeholder("input"),))
            return tracer
        defaults = {
            name: parameter.default
            for name, parameter in inspect.signature(type(twin).forward).parameters.items()
            if parameter.default is None or isinstance(parameter.default, bool | int | float | str)
        }
        tracer.trace(twin, defaults)
    except Exception as error:
        raise ModelError(f"the network cannot be traced: {error}") from error
    return tracer


def _inside(module: nn.Module, name: str) -> list[str]:
    return [f"{name}.{inner}".lstrip(".") for inner, _ in module.named_modules() if inner]


def is_drop_path(module: nn.Module) -> bool:
    """Whether it is what libraries call DropPath or StochasticDepth."""
    return type(module).__name__.endswith(("DropPath", "StochasticDepth"))
