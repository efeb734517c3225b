"""Is this training healthy? (T35) Pure functions: they look, measure and say; they change nothing."""

import copy
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..generalize.noise import NoisyPart
from ..modes import evaluating
from ..randomness import addressed
from .data.dataset import Task
from .not_finite import first_bad_activation, first_not_finite, hooked, state_and_gradients
from .work import BUDGET, TRAINING_PASSES, operations

__all__ = [
    "FirstLoss",
    "Notice",
    "SubsetFit",
    "dead_notices",
    "dead_units",
    "first_bad_activation",
    "first_loss",
    "first_not_finite",
    "fits_subset",
    "loss_trend",
    "median_ratio",
    "ratio_notice",
    "snapshot",
    "state_and_gradients",
    "update_ratios",
]


@dataclass(frozen=True)
class Notice:
    """Something a person should know; a "warning" is worth stopping for."""

    level: Literal["info", "warning"]
    text: str


# The first loss


@dataclass(frozen=True)
class FirstLoss:
    """The loss before any training, and what chance gives.

    Attributes:
        loss: of the untrained model.
        chance: of a model that knows nothing: ln(classes), or the mean square of the targets.
        prior: of a model that knows how frequent each class is, or the targets' mean: the baseline that
            any training must beat.
        notice: what it means.
    """

    loss: float
    chance: float
    prior: float
    notice: Notice


def first_loss(loss: float, task: Task, outputs: int, targets: Tensor) -> FirstLoss:
    """Compare the loss of the untrained model with what chance gives.

    Args:
        loss: mean cross-entropy in nats, or mean squared error.
        task: "classification", "language" or "regression".
        outputs: number of classes or tokens.
        targets: class numbers of any shape; for regression the values as the model sees them
            (standardized, so that the mean square is about 1).
    """
    if task == "regression":
        values = targets.double()
        chance, prior = values.square().mean().item(), values.var(correction=0).item()
    else:
        counts = torch.bincount(targets.flatten(), minlength=outputs).double()
        chance = math.log(outputs)
        prior = torch.special.entr(counts / counts.sum()).sum().item()
    return FirstLoss(loss, chance, prior, _first_notice(loss, chance))


def _first_notice(loss: float, chance: float) -> Notice:
    if not math.isfinite(loss):
        return Notice(
            "warning",
            f"the first loss is {loss}: inputs or first weights are too large, or not finite",
        )
    said = f"the first loss is {loss:.3g}; chance gives {chance:.3g}"
    if loss > 1.5 * chance:
        return Notice(
            "warning", f"{said}: the first outputs are too large; start from smaller weights, or normalize"
        )
    if loss < 0.5 * chance:
        return Notice("info", f"{said}: the model knows something already, as weights trained before would")
    return Notice("info", said)


# A tiny subset

_MOST_STEPS = 100
_FEWEST_STEPS = 40
_FEWEST_ITEMS = 4
_MOST_ITEMS = 20
_SEQUENCES, _POSITIONS = 4, 16
_PARAMETERS_PER_ITEM = 8  # a line cannot pass through 20 points


@dataclass(frozen=True)
class SubsetFit:
    """Whether a few items could be learnt by heart.

    Attributes:
        fitted: the loss fell below the given share of what chance gives.
        loss: the last loss.
        steps: steps taken.
        items: items used.
        notice: what it means.
    """

    fitted: bool
    loss: float
    steps: int
    items: int
    notice: Notice


