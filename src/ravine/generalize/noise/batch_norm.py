"""Batch normalization as noise (T22): statistics of random mini-batches in training, and what to test with.

A network's own `nn.BatchNorm` layers draw their noise from whoever else is in the mini-batch. At test time
they use running averages of the statistics: that is their expectation as torch leaves it. `reestimate` takes
the averages anew, with the weights as they are; `SampledBatchNorm` keeps the statistics of single batches, so
that they can be drawn as in training and averaged over.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from ...errors import ModelError
from .part import NoisyPart


class SampledBatchNorm(NoisyPart):
    """A batch normalization that remembers the statistics of single mini-batches.

    In training it is the layer itself; its expectation uses the layer's running statistics; a sample uses
    those of one remembered batch for all items, drawn at random, by each layer anew.

    Args:
        layer: the layer, which keeps running statistics.
        means: (K, C), of K batches.
        variances: (K, C), of the same batches, without Bessel's correction.
    """

    by_item = False

    def __init__(self, layer: _BatchNorm, means: Tensor, variances: Tensor) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("means", means, persistent=False)
        self.register_buffer("variances", variances, persistent=False)
        self.means: Tensor
        self.variances: Tensor

    def noisy(self, x: Tensor) -> Tensor:
        """In training the layer's output, else with the statistics of one remembered batch."""
        if self.training:
            return self.expected(x)
        which = torch.randint(len(self.means), (1,), device=x.device)
        mean, variance = (part.index_select(0, which)[0] for part in (self.means, self.variances))
        layer = self.layer
        return functional.batch_norm(x, mean, variance, layer.weight, layer.bias, False, 0.0, layer.eps)

    def expected(self, x: Tensor) -> Tensor:
        """The layer's output."""
        out: Tensor = self.layer(x)
        return out


@torch.no_grad()
def reestimate(model: nn.Module, batches: Iterable[Tensor]) -> int:
    """Set all running statistics to the means of the mini-batches' own, with the weights as they are.

    What averaged weights need, and any network whose weights moved faster than the running averages.
    Variances are averaged with Bessel's correction, as torch's running ones are. A layer that stays in
    evaluation mode whatever it is told, as `transfer.freeze` leaves it, keeps its own.

    Args:
        model: any module; its modes stay as they are.
        batches: inputs of the model, in the batch size of training.

    Returns:
        How many layers were set; without any, no batch is used.

    Raises:
        ModelError: there are no batches.
    """
    layers = [layer for layer in _running(model) if not _stays(layer)]
    if not layers:
        return 0
    kept = _statistics(model, layers, batches)
    for layer, (means, variances, counts) in zip(layers, kept, strict=True):
        bessel = counts / (counts - 1).clamp(min=1)
        assert layer.running_mean is not None and layer.running_var is not None
        layer.running_mean.copy_(means.mean(0))
        layer.running_var.copy_((variances * bessel[:, None]).mean(0))
    return len(layers)


@torch.no_grad()
def remember_batches(model: nn.Module, batches: Iterable[Tensor]) -> int:
    """Put a `SampledBatchNorm` in the place of each batch normalization, with the statistics of the batches.

    One that is there from an earlier call remembers these batches in place of those.

    Args:
        model: any module, which is changed; the checkpoints' names of layers get `.layer` inserted.
        batches: inputs of the model, in the batch size of training.

    Returns:
        How many layers remember the batches.

    Raises:
        ModelError: there are no batches, or no layer of that kind; or the model is itself one, which nothing
            can replace.
    """
    if isinstance(model, _BatchNorm):
        raise ModelError(
            "the model is itself a batch normalization, in whose place nothing can be put: give it within a "
            "torch.nn.Sequential"
        )
    layers = list(_running(model))
    if not layers:
        raise ModelError("the model has no batch normalization with running statistics")
    kept = _statistics(model, layers, batches)
    found = {id(layer): statistics for layer, statistics in zip(layers, kept, strict=True)}
    made: dict[int, SampledBatchNorm] = {}
    for parent in list(model.modules()):
        if isinstance(parent, SampledBatchNorm):
            parent.means, parent.variances, _ = found[id(parent.layer)]
            continue
        for name, child in list(parent._modules.items()):
            if isinstance(child, _BatchNorm) and id(child) in found:
                means, variances, _ = found[id(child)]
                new = made.setdefault(id(child), SampledBatchNorm(child, means, variances))
                setattr(parent, name, new.train(child.training))
    return len(layers)


def _running(model: nn.Module) -> Iterator[_BatchNorm]:
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats and module.running_mean is not None:
            yield module


def _stays(layer: nn.Module) -> bool:
    """Whether a layer is in evaluation mode for good."""
    was = layer.training
    stays = not layer.train().training
    layer.train(was)
    return stays


Statistics = tuple[Tensor, Tensor, Tensor]


def _statistics(model: nn.Module, layers: list[_BatchNorm], batches: Iterable[Tensor]) -> list[Statistics]:
    """The means and variances, (K, C), and the counts, (K,), of each layer's input over K batches."""
    found: dict[int, list[tuple[Tensor, Tensor, int]]] = {id(layer): [] for layer in layers}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, _BatchNorm) and layer.running_mean is not None
        rows = inputs[0].transpose(0, 1).flatten(1).to(layer.running_mean.dtype)
        found[id(layer)].append((rows.mean(1), rows.var(1, correction=0), rows.shape[1]))

    with _watched(layers, note):
        for batch in batches:
            model(batch)
    if not all(found.values()):
        raise ModelError("no batches were given, or they never reach some batch normalization")
    return [
        (
            torch.stack([mean for mean, _, _ in found[id(layer)]]),
            torch.stack([variance for _, variance, _ in found[id(layer)]]),
            torch.tensor(
                [float(count) for _, _, count in found[id(layer)]], device=found[id(layer)][0][0].device
            ),
        )
        for layer in layers
    ]


@contextmanager
def _watched(
    layers: list[_BatchNorm], note: Callable[[nn.Module, tuple[Tensor, ...]], None]
) -> Iterator[None]:
    """The layers in training mode, so that each sees what it would in training, and their averages kept."""
    kept = [
        (layer, layer.training, {name: buffer.clone() for name, buffer in layer.named_buffers()})
        for layer in layers
    ]
    handles = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        for layer in layers:
            layer.training = True
        yield
    finally:
        for handle in handles:
            handle.remove()
        for layer, training, buffers in kept:
            layer.training = training
            for name, buffer in layer.named_buffers():
                buffer.copy_(buffers[name])
