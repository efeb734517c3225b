"""The checks that every network makes of its shape and sizes before anything is built."""

import math

from ..errors import ModelError


def vector_size(shape: tuple[int, ...], model: str) -> int:
    """How many numbers an item of this shape holds.

    Raises:
        ModelError: the item holds none.
    """
    size = math.prod(shape)
    if not shape or size < 1:
        raise ModelError(f"model {model!r} takes items of at least one number, but their shape is {shape}")
    return size


def image_shape(shape: tuple[int, ...], model: str) -> tuple[int, int, int]:
    """(channels, height, width) of an image.

    Raises:
        ModelError: the item is no image.
    """
    if len(shape) != 3 or min(shape) < 1:
        raise ModelError(
            f"model {model!r} takes images of shape (channels, height, width), but items have shape {shape}; "
            "'mlp' takes items of any shape"
        )
    channels, height, width = shape
    return channels, height, width


def require_positive(model: str, **sizes: int) -> None:
    """Each of `sizes` is at least 1.

    Raises:
        ModelError: one is not; the message has its name.
    """
    for name, size in sizes.items():
        if size < 1:
            raise ModelError(f"model {model!r}: {name} must be at least 1, not {size}")


def require_rate(model: str, dropout: float) -> None:
    """`dropout` is a probability below 1.

    Raises:
        ModelError: it is not.
    """
    if not 0.0 <= dropout < 1.0:
        raise ModelError(f"model {model!r}: dropout must be at least 0 and below 1, not {dropout}")
