"""Policies: operations drawn from a fixed list for each image, with next to nothing to tune."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from ...registry import register
from .color import check_channels, jitter, map_colors
from .draws import Draws
from .geometry import rotation, shearing, translation
from .settings import check_count
from .tones import autocontrast, equalize, posterize, sharpen, solarize
from .transform import Transform, as_floating, like
from .warp import warp

# The policies count a strength in steps from 0 to 30.
STEPS = 30


class Operation(IntEnum):
    """What may happen to an image; all are as frequent."""

    IDENTITY = 0
    SHEAR_X = 1
    SHEAR_Y = 2
    TRANSLATE_X = 3
    TRANSLATE_Y = 4
    ROTATE = 5
    BRIGHTNESS = 6
    CONTRAST = 7
    SATURATION = 8
    SHARPNESS = 9
    POSTERIZE = 10
    SOLARIZE = 11
    AUTOCONTRAST = 12
    EQUALIZE = 13


GEOMETRIC = range(Operation.SHEAR_X, Operation.ROTATE + 1)
LINEAR = range(Operation.BRIGHTNESS, Operation.SATURATION + 1)


class Most(NamedTuple):
    """What the operations do at full strength.

    Attributes:
        shear: pixels for each pixel of distance.
        translate: pixels, from the side.
        rotate: degrees.
        enhance: how far the factor of brightness, contrast, saturation and sharpness is from 1.
        bits: how many posterizing takes away.
    """

    shear: float
    translate: Callable[[int], float]
    rotate: float
    enhance: float
    bits: int


RAND_AUGMENT = Most(0.3, lambda side: side * 150 / 331, 30.0, 0.9, 4)
TRIVIAL_AUGMENT_WIDE = Most(0.99, lambda side: 32.0, 135.0, 0.99, 6)


class Policy(Transform):
    """Operations drawn for each image, of `Operation`'s list.

    Autocontrast and equalizing have no strength; the others are the identity at strength 0. Shear,
    translation, rotation and the factors go either way. Images have 1 or 3 channels; saturation does nothing
    to those of 1.
    """

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Images (N, C, H, W), floating point in [0, 1]."""
        check_channels(images, self)
        result = as_floating(images)
        for operation, strength, most in self.choices(draws):
            result = operate(result, operation, strength, most)
        return like(result, images)

    @abstractmethod
    def choices(self, draws: Draws) -> list[tuple[Tensor, Tensor, Most]]:
        """What happens to the images one after another, as `operate` takes it."""


@register(
    "augmentation",
    "rand-augment",
    "a few operations on each image, all of one strength",
    source="Cubuk, Zoph, Shlens and Le 2020",
)
@dataclass(frozen=True)
class RandAugment(Policy):
    """`n` operations on each image, drawn alike, all of one strength (Cubuk et al. 2020).

    Attributes:
        n: how many, one after another; at least 0.
        magnitude: in steps of 30, whole.

    Raises:
        ValueError: one is out of its range.
    """

    n: int = 2
    magnitude: int = 9

    def __post_init__(self) -> None:
        check_count("n", self.n, 0)
        check_count("magnitude", self.magnitude, 0)
        if self.magnitude > STEPS:
            raise ValueError(f"Invalid magnitude: {self.magnitude}; it must be at most {STEPS}")

    @property
    def idle(self) -> bool:
        """Whether there are no operations."""
        return self.n == 0

    def choices(self, draws: Draws) -> list[tuple[Tensor, Tensor, Most]]:
        """What happens to the images one after another, as `operate` takes it."""
        return [
            (_drawn(turn), _either_way(turn, self.magnitude / STEPS), RAND_AUGMENT)
            for turn in (draws.under("rand-augment", number) for number in range(self.n))
        ]


