"""Going downhill: update rules, optimizers and learning-rate schedules."""

from . import schedules
from .full_batch.local_model import local_models
from .full_batch.minimize import minimize
from .full_batch.optimizers import BFGS, LBFGS, Newton
from .groups import param_groups
from .matrix import SOAP, Muon, Shampoo
from .optimizers import (
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Adan,
    Lion,
    NAdam,
    NAdamW,
    RAdam,
    RMSprop,
    ScheduleFreeAdamW,
    ScheduleFreeSGD,
)
from .rule import absolute, maximum, minimum, rule, sign, sqrt, where

__all__ = [
    "BFGS",
    "LBFGS",
    "SGD",
    "SOAP",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Adan",
    "Lion",
    "Muon",
    "NAdam",
    "NAdamW",
    "Newton",
    "RAdam",
    "RMSprop",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "Shampoo",
    "absolute",
    "local_models",
    "maximum",
    "minimize",
    "minimum",
    "param_groups",
    "rule",
    "schedules",
    "sign",
    "sqrt",
    "where",
]
