"""Geometric transforms that are homographies: straight lines stay straight."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...registry import register
from .draws import Draws
from .settings import check_amount, check_share
from .warp import GeometricTransform


@register("augmentation", "translate", "move each image by any distance, zeros moving in")
@dataclass(frozen=True)
class Translate(GeometricTransform):
    """Move each image right or left and up or down, each uniformly.

    Attributes:
        amount: the most, as a share of the side, in [0, 1].

    Raises:
        ValueError: it is outside.
    """

    amount: float = 0.1

    def __post_init__(self) -> None:
        check_share("amount", self.amount)

    @property
    def idle(self) -> bool:
        """Whether nothing moves."""
        return self.amount == 0.0

    def motion(self, draws: Draws, height: int, width: int) -> Tensor:
        """Homographies (N, 3, 3)."""
        x, y = draws.between("translate", -self.amount, self.amount, 2).unbind(1)
        return translation(x * width, y * height)


@register("augmentation", "rotate", "turn each image about its middle")
@dataclass(frozen=True)
class Rotate(GeometricTransform):
    """Turn each image about its middle, to either side, uniformly.

    Attributes:
        degrees: the most, in [0, 180].

    Raises:
        ValueError: it is outside.
    """

    degrees: float = 15.0

    def __post_init__(self) -> None:
        check_amount("degrees", self.degrees, most=180.0)

    @property
    def idle(self) -> bool:
        """Whether nothing turns."""
        return self.degrees == 0.0

    def motion(self, draws: Draws, height: int, width: int) -> Tensor:
        """Homographies (N, 3, 3)."""
        return rotation(draws.between("rotate", -self.degrees, self.degrees))


@register("augmentation", "stretch", "stretch or squeeze each image along x and along y")
@dataclass(frozen=True)
class Stretch(GeometricTransform):
    """Stretch or squeeze each image along x and along y, each by its own factor.

    The logarithm of a factor is uniform, so 2 and 1/2 are as frequent.

    Attributes:
        amount: factors are in [1 / (1 + amount), 1 + amount]; at least 0.

    Raises:
        ValueError: it is below 0 or not finite.
    """

    amount: float = 0.2

    def __post_init__(self) -> None:
        check_amount("amount", self.amount)

    @property
    def idle(self) -> bool:
        """Whether nothing is stretched."""
        return self.amount == 0.0

    def motion(self, draws: Draws, height: int, width: int) -> Tensor:
        """Homographies (N, 3, 3)."""
        most = math.log1p(self.amount)
        x, y = draws.between("stretch", -most, most, 2).exp_().unbind(1)
        return stretching(x, y)


@register("augmentation", "shear", "shift the rows and the columns of each image against each other")
@dataclass(frozen=True)
class Shear(GeometricTransform):
    """Shift rows, then columns against each other, by angles drawn uniformly.

    Attributes:
        degrees: the most by which a vertical (then a horizontal) line leans, in [0, 80].

    Raises:
        ValueError: it is outside.
    """

    degrees: float = 10.0

    def __post_init__(self) -> None:
        check_amount("degrees", self.degrees, most=80.0)

    @property
    def idle(self) -> bool:
        """Whether nothing leans."""
        return self.degrees == 0.0

    def motion(self, draws: Draws, height: int, width: int) -> Tensor:
        """Homographies (N, 3, 3)."""
        leaning = draws.between("shear", -self.degrees, self.degrees, 2).deg2rad_().tan_()
        zero = torch.zeros_like(leaning[:, 0])
        return shearing(leaning[:, 0], zero) @ shearing(zero, leaning[:, 1])


@register("augmentation", "perspective", "see each image from the side")
@dataclass(frozen=True)
class Perspective(GeometricTransform):
    """Move each corner of each image inwards, along x and y by its own uniform share of half the side.

    Attributes:
        amount: the largest share, in [0, 0.9]; at 1 corners could meet.

    Raises:
        ValueError: it is outside.
    """

    amount: float = 0.3

    def __post_init__(self) -> None:
        check_amount("amount", self.amount, most=0.9)

    @property
    def idle(self) -> bool:
        """Whether no corner moves."""
        return self.amount == 0.0

    def motion(self, draws: Draws, height: int, width: int) -> Tensor:
        """Homographies (N, 3, 3)."""
        inwards = draws.between("perspective", 0.0, self.amount, 4, 2)
        half = inwards.new_tensor([width / 2, height / 2])
        corners = inwards.new_tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]) * half
        return perspective(corners * (1.0 - inwards), height, width)


def translation(x: Tensor, y: Tensor) -> Tensor:
    """Homographies (N, 3, 3) of images moved by `x` to the right and `y` downwards, (N,), in pixels."""
    result = _identity(x)
    result[:, 0, 2], result[:, 1, 2] = -x, -y
    return result


def rotation(degrees: Tensor) -> Tensor:
    """Homographies (N, 3, 3) of images turned counterclockwise by `degrees` (N,)."""
    angle = degrees.deg2rad()
    cos, sin = angle.cos(), angle.sin()
    result = _identity(cos)
    result[:, 0, 0], result[:, 0, 1] = cos, -sin
    result[:, 1, 0], result[:, 1, 1] = sin, cos
    return result


def stretching(x: Tensor, y: Tensor) -> Tensor:
    """Homographies (N, 3, 3) of images stretched by the factors `x` and `y`, (N,), above 0."""
    result = _identity(x)
    result[:, 0, 0], result[:, 1, 1] = 1.0 / x, 1.0 / y
    return result


def shearing(x: Tensor, y: Tensor) -> Tensor:
    """Homographies (N, 3, 3) of shears: rows at height h above the middle are moved right by x·h.

    Args:
        x: (N,), how far rows move for a pixel upwards.
        y: (N,), how far columns move down for a pixel to the right; with both, places of the result are
            taken from (X + x·Y, Y − y·X).
    """
    result = _identity(x)
    result[:, 0, 1], result[:, 1, 0] = x, -y
    return result


def perspective(corners: Tensor, height: int, width: int) -> Tensor:
    """Homographies (N, 3, 3) of images whose corners come to lie elsewhere.

    The closed form of Heckbert (1989, section 2.2.3) for the map from a square to a quadrilateral, inverted.

    Args:
        corners: (N, 4, 2), where the top left, top right, bottom right and bottom left corner go, as (x, y)
            in pixels from the middle; a convex quadrilateral.
        height: of the images.
        width: of the images.
    """
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = (corner.unbind(1) for corner in corners.unbind(1))
    dx1, dy1, dx2, dy2 = x1 - x2, y1 - y2, x3 - x2, y3 - y2
    sx, sy = x0 - x1 + x2 - x3, y0 - y1 + y2 - y3
    area = dx1 * dy2 - dx2 * dy1
    g = (sx * dy2 - dx2 * sy) / area
    h = (dx1 * sy - sx * dy1) / area
    forward = torch.stack(
        (
            torch.stack((x1 - x0 + g * x1, x3 - x0 + h * x3, x0), 1),
            torch.stack((y1 - y0 + g * y1, y3 - y0 + h * y3, y0), 1),
            torch.stack((g, h, torch.ones_like(g)), 1),
        ),
        1,
    )
    # A homography's scale is free, so its adjugate is as good as its inverse; rows of it are cross products.
    a, b, c = forward.unbind(2)
    backward = torch.stack((torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)), 1)
    from_square = corners.new_tensor([[width, 0, -width / 2], [0, height, -height / 2], [0, 0, 1]])
    return from_square @ backward


def _identity(like: Tensor) -> Tensor:
    return torch.eye(3, dtype=like.dtype, device=like.device).repeat(len(like), 1, 1)
