"""How the images of a network of transformers were prepared, by its `preprocessor_config.json`."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ....errors import ModelError

# What is done to images besides scaling and normalizing, and no mean and deviation can say.
_OTHER = ("rescale_offset", "include_top", "do_flip_channel_order", "do_color_quantize")


class Preparation(NamedTuple):
    """How images become inputs.

    Attributes:
        size: (height, width) in pixels, or None if it does not say.
        mean: of each channel's pixels, scaled to [0, 1].
        std: their standard deviations.
    """

    size: tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]


def preparation(record: Mapping[str, Any], channels: int, shown: str) -> Preparation:
    """How a network's images were prepared.

    Args:
        record: of its `preprocessor_config.json`.
        channels: of its images.
        shown: what messages call it.

    Raises:
        ModelError: in a way that a mean and a deviation of each channel cannot express.
    """
    if others := [key for key in _OTHER if record.get(key)]:
        raise ModelError(
            f"{shown} prepares its images in a way that is not known here ({', '.join(others)}): only "
            "scaling and normalizing each channel is"
        )
    normalized = record.get("do_normalize", True)
    mean = _by_channel(record.get("image_mean") if normalized else None, 0.0, channels)
    std = _by_channel(record.get("image_std") if normalized else None, 1.0, channels)
    if not len(mean) == len(std) == channels:
        raise ModelError(
            f"{shown} takes images of {channels} channels, and its preprocessor_config.json has image_mean "
            f"{list(mean)} and image_std {list(std)}"
        )
    scale = record.get("rescale_factor", 1 / 255) if record.get("do_rescale", True) else 1.0
    # They normalize pixels that are multiplied by `scale`; a card's numbers are of pixels divided by 255.
    by = 255 * scale
    return Preparation(_size(record), tuple(each / by for each in mean), tuple(each / by for each in std))


def size_of(value: Any) -> tuple[int, int] | None:
    """(height, width) of whatever form a size is written in."""
    if isinstance(value, Mapping):
        side = value.get("shortest_edge")
        value = (value.get("height", side), value.get("width", side))
    if isinstance(value, int):
        value = (value, value)
    if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(each, int) for each in value):
        return (value[0], value[1])
    return None


def _by_channel(value: Any, otherwise: float, channels: int) -> tuple[float, ...]:
    if isinstance(value, list):
        return tuple(map(float, value))
    return (float(otherwise if value is None else value),) * channels


def _size(record: Mapping[str, Any]) -> tuple[int, int] | None:
    cropped = size_of(record.get("crop_size")) if record.get("do_center_crop") else None
    return cropped or size_of(record.get("size"))
