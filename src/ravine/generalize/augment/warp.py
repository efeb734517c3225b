"""One sampling pass for any chain of geometric transforms.

A geometric transform says for each place of its result from where in its source the colour is taken. Places
are in pixels from the middle of the image, x to the right and y downwards. A chain is followed from the last
transform to the first, place by place, and the image is sampled once: sharper and faster than one sampling
after another.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .draws import Draws
from .transform import Transform, as_floating, bounds, like


class Points(NamedTuple):
    """Places in each image, in pixels from its middle.

    Attributes:
        x: to the right; of any shape that expands to (N, H, W).
        y: downwards; likewise.
    """

    x: Tensor
    y: Tensor


# A homography for each image, float32 (N, 3, 3), or any map of its places.
Motion = Tensor | Callable[[Points], Points]


class GeometricTransform(Transform):
    """A transform that moves pixels; zeros move in. Any values will do."""

    @abstractmethod
    def motion(self, draws: Draws, height: int, width: int) -> Motion:
        """From where each place of the result is taken, for images of this height and width."""

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Images (N, C, H, W), floating point."""
        return warp_all(images, [(self, draws)])


def warp_all(images: Tensor, transforms: Sequence[tuple[GeometricTransform, Draws]]) -> Tensor:
    """Several geometric transforms in one pass.

    Args:
        images: (N, C, H, W), floating point or bytes.
        transforms: which, first to last, each with its draws.

    Returns:
        floating point (N, C, H, W), as `warp` gives it.
    """
    height, width = images.shape[2:]
    motions = [
        transform.motion(draws, height, width) for transform, draws in transforms if not transform.idle
    ]
    return warp(images, motions) if motions else as_floating(images)


def warp(images: Tensor, motions: Sequence[Motion]) -> Tensor:
    """Images moved, sampled between the four nearest pixels; around an image are zeros.

    Args:
        images: (N, C, H, W), floating point or bytes.
        motions: first to last; each says from where in what the one before it made a place is taken.

    Returns:
        floating point (N, C, H, W) in the same memory format; no value is outside of the range of its image
        and 0.
    """
    images = as_floating(images)
    count, _, height, width = images.shape
    if not count:
        return images
    wide = images.to(torch.promote_types(images.dtype, torch.float32))
    x, y = follow(grid(height, width, images.device), motions)
    low, high = bounds(wide)
    places = wide.new_empty(count, height, width, 2)
    torch.mul(x, 2.0 / width, out=places[..., 0])
    torch.mul(y, 2.0 / height, out=places[..., 1])
    # Where a perspective has its horizon places are infinite; from 2 on all are outside.
    places.nan_to_num_(nan=2.0).clamp_(-2.0, 2.0)
    result = F.grid_sample(wide, places, align_corners=False)
    return like(result.clamp_(low.clamp(max=0.0), high.clamp(min=0.0)).to(images.dtype), images)


def grid(height: int, width: int, device: torch.device) -> Points:
    """The places of an image's pixels: x (1, 1, W) and y (1, H, 1)."""
    x = torch.arange(width, dtype=torch.float32, device=device).sub_((width - 1) / 2)
    y = torch.arange(height, dtype=torch.float32, device=device).sub_((height - 1) / 2)
    return Points(x.view(1, 1, -1), y.view(1, -1, 1))


def follow(points: Points, motions: Sequence[Motion]) -> Points:
    """Places of the last result, followed to the source; neighbouring homographies are multiplied first."""
    matrix: Tensor | None = None
    for motion in reversed(motions):
        if isinstance(motion, Tensor):
            matrix = motion if matrix is None else motion @ matrix
            continue
        if matrix is not None:
            points, matrix = project(matrix, points), None
        points = motion(points)
    return points if matrix is None else project(matrix, points)


def project(matrix: Tensor, points: Points) -> Points:
    """Places through a homography (N, 3, 3) each."""
    x, y, w = (_linear(matrix[:, row], points) for row in range(3))
    return Points(x.div_(w), y.div_(w))


def _linear(row: Tensor, points: Points) -> Tensor:
    a, b, c = (value.view(-1, 1, 1) for value in row.unbind(1))
    # On the grid itself x and y are one row and one column, and only the last sum is as large as an image.
    return (points.x * a + c) + points.y * b
