"""Problems 1-5, 7, 13, 14, 21 and 22: curved valleys, bad scaling, singular Hessians."""

import math

import torch
from torch import Tensor

from ..problem import LeastSquares, Minimum, constants, counting


def rosenbrock() -> LeastSquares:
    """Problem 1: a curved valley, n = 2."""

    def residuals(x: Tensor) -> Tensor:
        a, b = x.unbind(-1)
        return torch.stack((10 * (b - a**2), 1 - a), -1)

    return LeastSquares("rosenbrock", 1, residuals, (-1.2, 1.0), (Minimum(0.0, (1.0, 1.0)),))


def freudenstein_roth() -> LeastSquares:
    """Problem 2, n = 2; the second minimum draws from the standard start."""

    def residuals(x: Tensor) -> Tensor:
        a, b = x.unbind(-1)
        return torch.stack((-13 + a + ((5 - b) * b - 2) * b, -29 + a + ((b + 1) * b - 14) * b), -1)

    known = (Minimum(0.0, (5.0, 4.0)), Minimum(48.9842, (11.4128, -0.896805)))
    return LeastSquares("freudenstein-roth", 2, residuals, (0.5, -2.0), known)


def powell_badly_scaled() -> LeastSquares:
    """Problem 3, n = 2: the minimizer's entries differ by six orders of magnitude."""

    def residuals(x: Tensor) -> Tensor:
        a, b = x.unbind(-1)
        return torch.stack((1e4 * a * b - 1, torch.exp(-a) + torch.exp(-b) - 1.0001), -1)

    known = (Minimum(0.0, (1.0981593e-5, 9.1061467)),)
    return LeastSquares("powell badly scaled", 3, residuals, (0.0, 1.0), known)


def brown_badly_scaled() -> LeastSquares:
    """Problem 4, n = 2: the minimizer's entries differ by eleven orders of magnitude."""

    def residuals(x: Tensor) -> Tensor:
        a, b = x.unbind(-1)
        return torch.stack((a - 1e6, b - 2e-6, a * b - 2), -1)

    return LeastSquares("brown badly scaled", 4, residuals, (1.0, 1.0), (Minimum(0.0, (1e6, 2e-6)),))


def beale() -> LeastSquares:
    """Problem 5, n = 2."""

    def residuals(x: Tensor) -> Tensor:
        a, b = x[..., :1], x[..., 1:]
        return constants(x, (1.5, 2.25, 2.625)) - a * (1 - b ** counting(x, 1, 3))

    return LeastSquares("beale", 5, residuals, (1.0, 1.0), (Minimum(0.0, (3.0, 0.5)),))


def helical_valley() -> LeastSquares:
    """Problem 7, n = 3: a valley that winds around the third axis."""

    def residuals(x: Tensor) -> Tensor:
        a, b, c = x.unbind(-1)
        # The paper's angle runs from -π/2 to 3π/2, cut along the negative second axis.
        behind = torch.where((a < 0) & torch.signbit(b), 1.0, 0.0).to(x.dtype)
        turns = torch.atan2(b, a) / (2 * math.pi) + behind
        return torch.stack((10 * (c - 10 * turns), 10 * (torch.hypot(a, b) - 1), c), -1)

    return LeastSquares("helical valley", 7, residuals, (-1.0, 0.0, 0.0), (Minimum(0.0, (1.0, 0.0, 0.0)),))


def powell_singular() -> LeastSquares:
    """Problem 13, n = 4: the Hessian is singular at the minimum."""
    return LeastSquares("powell singular", 13, _powell, (3.0, -1.0, 0.0, 1.0), (Minimum(0.0, (0.0,) * 4),))


def wood() -> LeastSquares:
    """Problem 14, n = 4: a stationary point near f = 7.877 that is no minimum lies on the way."""

    def residuals(x: Tensor) -> Tensor:
        a, b, c, d = x.unbind(-1)
        return torch.stack(
            (
                10 * (b - a**2),
                1 - a,
                math.sqrt(90) * (d - c**2),
                1 - c,
                math.sqrt(10) * (b + d - 2),
                (b - d) / math.sqrt(10),
            ),
            -1,
        )

    return LeastSquares("wood", 14, residuals, (-3.0, -1.0, -3.0, -1.0), (Minimum(0.0, (1.0,) * 4),))


def extended_rosenbrock(n: int = 10) -> LeastSquares:
    """Problem 21: n / 2 times Rosenbrock's. Raises ValueError where n is odd."""
    if n % 2:
        raise ValueError(f"the extended Rosenbrock function has an even n, not {n}")

    def residuals(x: Tensor) -> Tensor:
        odd, even = x[..., 0::2], x[..., 1::2]
        return torch.stack((10 * (even - odd**2), 1 - odd), -1).flatten(-2)

    known = (Minimum(0.0, (1.0,) * n),)
    return LeastSquares("extended rosenbrock", 21, residuals, (-1.2, 1.0) * (n // 2), known)


def extended_powell_singular(n: int = 12) -> LeastSquares:
    """Problem 22: n / 4 times Powell's. Raises ValueError where n is no multiple of 4."""
    if n % 4:
        raise ValueError(f"the extended Powell singular function has n a multiple of 4, not {n}")

    def residuals(x: Tensor) -> Tensor:
        return _powell(x.unflatten(-1, (-1, 4))).flatten(-2)

    known = (Minimum(0.0, (0.0,) * n),)
    return LeastSquares("extended powell singular", 22, residuals, (3.0, -1.0, 0.0, 1.0) * (n // 4), known)


def _powell(x: Tensor) -> Tensor:
    a, b, c, d = x.unbind(-1)
    return torch.stack(
        (a + 10 * b, math.sqrt(5) * (c - d), (b - 2 * c) ** 2, math.sqrt(10) * (a - d) ** 2), -1
    )
