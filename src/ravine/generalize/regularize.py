"""Noise put into an existing network, at the customary places."""

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from ..errors import ModelError
from .noise import DropConnect, Dropout, FeatureDropout, NoisyPart, StochasticDepth, linear_rates
from .noise.part import check_rate
from .noise.stochastic_depth import Mode
from .residual import branch_ends
from .tracing import called_modules

BEFORE, _AFTER = "noise_before", "noise_after"
"""Under which name a part is kept in the module whose input or output it changes."""

_SLOTS = {"dropout": BEFORE, "feature_dropout": BEFORE, "stochastic_depth": _AFTER}
_KINDS: dict[str, type[Dropout | FeatureDropout | StochasticDepth | DropConnect]] = {
    "dropout": Dropout,
    "feature_dropout": FeatureDropout,
    "stochastic_depth": StochasticDepth,
    "drop_connect": DropConnect,
}
_LAYERS = (nn.Linear, _ConvNd, DropConnect)
# What else makes values of its input by weights, so that a linear layer after it is not the first layer.
_OTHER_LAYERS = (nn.Embedding, nn.EmbeddingBag, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)
_WHERE = {
    "dropout": "linear layer after another layer",
    "feature_dropout": "convolution after the first",
    "drop_connect": "linear layer",
    "stochastic_depth": "residual branch",
}


def regularize(
    model: nn.Module,
    *,
    dropout: float = 0.0,
    feature_dropout: float = 0.0,
    drop_connect: float = 0.0,
    stochastic_depth: float = 0.0,
) -> list[str]:
    """Put noise into a network, of anyone's code, and tell what was done.

    The network is changed in place; names and shapes of its parameters stay, so that its checkpoints fit, and
    evaluation mode gives what it gave before. In `average_out` all of it takes part. A second call changes
    the rates of the noise it asks for.

    First and last are meant in the order in which the layers run, and a layer that does not run gets nothing;
    in a network that cannot be traced symbolically, in the order in which the layers are registered.

    Args:
        model: any module.
        dropout: of the inputs of linear layers, but for one that comes first of all layers, recurrent layers,
            embeddings and attention among them; rates are in [0, 1), and 0 is none.
        feature_dropout: of the maps that go into convolutions, but for the first convolution.
        drop_connect: of the weights of linear layers but the last; of the last if it is the only one.
        stochastic_depth: of residual branches (`residual.branch_ends` says what is one), from p/L for the
            first to p for the last of L, in [0, 1]. Each item has a draw of its own, unless it is not certain
            that axis 0 holds the items: then all share one.

    Returns:
        A sentence for each kind of noise, with where it went.

    Raises:
        ValueError: a rate out of its range.
        ModelError: there is nowhere to put a noise, or it cannot be there; nothing is changed then.
    """
    rates = {
        "dropout": dropout,
        "feature_dropout": feature_dropout,
        "drop_connect": drop_connect,
        "stochastic_depth": stochastic_depth,
    }
    for name, rate in rates.items():
        if check_rate(name, rate) == 1.0 and name != "stochastic_depth":
            raise ValueError(f"Invalid {name}: {rate!r}; nothing would get through: it must be below 1")
    asked = [kind for kind, rate in rates.items() if rate]
    places = _places(model) if {*asked} - {"stochastic_depth"} else {}
    ends = branch_ends(model) if stochastic_depth else []
    places["stochastic_depth"] = [end.name for end in ends]
    for kind in asked:
        _refuse(model, kind, places[kind])
    # DropConnect first: it takes a layer's place, and other noise goes on what stands there then.
    for kind in sorted(asked, key="drop_connect".__ne__):
        for name in places[kind] if kind != "stochastic_depth" else ():
            _put(model, kind, name, rates[kind])
    for end, rate in zip(ends, linear_rates(stochastic_depth, len(ends)), strict=True):
        _put(model, "stochastic_depth", end.name, rate, "row" if end.by_item else "batch")
    shared = {end.name for end in ends if not end.by_item}
    return [_told(kind, rates[kind], places[kind], shared) for kind in asked]


