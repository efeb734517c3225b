"""What an ensemble scores, what it gains on its members, and how much they differ."""

import torch
from torch import Tensor

from ...training import metrics
from ...training.metrics import Score
from ...training.resampling import bootstrap_means, percentile_interval, random_groups
from .answers import Answers


def scores(answers: Answers, deviation: float = 1.0) -> list[dict[str, float]]:
    """Every metric of each member, by name.

    Args:
        answers: over one part.
        deviation: of regression targets, in their own units.
    """
    return [
        metrics.evaluate_outputs(answers.task, member.outputs, member.targets, (0.0, deviation))
        for member in answers.members
    ]


def gains(answers: Answers, against: Tensor, seed: int, deviation: float = 1.0) -> dict[str, Score]:
    """What every metric gains from members to the ensemble, with its 95 % interval, as "accuracy" and so on.

    All are scored on the same resampled items (a paired bootstrap, Efron and Tibshirani 1993, chapter 16):
    what makes an item hard for all cancels. Of language whole windows are resampled.

    Args:
        answers: over one part.
        against: (K,), what each member's score counts in what is compared with: one of them, or their mean.
        seed: addresses the resamples.
        deviation: as for `scores`.
    """
    task = answers.task
    values = [
        metrics.item_values(task, each.outputs, each.targets) for each in (answers.together, *answers.members)
    ]
    if task == "language":
        there = ~answers.together.targets.isnan()
        counts = there.sum(1)
        sums = torch.cat([torch.where(there.unsqueeze(-1), each, 0.0).sum(1) for each in values], dim=1)
    else:
        sums, counts = random_groups(torch.cat(values, dim=1), seed)
    weights = torch.cat((torch.ones(1), -against)).double()
    means = (sums.sum(0) / counts.sum()).view(len(values), -1)
    draws = bootstrap_means(sums, counts, seed).view(-1, *means.shape)
    told: dict[str, Score] = {}
    for name, metric in metrics.metrics_of(task).items():
        told[name] = float(metric.formula(means, deviation) @ weights)
        told[f"{name}_interval"] = percentile_interval(metric.formula(draws, deviation) @ weights)
    return told


def disagreement(answers: Answers, deviation: float = 1.0) -> Tensor:
    """How much two members differ, (K, K) float64, 0 on the diagonal.

    Of classes and characters, the share of the items on which their first guesses differ; of values, the
    root of the mean squared difference, in the target's own units.

    Args:
        answers: over one part.
        deviation: as for `scores`.
    """
    if answers.task == "regression":
        values = answers.averaged
        rows = [(values - row).square().mean(1).sqrt() * deviation for row in values]
    else:
        guesses = answers.guesses
        if guesses is None:
            guesses = torch.stack([member.outputs.argmax(1) for member in answers.members])
        rows = [(guesses != row).double().mean(1) for row in guesses]
    return torch.stack(rows)
