"""The least of a quadratic model within a ball: min gᵀp + ½·pᵀHp over ‖p‖ ≤ radius, for any symmetric H.

p is the solution exactly where (H + λ·I)·p = −g, H + λ·I is positive semidefinite, λ ≥ 0, and λ = 0 or
‖p‖ = radius (Moré and Sorensen 1983, "Computing a Trust Region Step", lemmas 2.1 and 2.3).
"""

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .damping import Factor, factor, least_curvature, magnitude, shifted

# How far from the radius a step on the boundary may end, as a share of it (Moré and Sorensen's σ₁).
_CLOSE = 0.1
# Cholesky factorizations before an eigendecomposition, which costs about fifteen of them, settles it: as
# many are needed only in the hard case and near to it.
_FACTORIZATIONS = 8
_SECULAR_STEPS = 100


class ModelStep(NamedTuple):
    """A step of a trust region's model.

    Attributes:
        step: p, (n,).
        reduction: how much the model falls along it, −gᵀp − ½·pᵀHp, at least 0.
        multiplier: λ, 0 where the step is the model's own minimum.
        on_boundary: whether the radius held the step back.
    """

    step: Tensor
    reduction: float
    multiplier: float
    on_boundary: bool


class Model(Protocol):
    """A quadratic model around a point, solved for one radius after another."""

    natural_radius: float  # how far the model goes on its own; infinite for a linear one
    gain: float  # how much it falls on its own, to its minimum; infinite where it has none

    def solve(self, radius: float) -> ModelStep:
        """The model's step within `radius`."""


class ExactModel:
    """The model with the Hessian itself, indefinite or not; what was factored serves every radius.

    Args:
        gradient: g, (n,), finite.
        hessian: H, (n, n), symmetric and finite; where it is singular and not indefinite, it counts as
            `damping.least_curvature` more along every direction.
    """

    def __init__(self, gradient: Tensor, hessian: Tensor) -> None:
        self._gradient = gradient
        self._norm = float(torch.linalg.vector_norm(gradient))
        self._size = magnitude(hessian)
        self._eigen: Eigen | None = None
        self._newton: Tensor | None = None
        for shift in (0.0, least_curvature(hessian)):
            self._hessian = shifted(hessian, shift)
            lower, self._bound = factor(hessian, shift)
            if lower is not None:
                self._newton = Factor(lower, shift).solve(-gradient)
                self.natural_radius = float(torch.linalg.vector_norm(self._newton))
                self.gain = -0.5 * float(gradient @ self._newton)
                return
        self._hessian = hessian
        self.gain = math.inf
        self.natural_radius = self._norm / self._size if self._size else math.inf

    @property
    def convex(self) -> bool:
        """Whether the model has a minimum."""
        return self._newton is not None

    def solve(self, radius: float) -> ModelStep:
        """The step within `radius` (above 0); one on the boundary ends within a tenth of it."""
        if self._newton is not None and self.natural_radius <= radius:
            return _made(self._gradient, self._newton, 0.0, on_boundary=False)
        if self._eigen is None:
            found = self._by_cholesky(radius) if self._norm else None
            if found is not None:
                return _made(self._gradient, *found, on_boundary=True)
            self._eigen = Eigen(*torch.linalg.eigh(self._hessian))
        return _made(self._gradient, *self._eigen.solve(self._gradient, radius), on_boundary=True)

    def _by_cholesky(self, radius: float) -> tuple[Tensor, float] | None:
        """Moré and Sorensen's algorithm 3.14 without its estimate for the hard case; None near that case.

        Newton's iteration on 1/radius − 1/‖p(λ)‖, kept within an interval that holds the multiplier, ends
        after two or three factorizations as a rule.
        """
        low = max(0.0, self._bound, -float(self._hessian.diagonal().min()), self._norm / radius - self._size)
        high = self._norm / radius + self._size
        multiplier = low
        for _ in range(_FACTORIZATIONS):
            lower, bound = factor(self._hessian, multiplier)
            if lower is None:
                low = max(low, bound)
                multiplier = _between(low, high)
                continue
            step = Factor(lower, multiplier).solve(-self._gradient)
            length = float(torch.linalg.vector_norm(step))
            if abs(length - radius) <= _CLOSE * radius:
                return step, multiplier
            low, high = (multiplier, high) if length > radius else (low, multiplier)
            half = torch.linalg.solve_triangular(lower, (step / length).unsqueeze(1), upper=False)
            fall = float(half.square().sum())
            newton = multiplier + (length - radius) / radius / fall if fall else math.inf
            multiplier = newton if low < newton < high else _between(low, high)
        return None


