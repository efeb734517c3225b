"""The learning-rate range test: raise the rate step by step, watch the loss (Smith 2017, arXiv:1506.01186).

The rate grows exponentially over one pass of mini-batches. Far below the right rate nothing moves, then
the loss falls, fastest around the rate to take, and at last it blows up.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, islice
from typing import Literal

import torch
from torch import Tensor

from ..errors import NotFiniteError, RavineError
from ..randomness import addressed, seed_noise
from ..training import watch
from ..training.feed import Batch, Feed
from ..training.setup import Setup

Row = dict[str, float | None]

STEPS = 160
# Weight of the past in the moving average of the losses. It lags SMOOTHING / (1 - SMOOTHING) = 4 steps,
# a fifth of a decade at twenty steps a decade, and leaves a third of the noise.
SMOOTHING = 0.8
# The sweep ends where the smoothed loss is this many times its lowest and above where it began.
DIVERGED = 4.0
# So many steps in a row that are not finite end the sweep: a lone bad batch does not.
MOST_BAD = 3
# The mean of so many losses in a row, about a decade of rates, is compared with that of the first ones. It
# is lower where the difference is above so many standard deviations (of the noise alone, which has many
# places to be low by chance, 1 in 100 sweeps gets there) and above this share of the loss.
DECADE = 20
CLEAR = 3.5
LEAST_FALL = 1e-3
# The slope at a rate is that of the line through the losses within a third of a decade on each side.
HALF_WINDOW = 1 / 3
# Below the rate of the lowest loss, where the next steps already jump about, it is safe by this factor.
SAFETY = 10.0


@dataclass(frozen=True)
class RangeTest:
    """What a sweep over learning rates showed.

    Attributes:
        rows: `lr`, `loss` (None where it was not finite; that step was not taken) and `smoothed` (the
            bias-corrected moving average; None before the first finite loss) of each step.
        suggestion: the rate to use, or None where the loss fell at none.
        why: how the suggestion was found, or why there is none; a sentence.
    """

    rows: tuple[Row, ...]
    suggestion: float | None
    why: str


def range_test(setup: Setup, *, lowest: float = 1e-7, highest: float = 10.0, steps: int = STEPS) -> RangeTest:
    """Sweep the learning rate from `lowest` to `highest` and suggest one.

    Each step is one of the recipe's own: its batch size, augmentation, precision, penalties, clipping and
    optimizer. The losses are without penalties.
    Afterwards weights, buffers, gradients, optimizer state, the modules' modes and the global random
    streams are bit for bit as before, however the sweep ended.

    Args:
        setup: of a run that is about to start (`training.run.make_setup`); its schedule is not used.
        lowest: the first rate, above 0.
        highest: the last rate, above `lowest`.
        steps: how many rates, at least 10, evenly spaced on a logarithmic axis.

    Raises:
        RavineError: the range is empty, or has too few steps; the optimizer finds its steps by itself.
        NotFiniteError: no loss is finite, not even at the lowest rate.
    """
    if setup.full_batch:
        raise RavineError(
            f"optimizer.name = {setup.recipe.optimizer.name!r} has no learning rate to look for: a line "
            "search finds the length of each of its steps"
        )
    if not (0 < lowest < highest < math.inf) or steps < 10:
        raise RavineError(
            f"a range test needs 0 < lowest < highest and at least 10 steps, not {lowest}, {highest}, {steps}"
        )
    rates = torch.logspace(math.log10(lowest), math.log10(highest), steps, dtype=torch.float64).tolist()
    with _restored(setup), addressed(setup.recipe.seed, "range_test"):
        rows = _sweep(setup, rates)
    suggestion, why = suggest(rows)
    return RangeTest(tuple(rows), suggestion, why)


def _sweep(setup: Setup, rates: Sequence[float]) -> list[Row]:
    batches = _endless(setup.feeds["train"])
    average = weight = 0.0
    lowest_seen, first = math.inf, math.nan
    bad = 0
    rows: list[Row] = []
    setup.model.train()
    for step, rate in enumerate(rates):
        for group in setup.optimizer.param_groups:
            group["lr"] = rate
        seed_noise(setup.recipe.seed, "range_test noise", step, device=setup.device)
        loss = _step(setup, list(islice(batches, setup.recipe.optimizer.accumulate)))
        if math.isfinite(loss):
            average = SMOOTHING * average + (1 - SMOOTHING) * loss
            weight = SMOOTHING * weight + (1 - SMOOTHING)
            bad = 0
        else:
            bad += 1
        smoothed = average / weight if weight else None
        rows.append({"lr": rate, "loss": loss if math.isfinite(loss) else None, "smoothed": smoothed})
        if bad >= MOST_BAD:
            break
        if smoothed is not None:
            first = smoothed if math.isnan(first) else first
            lowest_seen = min(lowest_seen, smoothed)
            if smoothed > max(first, DIVERGED * lowest_seen):
                break
    if not weight:
        raise _never_finite(setup)
    return rows


def _step(setup: Setup, batches: Sequence[Batch]) -> float:
    """One optimizer step; not-a-number, and no step, where the loss or its gradient is not finite."""
    setup.optimizer.zero_grad()
    total, mixed = 0.0, setup.recipe.precision != "fp32"
    for inputs, targets in batches:
        with setup.autocast():
            outputs = setup.model(inputs)
        if mixed:
            outputs = outputs.float()
        loss = setup.objective(outputs, targets) / len(batches)
        torch.autograd.backward(loss)
        total += loss.item()
    if setup.penalty is not None:
        torch.autograd.backward(setup.penalty())
    parameters = [weight for weight in setup.model.parameters() if weight.grad is not None]
    norm = torch.nn.utils.clip_grad_norm_(parameters, setup.recipe.optimizer.clip_norm or math.inf)
    if not (math.isfinite(total) and math.isfinite(float(norm))):
        return math.nan
    setup.optimizer.step()
    return total


def _endless(feed: Feed) -> Iterator[Batch]:
    for epoch in count():
        yield from feed.epoch(epoch)


def _never_finite(setup: Setup) -> NotFiniteError:
    inputs, _ = next(iter(setup.feeds["train"].epoch(0)))
    name = watch.first_not_finite(setup.model.state_dict().items()) or watch.first_bad_activation(
        setup.model, inputs
    )
    first = f"{name} was the first to go bad" if name else "weights and activations are finite"
    return NotFiniteError(
        "the loss or its gradient is not finite even at the lowest learning rate, so it is not the rate: "
        f"{first}. Look for odd values in the data with `ravine inspect`, or try precision = 'fp32'."
    )


def suggest(rows: Sequence[Row]) -> tuple[float | None, str]:
    """The rate to use, out of the rows of a sweep, and why.

    Two rates are looked at: where the smoothed loss falls fastest per decade of the rate, before its
    minimum, and a tenth of the rate of that minimum. The first alone is too low where a small set is
    learnt early; the second alone hangs on a minimum that is vague where the loss stays flat. The
    suggestion is their geometric mean, and never more than the second.
    """
    seen = [row for row in rows if row["smoothed"] is not None and row["loss"] is not None]
    x = torch.tensor([math.log10(row["lr"]) for row in seen], dtype=torch.float64)  # type: ignore[arg-type]
    raw = torch.tensor([row["loss"] for row in seen], dtype=torch.float64)
    smoothed = torch.tensor([row["smoothed"] for row in seen], dtype=torch.float64)
    bottom = int(smoothed.argmin())
    falling = slice(0, bottom + 1)
    trend = _trend(raw)
    if trend == "rises":
        return None, "the loss rises from the lowest rate on: sweep lower rates, or look at the model"
    if trend == "flat" or bottom < 3:
        return None, "the loss does not clearly fall at any rate: look at the data and at the model"
    slopes = _slopes(x[falling], smoothed[falling])
    steepest, lowest = 10 ** float(x[int(slopes.argmin())]), 10 ** float(x[bottom])
    limit = lowest / SAFETY
    rate = min(limit, math.sqrt(steepest * limit))
    return rate, f"the loss falls fastest at {steepest:.2g} and is lowest at {lowest:.2g}"


def _trend(losses: Tensor) -> Literal["falls", "rises", "flat"]:
    """Whether the losses fall clearly anywhere below those of the first rates, or else end above them."""
    if len(losses) < 6:
        return "flat"
    # Second differences hardly see the curve; those of white noise have six times its variance, and the
    # median does not mind the last few losses, which blow up.
    noise = float((losses[2:] - 2 * losses[1:-1] + losses[:-2]).abs().median()) / (0.6745 * math.sqrt(6))
    length = min(DECADE, len(losses) // 2)
    means = losses.unfold(0, length, 1).mean(1)
    clear = max(CLEAR * noise * math.sqrt(2 / length), LEAST_FALL * abs(float(means[0])))
    if float(means[0] - means.min()) > clear:
        return "falls"
    return "rises" if float(means[-1] - means[0]) > clear else "flat"


def _slopes(x: Tensor, y: Tensor) -> Tensor:
    """At each point the slope of the least-squares line through the points around it."""
    near = ((x[:, None] - x[None, :]).abs() <= HALF_WINDOW).double()
    size = near.sum(1)
    mean_x, mean_y = near @ x / size, near @ y / size
    covariance = near @ (x * y) / size - mean_x * mean_y
    variance = near @ (x * x) / size - mean_x**2
    slopes = covariance / variance.clamp(min=1e-12)
    return slopes.masked_fill(size < 3, math.inf)


@contextmanager
def _restored(setup: Setup) -> Iterator[None]:
    """Put everything that training changes back as it was, whatever happens in the block."""
    modules = list(setup.model.modules())
    modes = [module.training for module in modules]
    weights = [(weight, weight.detach().clone()) for weight in setup.model.parameters()]
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in modules
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    gradients = [(weight, weight.grad) for weight in setup.model.parameters()]
    for weight, _ in gradients:
        weight.grad = None  # a caller's gradient is kept aside, not written into
    optimizer = copy.deepcopy(setup.optimizer.state_dict())
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, before in weights:
                weight.copy_(before)
            for module, name, buffer, before in buffers:
                buffer.copy_(before)
                module._buffers[name] = buffer  # the module may have put another tensor in its place
        for weight, gradient in gradients:
            weight.grad = gradient
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        setup.optimizer.load_state_dict(optimizer)
