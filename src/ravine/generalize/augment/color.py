"""Colour: one matrix and offset an image, whatever is done to it.

Everything here is linear in the colours and, apart from the end, nothing is cut off: so a chain of such
transforms is one matrix an image and costs one pass. Grey is the luma of television, 0.299 R + 0.587 G +
0.114 B.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...registry import register
from .draws import Draws
from .settings import check_amount
from .transform import Transform, as_floating, rows_last

LUMA = (0.299, 0.587, 0.114)

# From RGB to luma and the two axes of chroma of the NTSC standard: I = 0.74 (R − Y) − 0.27 (B − Y) and
# Q = 0.48 (R − Y) + 0.41 (B − Y), written out.
_YIQ = (LUMA, (0.59947, -0.27589, -0.32358), (0.21389, -0.52243, 0.30854))


class ColorMap(NamedTuple):
    """A linear map of colours for each image: out = matrix · colour + offset.

    Attributes:
        matrix: float32 (N, C, C).
        offset: float32 (N, C).
    """

    matrix: Tensor
    offset: Tensor

    def after(self, first: "ColorMap") -> "ColorMap":
        """`first`, then this one, as one map."""
        return ColorMap(self.matrix @ first.matrix, self.of(first.offset))

    def of(self, colors: Tensor) -> Tensor:
        """The colours (N, C), one an image, that become of these."""
        return (self.matrix @ colors.unsqueeze(2)).squeeze(2) + self.offset


class ColorTransform(Transform):
    """A transform that is a linear map of each image's colours, cut off to [0, 1]."""

    @abstractmethod
    def map(self, draws: Draws, mean: Tensor) -> ColorMap:
        """The maps for images whose mean colours are `mean`, float32 (N, C) with C = 1 or 3."""

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Images (N, C, H, W), floating point in [0, 1]."""
        return recolor(images, [(self, draws)])


def check_channels(images: Tensor, *transforms: Transform) -> None:
    """Refuse images that are neither grey nor RGB, by the name of the transform that cannot take them.

    Raises:
        ValueError: they have other than 1 or 3 channels.
    """
    if images.shape[1] not in (1, 3):
        names = " and ".join(dict.fromkeys(type(transform).__name__ for transform in transforms))
        raise ValueError(
            f"{names} cannot take images of {images.shape[1]} channels; valid are 1 (grey) and 3 (RGB)"
        )


def recolor(images: Tensor, transforms: Sequence[tuple[ColorTransform, Draws]]) -> Tensor:
    """Several transforms of colour in one pass.

    Args:
        images: (N, C, H, W), floating point in [0, 1] or bytes; C is 1 or 3.
        transforms: which, first to last, each with its draws.

    Returns:
        floating point (N, C, H, W) in [0, 1], cut off only once, in the same memory format.

    Raises:
        ValueError: C is neither 1 nor 3.
    """
    check_channels(images, *(transform for transform, _ in transforms))
    active = [(transform, draws) for transform, draws in transforms if not transform.idle]
    images = as_floating(images)
    if not active or not len(images):
        return images
    mean = images.mean((2, 3), dtype=torch.promote_types(images.dtype, torch.float32)).float()
    first, draws = active[0]
    total = first.map(draws, mean)
    for transform, draws in active[1:]:
        total = transform.map(draws, total.of(mean)).after(total)
    return map_colors(images, total).clamp_(0.0, 1.0)


def map_colors(images: Tensor, colors: ColorMap) -> Tensor:
    """Images (N, C, H, W), floating point, with each pixel's colour mapped; the same memory format."""
    wide = torch.promote_types(images.dtype, torch.float32)
    matrix, offset, pixels = colors.matrix.to(wide), colors.offset.to(wide).unsqueeze(2), images.to(wide)
    if images.shape[1] == 1:
        return (pixels * matrix.unsqueeze(3)).add_(offset.unsqueeze(3)).to(images.dtype)
    if rows_last(images):
        rows = pixels.permute(0, 2, 3, 1)
        out = torch.baddbmm(offset.mT, rows.flatten(1, 2), matrix.mT).view_as(rows).permute(0, 3, 1, 2)
    else:
        out = torch.baddbmm(offset, matrix, pixels.flatten(2)).view_as(pixels)
    return out.to(images.dtype)


def jitter(
    mean: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, turn: Tensor | None = None
) -> ColorMap:
    """Brightness, contrast, saturation and hue of each image as one map.

    In luma Y and chroma (I, Q), with Ȳ the mean luma: Y becomes b·(c·Y + (1 − c)·Ȳ), and (I, Q) is turned
    and multiplied by b·c·s. So their order does not matter.

    Args:
        mean: float32 (N, C), the mean colours.
        brightness: b, float32 (N,); 1 leaves it.
        contrast: c, likewise; 0 is a plane of the mean grey.
        saturation: s, likewise; 0 is grey. Grey images have none.
        turn: of the hue, float32 (N,), in turns; 0 leaves it, and so does None.
    """
    gain = (brightness * contrast).view(-1, 1, 1)
    if mean.shape[1] == 1:
        return ColorMap(gain, (brightness * (1.0 - contrast)).unsqueeze(1) * mean)
    luma = mean.new_tensor(LUMA)
    grey = luma.expand(3, 3)
    chroma = (torch.eye(3, device=mean.device) if turn is None else turn_hue(turn)) - grey
    matrix = gain * (grey + saturation.view(-1, 1, 1) * chroma)
    offset = (brightness * (1.0 - contrast) * (mean * luma).sum(1)).unsqueeze(1).expand_as(mean)
    return ColorMap(matrix, offset)


