"""Which of two is better: by the score that people ask for, and of equal ones by the loss."""

from collections.abc import Mapping
from typing import Any

from ...training import metrics
from ...training.data.dataset import Task

SCORES: dict[Task, str] = {"classification": "accuracy", "regression": "rmse", "language": "bits"}
"""The score by which members are compared, by task."""

Rank = tuple[float, float]
"""The score, turned so that lower is better, and the loss."""

WORST: Rank = (float("inf"), float("inf"))


def rank(task: Task, scores: Mapping[str, Any]) -> Rank:
    """Lower is better.

    Args:
        task: decides which score counts.
        scores: every metric of the task, by name.
    """
    name = SCORES[task]
    value = float(scores[name])
    return value if metrics.metrics_of(task)[name].better == "lower" else -value, float(scores["loss"])
