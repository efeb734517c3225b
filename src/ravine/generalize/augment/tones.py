"""Changes of tone that are not linear in the colours, as Pillow makes them; used by the policies.

Images are floating point in [0, 1]. What Pillow does to the 256 levels of bytes is done to those levels here:
a value counts as the nearest one.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 256


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Only the highest bits of each byte.

    Args:
        images: (N, C, H, W).
        bits: int64 (N,), from 1 to 8.
    """
    step = (torch.ones_like(bits) << (8 - bits)).to(images.dtype).view(-1, 1, 1, 1)
    return (_levels(images) / step).floor_().mul_(step).div_(LEVELS - 1)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Values from the threshold on, (N,), are turned into 1 − value."""
    return torch.where(images >= threshold.to(images.dtype).view(-1, 1, 1, 1), 1.0 - images, images)


def autocontrast(images: Tensor) -> Tensor:
    """Each channel of each image stretched to all of [0, 1]; one of a single value stays."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    flat = high == low
    return torch.where(flat, images, (images - low) / torch.where(flat, 1.0, high - low))


def equalize(images: Tensor) -> Tensor:
    """Each channel of each image with its levels spread so that all are about as frequent."""
    levels = _levels(images).long().flatten(2)
    counts = levels.new_zeros(*levels.shape[:2], LEVELS).scatter_add_(2, levels, torch.ones_like(levels))
    below = counts.cumsum(2) - counts
    highest = counts.gather(2, levels.amax(2, keepdim=True))
    step = (levels.shape[2] - highest) // (LEVELS - 1)
    spread = ((step // 2 + below) // step.clamp(min=1)).clamp_(max=LEVELS - 1)
    # Too few pixels outside of the highest level: Pillow leaves such a channel alone.
    spread = torch.where(step == 0, torch.arange(LEVELS, device=step.device), spread)
    return spread.gather(2, levels).view_as(images).to(images.dtype).div_(LEVELS - 1)


def sharpen(images: Tensor, factor: Tensor) -> Tensor:
    """Away from the smoothed image or towards it: 0 is that one, 1 leaves the image.

    Args:
        images: (N, C, H, W); the outermost pixels are not smoothed.
        factor: (N,), at least 0.
    """
    smooth = images.clone()
    if min(images.shape[2:]) > 2:
        # Weight 5 in the middle and 1 around it.
        around = F.avg_pool2d(images, 3, stride=1).mul_(9.0)
        smooth[:, :, 1:-1, 1:-1] = around.add_(images[:, :, 1:-1, 1:-1], alpha=4.0).div_(13.0)
    return smooth.lerp(images, factor.to(images.dtype).view(-1, 1, 1, 1)).clamp_(0.0, 1.0)


def _levels(images: Tensor) -> Tensor:
    return (images * (LEVELS - 1)).round_().clamp_(0, LEVELS - 1)
