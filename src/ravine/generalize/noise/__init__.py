"""Parts that train with noise, one file each, under one protocol (`part.py`)."""

from .batch_norm import SampledBatchNorm, reestimate, remember_batches
from .drop_connect import DropConnect
from .dropout import Dropout, FeatureDropout
from .fractional_max_pool import FractionalMaxPool
from .gaussian import GaussianDropout, GaussianNoise
from .part import Bits, NoisyPart
from .stochastic_depth import StochasticDepth, linear_rates

__all__ = [
    "Bits",
    "DropConnect",
    "Dropout",
    "FeatureDropout",
    "FractionalMaxPool",
    "GaussianDropout",
    "GaussianNoise",
    "NoisyPart",
    "SampledBatchNorm",
    "StochasticDepth",
    "linear_rates",
    "reestimate",
    "remember_batches",
]
