"""Linear models: softmax regression and linear regression."""

from collections import OrderedDict

from torch import nn

from ..registry import register
from .initialization import initialize
from .shapes import require_positive, vector_size


@register("model", "linear", "one linear layer: softmax regression, or linear regression")
def linear(shape: tuple[int, ...], outputs: int, *, initialization: str = "small") -> nn.Module:
    """One linear layer.

    Inputs (N, *shape), outputs (N, outputs): logits, or the value for regression, whose `outputs` is 1.

    Args:
        shape: shape of one item.
        outputs: number of classes, or 1 for a value.
        initialization: how the weights start.

    Raises:
        ModelError: `shape` or `outputs` is empty.
        RecipeError: no initialization has that name.
    """
    require_positive("linear", outputs=outputs)
    head = nn.Linear(vector_size(shape, "linear"), outputs)
    model = nn.Sequential(OrderedDict(flatten=nn.Flatten(), head=head))
    initialize(model, initialization, activation="relu", head=head)
    return model
