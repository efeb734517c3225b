"""Elastic distortion: each part of an image moves its own way, neighbouring parts alike."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...registry import register
from .draws import Draws
from .settings import check_amount
from .warp import GeometricTransform, Motion, Points

# How far a knot's influence reaches, in standard deviations of its bell.
REACH = 3

# Float32 numbers in a line of memory.
LINE = 16


@register(
    "augmentation",
    "elastic",
    "distort each image like rubber",
    source="Simard, Steinkraus and Platt 2003",
)
@dataclass(frozen=True)
class Elastic(GeometricTransform):
    """Move each part of each image by a smooth random field (Simard et al. 2003).

    The field is uniform noise smoothed by a Gaussian bell. The noise is drawn not for each pixel but at knots
    as far apart as the bell is wide: that is a thousand times fewer numbers for a photograph, and the field's
    variance differs by 1 in 10,000 between places.

    Attributes:
        amount: root mean square of the moves along x and along y, as a share of the shorter side; at least 0.
        smoothness: the bell's standard deviation, likewise a share; in [0.02, 1].

    Raises:
        ValueError: one is outside.
    """

    amount: float = 0.03
    smoothness: float = 0.12

    def __post_init__(self) -> None:
        check_amount("amount", self.amount)
        if not 0.02 <= self.smoothness <= 1.0:
            raise ValueError(f"Invalid smoothness: {self.smoothness}; it must be in [0.02, 1]")

    @property
    def idle(self) -> bool:
        """Whether nothing moves."""
        return self.amount == 0.0

    def motion(self, draws: Draws, height: int, width: int) -> Motion:
        """Places moved by the field."""
        side = min(height, width)
        sigma = self.smoothness * side
        most = math.sqrt(3.0) * self.amount * side
        noise = draws.between("elastic", -most, most, 2, knots(height, sigma), knots(width, sigma))
        return displacement(smooth(noise, height, width, sigma))


def knots(side: int, sigma: float) -> int:
    """How many knots, sigma apart, a side of so many pixels has with those that reach in from outside.

    Rounded up to whole lines of memory.
    """
    return _lines(math.ceil((side - 1) / sigma) + 2 * REACH + 1)


def smooth(noise: Tensor, height: int, width: int, sigma: float) -> Tensor:
    """Noise at knots as a smooth field of pixels.

    Args:
        noise: (N, K, knots(height, sigma), knots(width, sigma)), independent, of variance v.
        height: of the field.
        width: of the field.
        sigma: of the bell, in pixels, and the distance of the knots.

    Returns:
        (N, K, height, width), of variance v everywhere.
    """
    matrices = noise.flatten(0, 1)
    rows, columns = (_bells(side, sigma, noise).expand(len(matrices), -1, -1) for side in (height, width))
    field = torch.bmm(torch.bmm(rows, matrices), columns.mT)
    return field.view(*noise.shape[:2], *field.shape[1:])[:, :, :height, :width]


def displacement(field: Tensor) -> Motion:
    """Places moved by a field (N, 2, H, W) of (x, y), in pixels: taken from that much right and below."""
    height, width = field.shape[2:]

    def move(points: Points) -> Points:
        if points.x.shape == (1, 1, width) and points.y.shape == (1, height, 1):
            # The grid itself: nothing lies between two pixels.
            return Points(points.x + field[:, 0], points.y + field[:, 1])
        x, y = points.x.expand_as(field[:, 0]), points.y.expand_as(field[:, 0])
        places = torch.stack((x * (2.0 / width), y * (2.0 / height)), dim=3)
        here = F.grid_sample(field, places, padding_mode="border", align_corners=False)
        return Points(x + here[:, 0], y + here[:, 1])

    return move


def _bells(side: int, sigma: float, like: Tensor) -> Tensor:
    """What each knot gives to each pixel: (side rounded up to lines, knots), rows of squared sum 1."""
    pixels = torch.arange(_lines(side), dtype=like.dtype, device=like.device).div_(sigma).unsqueeze(1)
    places = torch.arange(-REACH, knots(side, sigma) - REACH, dtype=like.dtype, device=like.device)
    bells = (pixels - places).square_().mul_(-0.5).exp_()
    # Beyond the side, where no knot may reach, anything will do that is finite.
    tiny = torch.finfo(like.dtype).tiny
    return bells.div_(bells.square().sum(1, keepdim=True).sqrt_().clamp_(min=tiny))


def _lines(count: int) -> int:
    """Rounded up to whole lines of memory.

    Matrix products round otherwise where a matrix starts within a line; so all start at one, and an image's
    field does not depend on its place in the batch.
    """
    return -(-count // LINE) * LINE
