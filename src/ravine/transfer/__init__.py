"""Good models from little data: pretrained networks, and the parts that fit them to new data (T28-T30)."""

from .depths import depths
from .features import feature_similarity, features, linear_probe
from .freezing import freeze, trainable, unfreeze
from .input_adaptation import adapt_channels
from .layer_rates import layer_rates
from .surgery import find_head, replace_head
from .truncation import truncate
from .unfreezing import GradualUnfreezing
from .zoo.opening import open_model

__all__ = [
    "GradualUnfreezing",
    "adapt_channels",
    "depths",
    "feature_similarity",
    "features",
    "find_head",
    "freeze",
    "layer_rates",
    "linear_probe",
    "open_model",
    "replace_head",
    "trainable",
    "truncate",
    "unfreeze",
]
