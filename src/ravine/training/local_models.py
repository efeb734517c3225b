"""The training loss around the weights, as its gradient and its curvature see it (T9)."""

from typing import Any

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..modes import evaluating
from ..optim.full_batch.local_model import local_models
from .setup import Setup
from .work import BUDGET, TRAINING_PASSES, operations

POINTS = 21
_MOST_ITEMS, _FEWEST_ITEMS = 128, 4
_ITEM_PASSES = POINTS + 2 * TRAINING_PASSES


def around(setup: Setup, inputs: Tensor, targets: Tensor) -> dict[str, Any] | None:
    """The loss along the negative gradient from the weights as they are, and its two models there.

    Noise is off, and the weights are left as they were.

    Args:
        setup: the run.
        inputs: training items; 4 to 128 are used, as many as take about half a second.
        targets: their targets.

    Returns:
        What `LocalModel.numbers` gives, and `items`; None where the network cannot be differentiated twice,
        or is not finite here.
    """
    affordable = int(BUDGET / (_ITEM_PASSES * operations(setup.model, inputs[:1])))
    items = min(_MOST_ITEMS, max(_FEWEST_ITEMS, affordable))
    inputs, targets = inputs[:items], targets[:items]

    def loss() -> Tensor:
        return setup.objective(setup.model(inputs).float(), targets)

    # The other kernels of attention have no second derivative.
    with evaluating(setup.model), sdpa_kernel(SDPBackend.MATH):
        try:
            (model,) = local_models(loss, setup.model, points=POINTS)
        except (RuntimeError, ValueError):
            return None
    return {**model.numbers(), "items": len(targets)}
