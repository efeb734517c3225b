"""The augmentations that a recipe names, with the settings that are usual for the data at hand (T23)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from ..errors import RecipeError
from ..generalize.augment import (
    Compose,
    CutMix,
    Draws,
    Mixing,
    Mixup,
    PaddedCrop,
    PCAColor,
    Transform,
    compose,
)
from ..generalize.augment.transform import as_floating
from ..registry import lookup, register, unknown
from .preprocessing_statistics import TrainingPart, color_covariance

Mix = Callable[[Tensor, Tensor, Draws], tuple[Tensor, Tensor]]
"""From images (N, C, H, W), class numbers (N,) and draws to mixed images and shares (N, classes)."""


class Augmentation(NamedTuple):
    """What happens to a training batch of raw images before it is preprocessed.

    Attributes:
        change: of each image by itself; None for none.
        mix: of pairs of images afterwards, and of their targets; None for none.
    """

    change: Compose | None
    mix: Mix | None


@register("augmentation", "shift", "move each image a little in each direction, zeros moving in")
@dataclass(frozen=True)
class Shift(PaddedCrop):
    """A padded crop so small that it harms no digit and no letter."""

    @classmethod
    def usual(cls, shape: tuple[int, int, int]) -> Self:
        """One pixel for every 28 of the shorter side, at least one."""
        return cls(max(1, round(min(shape[1:]) / 28)))


# Registered here and not beside their code: they need more of the data than the images' shape.
register(
    "augmentation",
    "pca-color",
    "shift each image's colours along the principal components of the training part's pixels",
    source="Krizhevsky, Sutskever and Hinton 2012",
)(PCAColor)
register(
    "augmentation",
    "mixup",
    "blend each image with another one of its batch, and their targets; last in the list",
    source="Zhang et al. 2018",
)(Mixup)
register(
    "augmentation",
    "cutmix",
    "paste a rectangle of another image into every second one, and mix their targets; last in the list",
    source="Yun et al. 2019",
)(CutMix)


@dataclass(frozen=True)
class MixupOrCutMix:
    """Mixup or CutMix for each sample, as often the one as the other.

    Others draw one of them for a whole batch. A sample's own draw does not depend on the batch it comes in.

    Attributes:
        mixup: the one.
        cutmix: the other.
    """

    mixup: Mixup
    cutmix: CutMix

    def __call__(self, images: Tensor, targets: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Mixed images, floating point, and shares (N, classes); what it takes and refuses is `Mixing`'s."""
        blended, blended_targets = self.mixup(images, targets, draws)
        pasted, pasted_targets = self.cutmix(images, targets, draws)
        chosen = draws.chance("mixup or cutmix", 0.5)
        return (
            torch.where(chosen.view(-1, 1, 1, 1), blended, as_floating(pasted)),
            torch.where(chosen.unsqueeze(1), blended_targets, pasted_targets),
        )


def mistakes(names: Sequence[str]) -> list[str]:
    """What is wrong with a recipe's `augment` whatever the data, a sentence each."""
    if strange := [reason for name in names if (reason := unknown("augmentation", name))]:
        return [f"augment: {reason}" for reason in strange]
    changes, mixes = _sorted(names)
    wanted = [*changes, *dict.fromkeys(mixes)]
    if list(names) == wanted:
        return []
    told = " and ".join(dict.fromkeys(mixes))
    return [
        f"augment = {list(names)}: {told} must come last, and once, because what changes mixed images makes "
        f"the shares in their targets wrong; write augment = {wanted}"
    ]


def made(names: Sequence[str], part: TrainingPart) -> Augmentation:
    """What a recipe's `augment` does to the training part.

    Neighbours of a kind share a pass over the images. Where both mixes are named, each sample draws one.

    Args:
        names: registered augmentations in their order, without `mistakes`.
        part: of images in memory or streamed.

    Raises:
        RecipeError: one of them does not fit such data.
    """
    shape = part.dataset.item_shape
    draws, blank = Draws(0, 0, torch.zeros(1, dtype=torch.int64)), torch.zeros(1, *shape, dtype=torch.uint8)
    changes, mixes = _sorted(names)
    chosen: list[Transform] = []
    problems = []
    for name in changes:
        try:
            transform = _transform(lookup("augmentation", name), part)
            if transform(blank, draws).shape != blank.shape:
                problems.append(f"augment: {name} makes squares of images of {shape[1]}x{shape[2]}")
            chosen.append(transform)
        except ValueError as error:
            problems.append(f"augment: {name}: {error}")
    if mixes and part.dataset.task != "classification":
        problems += [
            f"augment: {name} mixes classes, and {part.dataset.name} has values to predict; leave it out"
            for name in mixes
        ]
    if problems:
        raise RecipeError(problems)
    return Augmentation(compose(chosen) if chosen else None, _mix(mixes, len(part.dataset.classes)))


def _sorted(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names of transforms of single images, and those of mixes."""
    mixes = [name for name in names if issubclass(lookup("augmentation", name), Mixing)]
    return [name for name in names if name not in mixes], mixes


def _transform(kind: type[Transform], part: TrainingPart) -> Transform:
    """A transform with the settings that are usual for such images.

    Raises:
        ValueError: it cannot take them.
    """
    channels, height, width = part.dataset.item_shape
    if kind is not PCAColor:
        return kind.usual((channels, height, width))
    if channels != 3:
        such = "grey" if channels == 1 else f"of {channels} channels"
        raise ValueError(
            f"it shifts red, green and blue against each other, and the images are {such}; leave it out"
        )
    return PCAColor(color_covariance(part))


def _mix(names: Sequence[str], classes: int) -> Mix | None:
    if len(names) == 2:
        return MixupOrCutMix(Mixup(classes), CutMix(classes, p=1.0))
    kinds: list[type[Mixing]] = [lookup("augmentation", name) for name in names]
    return kinds[0](classes) if kinds else None
