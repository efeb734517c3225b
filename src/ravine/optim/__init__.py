"""Going downhill: update rules, optimizers and learning-rate schedules."""

from . import schedules
from .optimizers import SGD, Adagrad, Adam, AdamW, RMSprop

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "RMSprop", "schedules"]
