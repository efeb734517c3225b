"""Everything that is said of an ensemble beside its own scores."""

from typing import Any

import torch
from torch import Tensor

from .answers import Answers
from .calibration import brier, calibration_error, fit_temperature
from .growth import EXACT, ORDERS, by_number, score_of_mean
from .members import Pool
from .ranking import SCORES, rank
from .scoring import disagreement, gains, scores


def measured(pool: Pool, shares: Tensor, answers: Answers, *, averages: bool) -> dict[str, Any]:
    """What the members score, what is gained on them, and how they differ; plain data for JSON.

    Args:
        pool: all runs that were looked at.
        shares: (K,), what each counts in the ensemble; 0 for what was left out.
        answers: of all of them, for the pool's part.
        averages: whether the ensemble averages its members' answers, so that fewer of them are one too.

    Returns:
        `part`: what all is measured on; `members`: of each its `name`, the `run` it was, `weight`, `model`,
        `parameters`, `seconds` and `scores`; `best`: the number of the one that is best on its validation
        part; `gained`: on the `mean` member and on the `best`, every metric with its interval;
        `disagreement`: of each two, as `pairs`, and its `mean`; `by_number`: a `score`, its `mean` and its
        `deviation` over subsets of 1, 2, ... members, and whether over `all` orders or over how many.
    """
    deviation, size = pool.target_scale[1], len(pool.members)
    alone = scores(answers, deviation)
    best = _best(pool)
    gained = {"mean": gains(answers, torch.full((size,), 1 / size), pool.seed, deviation)}
    if best is not None:
        gained["best"] = gains(answers, torch.eye(size)[best], pool.seed, deviation)
    pairs = disagreement(answers, deviation)
    told: dict[str, Any] = {
        "part": pool.part,
        "members": [
            {
                "name": member.name,
                "run": str(member.folder.path.resolve()),
                "weight": float(share),
                "model": member.recipe.model.name,
                "parameters": member.result["parameters"],
                "seconds": member.result["seconds"],
                "scores": own,
            }
            for member, share, own in zip(pool.members, shares, alone, strict=True)
        ],
        "best": best,
        "gained": gained,
        "disagreement": {
            "pairs": pairs.tolist(),
            "mean": float(pairs.sum() / (size * (size - 1))) if size > 1 else 0.0,
        },
    }
    chosen = shares > 0
    if averages and int(chosen.sum()) > 1:
        score = score_of_mean(pool.task, answers.together, deviation)
        means, spreads = by_number(answers.averaged[chosen], shares[chosen], score, pool.seed)
        told["by_number"] = {
            "score": SCORES[pool.task],
            "mean": means,
            "deviation": spreads,
            "orders": "all" if len(means) <= EXACT else ORDERS,
        }
    return told


def calibration(answers: Answers, steering: Answers | None) -> dict[str, Any]:
    """How far a classifier's probabilities may be believed, as they are and at a fitted temperature.

    Args:
        answers: for the scored part.
        steering: for the validation part, where the temperature is fitted; None where there is none.

    Returns:
        `temperature`, or None; `before` and, with a temperature, `after`: `loss` (the negative
        log-likelihood in nats), `brier` and `calibration_error`.
    """
    logits, targets = answers.together.outputs.double(), answers.together.targets
    temperature = None
    if steering is not None:
        temperature = fit_temperature(steering.together.outputs, steering.together.targets)
    told: dict[str, Any] = {"temperature": temperature, "before": _believed(logits, targets)}
    if temperature is not None:
        told["after"] = _believed(logits / temperature, targets)
    return told


def _believed(logits: Tensor, targets: Tensor) -> dict[str, float]:
    shares = logits.softmax(1)
    return {
        "loss": float(torch.nn.functional.cross_entropy(logits, targets)),
        "brier": brier(shares, targets),
        "calibration_error": calibration_error(shares, targets),
    }


def _best(pool: Pool) -> int | None:
    """The member with the best score on its validation part, of equal ones that with the lowest loss."""
    if any("validation" not in member.result for member in pool.members):
        return None
    ranks = [rank(pool.task, member.result["validation"]) for member in pool.members]
    return min(range(len(ranks)), key=ranks.__getitem__)