def fits_subset(
    model: nn.Module,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    inputs: Tensor,
    targets: Tensor,
    chance: float,
    *,
    share: float = 0.1,
    lr: float = 1e-2,
) -> SubsetFit:
    """Train a copy of the model on a few items with Adam: a sound model learns them by heart.

    The copy trains without noise. The model, its buffers and the random streams stay as they are.
    The work is bounded by counting operations, not seconds, so that the answer is the same everywhere:
    a large model gets fewer items, then fewer steps; a tiny one no more items than it has room for.

    Args:
        model: any module.
        loss_of: mean loss of (outputs, targets), without label smoothing, which no model can fit.
        inputs: a few preprocessed items, (N, ...); at most 20 are used, or the beginnings of 4 texts.
        targets: their targets: (N,), (N, 1), or (N, T) for text.
        chance: the loss of knowing nothing (`FirstLoss.chance`).
        share: of `chance`, below which the loss counts as fitted. A tenth is soon reached where an item has
            one target; a text has one a character, and in so few steps half tells as much.
        lr: learning rate of Adam.
    """
    sequences = targets.ndim > 1 and targets.shape[1:] == inputs.shape[1:]
    if sequences and not targets.is_floating_point():  # each position of a text is a target
        inputs, targets = inputs[:_SEQUENCES, :_POSITIONS], targets[:_SEQUENCES, :_POSITIONS]
    inputs, targets = inputs[:_MOST_ITEMS], targets[:_MOST_ITEMS]
    try:
        trial = copy.deepcopy(model)
    except (RuntimeError, TypeError) as error:
        notice = Notice("info", f"a tiny subset was not tried: the model cannot be copied ({error})")
        return SubsetFit(False, math.nan, 0, 0, notice)
    items, steps = _affordable(trial, inputs)
    inputs, targets = inputs[:items], targets[:items]
    with addressed(0, "fits_subset"), torch.enable_grad():
        loss, taken = _fit(trial, loss_of, inputs, targets, steps, lr, share * chance)
    fitted = loss <= share * chance
    return SubsetFit(fitted, loss, taken, items, _subset_notice(fitted, loss, chance, taken, items))


def _fit(
    trial: nn.Module,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    inputs: Tensor,
    targets: Tensor,
    steps: int,
    lr: float,
    goal: float,
) -> tuple[float, int]:
    trial.train()
    for module in trial.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd | NoisyPart):
            module.eval()
    trained = [parameter for parameter in trial.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr)
    for step in range(steps + 1):
        loss = loss_of(trial(inputs), targets)
        value = loss.item()
        if value <= goal or not math.isfinite(value) or step == steps:
            return value, step
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    raise AssertionError("the last step returns")


