"""Optimizers from a user's own code: `package.module:name`."""

import inspect

from torch.optim import Optimizer

from ..addresses import find
from ..errors import RavineError
from ..optim.rule import Rule


def own_optimizer(address: str) -> type[Optimizer]:
    """Import a rule or an optimizer class; of a rule, the class that is made from it.

    Raises:
        RavineError: it cannot be imported, is neither, or cannot be stepped by the training loop; the text
            begins with the address.
    """
    found = find(address)
    if isinstance(found, Rule):
        try:
            return found.optimizer
        except TypeError as error:
            raise RavineError(f"{address}: {error}") from error
    if not (inspect.isclass(found) and issubclass(found, Optimizer)):
        what = found.__name__ if inspect.isclass(found) else f"of type {type(found).__name__}"
        raise RavineError(f"{address}: it is {what}; a rule or a torch.optim.Optimizer class is needed")
    closure = inspect.signature(found.step).parameters.get("closure")
    needs_closure = closure is not None and closure.default is closure.empty
    if needs_closure and not getattr(found, "full_batch", False):
        raise RavineError(
            f"{address}: its step() works out the loss several times, and the training loop only once a step"
        )
    return found
