"""Optimizers made from the rules. Where torch has the class: its name, arguments, defaults and checkpoints.

Every constructor call that is valid for torch's class is valid here and means the same. `foreach` and
`fused` choose among torch's implementations; here one engine serves all, so they are checked, kept in
the groups for the checkpoint's sake, and change nothing.
"""

from .sgd import SGD  # isort: skip  # in the lecture's order, which the registry keeps
from .adagrad import Adagrad  # isort: skip
from .rmsprop import RMSprop  # isort: skip
from .adam import Adam, AdamW  # isort: skip
from .nadam import NAdam, NAdamW  # isort: skip  # then what came after
from .radam import RAdam  # isort: skip
from .adamax import Adamax  # isort: skip
from .adadelta import Adadelta  # isort: skip
from .adan import Adan  # isort: skip
from .lion import Lion  # isort: skip
from .schedule_free import ScheduleFreeAdamW, ScheduleFreeSGD  # isort: skip

__all__ = [
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Adan",
    "Lion",
    "NAdam",
    "NAdamW",
    "RAdam",
    "RMSprop",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
]
