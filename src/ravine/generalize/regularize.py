"""Noise put into an existing network, at the customary places."""

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from ..errors import ModelError
from .noise import DropConnect, Dropout, FeatureDropout, NoisyPart, StochasticDepth, linear_rates
from .noise.part import check_rate
from .residual import branch_ends

# Under which name a part is kept in the module whose input or output it changes.
_BEFORE, _AFTER = "noise_before", "noise_after"
_SLOTS = {"dropout": _BEFORE, "feature_dropout": _BEFORE, "stochastic_depth": _AFTER}
_KINDS: dict[str, type[Dropout | FeatureDropout | StochasticDepth | DropConnect]] = {
    "dropout": Dropout,
    "feature_dropout": FeatureDropout,
    "stochastic_depth": StochasticDepth,
    "drop_connect": DropConnect,
}
_LAYERS = (nn.Linear, _ConvNd, DropConnect)
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

    Args:
        model: any module.
        dropout: of the inputs of linear layers, but for one that comes first of all layers; rates are in
            [0, 1], and 0 is none.
        feature_dropout: of the maps that go into convolutions, but for the first convolution.
        drop_connect: of the weights of linear layers but the last; of the last if it is the only one.
        stochastic_depth: of residual branches, from p/L for the first to p for the last of L.

    Returns:
        A sentence for each kind of noise, with where it went.

    Raises:
        ValueError: a rate out of [0, 1].
        ModelError: there is nowhere to put a noise, or it cannot be there; nothing is changed then.
    """
    rates = {
        "dropout": dropout,
        "feature_dropout": feature_dropout,
        "drop_connect": drop_connect,
        "stochastic_depth": stochastic_depth,
    }
    for name, rate in rates.items():
        check_rate(name, rate)
    places = _places(model)
    asked = [kind for kind, rate in rates.items() if rate]
    for kind in asked:
        if kind == "stochastic_depth":
            names = {module: name for name, module in model.named_modules()}
            places[kind] = [names[module] for module in branch_ends(model)]
        _refuse(model, kind, places[kind])
    # DropConnect first: it takes a layer's place, and other noise goes on what stands there then.
    for kind in sorted(asked, key="drop_connect".__ne__):
        for name, deep in zip(places[kind], linear_rates(rates[kind], len(places[kind])), strict=True):
            _put(model, kind, name, deep if kind == "stochastic_depth" else rates[kind])
    return [_told(kind, rates[kind], places[kind]) for kind in asked]


def _places(model: nn.Module) -> dict[str, list[str]]:
    """The customary places of each kind that needs no tracing."""
    # Attention never calls its last projection as a layer, so nothing that is put there would run.
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _LAYERS) and not isinstance(module, NonDynamicallyQuantizableLinear)
    }
    linear = [name for name, module in layers.items() if _kind(module) is nn.Linear]
    maps = [name for name in layers if name not in linear]
    first = next(iter(layers), None)
    return {
        "dropout": [name for name in linear if name != first],
        "feature_dropout": maps[1:],
        "drop_connect": linear[:-1] or linear,
    }


def _kind(module: nn.Module) -> type[nn.Module]:
    layer = module.layer if isinstance(module, DropConnect) else module
    return nn.Linear if isinstance(layer, nn.Linear) else _ConvNd


def _refuse(model: nn.Module, kind: str, places: list[str]) -> None:
    if not places:
        raise ModelError(f"there is nowhere to put {kind}: the network has no {_WHERE[kind]}")
    for name in places if kind == "drop_connect" else ():
        module = model.get_submodule(name)
        if not name:
            raise ModelError("the network is a single layer: make it a DropConnect(layer) yourself")
        if hasattr(module, _BEFORE) and not isinstance(module, DropConnect):
            raise ModelError(f"{name} has other noise already: give all kinds of noise in one call")
        if not isinstance(module, DropConnect):
            DropConnect(module)  # says whether the layer will do


def _put(model: nn.Module, kind: str, name: str, rate: float) -> None:
    """The noise in its place, or, where it is there from an earlier call, its rate."""
    module = model.get_submodule(name)
    there = module if kind == "drop_connect" else getattr(module, _SLOTS[kind], None)
    if isinstance(there, _KINDS[kind]):
        there.p = rate
    elif kind == "drop_connect":
        made = DropConnect(module, rate).train(module.training)
        for parent in list(model.modules()):  # shared layers stand in several places
            for own, child in list(parent._modules.items()):
                if child is module:
                    setattr(parent, own, made)
    elif kind == "stochastic_depth":
        _after(module, StochasticDepth(rate))
    else:
        _before(module, Dropout(rate) if kind == "dropout" else FeatureDropout(rate))


def _before(module: nn.Module, part: NoisyPart) -> None:
    module.add_module(_BEFORE, part.train(module.training))
    module.register_forward_pre_hook(_changed_input)


def _after(module: nn.Module, part: NoisyPart) -> None:
    module.add_module(_AFTER, part.train(module.training))
    module.register_forward_hook(_changed_output)


# Functions that look the part up, and not closures over it: copies of the network have parts of their own.
def _changed_input(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    part = getattr(module, _BEFORE)
    return (part(inputs[0]), *inputs[1:])


def _changed_output(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    changed: Tensor = getattr(module, _AFTER)(output)
    return changed


def _told(kind: str, rate: float, places: list[str]) -> str:
    few = ", ".join(places) if len(places) <= 4 else f"{', '.join(places[:2])}, ..., {places[-1]}"
    many = f"{len(places)} {'place' if len(places) == 1 else 'places'}"
    return {
        "dropout": f"dropout {rate:g} of the input of {few}",
        "feature_dropout": f"feature dropout {rate:g} of the maps into {few}",
        "drop_connect": f"DropConnect {rate:g} of the weights of {few}",
        "stochastic_depth": f"stochastic depth up to {rate:g} at the end of {few}",
    }[kind] + f" ({many})"
