"""Penalties on the size of weights (T18): terms to add to any loss, and a bound on each unit's weights.

What they are as options of an optimizer, and how decoupled decay differs: `ravine.optim`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.optim import Optimizer

from ..errors import nearest
from .noise import DropConnect

Parameters = nn.Module | Tensor | Iterable[Tensor] | Iterable[tuple[str, Tensor]]
"""What is penalized: a module, a tensor, or tensors with or without names. One that is there twice, as
shared weights are, counts once."""

STRENGTHS = ("l1", "l2")
_LAYERS = (nn.Linear, nn.Bilinear, _ConvNd, nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase)


def l1(parameters: Parameters) -> Tensor:
    """Σ|w|, whose gradient is sign(w), 0 where w is 0.

    Args:
        parameters: real tensors of any shapes; 16-bit ones are summed in float32.

    Returns:
        A scalar, at least 0.

    Raises:
        ValueError: there are no parameters, or one is not real.
    """
    return _absolutes(tensors_of(parameters))


def l2(parameters: Parameters) -> Tensor:
    """Σw², whose gradient is 2w: λ·Σw² is what optimizers call a coupled weight decay of 2λ.

    Args:
        parameters: real tensors of any shapes; 16-bit ones are summed in float32.

    Returns:
        A scalar, at least 0.

    Raises:
        ValueError: there are no parameters, or one is not real.
    """
    return _squares(tensors_of(parameters))


def elastic_net(parameters: Parameters, beta: float) -> Tensor:
    """Σ(β·w² + |w|) (Zou and Hastie 2005): zeros as of L1, shared between weights that go together.

    Args:
        parameters: real tensors of any shapes; 16-bit ones are summed in float32.
        beta: the share of the squares, at least 0.

    Returns:
        A scalar, at least 0.

    Raises:
        ValueError: there are no parameters, one is not real, or β is out of range.
    """
    _check_strength("beta", beta)
    tensors = tensors_of(parameters)
    return beta * _squares(tensors) + _absolutes(tensors)


class Penalty:
    """The penalties of a model's parameters, group by group, as one term of the loss.

        penalty = Penalty([
            {"params": model.embedding, "l1": 1e-4},
            {"params": model.head.weight, "l2": 1e-3},
        ])
        loss = cross_entropy(model(inputs), targets) + penalty()

    A group with both is an elastic net: λ·Σ(β·w² + |w|) has `l1` λ and `l2` λ·β. Frozen parameters count
    like all others. The penalty sees the tensors it was made of: where `torch.func` puts others in their
    place, add `l1(parameters.values())` there.

    Attributes:
        groups: `params`, a list of tensors, `l1` and `l2` of each group; the strengths may be changed
            between two calls.
    """

    def __init__(
        self,
        params: Parameters | Iterable[Mapping[str, Any]],
        *,
        l1: float | None = None,
        l2: float | None = None,
    ) -> None:
        """What is penalized, and how strongly.

        Args:
            params: parameters, or groups of them: tables of `params`, `l1` and `l2`.
            l1: of groups that do not tell their own: this times Σ|w|, at least 0.
            l2: likewise: this times Σw², at least 0.

        Raises:
            ValueError: a strength out of range, or none; a group without parameters, with one that is not
                real, or with an unknown key.
        """
        strengths = {name: value for name, value in (("l1", l1), ("l2", l2)) if value is not None}
        self.groups: list[dict[str, Any]] = [_group({**strengths, **group}) for group in _groups(params)]

    def __call__(self) -> Tensor:
        """Σ over the groups of l1·Σ|w| + l2·Σw²: a scalar on the first parameter's device."""
        total = torch.zeros((), device=self.groups[0]["params"][0].device)
        for group in self.groups:
            for name, term in (("l1", _absolutes), ("l2", _squares)):
                if group[name]:
                    total = total + group[name] * term(group["params"]).to(total.device)
        return total


