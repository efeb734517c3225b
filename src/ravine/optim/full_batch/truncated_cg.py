"""Newton's equation H·p = −g solved as far as is worth it, from products with H alone."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Direction(NamedTuple):
    """A direction of descent.

    Attributes:
        step: p, (n,), with gᵀp < 0.
        curved_down: whether it ends along a direction of negative, or no, curvature.
        products: how many products with H it took.
    """

    step: Tensor
    curved_down: bool
    products: int


def truncated_cg(
    gradient: Tensor, product: Callable[[Tensor], Tensor], tolerance: float, most: int
) -> Direction | None:
    """Conjugate gradients on H·p = −g until ‖H·p + g‖ ≤ tolerance·‖g‖, or until the curvature turns negative.

    There the last direction d is walked as far as if its curvature had the other sign, |dᵀHd|: its part of
    the gradient is −‖r‖² < 0, so it leads down, and a saddle is left at the speed of Newton's method, where
    Steihaug's (1983) step would need a radius and Nocedal and Wright's (algorithm 7.1) would not use d.

    Args:
        gradient: g, (n,), finite and not all zero.
        product: v to H·v.
        tolerance: the share of the gradient that may remain, at least 0.
        most: products with H, at least 1.

    Returns:
        The direction; None where a product is not finite.
    """
    eps = float(torch.finfo(gradient.dtype).eps)
    # In units of its largest entry, or the squares of a tiny gradient would be 0.
    size = float(gradient.abs().max())
    step, residual = torch.zeros_like(gradient), gradient / size
    direction, square = -residual, float(residual @ residual)
    enough = tolerance**2 * square
    largest = 0.0
    for count in range(1, most + 1):
        curved = product(direction)
        curvature, length = float(direction @ curved), float(direction @ direction)
        if not bool(torch.isfinite(curved).all()):
            return None
        largest = max(largest, abs(curvature) / length)
        # As `damping.least_curvature`: what is less than so much of the largest curvature counts as none.
        least = eps ** (2 / 3) * largest * length
        if curvature <= least:
            against = max(-curvature, least)
            reach = square / against if against else 1.0
            return Direction(size * (step + reach * direction), True, count)
        reach = square / curvature
        step = step + reach * direction
        residual = residual + reach * curved
        last, square = square, float(residual @ residual)
        if square <= enough:
            return Direction(size * step, False, count)
        direction = (square / last) * direction - residual
    return Direction(size * step, False, most)
