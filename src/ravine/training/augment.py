"""Random flips and shifts of whole batches, in plain torch: new images for free (T23).

Each works on a batch of images (N, C, H, W), bytes or floats, on any device, and takes its randomness
from a generator of the CPU, so that the draws are the same on every device.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..registry import register


@register("augmentation", "flip", "mirror each image left to right with probability 1/2")
def flip(batch: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image of a batch left to right with probability 1/2.

    Returns:
        A new batch of the same shape, type and memory format.
    """
    mirrored = torch.randint(2, (len(batch),), generator=generator).bool().to(batch.device)
    return torch.where(mirrored.view(-1, 1, 1, 1), batch.flip(3), batch)


@register("augmentation", "shift", "move each image by up to `pixels` in each direction, zeros moving in")
def shift(batch: Tensor, generator: torch.Generator, pixels: int = 2) -> Tensor:
    """Move each image of a batch by its own whole number of pixels, zeros moving in.

    Args:
        batch: images (N, C, H, W).
        generator: of the CPU.
        pixels: the most by which an image moves, up or down and left or right, each uniformly.

    Returns:
        A new batch of the same shape, type and memory format.
    """
    count, _, height, width = batch.shape
    moves = torch.randint(2 * pixels + 1, (2, count, 1), generator=generator).to(batch.device)
    rows = moves[0] + torch.arange(height, device=batch.device)
    columns = moves[1] + torch.arange(width, device=batch.device)
    padded = F.pad(batch, (pixels,) * 4)
    items = torch.arange(count, device=batch.device).view(-1, 1, 1)
    # Indexing around the channels moves them last; the permutation brings them back.
    return padded[items, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