def turn_hue(turn: Tensor) -> Tensor:
    """Matrices (N, 3, 3) that turn colours about the grey axis by `turn` (N,), in turns, at equal luma."""
    to_yiq = torch.tensor(_YIQ, dtype=torch.float64)
    to_rgb = torch.linalg.inv(to_yiq)
    # What stays, the plane of chroma, and that plane turned by a right angle.
    grey = torch.zeros(3, 3, dtype=torch.float64)
    grey[0, 0] = 1.0
    quarter = torch.zeros(3, 3, dtype=torch.float64)
    quarter[1, 2], quarter[2, 1] = -1.0, 1.0
    chroma = torch.eye(3, dtype=torch.float64) - grey
    still, along, across = (
        (to_rgb @ part @ to_yiq).to(turn.dtype).to(turn.device) for part in (grey, chroma, quarter)
    )
    angle = (turn * (2.0 * math.pi)).view(-1, 1, 1)
    turned: Tensor = still + angle.cos() * along + angle.sin() * across
    return turned


@register("augmentation", "color", "change brightness, contrast, saturation and hue")
@dataclass(frozen=True)
class ColorJitter(ColorTransform):
    """Change brightness, contrast, saturation and hue of each image, each by its own draw.

    The first three are factors, uniform in [max(0, 1 − amount), 1 + amount]. The hue is turned about the grey
    axis in YIQ, at equal luma: linear, unlike the hue of HSV, which turns at equal maximum and minimum.
    Values are cut off to [0, 1] once, at the end; so the order of the four does not matter. Images of one
    channel have no saturation and no hue.

    Attributes:
        brightness: amount, at least 0.
        contrast: amount, at least 0; towards or away from the image's mean grey.
        saturation: amount, at least 0; towards or away from each pixel's grey.
        hue: the most of a turn to either side, in [0, 0.5].

    Raises:
        ValueError: an amount is out of its range.
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            check_amount(name, getattr(self, name))
        check_amount("hue", self.hue, most=0.5)

    @property
    def idle(self) -> bool:
        """Whether every amount is 0."""
        return not (self.brightness or self.contrast or self.saturation or self.hue)

    def map(self, draws: Draws, mean: Tensor) -> ColorMap:
        """The maps for images whose mean colours are `mean`, float32 (N, C)."""
        share = draws.uniform("color", 4)
        turn = (share[:, 3] * 2.0 - 1.0) * self.hue if self.hue else None
        return jitter(
            mean,
            _factor(share[:, 0], self.brightness),
            _factor(share[:, 1], self.contrast),
            _factor(share[:, 2], self.saturation),
            turn,
        )


@dataclass(frozen=True)
class PCAColor(ColorTransform):
    """Add one random offset along the principal components of the pixels to each image.

    The offset is Σ pᵢ·αᵢ·λᵢ with αᵢ ~ N(0, sigma²), pᵢ and λᵢ the eigenvectors and eigenvalues of the
    covariance of the training set's pixels (Krizhevsky et al. 2012). That has the distribution of
    sigma · covariance · z with standard normal z, and so it is drawn: eigenvectors have no sign of their own,
    the covariance needs none. Images of one channel have a covariance of one number.

    Attributes:
        covariance: C rows of C numbers, of pixels in [0, 1]; see `covariance_of`.
        sigma: at least 0.

    Raises:
        ValueError: sigma or the covariance are none; when called, the images have other channels.
    """

    covariance: tuple[tuple[float, ...], ...]
    sigma: float = 0.1

    def __post_init__(self) -> None:
        check_amount("sigma", self.sigma)
        matrix = torch.tensor(self.covariance, dtype=torch.float64)
        if matrix.shape not in ((1, 1), (3, 3)) or not torch.allclose(matrix, matrix.mT):
            raise ValueError(
                f"Invalid covariance: {self.covariance}; it must be symmetric, of 1 × 1 or 3 × 3 numbers"
            )

    @property
    def idle(self) -> bool:
        """Whether sigma is 0."""
        return self.sigma == 0.0

    def map(self, draws: Draws, mean: Tensor) -> ColorMap:
        """The maps for images whose mean colours are `mean`, float32 (N, C)."""
        channels = mean.shape[1]
        if len(self.covariance) != channels:
            raise ValueError(
                f"PCAColor has the covariance of {len(self.covariance)} channels; the images have {channels}"
            )
        scaled = mean.new_tensor(self.covariance).mul_(self.sigma)
        # A matrix product may round otherwise for another number of images.
        offset = (draws.normal("pca-color", channels).unsqueeze(1) * scaled).sum(2)
        return ColorMap(torch.eye(channels, device=mean.device).expand(len(mean), -1, -1), offset)


def covariance_of(images: Tensor) -> tuple[tuple[float, ...], ...]:
    """The covariance of all pixels of some images, for `PCAColor`.

    Args:
        images: (N, C, H, W), floating point in [0, 1] or bytes.

    Returns:
        C rows of C numbers.
    """
    pixels = as_floating(images).transpose(0, 1).flatten(1).double()
    return tuple(tuple(row) for row in torch.cov(pixels, correction=0).reshape(len(pixels), -1).tolist())


def _factor(share: Tensor, amount: float) -> Tensor:
    """Shares in [0, 1) as factors around 1, none negative."""
    low = max(0.0, 1.0 - amount)
    return share * (1.0 + amount - low) + low
