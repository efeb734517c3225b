"""Mirror images left to right."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...registry import register
from .draws import Draws
from .settings import check_share
from .transform import Transform, like, rows_last


@register("augmentation", "flip", "mirror each image left to right")
@dataclass(frozen=True)
class Flip(Transform):
    """Mirror each image left to right with probability `p`.

    Any values will do; bytes stay bytes.

    Attributes:
        p: how often, in [0, 1].

    Raises:
        ValueError: `p` is outside.
    """

    p: float = 0.5

    def __post_init__(self) -> None:
        check_share("p", self.p)

    @property
    def idle(self) -> bool:
        """Whether `p` is 0."""
        return self.p == 0.0

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Images (N, C, H, W), some mirrored."""
        return images if self.idle else flip(images, draws.chance("flip", self.p))


def flip(images: Tensor, mirrored: Tensor) -> Tensor:
    """The images (N, C, H, W), those mirrored left to right where `mirrored`, bool (N,), is True."""
    if images.dtype == torch.uint8:
        # Gathering single bytes is slow; choosing among all images and all their mirror images is not.
        both = torch.stack((images, images.flip(3)), dim=1).flatten(0, 1)
        rows = 2 * torch.arange(len(images), device=images.device) + mirrored
        return like(both.index_select(0, rows), images)
    columns = torch.arange(images.shape[3], device=images.device)
    # Gathering columns takes half the time of choosing between the images and all their mirror images.
    source = torch.where(mirrored.unsqueeze(1), columns.flip(0), columns)
    if rows_last(images):
        pixels = images.permute(0, 2, 3, 1)
        return pixels.gather(2, source[:, None, :, None].expand_as(pixels)).permute(0, 3, 1, 2)
    return images.gather(3, source[:, None, None, :].expand_as(images))
