"""Fractional max pooling (T25): the pooling regions are drawn at random (Graham 2014, arXiv:1412.6071)."""

import math
from typing import Literal

import torch
from torch import Tensor

from .part import NoisyPart

Draw = Literal["pseudorandom", "random"]


class FractionalMaxPool(NoisyPart):
    """Max pooling of images (N, C, H, W) by a factor α per side, over regions with sides of 1 and 2.

    A side of n becomes ⌊n/α⌋, or ⌈n/2⌉ if that is more. One pair of region sequences, of rows and of columns,
    is drawn a pass, for all items and channels (torch's `FractionalMaxPool2d`, whose windows are all of one
    size, draws for each). In evaluation mode the regions are fixed: those of the pseudorandom sequence with
    u = ½. Of equal maxima in a region, one takes the whole gradient, as in torch: that of the first column.

    Args:
        ratio: α, from 1 to 2; 2 is ordinary 2×2 pooling, 1 none.
        draw: "pseudorandom", a = ⌈α·(i + u)⌉ with one u a sequence, which keeps regions evenly spread; or
            "random", a shuffled sequence of the right number of ones and twos. The paper found the first to
            be better with dropout or augmentation.
        overlapping: neighbouring regions share their border, so that their sides are 2 and 3.

    Raises:
        ValueError: the ratio is not in [1, 2], or there is no such draw; in `forward`: x is no batch of
            images, or too small for one region.
    """

    by_item = False

    def __init__(
        self, ratio: float = math.sqrt(2.0), draw: Draw = "pseudorandom", *, overlapping: bool = False
    ) -> None:
        super().__init__()
        if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 1.0 <= ratio <= 2.0:
            raise ValueError(f"Invalid ratio: {ratio!r}; it must be in [1, 2]")
        if draw not in ("pseudorandom", "random"):
            raise ValueError(f"Invalid draw: {draw!r}; valid are 'pseudorandom' and 'random'")
        self.ratio, self.draw, self.overlapping = float(ratio), draw, overlapping

    def noisy(self, x: Tensor) -> Tensor:
        """Pooled over regions drawn for this pass."""
        return self._pooled(x, [self._drawn(size, x.device) for size in self._sides(x)])

    def expected(self, x: Tensor) -> Tensor:
        """Pooled over the fixed regions."""
        half = torch.tensor(0.5, device=x.device)
        sides = self._sides(x)
        return self._pooled(x, [pseudorandom_boundaries(size, self._outputs(size), half) for size in sides])

    def _sides(self, x: Tensor) -> tuple[int, int]:
        if x.dim() != 4 or min(x.shape[2:]) < math.ceil(self.ratio):
            raise ValueError(
                f"FractionalMaxPool(ratio={self.ratio:g}) takes images (N, C, H, W) of at least "
                f"{math.ceil(self.ratio)} pixels a side, not a shape of {tuple(x.shape)}"
            )
        return x.shape[2], x.shape[3]

    def _outputs(self, size: int) -> int:
        return max(math.floor(size / self.ratio), -(-size // 2))

    def _drawn(self, size: int, device: torch.device) -> Tensor:
        outputs = self._outputs(size)
        if self.draw == "random":
            return random_boundaries(size, outputs, torch.rand(outputs, device=device))
        return pseudorandom_boundaries(size, outputs, torch.rand((), device=device))

    def _pooled(self, x: Tensor, boundaries: list[Tensor]) -> Tensor:
        # A selection is contiguous, so images with the channels last are pooled as (N, H, W, C).
        last = x.shape[1] > 1 and x.stride(1) == 1
        if last:
            x = x.permute(0, 2, 3, 1)
        row = 1 if last else 2
        rows, columns = (
            _pixels(bounds, x.shape[row + number], overlapping=self.overlapping)
            for number, bounds in enumerate(boundaries)
        )
        if torch.is_grad_enabled() and x.requires_grad:
            # The derivative of a selection is much faster than that of maxima, which looks for equals.
            places = _places(x.detach(), row, rows, columns)
            flat = x.flatten(row, row + 1).gather(row, places.flatten(row, row + 1))
            x = flat.unflatten(row, places.shape[row : row + 2])
        else:
            x = _pooled_along(_pooled_along(x, row, rows), row + 1, columns)
        return x.permute(0, 3, 1, 2) if last else x

    def extra_repr(self) -> str:
        """The settings, as in torch."""
        return f"ratio={self.ratio:g}, draw={self.draw!r}, overlapping={self.overlapping}"


def pseudorandom_boundaries(size: int, outputs: int, u: Tensor) -> Tensor:
    """Where regions begin, and where the last one ends: a₀ = 0, ..., aₙ = size, with steps of 1 and 2.

    aᵢ = ⌈α·(i + u)⌉ − ⌈α·u⌉ with α = size/outputs (Graham 2014, section 2), which leads from 0 to size.

    Args:
        size: of the side, n_in.
        outputs: regions, n_out, with n_out ≤ size ≤ 2·n_out.
        u: in [0, 1], without axes.

    Returns:
        (n_out + 1,) int64.
    """
    # ⌈(size·i + v)/outputs⌉ for v = size·u in whole numbers, where no rounding can move a boundary.
    offset = (u.double() * size).ceil().clamp(min=1.0).long() - 1
    steps = size * torch.arange(outputs + 1, device=u.device) + offset
    return steps // outputs - offset // outputs


def random_boundaries(size: int, outputs: int, order: Tensor) -> Tensor:
    """As `pseudorandom_boundaries`, with the size − outputs steps of 2 at places drawn without replacement.

    Args:
        size: of the side.
        outputs: regions.
        order: (outputs,) numbers whose ranks shuffle the steps.
    """
    twos = size - outputs
    ranks = order.argsort().argsort()
    steps = 1 + (ranks < twos).long()
    return torch.cat([steps.new_zeros(1), steps.cumsum(0)])


def _pixels(bounds: Tensor, size: int, *, overlapping: bool) -> list[Tensor]:
    """Where the first, the second, ... pixel of each region is; the last of a small region comes again."""
    first, last = bounds[:-1], bounds[1:] - (0 if overlapping else 1)
    last = last.clamp(max=size - 1)
    return [first, *(torch.minimum(first + more, last) for more in range(1, 3 if overlapping else 2))]


def _pooled_along(x: Tensor, axis: int, pixels: list[Tensor]) -> Tensor:
    """The maximum over each region of one axis."""
    first, *others = (x.index_select(axis, each) for each in pixels)
    for other in others:
        first = torch.maximum(first, other)
    return first


def _largest_along(x: Tensor, axis: int, pixels: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The maximum over each region of one axis, and where it stands first."""
    largest, *others = (x.index_select(axis, each) for each in pixels)
    steps = torch.zeros_like(largest, dtype=torch.uint8)
    for number, other in enumerate(others, 1):
        steps = torch.maximum(steps, (other > largest).to(torch.uint8) * number)
        largest = torch.maximum(largest, other)
    shape = [-1 if each == axis else 1 for each in range(x.dim())]
    return largest, pixels[0].reshape(shape) + steps


def _places(x: Tensor, row: int, rows: list[Tensor], columns: list[Tensor]) -> Tensor:
    """Where each region's maximum is, counted row by row; the axis after `row` is that of columns."""
    # No comparison finds what is not a number, and it must not get lost.
    x = x.nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf)
    largest, row_places = _largest_along(x, row, rows)
    _, column_places = _largest_along(largest, row + 1, columns)
    return row_places.gather(row + 1, column_places) * x.shape[row + 1] + column_places
