"""The loop over models that everyone writes: the peer of the fleet's benchmarks. It is imported, not run."""

import itertools
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ravine.lab.bench import using_threads


def seconds(
    make: Callable[[], nn.Module],
    rates: Sequence[float],
    inputs: Tensor,
    targets: Tensor,
    epochs: int,
    batch_size: int,
    threads: int,
) -> float:
    """Seconds to train a model at each rate, one after the other.

    torch's fused Adam, whole tensors in memory and one gather a batch, images with the channels last.
    """
    if inputs.dim() == 4:
        inputs = inputs.to(memory_format=torch.channels_last)
    models = [make().to(memory_format=torch.channels_last) for _ in rates]
    with using_threads(threads):
        started = time.perf_counter()
        for model, rate in zip(models, rates, strict=True):
            optimizer = torch.optim.Adam(model.parameters(), lr=rate, fused=True)
            for _ in range(epochs):
                for chosen in torch.randperm(len(inputs)).split(batch_size):
                    loss = functional.cross_entropy(model(inputs[chosen]), targets[chosen])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
        return time.perf_counter() - started


def perceptron(*sizes: int) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