class AbsoluteModel:
    """The model with |H|, each eigenvalue's sign dropped (Dauphin et al. 2014, arXiv:1406.2572, algorithm 1).

    Along negative curvature its step goes as far as a Newton step would, but down. Its predictions are
    cautious there: the function falls by more.

    Args:
        gradient: g, (n,), finite.
        hessian: H, (n, n), symmetric and finite; no eigenvalue counts as less than
            `damping.least_curvature`.
    """

    def __init__(self, gradient: Tensor, hessian: Tensor) -> None:
        values, vectors = torch.linalg.eigh(hessian)
        self._eigen = Eigen(values.abs().clamp_min(least_curvature(hessian)), vectors)
        self._gradient = gradient
        self.natural_radius = self.gain = math.inf
        if magnitude(hessian):
            newton, _ = self._eigen.solve(gradient, math.inf)
            self.natural_radius = float(torch.linalg.vector_norm(newton))
            self.gain = -0.5 * float(gradient @ newton)

    def solve(self, radius: float) -> ModelStep:
        """The step within `radius` (above 0)."""
        step, multiplier = self._eigen.solve(self._gradient, radius)
        return _made(self._gradient, step, multiplier, on_boundary=multiplier > 0)


def absolute_model(gradient: Tensor, hessian: Tensor) -> Model:
    """The model with |H|: where H has no negative eigenvalue that is H, and needs no eigenvalues."""
    exact = ExactModel(gradient, hessian)
    return exact if exact.convex else AbsoluteModel(gradient, hessian)


class Eigen(NamedTuple):
    """A symmetric matrix by its eigenvalues, (n,) in any order, and its eigenvectors, columns of (n, n)."""

    values: Tensor
    vectors: Tensor

    def solve(self, gradient: Tensor, radius: float) -> tuple[Tensor, float]:
        """The exact step within `radius` and its multiplier; the hard case included.

        The unknown is μ = λ + λ₁ ≥ 0 in place of λ: near the hard case it is tiny where λ is not, and
        would be lost in λ's rounding.
        """
        along = self.vectors.mT @ gradient
        lowest, where = (part.item() for part in self.values.min(0))
        gaps = self.values - lowest
        # Below the last of these one component alone would be longer than the radius.
        shift = max(0.0, lowest, float((along.abs() / radius - gaps).max()))
        step = _quotient(-along, gaps + shift)
        length = float(torch.linalg.vector_norm(step))
        if length < radius and not shift and lowest < 0.0:
            # The hard case: the gradient has no part along the lowest curvature, which leads to the boundary.
            step[int(where)] = math.sqrt(radius**2 - length**2)
            length = radius
        for _ in range(_SECULAR_STEPS):
            if length <= radius:
                break
            # Newton on 1/radius − 1/‖p(μ)‖, which is falling and convex: from the left it never overshoots.
            fall = float(_quotient((step / length).square(), gaps + shift).sum())
            wider = shift + (length - radius) / radius / fall if fall else shift
            if not shift < wider < math.inf:
                break
            shift = wider
            step = -along / (gaps + shift)
            length = float(torch.linalg.vector_norm(step))
        return self.vectors @ step, shift - lowest


def _quotient(over: Tensor, under: Tensor) -> Tensor:
    """over/under; 0 where `under` is 0, as `over` is too by then."""
    return torch.where(under > 0.0, over / under, 0.0)


def _between(low: float, high: float) -> float:
    """A number well within an interval that may span many orders of magnitude (Moré and Sorensen 1983)."""
    return max(math.sqrt(low * high), low + 0.01 * (high - low))


def _made(gradient: Tensor, step: Tensor, multiplier: float, *, on_boundary: bool) -> ModelStep:
    # As H·p = −g − λ·p, the fall needs no product with H, whose terms would cancel.
    reduction = 0.5 * (multiplier * float(step @ step) - float(gradient @ step))
    return ModelStep(step, reduction, multiplier, on_boundary)
