"""Training steps that work out the loss over all items several times: for LBFGS, BFGS and Newton."""

import math
import time
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..optim.full_batch.optimizer import FullBatchOptimizer
from ..randomness import seed_noise
from . import diagnosis, watch
from .evaluate import count_right
from .feed import Batch
from .quiet import allows_noise
from .signals import StopNow

if TYPE_CHECKING:
    from .loop import Loop


class Scores(NamedTuple):
    """What one evaluation tells: the loss without the penalty, and of predictions what `count_right` does."""

    loss: float = 0.0
    items: int = 0
    units: int = 0
    correct: int = 0


class StepLoss:
    """The mean loss over the batches of a step, with the penalty, and its gradient: an optimizer's closure.

    The mean is that over all items at once, whatever the batches: each batch's loss counts by what it is a
    mean over (`Objective.mass`), and gradients are summed before they are divided. So data that do not fit
    in memory are no other problem than data that do.

    Attributes:
        scores: by the loss they came with, of every evaluation.
    """

    def __init__(self, loop: "Loop", optimizer: FullBatchOptimizer) -> None:
        setup, state = loop.setup, loop.state
        feed, self.first = setup.feeds["train"], state.batch
        self.loop, self.optimizer, self.noisy = loop, optimizer, allows_noise(setup.recipe)
        self.count = min(setup.recipe.optimizer.accumulate, len(feed) - state.batch)
        self.whole = self.count == len(feed)
        # Mini-batches are drawn once; the whole is gone through again, because it may not fit in memory.
        self.batches = [] if self.whole else list(islice(feed.epoch(state.epoch, state.batch), self.count))
        self.scores: dict[float, Scores] = {}

    def _batches(self) -> Iterable[Batch]:
        # One order for all epochs: another would round otherwise.
        epoch = self.loop.state.epoch if self.noisy else 0
        return self.loop.setup.feeds["train"].epoch(epoch) if self.whole else self.batches

    def __call__(self) -> Tensor:
        """The loss: with its graph where the optimizer wants that, otherwise after its backward."""
        loop, setup, graph = self.loop, self.loop.setup, self.optimizer.wants_graph
        for parameter in loop.parameters:
            parameter.grad = None
        total, value, mass, scores = torch.zeros((), device=setup.device), 0.0, 0.0, Scores()
        for number, (inputs, targets) in enumerate(self._batches(), self.first):
            loop.poll()
            # The same noise in every evaluation of a step: within it the loss is a function all the same.
            seed_noise(setup.recipe.seed, "noise", loop.state.epoch, number, device=setup.device)
            with setup.autocast():
                outputs = setup.model(inputs)
            outputs = outputs.float()
            share = setup.objective.mass(targets)
            loss = setup.objective(outputs, targets) * share
            if graph:
                total = total + loss
            else:
                loss.backward()
            value, mass = value + loss.item(), mass + share
            scores = self._counted(scores, outputs.detach(), targets)
        result = total / mass if graph else torch.tensor(value / mass, dtype=torch.float64)
        if not graph:
            gradients = [parameter.grad for parameter in loop.parameters if parameter.grad is not None]
            torch._foreach_div_(gradients, mass)
        scores = scores._replace(loss=float(result.detach()))
        if setup.penalty is not None:
            penalty = setup.penalty()
            if not graph:
                penalty.backward()
            result = result + (penalty if graph else penalty.detach())
        value = float(result.detach())
        self._refuse_bad_start(value)
        self.scores[value] = scores
        return result

    def _counted(self, scores: Scores, outputs: Tensor, targets: Tensor) -> Scores:
        items, units, correct = self.loop.setup.objective.count(targets), 0, 0
        if self.loop.setup.task == "classification":
            units, correct = count_right(outputs, targets)
        return Scores(0.0, scores.items + items, scores.units + units, scores.correct + correct)

    def _refuse_bad_start(self, value: float) -> None:
        """Steps shrink before losses that are not finite; at the start there is nothing to shrink."""
        state, setup = self.loop.state, self.loop.setup
        if self.scores or (state.step and not self.noisy):
            return
        if not math.isfinite(value):
            inputs, _ = next(iter(self._batches()))
            raise diagnosis.bad_loss(setup, inputs, state.epoch, state.step, value)
        if bad := diagnosis.bad_gradient(setup, state.epoch, state.step):
            raise bad

    def reached(self, loss: float) -> Scores:
        """The scores where the step ended; another evaluation where it ended where the step before had."""
        if loss not in self.scores:
            loss = float(self().detach())
        return self.scores[loss]


def train_epoch(loop: "Loop") -> None:
    """Train to the end of the epoch, as `Loop.train_epoch`: one step over all items, unless noise is allowed.

    What is recorded of training is the loss and the accuracy at the weights that the step ended with.
    """
    setup, state = loop.setup, loop.state
    optimizer = setup.optimizer
    assert isinstance(optimizer, FullBatchOptimizer)
    last, started, seen = len(setup.feeds["train"]), time.perf_counter(), state.seen
    saving = state.seconds["checkpoints"]
    setup.model.train()
    while state.batch < last:
        loss = StepLoss(loop, optimizer)
        before = watch.snapshot(setup.model) if state.batch + loss.count >= last else None
        try:
            optimizer.step(loss)
        except StopNow as stopped:
            # Several iterations are a step: the first of them would be done again after those that are done.
            stopped.whole = optimizer.param_groups[0]["max_iter"] == 1
            raise
        ended = optimizer.last
        assert ended is not None
        scores = loss.reached(ended.loss)
        setup.schedule.step()
        for parameter in loop.parameters:
            parameter.grad = None
        state.norm = ended.gradient_norm
        state.loss_sum += scores.loss * scores.items
        state.loss_units += scores.units
        state.correct += scores.correct
        state.seen += scores.items
        state.batch += loss.count
        state.step += 1
        if ended.reason is not None and not loss.noisy:
            state.ended = ended.reason.message.removeprefix("stopped: ")
        if setup.averaged is not None:
            setup.averaged.update_parameters(setup.model)
        if before is not None:
            state.ratios = watch.update_ratios(before, watch.snapshot(setup.model))
        loop.between_steps_when_due(scores.loss, started, state.seen - seen)
    took = time.perf_counter() - started - (state.seconds["checkpoints"] - saving)
    state.seconds["training"] += took
    loop.rate = (state.seen - seen) / took