def _places(model: nn.Module) -> dict[str, list[str]]:
    """The customary places of each kind but stochastic depth."""
    modules = dict(model.named_modules())
    try:
        names = called_modules(model)
    except ModelError:  # then the order of registration has to do
        names = list(modules)
    # Attention never calls its last projection as a layer, so nothing that is put there would run.
    layers = {
        name: module
        for name in names
        if isinstance(module := modules.get(name), (*_LAYERS, *_OTHER_LAYERS))
        and not isinstance(module, NonDynamicallyQuantizableLinear)
    }
    first = next(iter(layers), None)
    linear = [name for name, module in layers.items() if _kind(module) is nn.Linear]
    maps = [name for name, module in layers.items() if _kind(module) is _ConvNd]
    return {
        "dropout": [name for name in linear if name != first],
        "feature_dropout": maps[1:],
        "drop_connect": linear[:-1] or linear,
    }


def _kind(module: nn.Module) -> type[nn.Module] | None:
    layer = module.layer if isinstance(module, DropConnect) else module
    return next((kind for kind in (nn.Linear, _ConvNd) if isinstance(layer, kind)), None)


def _refuse(model: nn.Module, kind: str, places: list[str]) -> None:
    if not places:
        raise ModelError(f"there is nowhere to put {kind}: the network has no {_WHERE[kind]}")
    for name in places if kind == "drop_connect" else ():
        module = model.get_submodule(name)
        if not name:
            raise ModelError("the network is a single layer: make it a DropConnect(layer) yourself")
        if hasattr(module, BEFORE) and not isinstance(module, DropConnect):
            raise ModelError(f"{name} has other noise already: give all kinds of noise in one call")
        if not isinstance(module, DropConnect):
            DropConnect(module)  # says whether the layer will do


def _put(model: nn.Module, kind: str, name: str, rate: float, mode: Mode = "row") -> None:
    """The noise in its place, or, where it is there from an earlier call, its rate."""
    module = model.get_submodule(name)
    there = module if kind == "drop_connect" else getattr(module, _SLOTS[kind], None)
    if isinstance(there, _KINDS[kind]):
        there.p = rate
    elif kind == "drop_connect":
        made = DropConnect(module, rate).train(module.training)
        made.register_forward_pre_hook(_by_position, with_kwargs=True)
        for parent in list(model.modules()):  # shared layers stand in several places
            for own, child in list(parent._modules.items()):
                if child is module:
                    setattr(parent, own, made)
    elif kind == "stochastic_depth":
        _after(module, StochasticDepth(rate, mode))
    else:
        _before(module, Dropout(rate) if kind == "dropout" else FeatureDropout(rate))


def noise_before(module: nn.Module) -> nn.Module | None:
    """The part that changes a layer's input; None where there is none, or where the layer has other hooks."""
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    part: nn.Module | None = getattr(module, BEFORE, None)
    return part if hooks == [_changed_input] else None


def _before(module: nn.Module, part: NoisyPart) -> None:
    module.add_module(BEFORE, part.train(module.training))
    module.register_forward_pre_hook(_changed_input, with_kwargs=True)


def _after(module: nn.Module, part: NoisyPart) -> None:
    module.add_module(_AFTER, part.train(module.training))
    module.register_forward_hook(_changed_output)


# Functions that look the part up, and not closures over it: copies of the network have parts of their own.
def _changed_input(
    module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The first tensor changed, whether it is given by position or by name."""
    part = getattr(module, BEFORE)
    if inputs:
        return (part(inputs[0]), *inputs[1:]), named
    first = next(name for name, value in named.items() if isinstance(value, Tensor))
    return inputs, {**named, first: part(named[first])}


def _by_position(
    module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """DropConnect knows no names of the layer's inputs."""
    return (*inputs, *named.values()), {}


def _changed_output(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    """The output changed, or the first of several, as of attention and its weights."""
    part = getattr(module, _AFTER)
    if not isinstance(output, tuple | list):
        return part(output)
    changed = (part(output[0]), *output[1:])
    return type(output)(*changed) if hasattr(output, "_fields") else type(output)(changed)


def _told(kind: str, rate: float, places: list[str], shared: set[str]) -> str:
    few = ", ".join(places) if len(places) <= 4 else f"{', '.join(places[:2])}, ..., {places[-1]}"
    many = f"{len(places)} {'place' if len(places) == 1 else 'places'}"
    if kind == "stochastic_depth" and shared:
        many += f", {len(shared)} drawn for whole batches"
    return {
        "dropout": f"dropout {rate:g} of the input of {few}",
        "feature_dropout": f"feature dropout {rate:g} of the maps into {few}",
        "drop_connect": f"DropConnect {rate:g} of the weights of {few}",
        "stochastic_depth": f"stochastic depth up to {rate:g} at the end of {few}",
    }[kind] + f" ({many})"
