"""Augmentation: whole batches of images changed at random, each sample by its own draw (T23)."""

from .color import ColorJitter, PCAColor, covariance_of
from .compose import Compose, compose
from .crop import PaddedCrop, RandomResizedCrop
from .draws import Draws
from .elastic import Elastic
from .erase import Erase
from .flip import Flip
from .geometry import Perspective, Rotate, Shear, Stretch, Translate
from .lens import Lens
from .mixing import CutMix, Mixing, Mixup
from .policies import RandAugment, TrivialAugment
from .transform import Transform

__all__ = [
    "ColorJitter",
    "Compose",
    "CutMix",
    "Draws",
    "Elastic",
    "Erase",
    "Flip",
    "Lens",
    "Mixing",
    "Mixup",
    "PCAColor",
    "PaddedCrop",
    "Perspective",
    "RandAugment",
    "RandomResizedCrop",
    "Rotate",
    "Shear",
    "Stretch",
    "Transform",
    "Translate",
    "TrivialAugment",
    "compose",
    "covariance_of",
]
