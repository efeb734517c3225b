"""Learning-rate schedules as torch `LRScheduler`s, in closed form of the step."""

from .base import Schedule
from .durations import Duration, parse_duration
from .shapes import (
    Constant,
    Cosine,
    CosineRestarts,
    Exponential,
    FastGeometric,
    Inverse,
    InverseSqrt,
    Linear,
    MultiStep,
    OneCycle,
    Polynomial,
    Step,
)

__all__ = [
    "Constant",
    "Cosine",
    "CosineRestarts",
    "Duration",
    "Exponential",
    "FastGeometric",
    "Inverse",
    "InverseSqrt",
    "Linear",
    "MultiStep",
    "OneCycle",
    "Polynomial",
    "Schedule",
    "Step",
    "parse_duration",
]
