"""Lens distortion: straight lines become curved, alike in all directions from the middle."""

import math
from dataclasses import dataclass

from torch import Tensor

from ...registry import register
from .draws import Draws
from .settings import check_amount
from .warp import GeometricTransform, Motion, Points


@register("augmentation", "lens", "see each image through a lens: barrel or pincushion distortion")
@dataclass(frozen=True)
class Lens(GeometricTransform):
    """Distort each image as a lens does, barrel or pincushion, uniformly.

    Attributes:
        amount: the most by which a corner's distance from the middle changes, as a share of it, in [0, 0.33];
            from 1/3 on the image would fold over.

    Raises:
        ValueError: it is outside.
    """

    amount: float = 0.2

    def __post_init__(self) -> None:
        check_amount("amount", self.amount, most=0.33)

    @property
    def idle(self) -> bool:
        """Whether nothing is distorted."""
        return self.amount == 0.0

    def motion(self, draws: Draws, height: int, width: int) -> Motion:
        """Places moved towards or away from the middle."""
        return distortion(draws.between("lens", -self.amount, self.amount), height, width)


def distortion(strength: Tensor, height: int, width: int) -> Motion:
    """The first radial term of lens distortion (Brown 1966): from r·(1 + k·r²), with r = 1 at the corners.

    Args:
        strength: k, (N,), above −1/3; above 0 a barrel, below a pincushion.
        height: of the images.
        width: of the images.
    """
    k = strength.view(-1, 1, 1) / (math.hypot(height, width) / 2) ** 2

    def move(points: Points) -> Points:
        factor = (points.x.square() + points.y.square()) * k + 1.0
        return Points(points.x * factor, points.y * factor)

    return move
