"""May probabilities be believed? Brier score, calibration error, and one number to mend them."""

import torch
from torch import Tensor

BINS = 15
_STEPS = 200  # more than halving alone needs


def brier(probabilities: Tensor, targets: Tensor) -> float:
    """The mean squared distance from the truth, summed over the classes: from 0 to 2, lower is better.

    Source: Brier 1950, "Verification of forecasts expressed in terms of probability".

    Args:
        probabilities: (N, classes).
        targets: class numbers (N,).
    """
    truth = torch.zeros_like(probabilities).scatter_(1, targets.unsqueeze(1), 1.0)
    return float((probabilities - truth).square().sum(1).mean())


def calibration_error(probabilities: Tensor, targets: Tensor, bins: int = BINS) -> float:
    """The expected calibration error: how far confidence is from the share of right answers, from 0 to 1.

    Items are put into bins of equal width, ((m − 1)/bins, m/bins], by the probability of their first guess;
    the mean over the items of |share right − mean confidence| of their bin.
    Source: Guo et al. 2017, "On calibration of modern neural networks", equation 3.

    Args:
        probabilities: (N, classes).
        targets: class numbers (N,).
        bins: how many.
    """
    confidence, guesses = probabilities.max(1)
    place = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)
    over = confidence.double() - (guesses == targets).double()
    return float(torch.zeros(bins, dtype=torch.float64).index_add_(0, place, over).abs().sum() / len(targets))


def fit_temperature(logits: Tensor, targets: Tensor) -> float | None:
    """The T > 0 for which softmax(logits / T) has the lowest mean cross-entropy: temperature scaling.

    The cross-entropy is convex in β = 1/T; Newton's method on its slope, kept inside a bracket, finds where
    it is flat. Source: Guo et al. 2017, section 4.2.

    Args:
        logits: (N, classes), of items that nothing was trained on.
        targets: class numbers (N,).

    Returns:
        None where there is no such T: every item is answered rightly, and the more surely the better; or the
        true classes' logits are no higher than the others' on average.
    """
    logits = logits.double()
    logits = logits - logits.max(1, keepdim=True).values
    own = logits.gather(1, targets.unsqueeze(1)).squeeze(1)

    def slope(beta: float) -> tuple[float, float]:
        """The first and the second derivative by β."""
        shares = (beta * logits).softmax(1)
        mean = (shares * logits).sum(1)
        spread = (shares * logits.square()).sum(1) - mean.square()
        return float((mean - own).mean()), float(spread.mean())

    if not bool((own < 0).any()) or slope(0.0)[0] >= 0:
        return None
    low, high = 0.0, 1.0
    while slope(high)[0] < 0:
        low, high = high, 2 * high
    beta = 0.5 * (low + high)
    for _ in range(_STEPS):
        value, curvature = slope(beta)
        low, high = (beta, high) if value < 0 else (low, beta)
        step = beta - value / curvature if curvature > 0 else low
        nearer = step if low < step < high else 0.5 * (low + high)
        done, beta = abs(nearer - beta) <= 1e-14 * beta, nearer
        if done:
            break
    return 1 / beta
