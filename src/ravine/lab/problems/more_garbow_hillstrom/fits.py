"""Problems 6, 8-12 and 15-20: curves fitted to measured or made values."""

import torch
from torch import Tensor

from ..problem import LeastSquares, Minimum, constants, counting, minima
from . import measured


def jennrich_sampson(m: int = 10) -> LeastSquares:
    """Problem 6, n = 2 and m ≥ 2; the minimum is published for m = 10."""
    _at_least(m, 2, "Jennrich and Sampson")

    def residuals(x: Tensor) -> Tensor:
        i = counting(x, 1, m)
        return 2 + 2 * i - (torch.exp(i * x[..., :1]) + torch.exp(i * x[..., 1:]))

    known = (Minimum(124.362, (0.2578, 0.2578)),) if m == 10 else ()
    return LeastSquares("jennrich-sampson", 6, residuals, (0.3, 0.4), known)


def bard() -> LeastSquares:
    """Problem 8, n = 3; the second infimum is at (0.8406..., -∞, -∞)."""

    def residuals(x: Tensor) -> Tensor:
        a, b, c = _columns(x)
        u = counting(x, 1, 15)
        v = 16 - u
        return constants(x, measured.BARD) - (a + u / (v * b + torch.minimum(u, v) * c))

    known = (Minimum(8.21487e-3, (8.241056e-2, 1.133036, 2.343695)), Minimum(17.4286))
    return LeastSquares("bard", 8, residuals, (1.0, 1.0, 1.0), known)


def gaussian() -> LeastSquares:
    """Problem 9, n = 3."""

    def residuals(x: Tensor) -> Tensor:
        height, width, center = _columns(x)
        t = (8 - counting(x, 1, 15)) / 2
        return height * torch.exp(-width * (t - center) ** 2 / 2) - constants(x, measured.GAUSSIAN)

    return LeastSquares("gaussian", 9, residuals, (0.4, 1.0, 0.0), minima(1.12793e-8))


def meyer() -> LeastSquares:
    """Problem 10, n = 3: scaled badly, and far from its start."""

    def residuals(x: Tensor) -> Tensor:
        a, b, c = _columns(x)
        return a * torch.exp(b / (45 + 5 * counting(x, 1, 16) + c)) - constants(x, measured.MEYER)

    known = (Minimum(87.9458, (5.6096365e-3, 6181.3463, 345.22363)),)
    return LeastSquares("meyer", 10, residuals, (0.02, 4000.0, 250.0), known)


def gulf(m: int = 99) -> LeastSquares:
    """Problem 11, n = 3 and 3 ≤ m ≤ 100: the Gulf research and development function.

    The paper prints yᵢ·m·i·x₂ where yᵢ - x₂ is meant: "mi" was the word minus. At m = 100 the last y is 25
    exactly, and x₂ = 25 at the minimum has no second derivative there.
    """
    if not 3 <= m <= 100:
        raise ValueError(f"the Gulf function has m from 3 to 100, not {m}")

    def residuals(x: Tensor) -> Tensor:
        a, b, c = _columns(x)
        t = counting(x, 1, m) / 100
        y = 25 + (-50 * torch.log(t)) ** (2 / 3)
        return torch.exp(-((y - b).abs() ** c) / a) - t

    return LeastSquares("gulf", 11, residuals, (5.0, 2.5, 0.15), (Minimum(0.0, (50.0, 25.0, 1.5)),))


def box(m: int = 10) -> LeastSquares:
    """Problem 12, n = 3 and m ≥ 3; zero also wherever the first two are equal and the third is 0."""
    _at_least(m, 3, "Box's three-dimensional")

    def residuals(x: Tensor) -> Tensor:
        a, b, c = _columns(x)
        t = 0.1 * counting(x, 1, m)
        return torch.exp(-t * a) - torch.exp(-t * b) - c * (torch.exp(-t) - torch.exp(-10 * t))

    known = (Minimum(0.0, (1.0, 10.0, 1.0)), Minimum(0.0, (10.0, 1.0, -1.0)), Minimum(0.0, (1.0, 1.0, 0.0)))
    return LeastSquares("box three-dimensional", 12, residuals, (0.0, 10.0, 20.0), known)


def kowalik_osborne() -> LeastSquares:
    """Problem 15, n = 4; the second infimum is at (∞, -14.07..., -∞, -∞)."""

    def residuals(x: Tensor) -> Tensor:
        a, b, c, d = _columns(x)
        u = constants(x, measured.KOWALIK_OSBORNE_U)
        return constants(x, measured.KOWALIK_OSBORNE) - a * (u**2 + u * b) / (u**2 + u * c + d)

    known = (Minimum(3.07505e-4, (0.192807, 0.191263, 0.123053, 0.136053)), Minimum(1.02734e-3))
    return LeastSquares("kowalik-osborne", 15, residuals, (0.25, 0.39, 0.415, 0.39), known)


