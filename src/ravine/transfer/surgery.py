"""The last layer replaced, so that a trained network tells other classes apart (T28)."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from ..errors import ModelError
from .depths import all_calls, run, traced, watched

Head = nn.Linear | nn.Conv2d

# A head that gives almost nothing at first: its first step then depends on the features alone, and its first
# loss is that of chance (Girshick et al. 2014 draw theirs so, too).
HEAD_DEVIATION = 0.01

# What changes a tensor's shape, and no number in it. Those of the second kind name the sizes.
_RESHAPES = {
    "flatten",
    "squeeze",
    "unsqueeze",
    "float",
    "contiguous",
    "transpose",
    "permute",
}
_SIZED = {"view", "reshape"}


def find_head(model: nn.Module, sample: Tensor | None = None) -> str:
    """The name of the layer that gives the network's output: linear, or a convolution of single pixels.

    Args:
        model: left as it was.
        sample: prepared items (N, ...) to run; without one the network is traced.

    Raises:
        ModelError: no such layer gives the output as it is, and the message lists the candidates; or it is
            called more than once, or shares its weights.
    """
    found = _by_run(model, sample) if sample is not None else _by_trace(model)
    if len(found) != 1:
        candidates = [name for name, module in model.named_modules() if _can_be_head(module)]
        raise ModelError(
            "it is not sure which layer is the network's head: "
            + (
                f"{', '.join(found)} give its output"
                if found
                else "no linear layer gives its output as it is"
            )
            + f". Name one: replace_head(model, classes, at=...) with {', '.join(candidates[-5:]) or 'none'}"
        )
    (name,) = found
    tied = _others_with(model, name)
    if tied:
        raise ModelError(f"the head {name} shares its weights with {', '.join(tied)}: it cannot be replaced")
    if all_calls(model, sample).count(name) > 1:
        raise ModelError(f"the head {name} is called more than once: it cannot be replaced")
    return name


def replace_head(
    model: nn.Module, classes: int, *, at: str | None = None, sample: Tensor | None = None
) -> str:
    """Put a new head of so many outputs in the place of the old one; the old one's name is returned.

    Its weights are drawn from N(0, 0.01²), from the global random stream; its bias is zero.

    Args:
        model: changed in place.
        classes: outputs of the new head, at least 1.
        at: the name of the head; None finds it.
        sample: as for `find_head`.

    Raises:
        ModelError: as `find_head`; or `at` names no linear layer, or one that has no sizes yet; or `classes`
            is no whole number above 0; or the network fails on the sample with another head, and has its own
            again.
    """
    require_outputs(classes)
    name = find_head(model, sample) if at is None else at
    try:
        old = model.get_submodule(name)
    except AttributeError as error:
        raise ModelError(f"the network has no layer {name!r}") from error
    if not isinstance(old, Head) or not _can_be_head(old):
        raise ModelError(
            f"{name} is a {type(old).__name__}; a head is linear, or a convolution of single pixels"
        )
    if isinstance(old.weight, UninitializedParameter):
        raise ModelError(f"{name} has no sizes yet: run the network once before")
    if not name:
        raise ModelError("the network is its head: there is nothing to transfer")
    model.set_submodule(name, new_head(old, classes))
    if sample is not None:
        try:
            run(model, sample)
        except ModelError as error:
            model.set_submodule(name, old)
            raise ModelError(f"with another head in the place of {name} {error}") from error
    return name


def require_outputs(classes: int) -> None:
    """Refuse what is no number of outputs."""
    if not isinstance(classes, int) or isinstance(classes, bool) or classes < 1:
        raise ModelError(f"a head has an output or more, not {classes!r}")


def new_head(old: Head, outputs: int, inputs: int | None = None) -> Head:
    """A head like another one, of so many outputs, and of as many inputs unless told otherwise."""
    like: dict[str, Any] = {"device": old.weight.device, "dtype": old.weight.dtype}
    made: Head
    if isinstance(old, nn.Linear):
        made = nn.Linear(inputs or old.in_features, outputs, bias=old.bias is not None, **like)
    else:
        where: dict[str, Any] = {
            "stride": old.stride,
            "padding": old.padding,
            "padding_mode": old.padding_mode,
        }
        made = nn.Conv2d(inputs or old.in_channels, outputs, 1, bias=old.bias is not None, **where, **like)
    nn.init.normal_(made.weight, std=HEAD_DEVIATION)
    if made.bias is not None:
        nn.init.zeros_(made.bias)
    made.train(old.training)
    return made


def _can_be_head(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.kernel_size == (1, 1) and module.groups == 1
    return isinstance(module, nn.Linear)


def _by_run(model: nn.Module, sample: Tensor) -> list[str]:
    """The layers whose output lies where the network's output lies, and is all of it."""
    given: dict[str, Tensor] = {}

    def see(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if _can_be_head(module) and isinstance(output, Tensor):
            given[name] = output

    with watched(model, see):
        out = run(model, sample)
    if not isinstance(out, Tensor):
        return []
    place = out.untyped_storage().data_ptr()
    return [
        name
        for name, own in given.items()
        if own.untyped_storage().data_ptr() == place
        and own.numel() == out.numel()
        # What was changed in place afterwards lies there, too, but is no layer's output.
        and own._version == out._version == 0
    ]


def _by_trace(model: nn.Module) -> list[str]:
    last = next(reversed(traced(model).graph.nodes))
    # A network that is one layer of torch's is its graph's only call.
    node: Any = last.args[0] if last.op == "output" else last
    while isinstance(node, torch.fx.Node):
        if node.op == "call_module":
            name = str(node.target)
            module = model.get_submodule(name)
            if not isinstance(module, nn.Flatten | nn.Identity):
                return [name] if _can_be_head(module) else []
        called = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        if node.op != "call_module" and called not in _RESHAPES | _SIZED:
            return []
        if called in _SIZED and any(isinstance(size, int) and size > 1 for size in _flat(node.args[1:])):
            return []  # outputs of this size alone
        node = node.args[0] if node.args else None
    return []


def _flat(sizes: Iterable[Any]) -> Iterator[Any]:
    for size in sizes:
        if isinstance(size, tuple | list):
            yield from _flat(size)
        else:
            yield size


def _others_with(model: nn.Module, name: str) -> list[str]:
    """Other modules that hold the head's weights."""
    head = model.get_submodule(name)
    own = {id(parameter) for parameter in head.parameters(recurse=False)}
    return [
        other
        for other, module in model.named_modules(remove_duplicate=False)
        if other != name and any(id(parameter) in own for parameter in module.parameters(recurse=False))
    ]