def max_norm_(parameters: Parameters, limit: float, *, dim: int = 0) -> None:
    """Scale each unit's incoming weights back to the length `limit` where they are longer, in place.

    Srebro and Shraibman 2005; Hinton et al. 2012, arXiv:1207.0580, with dropout. Weights that are short
    enough are not touched, and a second call changes nothing. Weights that are not finite are left alone, to
    be found. Of a module these are the `unit_weights`, and nothing else of it. Of tensors only the shape is
    known: those of one dimension or none (biases, gains) hold no unit's weights and are left alone, and all
    others are taken for weights, so do not give gains of more dimensions, or embeddings.

    Args:
        parameters: a module, or real tensors; of two dimensions or more at least one.
        limit: the greatest 2-norm, above 0; 2 to 4 is usual with dropout.
        dim: the axis of the units in tensors: 0 for linear and convolution layers, 1 for transposed
            convolutions. A module's layers tell their own.

    Raises:
        ValueError: the limit is not above 0; there are no weights, one is not real or has no such axis.
    """
    _check_limit(limit)
    _shorten(
        _of_layers(parameters) if isinstance(parameters, nn.Module) else _of_shape(parameters, dim), limit
    )


def unit_weights(model: nn.Module) -> list[tuple[nn.Parameter, int]]:
    """The weights whose slices are each a unit's incoming weights, with the axis of the units.

    They are those of linear and convolution layers, `DropConnect` around one, attention and recurrent layers.
    The axis is 0, and 1 for transposed convolutions. Gains, biases, embeddings, and parameters that a network
    uses in its own code are none: no layer tells what they do. Nor are weights that are computed from other
    parameters, as under weight normalization.

    Args:
        model: the network; weights that several layers share are there once.
    """
    found: dict[nn.Parameter, int] = {}
    for module in model.modules():
        layer = module.layer if isinstance(module, DropConnect) else module
        if isinstance(layer, _LAYERS):
            for name, parameter in module.named_parameters(recurse=False):
                if "weight" in name and parameter.dim() > 1:
                    found.setdefault(parameter, 1 if isinstance(layer, _ConvTransposeNd) else 0)
    return list(found.items())


def _shorten(weights: Sequence[tuple[Tensor, int]], limit: float) -> None:
    with torch.no_grad():
        for weight, axis in weights:
            wide = torch.promote_types(weight.dtype, torch.float32)
            others = [other for other in range(weight.dim()) if other != axis]
            length = torch.linalg.vector_norm(weight, dim=others, keepdim=True, dtype=wide)
            # Room for the rounding of the products and of the length: what was scaled is not scaled again.
            size = weight.numel() // max(weight.shape[axis], 1)
            slack = torch.finfo(weight.dtype).eps + torch.finfo(wide).eps * math.sqrt(size)
            too_long = (length > limit) & torch.isfinite(length)
            weight.mul_(torch.where(too_long, limit * (1 - slack) / length, 1.0))


class MaxNorm:
    """Keeps each unit's weights at most `limit` long: `max_norm_` after every step of an optimizer.

        optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
        MaxNorm(optimizer, 3.0)

    It is a hook of the optimizer's, so a copy of that goes without. It may be any of torch's or Ravine's but
    the Schedule-Free ones: these make the weights anew from sequences of their own, which nothing bounds.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        limit: float,
        *,
        model: nn.Module | None = None,
        groups: Sequence[int] | None = None,
        dim: int = 0,
    ) -> None:
        """Begin with the next step.

        Args:
            optimizer: whose parameters are bounded.
            limit: the greatest 2-norm, above 0.
            model: the network; then its `unit_weights` are bounded, as far as the optimizer steps them. An
                optimizer alone does not tell weights from gains of several dimensions and from embeddings:
                without the network all parameters of two dimensions or more are bounded.
            groups: positions in `optimizer.param_groups`; all of them, also those added later, where None.
            dim: the axis of the units, where there is no model.

        Raises:
            ValueError: the limit is not above 0; there is no such group; there are no weights, or one has no
                such axis; the optimizer is a Schedule-Free one.
        """
        _check_limit(limit)
        if hasattr(optimizer, "eval"):  # what it steps is not what is evaluated
            raise ValueError(
                f"{type(optimizer).__name__} makes the weights anew from its state: none can be bound"
            )
        count = len(optimizer.param_groups)
        for position in groups or ():
            if not 0 <= position < count:
                raise ValueError(f"there is no group {position}: the optimizer has {count}, counted from 0")
        self.limit = limit
        self.groups = groups
        self.model = model
        self.dim = dim
        self._weights(optimizer)
        self._hook = optimizer.register_step_post_hook(self._keep)

    def remove(self) -> None:
        """Let the weights go."""
        self._hook.remove()

    def _keep(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        _shorten(self._weights(optimizer), self.limit)

    def _weights(self, optimizer: Optimizer) -> Sequence[tuple[Tensor, int]]:
        groups = optimizer.param_groups
        chosen = groups if self.groups is None else [groups[position] for position in self.groups]
        parameters = [parameter for group in chosen for parameter in group["params"]]
        return _of_shape(parameters, self.dim) if self.model is None else _of_layers(self.model, parameters)


def tensors_of(parameters: Parameters) -> list[Tensor]:
    """The tensors, each once.

    Raises:
        TypeError: something is no tensor.
        ValueError: there are none, or one is not real.
    """
    if isinstance(parameters, nn.Module):
        parameters = parameters.parameters()
    elif isinstance(parameters, Tensor):
        parameters = [parameters]
    tensors: dict[int, Tensor] = {}
    for given in parameters:
        tensor = given[1] if isinstance(given, tuple) else given
        if not isinstance(tensor, Tensor):
            raise TypeError(f"parameters are tensors, not {type(tensor).__name__}")
        if not tensor.is_floating_point():
            hint = ": give torch.view_as_real(parameter)" if tensor.is_complex() else ""
            raise ValueError(f"a parameter of {tensor.dtype} is not real{hint}")
        tensors[id(tensor)] = tensor
    if not tensors:
        raise ValueError("there are no parameters; a generator, such as parameters(), gives its own once")
    return list(tensors.values())


def _absolutes(tensors: Sequence[Tensor]) -> Tensor:
    return _sum([_wide(tensor).abs().sum() for tensor in tensors])


def _squares(tensors: Sequence[Tensor]) -> Tensor:
    return _sum([_wide(tensor).square().sum() for tensor in tensors])


def _wide(tensor: Tensor) -> Tensor:
    """In float32 at least: squares of float16 overflow above 255."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _sum(terms: Sequence[Tensor]) -> Tensor:
    """The sum on the first one's device."""
    total = terms[0]
    for term in terms[1:]:
        total = total + term.to(total.device)
    return total


