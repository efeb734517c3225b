"""Random rectangles of a given range of areas and shapes, each wholly inside its image."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .draws import Draws

# As in torchvision; an image gets a rectangle that fits in all but rare cases.
TRIES = 10


class Boxes(NamedTuple):
    """One rectangle an image, in pixels.

    Attributes:
        top: (N,), the first row.
        left: (N,), the first column.
        height: (N,).
        width: (N,).
    """

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor


def sizes(
    draws: Draws, what: str, image: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Heights and widths, in pixels and not rounded, and whether they fit.

    The area is uniform in `scale`, the logarithm of width / height in that of `ratio`. Where the first
    rectangle does not fit into the image the next one counts, ten times; so big and long ones are rarer than
    uniform.

    Args:
        draws: of N samples.
        what: the use.
        image: its (height, width).
        scale: (low, high), shares of the image's area.
        ratio: (low, high) of width / height.

    Returns:
        float32 heights (N,) and widths (N,), and bool (N,): False where no rectangle fits; there they are
        those of the first try.
    """
    height, width = image
    area = draws.between(f"{what}.area", *scale, TRIES).mul_(height * width)
    shape = draws.between(f"{what}.ratio", math.log(ratio[0]), math.log(ratio[1]), TRIES).exp_()
    heights, widths = (area / shape).sqrt_(), (area * shape).sqrt_()
    fits = (heights <= height) & (widths <= width)
    # Of equal values argmax names the first.
    first = fits.to(torch.uint8).argmax(1, keepdim=True)
    return (
        heights.gather(1, first).squeeze(1),
        widths.gather(1, first).squeeze(1),
        fits.gather(1, first).squeeze(1),
    )
