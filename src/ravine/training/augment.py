"""The augmentations that a recipe names, with the settings that are usual for images of their size (T23)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch

from ..errors import RecipeError
from ..generalize.augment import Compose, Draws, PaddedCrop, compose
from ..registry import lookup, register


@register("augmentation", "shift", "move each image a little in each direction, zeros moving in")
@dataclass(frozen=True)
class Shift(PaddedCrop):
    """A padded crop so small that it harms no digit and no letter."""

    @classmethod
    def usual(cls, shape: tuple[int, int, int]) -> Self:
        """One pixel for every 28 of the shorter side, at least one."""
        return cls(max(1, round(min(shape[1:]) / 28)))


def made(names: Sequence[str], shape: tuple[int, ...]) -> Compose:
    """The transforms as one; neighbours of a kind share a pass over the images.

    Args:
        names: registered augmentations, in their order.
        shape: of one raw image, (C, H, W).

    Raises:
        RecipeError: one of them does not fit such images.
    """
    chosen = [lookup("augmentation", name).usual(shape) for name in names]
    draws, blank = Draws(0, 0, torch.zeros(1, dtype=torch.int64)), torch.zeros(1, *shape, dtype=torch.uint8)
    problems = []
    for name, transform in zip(names, chosen, strict=True):
        try:
            if transform(blank, draws).shape != blank.shape:
                problems.append(f"augment: {name} makes squares of images of {shape[1]}x{shape[2]}")
        except ValueError as error:
            problems.append(f"augment: {name}: {error}")
    if problems:
        raise RecipeError(problems)
    return compose(chosen)
