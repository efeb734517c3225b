"""Beyond the training error: noise in training that is averaged out at test time, and penalties."""

from .average_out import Average, average_out
from .noise import (
    DropConnect,
    Dropout,
    FeatureDropout,
    FractionalMaxPool,
    GaussianDropout,
    GaussianNoise,
    NoisyPart,
    SampledBatchNorm,
    StochasticDepth,
    linear_rates,
    reestimate,
    remember_batches,
)
from .regularize import regularize

__all__ = [
    "Average",
    "DropConnect",
    "Dropout",
    "FeatureDropout",
    "FractionalMaxPool",
    "GaussianDropout",
    "GaussianNoise",
    "NoisyPart",
    "SampledBatchNorm",
    "StochasticDepth",
    "average_out",
    "linear_rates",
    "reestimate",
    "regularize",
    "remember_batches",
]
