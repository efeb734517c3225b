"""Random windows of images: padded and cut back, or of any size and shape and brought to one size."""

import math
from dataclasses import dataclass
from typing import Literal, Self, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ...registry import register
from .boxes import Boxes, sizes
from .draws import Draws
from .settings import check_count, check_range
from .transform import Transform, as_floating, bounds, like, rows_last

Padding = Literal["zeros", "reflect"]


@register("augmentation", "crop", "pad each image and cut a window of its size: a shift by whole pixels")
@dataclass(frozen=True)
class PaddedCrop(Transform):
    """Pad each image on all sides and cut a window of the image's size out of it, uniformly.

    Any values will do; bytes stay bytes.

    Attributes:
        padding: pixels on each side.
        mode: what moves in: "zeros", or "reflect": the image mirrored at its outermost pixels.

    Raises:
        ValueError: the padding is no whole number from 0 on, or the mode is unknown; when called with
            "reflect", the images are not larger than the padding.
    """

    padding: int = 4
    mode: Padding = "zeros"

    @classmethod
    def usual(cls, shape: tuple[int, int, int]) -> Self:
        """Padded by an eighth of the shorter side, as 32 pixels by 4."""
        return cls(max(1, round(min(shape[1:]) / 8)))

    def __post_init__(self) -> None:
        check_count("padding", self.padding, 0)
        if self.mode not in get_args(Padding):
            raise ValueError(f"Invalid mode: {self.mode!r}; valid are {', '.join(get_args(Padding))}")

    @property
    def idle(self) -> bool:
        """Whether nothing is padded."""
        return self.padding == 0

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Images (N, C, H, W), each a window of its padded image."""
        if self.idle:
            return images
        top, left = draws.integers("crop", 0, 2 * self.padding + 1, 2).unbind(1)
        return crop(pad(images, self.padding, self.mode), top, left, images.shape[2], images.shape[3])


@register("augmentation", "resized-crop", "cut a window of any size and shape and bring it to one size")
@dataclass(frozen=True)
class RandomResizedCrop(Transform):
    """Cut a window of random area and shape and resize it to `size` × `size` (Szegedy et al. 2015).

    Windows start and end anywhere, not only between pixels. Where no window of the ranges fits, it is the
    largest of the nearest shape in the middle. Any values will do.

    Attributes:
        size: the side of what is returned, in pixels.
        scale: (low, high), the share of the image's area.
        ratio: (low, high) of width / height.

    Raises:
        ValueError: the size is no whole number from 1 on, or a range is none.
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    @classmethod
    def usual(cls, shape: tuple[int, int, int]) -> Self:
        """Brought back to the size of the images, which are squares."""
        return cls(shape[1])

    def __post_init__(self) -> None:
        check_count("size", self.size, 1)
        check_range("scale", self.scale, most=1.0)
        check_range("ratio", self.ratio)

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Images (N, C, size, size), floating point."""
        return resized_crop(images, self.boxes(draws, images.shape[2], images.shape[3]), self.size)

    def boxes(self, draws: Draws, height: int, width: int) -> Boxes:
        """The windows for images of this height and width; float32."""
        heights, widths, fits = sizes(draws, "resized-crop", (height, width), self.scale, self.ratio)
        shape = min(max(width / height, self.ratio[0]), self.ratio[1])
        heights = torch.where(fits, heights, min(height, width / shape))
        widths = torch.where(fits, widths, min(width, height * shape))
        down, right = draws.uniform("resized-crop.corner", 2).unbind(1)
        down, right = torch.where(fits, down, 0.5), torch.where(fits, right, 0.5)
        return Boxes(down * (height - heights), right * (width - widths), heights, widths)


def pad(images: Tensor, padding: int, mode: Padding) -> Tensor:
    """Images (N, C, H, W) with `padding` more pixels on each side, in the same memory format.

    Raises:
        ValueError: "reflect", and a side is not longer than `padding`.
    """
    height, width = images.shape[2:]
    if mode == "reflect":
        if padding >= min(height, width):
            raise ValueError(
                f"images of {height} × {width} cannot be padded by reflection of {padding} pixels: "
                "the padding must be smaller than each side; lower it, or take the mode 'zeros'"
            )
        # torch reflects no bytes.
        rows, columns = (_reflected(side, padding, images.device) for side in (height, width))
        return like(images.index_select(2, rows).index_select(3, columns), images)
    return like(F.pad(images, (padding,) * 4), images)


def crop(images: Tensor, top: Tensor, left: Tensor, height: int, width: int) -> Tensor:
    """Each image's own window.

    Args:
        images: (N, C, H, W), dense in one of the memory formats.
        top: int64 (N,), the window's first row.
        left: int64 (N,), its first column.
        height: of the window.
        width: of the window.

    Returns:
        (N, C, height, width), new memory of the same type and format.

    Raises:
        ValueError: the images are smaller than the window.
    """
    count, channels, rows, columns = images.shape
    if height > rows or width > columns:
        raise ValueError(f"images of {rows} × {columns} have no window of {height} × {width}")
    if rows_last(images):
        # In memory this is one channel whose rows are longer by the number of channels.
        long = images.permute(0, 2, 3, 1).reshape(count, 1, rows, columns * channels)
        window = crop(long, top, left * channels, height, width * channels)
        return window.view(count, height, width, channels).permute(0, 3, 1, 2)
    item, plane, row = channels * rows * columns, rows * columns, columns
    # A window is known by where it starts. All the windows that the memory could hold make one overlapping
    # view, from which a single selection copies the wanted ones; that takes a fifth of the time of indexing
    # rows and columns.
    extent = (channels - 1) * plane + (height - 1) * row + width
    starts = max(images.numel() - extent + 1, 0)
    windows = images.contiguous().as_strided((starts, channels, height, width), (1, plane, row, 1))
    first = item * torch.arange(count, device=images.device) + row * top + left
    return windows.index_select(0, first)


def resized_crop(images: Tensor, boxes: Boxes, size: int) -> Tensor:
    """Each image's own window, resized as Pillow does with its `box` and bilinear filter.

    Args:
        images: (N, C, H, W), floating point or bytes.
        boxes: float32, within the images.
        size: the side of the result.

    Returns:
        (N, C, size, size), floating point, in the same memory format. Where pixels become fewer, each is a
        weighted mean over all that it covers, so nothing flickers.
    """
    images = as_floating(images)
    wide = images.to(torch.promote_types(images.dtype, torch.float32))
    if size >= max(images.shape[2:]):
        result = _enlarged(wide, boxes, size)
    else:
        result = _resized(wide, boxes.top, boxes.height, size)
        result = _resized(result.mT, boxes.left, boxes.width, size).mT
    return like(result.clamp_(*bounds(wide)).to(images.dtype), images)


def _enlarged(images: Tensor, boxes: Boxes, size: int) -> Tensor:
    """The same where no window is larger than `size`: then two pixels each way are all there is to a mean."""
    if not len(images):
        return images.new_empty(0, images.shape[1], size, size)
    height, width = images.shape[2:]
    centres = torch.arange(size, device=images.device).add(0.5).div_(size)
    places = images.new_empty(len(images), size, size, 2)
    x = (boxes.left.unsqueeze(1) + boxes.width.unsqueeze(1) * centres).mul_(2.0 / width).sub_(1.0)
    y = (boxes.top.unsqueeze(1) + boxes.height.unsqueeze(1) * centres).mul_(2.0 / height).sub_(1.0)
    places[..., 0], places[..., 1] = x.unsqueeze(1), y.unsqueeze(2)
    return F.grid_sample(images, places, padding_mode="border", align_corners=False)


def _resized(images: Tensor, start: Tensor, length: Tensor, size: int) -> Tensor:
    """Windows of rows as `size` rows each.

    A new row is a mean under a triangle around its middle, one old row high to either side, or one new row
    where those are larger. It is summed row by row: a matrix of weights would be nearly all zeros, and its
    product rounds otherwise for another number of images.
    """
    count, channels, side, width = images.shape
    step = (length / size).unsqueeze(1)
    support = step.clamp(min=1.0)
    middle = start.unsqueeze(1) + step * torch.arange(size, device=images.device).add(0.5)
    first = (middle - support + 0.5).floor_().long()
    rows = [first + further for further in range(math.ceil(2 * max(1.0, side / size)))]
    weights = [
        (1.0 - (row + 0.5 - middle).abs_() / support).clamp_(min=0.0).mul_((row >= 0) & (row < side))
        for row in rows
    ]
    total = sum(weights[1:], start=weights[0])
    lines = images.reshape(count * channels * side, width)
    planes = torch.arange(count * channels, device=images.device).mul_(side).view(count, channels, 1)
    result = images.new_zeros(count, channels, size, width)
    for row, weight in zip(rows, weights, strict=True):
        # Whole rows are copied, which takes a tenth of the time of gathering pixels.
        place = planes + row.clamp_(0, side - 1).unsqueeze(1)
        part = lines.index_select(0, place.flatten()).view_as(result)
        result.add_(part.mul_((weight / total).to(images.dtype).view(count, 1, size, 1)))
    return result


def _reflected(side: int, padding: int, device: torch.device) -> Tensor:
    """Which pixel stands where along a side padded by reflection: int64 (side + 2·padding,)."""
    place = torch.arange(-padding, side + padding, device=device).abs_()
    return torch.where(place < side, place, 2 * (side - 1) - place)
