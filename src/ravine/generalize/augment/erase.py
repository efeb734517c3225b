"""Erase a rectangle of an image: the network may not lean on one part alone."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...registry import register
from .boxes import Boxes, sizes
from .draws import Draws
from .settings import check_range, check_share
from .transform import Transform


@register(
    "augmentation",
    "erase",
    "overwrite a random rectangle of some images",
    source="Zhong, Zheng, Kang, Li and Yang 2020",
)
@dataclass(frozen=True)
class Erase(Transform):
    """Overwrite a random rectangle with one value (Zhong et al. 2020).

    Any values will do; bytes stay bytes. Where no rectangle of the ranges fits, nothing is erased.

    Attributes:
        p: how often, in [0, 1].
        scale: (low, high), the share of the image's area.
        ratio: (low, high) of width / height.
        value: what is written; for bytes in [0, 1] too, as 255 times it.

    Raises:
        ValueError: `p` is outside, a range is none, or the value is not finite; when called with bytes, the
            value is outside [0, 1].
    """

    p: float = 0.5
    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)
    value: float = 0.0

    def __post_init__(self) -> None:
        check_share("p", self.p)
        check_range("scale", self.scale, most=1.0)
        check_range("ratio", self.ratio)
        if not math.isfinite(self.value):
            raise ValueError(f"Invalid value: {self.value}; it must be finite")

    @property
    def idle(self) -> bool:
        """Whether `p` is 0."""
        return self.p == 0.0

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Images (N, C, H, W), some with a rectangle of one value."""
        if self.idle:
            return images
        value = self.value
        if images.dtype == torch.uint8:
            check_share("value", value)
            value = round(255 * value)
        return erase(images, self.boxes(draws, images.shape[2], images.shape[3]), value)

    def boxes(self, draws: Draws, height: int, width: int) -> Boxes:
        """The rectangles for images of this height and width; int64, of no rows where nothing is erased."""
        heights, widths, fits = sizes(draws, "erase", (height, width), self.scale, self.ratio)
        heights = heights.round_().clamp_(1, height).long()
        widths = widths.round_().clamp_(1, width).long()
        down, right = draws.uniform("erase.corner", 2).unbind(1)
        top = (down * (height - heights + 1)).long()
        left = (right * (width - widths + 1)).long()
        return Boxes(top, left, heights * (fits & draws.chance("erase", self.p)), widths)


def erase(images: Tensor, boxes: Boxes, value: float) -> Tensor:
    """The images (N, C, H, W) with `value` in each one's rectangle."""
    return images.clone().masked_fill_(inside(boxes, images.shape[2], images.shape[3]).unsqueeze(1), value)


def inside(boxes: Boxes, height: int, width: int) -> Tensor:
    """Bool (N, height, width): which pixels lie in each image's rectangle of whole pixels."""
    rows = _between(boxes.top, boxes.height, height)
    columns = _between(boxes.left, boxes.width, width)
    return rows.unsqueeze(2) & columns.unsqueeze(1)


def _between(start: Tensor, length: Tensor, side: int) -> Tensor:
    place = torch.arange(side, device=start.device) - start.unsqueeze(1)
    return (place >= 0) & (place < length.unsqueeze(1))
