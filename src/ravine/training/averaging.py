"""A moving average of the weights beside the ones that are trained (Polyak and Juditsky, 1992)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ..errors import ModelError


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of `model` that follows it: average ← average + (1 − d)·(weights − average).

    d grows from 0.1 to `decay` as (1 + t)/(10 + t), so that a short run's average does not hang on to the
    first, random weights. Buffers such as batch norm's statistics are averaged too.

    Args:
        model: the module being trained.
        decay: in [0, 1).

    Raises:
        ModelError: the model cannot be copied.
    """

    def follow(averages: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        weight = weight_of(decay, float(count))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(list(averages), list(current), weight)
        else:
            torch._foreach_copy_(list(averages), list(current))

    try:
        return AveragedModel(model, multi_avg_fn=follow, use_buffers=True)
    except (RuntimeError, TypeError) as error:
        raise ModelError(
            f"the model cannot be copied, which a moving average needs ({error}); set optimizer.average = 0"
        ) from error


def weight_of(decay: float, count: float) -> float:
    """The share 1 − d that the newest weights take when the average holds `count` steps."""
    return 1 - min(decay, (1 + count) / (10 + count))
