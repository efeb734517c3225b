"""What every transform of images is, and what it refuses."""

import math
from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor

from ...errors import DataError
from .draws import Draws


class Transform(ABC):
    """A random change of whole batches of images, each image with its own draw.

    Images are (N, C, H, W) on any device, in either memory format, which is kept: floating point, in [0, 1]
    unless a transform says that other values will do; or bytes. Transforms that only move or overwrite pixels
    leave bytes bytes; the others return float32 in [0, 1] for them, because rounding to bytes between two
    transforms loses what both need. What is returned is new memory, or the images themselves where nothing
    changes; the images given are never written to.
    """

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """The batch, changed.

        Args:
            images: (N, C, H, W), floating point or bytes.
            draws: of these N samples.

        Raises:
            ValueError: the images or the draws are of another shape, type or device.
            DataError: a value is not finite.
        """
        check_images(images)
        check_draws(images, draws)
        return self.apply(images, draws)

    @abstractmethod
    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """The same without the checks; for parts of a whole that has made them."""

    @classmethod
    def usual(cls, shape: tuple[int, int, int]) -> Self:
        """With the settings that are usual for images of `shape`, (C, H, W)."""
        return cls()

    @property
    def idle(self) -> bool:
        """Whether the settings leave every image as it is."""
        return False


def check_images(images: Tensor) -> None:
    """Refuse what is no batch of images, or not finite.

    Raises:
        ValueError: not (N, C, H, W), or neither floating point nor bytes.
        DataError: a value is not finite.
    """
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise ValueError(f"Invalid images of shape {tuple(images.shape)}; they must be (N, C, H, W)")
    if images.dtype == torch.uint8:
        return
    if not images.is_floating_point():
        raise ValueError(f"Invalid images of {images.dtype}; they must be floating point or torch.uint8")
    # The sum is finite only if all are, and costs less than looking at each; float16 would overflow.
    wide = torch.promote_types(images.dtype, torch.float32)
    if not math.isfinite(images.detach().sum(dtype=wide)):
        count = int((~images.isfinite()).flatten(1).any(1).sum())
        if count:
            raise DataError(
                f"{count} of {len(images)} images have values that are not finite; "
                "look at the data, or at what was done to them before"
            )


def check_draws(images: Tensor, draws: Draws) -> None:
    """Refuse draws of other samples.

    Raises:
        ValueError: they are of another number of samples, or on another device.
    """
    if len(draws) != len(images):
        raise ValueError(f"Invalid draws of {len(draws)} items for {len(images)} images; each needs its own")
    if draws.items.device != images.device:
        raise ValueError(f"Invalid draws on {draws.items.device} for images on {images.device}")


def as_floating(images: Tensor) -> Tensor:
    """Bytes as float32 in [0, 1]; floating point as it is."""
    return images.float().div_(255.0) if images.dtype == torch.uint8 else images


def bounds(images: Tensor) -> tuple[Tensor, Tensor]:
    """Each image's own least and greatest value, (N, 1, 1, 1).

    Means of pixels are held to them: weights sum to 1 but for rounding, which could lead out of the range.
    """
    images = images.detach()
    return images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)


def rows_last(images: Tensor) -> bool:
    """Whether a pixel's channels lie together in memory (channels-last)."""
    return not images.is_contiguous() and images.is_contiguous(memory_format=torch.channels_last)


def like(result: Tensor, images: Tensor) -> Tensor:
    """`result` in the memory format of `images`."""
    form = torch.channels_last if rows_last(images) else torch.contiguous_format
    return result.contiguous(memory_format=form)
