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
from .penalties import MaxNorm, Penalty, elastic_net, l1, l2, max_norm_
from .regularize import regularize
from .views import TenCrop, flip

__all__ = [
    "Average",
    "DropConnect",
    "Dropout",
    "FeatureDropout",
    "FractionalMaxPool",
    "GaussianDropout",
    "GaussianNoise",
    "MaxNorm",
    "NoisyPart",
    "Penalty",
    "SampledBatchNorm",
    "StochasticDepth",
    "TenCrop",
    "average_out",
    "elastic_net",
    "flip",
    "l1",
    "l2",
    "linear_rates",
    "max_norm_",
    "reestimate",
    "regularize",
    "remember_batches",
]