def _groups(params: Any) -> list[Mapping[str, Any]]:
    if isinstance(params, nn.Module | Tensor):
        return [{"params": params}]
    items = list(params)
    if items and all(isinstance(item, Mapping) for item in items):
        return items
    return [{"params": items}]


def _group(given: Mapping[str, Any]) -> dict[str, Any]:
    known = ("params", *STRENGTHS)
    for name in given:
        if name not in known:
            raise ValueError(
                f"a penalty's group has no {name!r}{nearest(name, known)}; it takes {', '.join(known)}"
            )
    if "params" not in given:
        raise ValueError("a penalty's group needs its params")
    if not any(name in given for name in STRENGTHS):
        raise ValueError("a penalty needs a strength: l1=1e-4, say, or l2")
    group = {"l1": 0.0, "l2": 0.0, **given, "params": tensors_of(given["params"])}
    for name in STRENGTHS:
        _check_strength(name, group[name])
    return group


def _of_layers(model: nn.Module, stepped: Iterable[Tensor] | None = None) -> list[tuple[nn.Parameter, int]]:
    """The unit weights of a model, or those of them that an optimizer steps."""
    weights = unit_weights(model)
    if stepped is not None:
        known = {id(parameter) for parameter in stepped}
        weights = [(weight, axis) for weight, axis in weights if id(weight) in known]
    if not weights:
        raise ValueError("there are no weights of linear, convolution, attention or recurrent layers")
    tensors_of(weight for weight, _ in weights)  # all are real
    return weights


def _of_shape(parameters: Parameters, dim: int) -> list[tuple[Tensor, int]]:
    """The tensors of two dimensions or more, each with the axis of its units."""
    weights = [tensor for tensor in tensors_of(parameters) if tensor.dim() > 1]
    if not weights:
        raise ValueError("there are no weights: every parameter has one dimension or none")
    for weight in weights:
        if not -weight.dim() <= dim < weight.dim():
            raise ValueError(f"a parameter of shape {tuple(weight.shape)} has no axis {dim}")
    return [(weight, dim % weight.dim()) for weight in weights]


def _check_strength(name: str, value: Any) -> None:
    if not (isinstance(value, int | float) and 0 <= value < math.inf):
        raise ValueError(f"Invalid {name}: {value!r}; it must be at least 0 and finite")


def _check_limit(limit: Any) -> None:
    if not (isinstance(limit, int | float) and limit > 0):
        raise ValueError(f"Invalid limit: {limit!r}; it must be above 0")
