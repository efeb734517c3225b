"""How good are outputs: each metric once, for a score, its interval and its direction alike.

Every metric here is a function of means over items (of each item's loss, whether it is right, its squared
error, ...). So a score is the function of the means, and a bootstrap draw is the same function of the
means under other weights: there is no second formula to drift from the first.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from .. import registry
from ..errors import RecipeError, nearest
from .data.dataset import Task
from .resampling import bootstrap_means, percentile_interval, random_groups, wilson_interval

Direction = Literal["lower", "higher"]
Formula = Callable[[Tensor, float], Tensor]
Score = float | tuple[float, float]


@dataclass(frozen=True)
class Metric:
    """A metric: the tasks that have it, which direction is better, and how it comes from means.

    `formula(means, deviation)`: `means` (..., K) of `item_values`; `deviation` is that of the training
    targets, which takes standardised errors to the target's own units.
    """

    tasks: tuple[Task, ...]
    better: Direction
    formula: Formula


def _metric(name: str, description: str, better: Direction, *tasks: Task) -> Callable[[Formula], Formula]:
    def enter(formula: Formula) -> Formula:
        registry.register("metric", name, description)(Metric(tasks, better, formula))
        return formula

    return enter


@_metric(
    "loss", "cross-entropy in nats, or squared error in standardised units", "lower",
    "classification", "regression", "language",
)  # fmt: skip
def _loss(means: Tensor, deviation: float) -> Tensor:
    return means[..., 0]


@_metric("accuracy", "the share of right first guesses", "higher", "classification", "language")
def _accuracy(means: Tensor, deviation: float) -> Tensor:
    return means[..., 1]


@_metric("bits", "cross-entropy in bits a character", "lower", "language")
def _bits(means: Tensor, deviation: float) -> Tensor:
    return means[..., 0] / math.log(2)


@_metric("rmse", "root of the mean squared error, in units of the target", "lower", "regression")
def _rmse(means: Tensor, deviation: float) -> Tensor:
    return means[..., 0].sqrt() * deviation


@_metric("mae", "mean absolute error, in units of the target", "lower", "regression")
def _mae(means: Tensor, deviation: float) -> Tensor:
    return means[..., 1] * deviation


@_metric("r2", "the share of the targets' variance that is explained", "higher", "regression")
def _r2(means: Tensor, deviation: float) -> Tensor:
    variance = means[..., 3] - means[..., 2].square()
    return torch.where(variance > 0, 1 - means[..., 0] / variance, torch.nan)


@cache
def metrics_of(task: Task) -> dict[str, Metric]:
    """Every metric that a task has, by name."""
    return {entry.name: entry.part for entry in registry.entries("metric") if task in entry.part.tasks}


def item_values(task: Task, outputs: Tensor, targets: Tensor) -> Tensor:
    """What each item contributes to the means, as (N, K) float64.

    Args:
        task: decides what outputs and targets are.
        outputs: classification: logits (N, classes); regression: values (N,) or (N, 1), standardised;
            language: each character's loss (windows, T).
        targets: classification: class numbers (N,); regression: values (N,), standardised; language:
            whether the first guess was right (windows, T), not-a-number where a window is shorter.

    Returns:
        classification and language: loss, right; regression: squared error, absolute error, target,
        squared target. For language (windows, T, 2).
    """
    if task == "classification":
        outputs = outputs.float()
        loss = functional.cross_entropy(outputs, targets, reduction="none")
        return torch.stack((loss, (outputs.argmax(1) == targets).to(loss.dtype)), dim=1).double()
    if task == "language":
        return torch.stack((outputs, targets.to(outputs.dtype)), dim=-1).double()
    targets = targets.double()
    error = outputs.double().reshape(targets.shape) - targets
    return torch.stack((error.square(), error.abs(), targets, targets.square()), dim=1)


def evaluate_outputs(
    task: Task, outputs: Tensor, targets: Tensor, target_scale: tuple[float, float] = (0.0, 1.0)
) -> dict[str, float]:
    """Every metric of a task, by name, "loss" first.

    The loss is the plain mean: no label smoothing, no class weights; float32 an item, averaged in float64.

    Args:
        task: what is predicted.
        outputs: as for `item_values`.
        targets: as for `item_values`.
        target_scale: mean and standard deviation that regression targets were standardised with.
    """
    values = item_values(task, outputs, targets)
    if task == "language":
        values = values[~targets.isnan()]
    means = values.mean(0)
    return {name: float(metric.formula(means, target_scale[1])) for name, metric in metrics_of(task).items()}


def with_intervals(
    task: Task,
    outputs: Tensor,
    targets: Tensor,
    seed: int,
    target_scale: tuple[float, float] = (0.0, 1.0),
) -> dict[str, Score]:
    """Every metric with its 95 % interval over the draw of the items, as "loss" and "loss_interval".

    Accuracy of a classification: Wilson. Everything else: the percentile bootstrap. For language whole
    windows are resampled, as neighbouring characters are not independent. The intervals say nothing of
    the chance in training.

    Args:
        task: what is predicted.
        outputs: as for `item_values`.
        targets: as for `item_values`.
        seed: addresses the resamples.
        target_scale: as for `evaluate_outputs`.
    """
    values = item_values(task, outputs, targets)
    scores = evaluate_outputs(task, outputs, targets, target_scale)
    if task == "language":
        there = ~targets.isnan()
        sums, counts = torch.where(there.unsqueeze(-1), values, 0.0).sum(1), there.sum(1)
    else:
        sums, counts = random_groups(values, seed)
    draws = bootstrap_means(sums, counts, seed)
    told: dict[str, Score] = {}
    for name, metric in metrics_of(task).items():
        told[name] = scores[name]
        if name == "accuracy" and task == "classification":
            interval = wilson_interval(float(values[:, 1].sum()), len(values))
        else:
            interval = percentile_interval(metric.formula(draws, target_scale[1]))
        told[f"{name}_interval"] = interval
    return told


def differences(
    task: Task,
    outputs: Tensor,
    others: Tensor,
    targets: Tensor,
    seed: int,
    target_scale: tuple[float, float] = (0.0, 1.0),
) -> dict[str, Score]:
    """What every metric gains from `others` to `outputs`, with its 95 % interval, as in `with_intervals`.

    Both are scored on the same resampled items (a paired bootstrap, Efron and Tibshirani 1993, chapter 16):
    what makes an item hard for both cancels, and small differences are seen that two intervals would hide.

    Args:
        task: classification or regression.
        outputs: as for `item_values`.
        others: of another model, for the same items.
        targets: as for `item_values`.
        seed: addresses the resamples.
        target_scale: as for `evaluate_outputs`.
    """
    both = torch.cat([item_values(task, given, targets) for given in (outputs, others)], dim=1)
    draws = bootstrap_means(*random_groups(both, seed), seed)

    def gained(metric: Metric, means: Tensor) -> Tensor:
        own, other = (metric.formula(half, target_scale[1]) for half in means.chunk(2, dim=-1))
        return own - other

    told: dict[str, Score] = {}
    for name, metric in metrics_of(task).items():
        told[name] = float(gained(metric, both.mean(0)))
        told[f"{name}_interval"] = percentile_interval(gained(metric, draws))
    return told


def baseline(
    task: Task, train_targets: Tensor, test_targets: Tensor, target_scale: tuple[float, float] = (0.0, 1.0)
) -> dict[str, float]:
    """The scores of knowing the training targets alone, the inputs ignored.

    Classification and language: the training part's shares as probabilities (with one count more for
    each class, so that a class unseen in training costs much, not everything), the largest as the guess.
    Regression: the training part's mean.

    Args:
        task: what is predicted.
        train_targets: class numbers, tokens, or values standardised with `target_scale`.
        test_targets: those to be scored.
        target_scale: as for `evaluate_outputs`.
    """
    if task == "regression":
        mean = train_targets.double().mean()
        return evaluate_outputs(task, mean.expand(len(test_targets)), test_targets, target_scale)
    classes = 1 + int(torch.cat((train_targets, test_targets)).max())
    counts = torch.bincount(train_targets, minlength=classes).double() + 1
    losses = -(counts / counts.sum()).log()[test_targets]
    right = test_targets == counts.argmax()
    if task == "classification":
        return {"loss": float(losses.mean()), "accuracy": float(right.double().mean())}
    return evaluate_outputs(task, losses.unsqueeze(0), right.unsqueeze(0))


@cache
def direction(monitor: str, task: Task | None = None) -> Direction:
    """Which way a monitored value gets better.

    Args:
        monitor: "validation." and the name of a metric, for example "validation.loss"; or "train.loss" or,
            for classification, "train.accuracy", the means over an epoch's steps.
        task: the task, where known: then the metric must be one of its own.

    Raises:
        RecipeError: there is no such value; the message has the nearest valid name.
    """
    known: dict[str, Direction] = {}
    for entry in registry.entries("metric"):
        if task is None or task in entry.part.tasks:
            known[f"validation.{entry.name}"] = entry.part.better
    known["train.loss"] = "lower"
    if task in (None, "classification"):
        known["train.accuracy"] = "higher"
    if monitor not in known:
        of_task = f" for {task}" if task else ""
        misspelt = monitor.rpartition(".")[2] not in registry.names("metric")
        hint = (misspelt and nearest(monitor, known)) or f"; valid are {', '.join(known)}"
        raise RecipeError([f"stop.monitor: nothing is called {monitor!r}{of_task}{hint}"])
    return known[monitor]


def better(monitor: str, new: float, old: float | None) -> bool:
    """Whether `new` is better than `old`; anything is better than None or not-a-number.

    Raises:
        RecipeError: as `direction`.
    """
    lower = direction(monitor) == "lower"
    if math.isnan(new):
        return False
    if old is None or math.isnan(old):
        return True
    return new < old if lower else new > old