@register(
    "augmentation",
    "trivial-augment",
    "one operation of any strength on each image; nothing to tune",
    source="Müller and Hutter 2021",
)
@dataclass(frozen=True)
class TrivialAugment(Policy):
    """One operation on each image, of a strength that is drawn too (Müller and Hutter 2021, "wide")."""

    def choices(self, draws: Draws) -> list[tuple[Tensor, Tensor, Most]]:
        """What happens to the images, as `operate` takes it."""
        turn = draws.under("trivial-augment")
        share = turn.integers("strength", 0, STEPS + 1).float().div_(STEPS)
        return [(_drawn(turn), _either_way(turn, share), TRIVIAL_AUGMENT_WIDE)]


def operate(images: Tensor, operation: Tensor, strength: Tensor, most: Most) -> Tensor:
    """One operation on each image.

    Args:
        images: (N, C, H, W), floating point in [0, 1]; C is 1 or 3.
        operation: int64 (N,), of `Operation`.
        strength: float32 (N,), in [-1, 1]; posterizing and solarizing take it without its sign.
        most: what is done at strength 1.

    Returns:
        (N, C, H, W), new memory.
    """
    result = images.clone()
    for wanted, change in _CHANGES:
        chosen = ((operation >= wanted.start) & (operation < wanted.stop)).nonzero().squeeze(1)
        if len(chosen):
            part = change(images.index_select(0, chosen), operation[chosen], strength[chosen], most)
            result.index_copy_(0, chosen, part)
    return result


def _move(images: Tensor, operation: Tensor, strength: Tensor, most: Most) -> Tensor:
    height, width = images.shape[2:]

    def only(which: Operation, amount: float) -> Tensor:
        return torch.where(operation == which, strength * amount, 0.0)

    shear = shearing(only(Operation.SHEAR_X, most.shear), only(Operation.SHEAR_Y, most.shear))
    shift = translation(
        only(Operation.TRANSLATE_X, most.translate(width)),
        only(Operation.TRANSLATE_Y, most.translate(height)),
    )
    # Each image has one of the three; the others are the identity.
    return warp(images, [shear, shift, rotation(only(Operation.ROTATE, most.rotate))])


def _tint(images: Tensor, operation: Tensor, strength: Tensor, most: Most) -> Tensor:
    mean = images.mean((2, 3), dtype=torch.promote_types(images.dtype, torch.float32)).float()
    factors = 1.0 + strength * most.enhance
    brightness, contrast, saturation = (
        torch.where(operation == which, factors, 1.0)
        for which in (Operation.BRIGHTNESS, Operation.CONTRAST, Operation.SATURATION)
    )
    return map_colors(images, jitter(mean, brightness, contrast, saturation)).clamp_(0.0, 1.0)


_Change = Callable[[Tensor, Tensor, Tensor, Most], Tensor]


def _one(operation: Operation) -> range:
    return range(operation, operation + 1)


_CHANGES: tuple[tuple[range, _Change], ...] = (
    (GEOMETRIC, _move),
    (LINEAR, _tint),
    (
        _one(Operation.SHARPNESS),
        lambda images, _, strength, most: sharpen(images, 1 + strength * most.enhance),
    ),
    (
        _one(Operation.POSTERIZE),
        lambda images, _, strength, most: posterize(images, 8 - (strength.abs() * most.bits).round().long()),
    ),
    # From 256, beyond the brightest level, at strength 0 down to 0.
    (
        _one(Operation.SOLARIZE),
        lambda images, _, strength, most: solarize(images, (1 - strength.abs()) * 256 / 255),
    ),
    (_one(Operation.AUTOCONTRAST), lambda images, _, strength, most: autocontrast(images)),
    (_one(Operation.EQUALIZE), lambda images, _, strength, most: equalize(images)),
)


def _drawn(draws: Draws) -> Tensor:
    return draws.integers("operation", 0, len(Operation))


def _either_way(draws: Draws, share: Tensor | float) -> Tensor:
    return torch.where(draws.chance("sign", 0.5), 1.0, -1.0) * share
