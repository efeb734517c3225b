"""Where the residual branches of a network end, found by tracing it: for anyone's code."""

import operator
from operator import getitem

import torch
from torch import fx, nn

from ..errors import ModelError
from .noise import NoisyPart

_ADDITIONS = (operator.add, operator.iadd, torch.add)


def branch_ends(model: nn.Module) -> list[nn.Module]:
    """The last module of each residual branch, from the first block to the last.

    A residual branch is one of the two terms of a sum, where the other term is what the branch began with, or
    is made of it by fewer modules: the shortcut.

    Raises:
        ModelError: the network cannot be traced symbolically, or the end of a branch is used elsewhere too.
    """
    try:
        graph = _Tracer().trace(model)
    except Exception as error:
        raise ModelError(
            f"the network cannot be traced, so its residual branches are not found: {error}"
        ) from error
    modules = dict(model.named_modules())
    ends: list[nn.Module] = []
    for node in graph.nodes:
        if not _is_sum(node):
            continue
        branch, shortcut = sorted(node.args[:2], key=_calls, reverse=True)
        common = _ancestors(branch) & _ancestors(shortcut)
        end = branch
        # Beyond the last module there may be functions; noise goes on the module's output.
        while end.op != "call_module" and len(end.all_input_nodes) == 1 and end.target is not getitem:
            end = end.all_input_nodes[0]
        if not common or end in common or end.op != "call_module" or _calls(branch) == _calls(shortcut):
            continue
        module = modules[str(end.target)]
        uses = sum(
            other.op == "call_module" and modules[str(other.target)] is module for other in graph.nodes
        )
        if uses > 1 or len(end.users) > 1:
            raise ModelError(
                f"{end.target} ends a residual branch and is used elsewhere too: noise there would hit both"
            )
        ends.append(module)
    return ends


class _Tracer(fx.Tracer):
    """Takes a noisy part for one operation, whatever is in it."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, NoisyPart) or super().is_leaf_module(m, module_qualified_name)


def _is_sum(node: fx.Node) -> bool:
    method = node.op == "call_method" and node.target in ("add", "add_")
    function = node.op == "call_function" and node.target in _ADDITIONS
    return (method or function) and all(isinstance(term, fx.Node) for term in node.args[:2])


def _ancestors(node: fx.Node) -> set[fx.Node]:
    """A node and all that it is made of."""
    found, waiting = set[fx.Node](), [node]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting += current.all_input_nodes
    return found


def _calls(node: fx.Node) -> int:
    """How many modules a node is made of."""
    return sum(ancestor.op == "call_module" for ancestor in _ancestors(node))
