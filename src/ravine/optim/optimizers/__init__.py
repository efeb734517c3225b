"""torch's optimizers, each made from a rule: torch's names, arguments, defaults and checkpoints.

Every constructor call that is valid for torch's class is valid here and means the same. `foreach` and
`fused` choose among torch's implementations; here one engine serves all, so they are checked, kept in
the groups for the checkpoint's sake, and change nothing.
"""

from .sgd import SGD  # isort: skip  # in the lecture's order, which the registry keeps
from .adagrad import Adagrad  # isort: skip
from .rmsprop import RMSprop  # isort: skip
from .adam import Adam, AdamW  # isort: skip

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "RMSprop"]
