"""The multilayer perceptron."""

from collections import OrderedDict

from torch import nn

from ..registry import register
from .activations import activation as make_activation
from .activations import activation_expansion
from .initialization import initialize
from .normalization import normalization as make_normalization
from .shapes import require_positive, require_rate, vector_size


@register("model", "mlp", "multilayer perceptron: fully connected layers")
def mlp(
    shape: tuple[int, ...],
    outputs: int,
    *,
    width: int = 128,
    depth: int = 2,
    activation: str = "relu",
    normalization: str = "batch",
    initialization: str = "he",
    dropout: float = 0.0,
) -> nn.Module:
    """Hidden layers of linear, normalization, activation, dropout; then a linear head.

    Inputs (N, *shape), outputs (N, outputs): logits, or the value for regression, whose `outputs` is 1.

    Args:
        shape: shape of one item; it is flattened.
        outputs: number of classes, or 1 for a value.
        width: units of each hidden layer.
        depth: number of hidden layers.
        activation: what follows each hidden layer.
        normalization: what stands before each activation.
        initialization: how the weights start.
        dropout: share of the hidden units set to zero in training.

    Raises:
        ModelError: a size or rate is out of range, or the normalization does not fit vectors.
        RecipeError: a name is unknown.
    """
    require_positive("mlp", width=width, depth=depth, outputs=outputs)
    require_rate("mlp", dropout)
    expansion = activation_expansion(activation)
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    inputs = vector_size(shape, "mlp")
    for number in range(1, depth + 1):
        layers[f"layer{number}"] = nn.Sequential(
            OrderedDict(
                linear=nn.Linear(inputs, width * expansion, bias=normalization == "none"),
                norm=make_normalization(normalization, width * expansion, "vector"),
                activation=make_activation(activation),
                dropout=nn.Dropout(dropout),
            )
        )
        inputs = width
    head = layers["head"] = nn.Linear(width, outputs)
    model = nn.Sequential(layers)
    initialize(model, initialization, activation=activation, head=head)
    return model
