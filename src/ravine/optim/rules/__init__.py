"""Every update rule, as the lecture or the paper writes it.

x is a parameter, dx its gradient, t the step counted from 1, lr the learning rate α. The state starts
at zero unless a rule says otherwise. Defaults are the lecture's or the paper's, where they give any, else
torch's. Weight decay, maximizing and damping are composed around a rule, never part of it.
"""

from .beyond import (
    adadelta,
    adamax,
    adan,
    lion,
    nadam,
    radam,
    schedule_free_adamw,
    schedule_free_sgd,
)
from .lecture import (
    adagrad,
    adam,
    almost_adam,
    amsgrad,
    gradient_descent,
    momentum,
    nesterov,
    rmsprop,
    rmsprop_centered,
    rmsprop_centered_momentum,
    rmsprop_momentum,
)

__all__ = [
    "adadelta",
    "adagrad",
    "adam",
    "adamax",
    "adan",
    "almost_adam",
    "amsgrad",
    "gradient_descent",
    "lion",
    "momentum",
    "nadam",
    "nesterov",
    "radam",
    "rmsprop",
    "rmsprop_centered",
    "rmsprop_centered_momentum",
    "rmsprop_momentum",
    "schedule_free_adamw",
    "schedule_free_sgd",
]
