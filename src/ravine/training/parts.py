"""Every module that registers named parts: importing this one fills the registry."""

from .. import models, optim
from ..optim import matrix, schedules
from . import augment, data, metrics, preprocessing_statistics, pretrained

__all__ = [
    "augment",
    "data",
    "matrix",
    "metrics",
    "models",
    "optim",
    "preprocessing_statistics",
    "pretrained",
    "schedules",
]