def brown_dennis(m: int = 20) -> LeastSquares:
    """Problem 16, n = 4 and m ≥ 4; the minimum is published for m = 20."""
    _at_least(m, 4, "Brown and Dennis")

    def residuals(x: Tensor) -> Tensor:
        a, b, c, d = _columns(x)
        t = counting(x, 1, m) / 5
        return (a + t * b - torch.exp(t)) ** 2 + (c + d * torch.sin(t) - torch.cos(t)) ** 2

    known = (Minimum(85822.2, (-11.5944, 13.2036, -0.403440, 0.236779)),) if m == 20 else ()
    return LeastSquares("brown-dennis", 16, residuals, (25.0, 5.0, -5.0, -1.0), known)


def osborne_1() -> LeastSquares:
    """Problem 17, n = 5: a sum of two exponentials."""

    def residuals(x: Tensor) -> Tensor:
        a, b, c, d, e = _columns(x)
        t = 10 * counting(x, 0, 32)
        return constants(x, measured.OSBORNE_1) - (a + b * torch.exp(-t * d) + c * torch.exp(-t * e))

    known = (Minimum(5.46489e-5, (0.37541005, 1.9358469, -1.4646871, 0.012867535, 0.022122700)),)
    return LeastSquares("osborne 1", 17, residuals, (0.5, 1.5, -1.0, 0.01, 0.02), known)


def biggs_exp6(m: int = 13) -> LeastSquares:
    """Problem 18, n = 6 and m ≥ 6; the second minimum is published for m = 13."""
    _at_least(m, 6, "Biggs EXP6")

    def residuals(x: Tensor) -> Tensor:
        a, b, c, d, e, f = _columns(x)
        t = 0.1 * counting(x, 1, m)
        y = torch.exp(-t) - 5 * torch.exp(-10 * t) + 3 * torch.exp(-4 * t)
        return c * torch.exp(-t * a) - d * torch.exp(-t * b) + f * torch.exp(-t * e) - y

    known = (Minimum(0.0, (1.0, 10.0, 1.0, 5.0, 4.0, 3.0)), *(minima(5.65565e-3) if m == 13 else ()))
    return LeastSquares("biggs exp6", 18, residuals, (1.0, 2.0, 1.0, 1.0, 1.0, 1.0), known)


def osborne_2() -> LeastSquares:
    """Problem 19, n = 11: an exponential and three bells."""

    def residuals(x: Tensor) -> Tensor:
        t = counting(x, 0, 64)[:, None] / 10
        heights, rates, centers = (x[..., None, part] for part in (slice(1, 4), slice(5, 8), slice(8, 11)))
        bells = (heights * torch.exp(-((t - centers) ** 2) * rates)).sum(-1)
        decay = x[..., :1] * torch.exp(-t[:, 0] * x[..., 4:5])
        return constants(x, measured.OSBORNE_2) - (decay + bells)

    start = (1.3, 0.65, 0.65, 0.7, 0.6, 3.0, 5.0, 7.0, 2.0, 4.5, 5.5)
    point = (
        1.30998,
        0.431553,
        0.633662,
        0.599429,
        0.754180,
        0.904300,
        1.36580,
        4.82373,
        2.39868,
        4.56888,
        5.67534,
    )
    return LeastSquares("osborne 2", 19, residuals, start, (Minimum(4.01377e-2, point),))


def watson(n: int = 6) -> LeastSquares:
    """Problem 20, 2 ≤ n ≤ 31; minima are published for n = 6, 9 and 12."""
    if not 2 <= n <= 31:
        raise ValueError(f"the Watson function has n from 2 to 31, not {n}")

    def residuals(x: Tensor) -> Tensor:
        powers = (counting(x, 1, 29) / 29)[:, None] ** counting(x, 0, n - 1)
        slope = (powers[:, :-1] * counting(x, 1, n - 1)) @ x[..., 1:, None]
        fits = slope - (powers @ x[..., None]) ** 2 - 1
        first, second = x[..., :1], x[..., 1:2]
        return torch.cat((fits.squeeze(-1), first, second - first**2 - 1), -1)

    published = {6: 2.28767e-3, 9: 1.39976e-6, 12: 4.72238e-10}
    return LeastSquares("watson", 20, residuals, (0.0,) * n, minima(published[n]) if n in published else ())


def _columns(x: Tensor) -> tuple[Tensor, ...]:
    """The variables one by one, each of shape (..., 1), to be spread over the values fitted."""
    return x.unsqueeze(-2).unbind(-1)


def _at_least(m: int, n: int, name: str) -> None:
    if m < n:
        raise ValueError(f"the {name} function has m of at least {n}, not {m}")