def _affordable(trial: nn.Module, inputs: Tensor) -> tuple[int, int]:
    """How many items and steps the budget allows, at least the fewest that mean something."""
    item_step = TRAINING_PASSES * operations(trial, inputs[:1])
    parameters = sum(parameter.numel() for parameter in trial.parameters())
    solvable = max(2, parameters // _PARAMETERS_PER_ITEM)
    items = min(len(inputs), solvable, max(_FEWEST_ITEMS, int(BUDGET / (item_step * _MOST_STEPS))))
    return items, min(_MOST_STEPS, max(_FEWEST_STEPS, int(BUDGET / (item_step * items))))


def _subset_notice(fitted: bool, loss: float, chance: float, steps: int, items: int) -> Notice:
    if fitted:
        return Notice("info", f"{items} items were learnt by heart in {steps} steps, as a sound model can")
    return Notice(
        "warning",
        f"{items} items were not learnt by heart in {steps} steps (loss {loss:.3g}, chance {chance:.3g}): "
        "the model is too small, cut off from its inputs or badly scaled, or equal items differ in target",
    )


# The ratio of update to weight

_LOWEST_RATIO, _HIGHEST_RATIO = 1e-5, 1e-1


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy of every trained weight tensor (two axes or more), by name: for `update_ratios`."""
    return {
        name: parameter.detach().clone()
        for name, parameter in model.named_parameters()
        if parameter.ndim >= 2 and parameter.requires_grad
    }


def update_ratios(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, float]:
    """‖Δw‖/‖w‖ of each weight tensor over one step; around 1e-3 is usual.

    Args:
        before: tensors by name; those of fewer than two axes, or all zero, are left out.
        after: the same tensors after the step.
    """
    weights = {name: weight for name, weight in before.items() if weight.ndim >= 2}
    if not weights:
        return {}
    moved = torch.stack([(after[name] - weight).norm().double() for name, weight in weights.items()])
    sizes = torch.stack([weight.norm().double() for weight in weights.values()])
    ratios = (moved / sizes).tolist()  # one transfer from the device for all
    return {
        name: ratio for name, ratio, size in zip(weights, ratios, sizes.tolist(), strict=True) if size > 0
    }


def median_ratio(ratios: Mapping[str, float]) -> float | None:
    """The median over the tensors, or None where there are none."""
    return statistics.median(ratios.values()) if ratios else None


def ratio_notice(ratios: Mapping[str, float]) -> Notice | None:
    """A warning where the median ratio is far from 1e-3: below 1e-5 or above 1e-1."""
    median = median_ratio(ratios)
    if median is None or _LOWEST_RATIO <= median <= _HIGHEST_RATIO:
        return None
    said = f"a step changes the weights by {median:.1e} of their size; around 1e-3 is usual"
    advice = "raise" if median < _LOWEST_RATIO else "lower"
    return Notice("warning", f"{said}: {advice} the learning rate")


# Dead and saturated units

_RECTIFIERS = (nn.ReLU, nn.ReLU6)
_SATURATION = {nn.Sigmoid: (0.01, 0.99), nn.Tanh: (-0.98, 0.98)}  # where the slope is 4 % of its largest
_TOO_MANY = 0.5


def dead_units(model: nn.Module, inputs: Tensor) -> dict[str, float]:
    """How much of each activation layer is out of use, by the layer's name.

    For ReLU: the share of units that are zero for every item (and everywhere in a map). For sigmoid and
    tanh: the share of all outputs within 1 % of the range of a flat end. A layer that is called
    several times counts as its worst call. Activations called as plain functions are not seen.

    Args:
        model: any module; it runs in evaluation mode and stays as it was.
        inputs: a batch of preprocessed items, (N, ...). Units are on axis 1, in (N, T, C) on the last.
    """
    shares: dict[str, Tensor] = {}

    def look(name: str, module: nn.Module, output: Tensor) -> None:
        if isinstance(module, _RECTIFIERS):
            axis = output.ndim - 1 if output.ndim == 3 else min(1, output.ndim - 1)
            share = (output.movedim(axis, 0).flatten(1) <= 0).all(1).double().mean()
        else:
            low, high = _SATURATION[type(module)]
            share = ((output < low) | (output > high)).double().mean()
        shares[name] = torch.maximum(shares[name], share) if name in shares else share

    watched = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _RECTIFIERS) or type(module) in _SATURATION
    }
    with evaluating(model), torch.no_grad(), hooked(watched, look):
        model(inputs)
    return {name: share.item() for name, share in shares.items()}


def dead_notices(model: nn.Module, shares: Mapping[str, float]) -> list[Notice]:
    """A warning for each kind of activation of which a layer is mostly out of use."""
    dead = {n: s for n, s in shares.items() if isinstance(model.get_submodule(n), _RECTIFIERS)}
    flat = {n: s for n, s in shares.items() if n not in dead}
    notices = []
    if dead and max(dead.values()) > _TOO_MANY:
        name = max(dead, key=dead.__getitem__)
        text = f"{dead[name]:.0%} of the units of {name!r} are dead (zero for every item)"
        notices.append(Notice("warning", f"{text}: lower the learning rate, normalize, or use leaky_relu"))
    if flat and max(flat.values()) > _TOO_MANY:
        name = max(flat, key=flat.__getitem__)
        text = f"{flat[name]:.0%} of the outputs of {name!r} are saturated, where gradients vanish"
        notices.append(Notice("warning", f"{text}: start from smaller weights, normalize, or use relu"))
    return notices


# Is the loss falling, flat, or not a number


def loss_trend(losses: Sequence[float]) -> Notice | None:
    """A warning where a loss, evaluation by evaluation, went bad or does not fall; else None.

    With fewer than six finite values nothing is said: the halves would be too short to compare.
    """
    bad = next((number for number, loss in enumerate(losses, 1) if not math.isfinite(loss)), None)
    if bad is not None:
        return Notice("warning", f"the loss became {losses[bad - 1]} at evaluation {bad}")
    if len(losses) < 6:
        return None
    half = len(losses) // 2
    early, late = losses[:half], losses[-half:]
    change = statistics.mean(late) - statistics.mean(early)
    noise = math.sqrt((statistics.variance(early) + statistics.variance(late)) / half)
    said = f"the training loss went from {early[0]:.3g} to {late[-1]:.3g}"
    if change > 2 * noise:
        return Notice("warning", f"{said}: it rises; lower the learning rate")
    if abs(change) < 0.01 * abs(statistics.mean(early)):
        return Notice(
            "warning", f"{said}: it is flat; the learning rate is far too low, or too high to descend"
        )
    return None
