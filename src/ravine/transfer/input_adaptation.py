"""A network made to take images of other channels, or found not to take those of another size."""

import torch
from torch import Tensor, nn

from ..errors import ModelError
from .depths import has_weights, order_of_calls, run, watched


def adapt_channels(model: nn.Module, channels: int, *, sample: Tensor | None = None) -> str:
    """Let the first convolution take images of another number of channels.

    Images of equal channels give what they gave before: for fewer channels each takes an equal part of the
    summed weights, so that one, of a grey image, takes the sum; for more the old weights are repeated in
    turn, and those of one channel divided by how often they are there.

    Args:
        model: changed in place.
        channels: of the new images, at least 1.
        sample: prepared items of the old number of channels; without one the network is traced.

    Returns:
        the name of the convolution.

    Raises:
        ModelError: the first layer with weights is no convolution of the images as a whole.
    """
    if channels < 1:
        raise ModelError(f"images have a channel or more, not {channels}")
    called = order_of_calls(model, sample)
    layers = [name for name in called if has_weights(model.get_submodule(name))]
    first = model.get_submodule(layers[0]) if layers else model
    if not isinstance(first, nn.Conv2d) or first.groups != 1:
        raise ModelError(
            f"the first layer, {layers[0] if layers else 'the network'}, is a {type(first).__name__}: only a "
            "convolution can be made to take other channels"
        )
    if "weight" not in first._parameters:
        raise ModelError(
            f"the weight of {layers[0]} is made of other tensors: take its parametrization off first"
        )
    old = first.weight.detach()
    if channels != old.shape[1]:
        if channels < old.shape[1]:
            new = (old.sum(1, keepdim=True) / channels).expand(-1, channels, -1, -1)
        else:
            turns = torch.arange(channels) % old.shape[1]
            # Each old channel is there so many times: its share of the sum stays what it was.
            new = old[:, turns] / torch.bincount(turns)[turns].to(old).view(1, -1, 1, 1)
        first.weight = nn.Parameter(new.contiguous(), requires_grad=first.weight.requires_grad)
        first.in_channels = channels
    return layers[0]


def require_size(model: nn.Module, shape: tuple[int, ...]) -> None:
    """Try a network on items of a shape.

    Args:
        model: left as it was.
        shape: of one prepared item.

    Raises:
        ModelError: it cannot take them; the message has the layer at which it ended.
    """
    begun: list[str] = []
    done: list[str] = []
    try:
        with (
            watched(model, lambda name, *_: begun.append(name), before=True),
            watched(model, lambda name, *_: done.append(name)),
        ):
            like = next(model.parameters())
            run(model, torch.zeros(2, *shape, device=like.device, dtype=like.dtype))
    except ModelError as error:
        for name in done:
            begun.remove(name)
        where = f" at {begun[-1]}" if begun and begun[-1] else ""
        raise ModelError(
            f"the network does not take items of shape {shape}: it ended{where}. {error}"
        ) from error
