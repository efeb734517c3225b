"""Softmax regression as a function to minimize."""

import torch
from torch import Tensor
from torch.nn import functional


class Regression:
    """Mean cross-entropy of a linear softmax classifier with squared weights added, of one flat vector."""

    def __init__(self, inputs: Tensor, targets: Tensor, classes: int = 10, decay: float = 1e-4) -> None:
        """`inputs`: (N, features); `targets`: (N,) class numbers; `decay`: times Σ w², biases left out."""
        self._inputs, self._targets, self._classes, self._decay = inputs, targets, classes, decay
        self._weights = classes * inputs.shape[1]

    def x0(self) -> Tensor:
        """Zeros: the weights, classes x features row by row, then the biases."""
        return self._inputs.new_zeros(self._weights + self._classes)

    def __call__(self, x: Tensor) -> Tensor:
        """The loss at `x`."""
        # As in nn.Linear: the gradient of weights stored the other way round takes seven times as long.
        weights = x[: self._weights].view(self._classes, -1)
        logits = functional.linear(self._inputs, weights, x[self._weights :])
        return functional.cross_entropy(logits, self._targets) + self._decay * weights.square().sum()

    def largest_gradient(self, x: Tensor) -> float:
        """The largest entry of the gradient at `x`."""
        point = x.clone().requires_grad_()
        return float(torch.autograd.grad(self(point), point)[0].abs().max())
