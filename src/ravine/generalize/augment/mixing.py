"""Mix pairs of samples, images and targets alike.

A sample's weight and rectangle are its own draws. Its partner is another sample of the batch, so here, and
only here, a picture depends on the batch it comes in (not on the order within).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import DataError
from .boxes import Boxes
from .draws import Draws
from .erase import inside
from .settings import check_amount, check_count, check_share
from .transform import as_floating, check_draws, check_images, like


@dataclass(frozen=True)
class Mixing(ABC):
    """A mix of each sample with another one of its batch.

    Attributes:
        classes: how many there are, at least 2.
        alpha: the share kept of a sample is drawn from Beta(alpha, alpha); at least 0: there nothing is
            mixed. At 1 all shares are as frequent, below it those near 0 and 1.

    Raises:
        ValueError: one is out of its range.
    """

    classes: int
    alpha: float = 1.0

    def __post_init__(self) -> None:
        check_count("classes", self.classes, 2)
        check_amount("alpha", self.alpha)

    def __call__(self, images: Tensor, targets: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """The batch, mixed.

        Args:
            images: (N, C, H, W), floating point or bytes.
            targets: class numbers (N,), or soft targets (N, classes).
            draws: of these N samples.

        Returns:
            mixed images (N, C, H, W), and floating-point soft targets (N, classes), with exactly the weights
            that the images have.

        Raises:
            ValueError: images, targets or draws are of another shape, type, device or range.
            DataError: a value of an image or of a soft target is not finite.
        """
        check_images(images)
        check_draws(images, draws)
        soft = soft_targets(targets, self.classes)
        if len(soft) != len(images):
            raise ValueError(f"{len(images)} images have {len(soft)} targets; each needs its own")
        if not len(images) or self.alpha == 0.0:
            return images, soft
        return self.mix(images, soft, partners(draws), draws)

    @abstractmethod
    def mix(self, images: Tensor, soft: Tensor, partner: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Images and soft targets mixed with those of `partner`, int64 (N,)."""


@dataclass(frozen=True)
class Mixup(Mixing):
    """Blend each image with another one: weight · image + (1 − weight) · partner (Zhang et al. 2018)."""

    alpha: float = 0.2

    def mix(self, images: Tensor, soft: Tensor, partner: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Blended images, floating point, and targets."""
        return blend(images, soft, partner, draws.beta("mixup", self.alpha))


@dataclass(frozen=True)
class CutMix(Mixing):
    """Paste a rectangle of another image into each image (Yun et al. 2019).

    The rectangle has the image's shape and the share 1 − weight of its area, its middle anywhere; what hangs
    over the edge is lost, and the target's weight is that of the pixels pasted. Bytes stay bytes.

    Attributes:
        classes: how many there are, at least 2.
        alpha: the share kept of a sample is drawn from Beta(alpha, alpha).
        p: how often, in [0, 1].
    """

    p: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("p", self.p)

    def mix(self, images: Tensor, soft: Tensor, partner: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Images with a rectangle of their partners', and targets."""
        height, width = images.shape[2:]
        # The share that goes has the distribution of the share that stays.
        side = draws.beta("cutmix", self.alpha).sqrt_() * draws.chance("cutmix.p", self.p)
        middle = draws.uniform("cutmix.middle", 2)
        top, tall = _cut(middle[:, 0], side, height)
        left, wide = _cut(middle[:, 1], side, width)
        return paste(images, soft, partner, Boxes(top, left, tall, wide))


def blend(images: Tensor, soft: Tensor, partner: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Images and targets as weight · own + (1 − weight) · partner's.

    Args:
        images: (N, C, H, W), floating point or bytes.
        soft: (N, classes).
        partner: int64 (N,).
        weight: (N,), in [0, 1].

    Returns:
        floating-point images and targets. The weight is rounded to the images' type first, for both.
    """
    images = as_floating(images)
    weight = weight.to(images.dtype)
    mixed = like(images.index_select(0, partner).lerp_(images, weight.view(-1, 1, 1, 1)), images)
    share = weight.to(soft.dtype).unsqueeze(1)
    return mixed, share * soft + (1.0 - share) * soft.index_select(0, partner)


def paste(images: Tensor, soft: Tensor, partner: Tensor, boxes: Boxes) -> tuple[Tensor, Tensor]:
    """Images with the partners' pixels in their rectangles, and targets with as much of the partners'.

    Args:
        images: (N, C, H, W), floating point or bytes.
        soft: (N, classes).
        partner: int64 (N,).
        boxes: int64, within the images.
    """
    height, width = images.shape[2:]
    pasted = inside(boxes, height, width).unsqueeze(1)
    mixed = like(torch.where(pasted, images.index_select(0, partner), images), images)
    share = (boxes.height * boxes.width).to(soft.dtype).div_(height * width).unsqueeze(1)
    return mixed, (1.0 - share) * soft + share * soft.index_select(0, partner)


def partners(draws: Draws) -> Tensor:
    """A partner for each sample: int64 (N,), each sample once, none its own but in a batch of one.

    Samples stand in a ring in the order of a draw of their own, each looking at the next: so the order in
    the batch does not matter.
    """
    order = draws.uniform("partner").argsort(stable=True)
    return torch.empty_like(order).index_copy_(0, order, order.roll(-1))


def soft_targets(targets: Tensor, classes: int) -> Tensor:
    """Class numbers (N,) as rows of 0 and 1, float32 (N, classes); what is (N, classes) already stays.

    Raises:
        ValueError: another shape or type, or a class number outside [0, classes).
        DataError: a share is not finite.
    """
    if targets.ndim == 2 and targets.shape[1] == classes and targets.is_floating_point():
        bad = int((~targets.isfinite()).any(1).sum())
        if bad:
            raise DataError(f"{bad} of {len(targets)} soft targets have shares that are not finite")
        return targets
    if targets.ndim != 1 or targets.is_floating_point() or targets.is_complex():
        raise ValueError(
            f"Invalid targets: {targets.dtype} {tuple(targets.shape)}; they must be class numbers (N,) or "
            f"floating point (N, {classes})"
        )
    if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < classes:
        raise ValueError(
            f"Invalid targets from {int(targets.min())} to {int(targets.max())}; "
            f"class numbers are from 0 to {classes - 1}"
        )
    return F.one_hot(targets.long(), classes).float()


def _cut(middle: Tensor, side: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Where a cut starts and how long it is, int64 (N,), within `length` pixels."""
    long = (side * length).long()
    start = (middle * length).long() - long // 2
    low, high = start.clamp(0, length), (start + long).clamp(0, length)
    return low, high - low
