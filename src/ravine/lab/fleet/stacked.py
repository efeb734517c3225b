"""An epoch of many members at once, each by its own data order, noise and hyperparameters."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ...errors import NotFiniteError
from ...randomness import seed_noise
from ...training.evaluate import LOSS_UNIT, Outputs
from ...training.feed import Feed
from . import hyperparameters, objective
from .averages import Averages
from .backward import Pass
from .member import Member
from .objective import CrossEntropy
from .penalties import Penalties
from .stack import Stack
from .threads import one_thread

# Below so many multiplications a forward pass, threads wait for each other longer than they work.
FEW_PRODUCTS = 1_000_000
# Outputs of so many values wait to be counted: what is counted at once costs less, and memory is bounded.
MOST_WAITING = 1_000_000


class StackedGroup:
    """Members of one shape, trained as one network with a leading axis."""

    def __init__(self, members: Sequence[Member], *, compiled: bool = False) -> None:
        """`compiled`: the forward and the backward pass by `torch.compile`, which takes its time at first."""
        self.members = list(members)
        setups = [member.setup for member in members]
        self.stack = Stack([setup.model for setup in setups])
        self.averages = Averages(self.members, self.stack) if setups[0].averaged is not None else None
        self._losses = objective.together(setups)
        limits = [setup.recipe.optimizer.clip_norm or torch.inf for setup in setups]
        self._limits = None if min(limits) == torch.inf else torch.tensor(limits, dtype=torch.float64)
        self.optimizer = hyperparameters.together(setups, self.stack.trained)
        self.penalties = None if setups[0].penalty is None else Penalties(self.members, self.stack)
        # Batches are of one size, but for the last of an epoch: a graph each, and whole, so that none fails
        # in its midst.
        self._compiled = torch.compile(self._forward, dynamic=False, fullgraph=True) if compiled else None

    def train_epoch(self, between: Callable[[], bool], do: Callable[[], None]) -> None:
        """Train every member to the end of its epoch, and leave its optimizer and schedule there.

        A member whose loss becomes not a number is failed; nothing of it reaches the others.

        Args:
            between: asked after every step: whether the members must be up to date, because `do` is due.
            do: called then; it may raise to stop.

        Raises:
            MemoryError, RuntimeError: a batch of all members did not fit into the memory
                (`memory.is_memory_error`); each member is where its last step left it.
        """
        setup, state = self.members[0].setup, self.members[0].state
        last, start = len(setup.feeds["train"]), state.batch
        rates = [_rates(member, state.step, last - start) for member in self.members]
        work = Work(self.members)
        for member in self.members:
            if not member.setup.model.training:
                member.setup.model.train()
        for number, (inputs, targets) in enumerate(self.batches(state.epoch, start)):
            seed_noise(setup.recipe.seed, "noise", state.epoch, start + number, device=setup.device)
            before = [buffer.clone() for buffer in self.stack.buffers]
            try:
                work.add(*self.backward(inputs, targets), targets)
            except (MemoryError, RuntimeError):
                self._undo(before)
                self._hand_back(work)
                raise
            ending = start + number == last - 1
            (self._watched_step if ending else self.step)([own[number] for own in rates])
            if not ending and between():
                self._hand_back(work)
                do()
        self._hand_back(work)

    def threads(self) -> AbstractContextManager[None]:
        """Within, as many threads as are worth it: one, or as many as torch has."""
        setup = self.members[0].setup
        size = setup.recipe.data.batch_size
        assert isinstance(size, int)
        products = size * sum(parameter.numel() for parameter in self.stack.trained.values())
        return one_thread() if setup.device.type == "cpu" and products < FEW_PRODUCTS else nullcontext()

    @property
    def without_autograd(self) -> bool:
        """Whether a step needs none of autograd but for penalties."""
        return self.members[0].setup.recipe.precision == "fp32" and self.stack.knows_gradients

    def backward(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of a batch, (K, N, ...) inputs and (K, N, ...) targets; the losses (K,) and outputs."""
        plain = self.members[0].setup.recipe.precision == "fp32" and self._compiled is None
        traced = self.stack.traced(inputs) if plain else None
        if traced is not None:
            losses = self._back(traced, targets)
            return losses, traced.outputs
        minimized, losses, outputs = (self._compiled or self._forward)(inputs, targets)
        minimized.backward()
        return losses.detach(), outputs.detach()

    def _forward(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is minimised, the losses (K,) and the outputs."""
        with self.members[0].setup.autocast():
            outputs = self.stack(inputs, training=True)
        if outputs.dtype == torch.bfloat16:
            outputs = outputs.float()
        losses = self._losses(outputs, targets)
        return (losses if self.penalties is None else losses + self.penalties()).sum(), losses, outputs

    def _back(self, taken: Pass, targets: Tensor) -> Tensor:
        """Gradients of a pass without autograd's graph; the losses (K,)."""
        if isinstance(self._losses, CrossEntropy) and not targets.is_floating_point():
            losses, gradient = self._losses.with_gradient(taken.outputs, targets)
        else:
            outputs = taken.outputs.requires_grad_()
            losses = self._losses(outputs, targets)
            (gradient,) = torch.autograd.grad(losses.sum(), outputs)
            outputs.requires_grad_(False)
            losses = losses.detach()
        taken.backward(gradient)
        if self.penalties is not None:
            self.penalties().sum().backward()
        return losses

    def step(self, rates: Sequence[float]) -> None:
        """A step of each member at its rate, its gradient cut to its limit."""
        if self._limits is not None:
            self._clip(self._limits)
        hyperparameters.set_rates(self.optimizer, rates)
        self.optimizer.step()
        self._drop_gradients()
        if self.averages is not None:
            self.averages.follow()

    def _drop_gradients(self) -> None:
        for parameter in self.stack.trained.values():
            parameter.grad = None

    def _undo(self, buffers: Sequence[Tensor]) -> None:
        """Leave the stack where its last step did: a batch was seen in part."""
        for buffer, before in zip(self.stack.buffers, buffers, strict=True):
            buffer.copy_(before)
        self._drop_gradients()

    def _clip(self, limits: Tensor) -> None:
        gradients = [p.grad for p in self.stack.trained.values() if p.grad is not None]
        scales = (limits / _norms(gradients)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(scales.to(gradient).view(-1, *[1] * (gradient.dim() - 1)))

    def _watched_step(self, rates: Sequence[float]) -> None:
        """A step; the lengths of the gradients and the update ratios go into the members' states."""
        norms = _norms([p.grad for p in self.stack.trained.values() if p.grad is not None]).tolist()
        weights = {name: weight for name, weight in self.stack.trained.items() if weight.dim() > 2}
        before = {name: weight.detach().clone() for name, weight in weights.items()}
        self.step(rates)
        for member, norm, ratio in zip(
            self.members, norms, _update_ratios(before, weights, len(norms)), strict=True
        ):
            member.state.norm, member.state.ratios = norm, ratio

    def _hand_back(self, work: "Work") -> None:
        """Bring the members' own states up to date."""
        hyperparameters.hand_back(self.optimizer, [member.setup for member in self.members])
        if self.averages is not None:
            self.averages.hand_back()
        work.settle()

    def batches(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The members' next batches together: (K, N, ...) inputs and (K, N) targets."""
        shelves = [member.setup.feeds["train"].shelf for member in self.members]
        first = shelves[0]
        if first is not None and all(own is not None and own.inputs is first.inputs for own in shelves):
            orders = torch.stack([own.order(epoch) for own in shelves if own is not None])
            for positions in first.cut(orders, start, dim=1):
                chosen = positions.reshape(-1).to(first.inputs.device)
                inputs, targets = (kept.index_select(0, chosen) for kept in (first.inputs, first.targets))
                members = len(self.members)
                yield inputs.unflatten(0, (members, -1)), targets.unflatten(0, (members, -1))
            return
        for batches in zip(*(m.setup.feeds["train"].epoch(epoch, start) for m in self.members), strict=True):
            own_inputs, own_targets = zip(*batches, strict=True)
            yield torch.stack(own_inputs), torch.stack(own_targets)

    def foresee(self) -> None:
        """Run the validation part through all members at once, where they share it."""
        feeds = [member.setup.feeds.get("validation") for member in self.members]
        first = feeds[0]
        if first is None or self.averages is not None or any(not _same(first, other) for other in feeds):
            return
        given: list[Tensor] = []
        wanted: list[Tensor] = []
        with torch.inference_mode():
            for inputs, targets in first.epoch(0):
                with self.members[0].setup.autocast():
                    outputs = self.stack(inputs, training=False, shared=True)
                given.append(outputs.float().cpu())
                wanted.append(targets.cpu())
        answers = torch.cat(wanted)
        for member, own in zip(self.members, torch.cat(given, 1), strict=True):
            member.foreseen = Outputs(own, answers)


class Work:
    """What was trained since the members' states were brought up to date."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = members
        self._start()

    def _start(self) -> None:
        self.started = time.perf_counter()
        self.losses: list[Tensor] = []
        self.sizes: list[int] = []
        self.waiting: list[tuple[Tensor, Tensor]] = []
        self.values = 0

    def add(self, losses: Tensor, outputs: Tensor, targets: Tensor) -> None:
        """A step: the members' losses (K,), outputs (K, N, ...) and targets (K, N, ...)."""
        setup = self.members[0].setup
        self.losses.append(losses)
        self.sizes.append(setup.objective.count(targets[0]))
        if setup.task == "classification":
            self.waiting.append((outputs, targets))
            self.values += outputs.numel()
            if self.values > MOST_WAITING:
                self._count()

    def _count(self) -> None:
        """Count the predictions that wait, as `evaluate.count_right` does."""
        if self.waiting:
            outputs, targets = (torch.cat(pieces, 1) for pieces in zip(*self.waiting, strict=True))
            losses, answers = objective.answered(outputs, targets)
            units = (losses.double() / LOSS_UNIT).round().long().sum(1).tolist()
            correct = answers.sum(1).tolist()
            for member, own_units, right in zip(self.members, units, correct, strict=True):
                member.state.loss_units += own_units
                member.state.correct += right
        self.waiting, self.values = [], 0

    def settle(self) -> None:
        """Write into each member what its own loop would have."""
        if not self.losses:
            return
        self._count()
        took, items = time.perf_counter() - self.started, sum(self.sizes)
        for member, values in zip(self.members, torch.stack(self.losses, 1).tolist(), strict=True):
            state = member.state
            bad = next((at for at, value in enumerate(values) if not math.isfinite(value)), None)
            if bad is not None:
                when = f"epoch {state.epoch + 1}, at step {state.step + bad + 1}"
                member.fail(NotFiniteError(f"the loss became {values[bad]} in {when}"))
            state.loss_sum += sum(value * size for value, size in zip(values, self.sizes, strict=True))
            state.seen += items
            state.step += len(values)
            state.batch += len(values)
            state.seconds["training"] += took / len(self.members)
            member.rate = items / took * len(self.members)
            _advance(member)
        self._start()


def _same(one: Feed, other: Feed | None) -> bool:
    """Whether two feeds that are judged on give the same tensors."""
    mine, theirs = one.batches, getattr(other, "batches", None)
    return getattr(mine, "inputs", mine) is getattr(theirs, "inputs", theirs)


def _rates(member: Member, step: int, steps: int) -> list[float]:
    """The learning rates of the next steps."""
    setup = member.setup
    (base,) = setup.schedule.base_lrs
    return [float(base) * setup.schedule.factor(at) for at in range(step, step + steps)]


def _advance(member: Member) -> None:
    """Leave schedule and rate where as many steps of the schedule would have."""
    schedule, state = member.setup.schedule, member.state
    rate = schedule.base_lrs[0] * schedule.factor(state.step)
    schedule.last_epoch, schedule._last_lr = state.step, [rate]
    schedule._step_count = state.step + 1
    member.setup.optimizer.param_groups[0]["lr"] = rate


def _norms(gradients: Sequence[Tensor]) -> Tensor:
    """The length of each member's gradient, float64 (K,)."""
    lengths = [torch.linalg.vector_norm(own.flatten(1), dim=1, dtype=torch.float64) for own in gradients]
    norms: Tensor = torch.linalg.vector_norm(torch.stack(lengths), dim=0)
    return norms


def _update_ratios(
    before: dict[str, Tensor], after: dict[str, Tensor], members: int
) -> list[dict[str, float]]:
    """As `watch.update_ratios`, for each member."""
    ratios: dict[str, list[float]] = {}
    for name, old in before.items():
        moved, size = (
            torch.linalg.vector_norm(each.flatten(1), dim=1).double()
            for each in (after[name].detach() - old, old)
        )
        ratios[name] = (moved / size).tolist()
    return [
        {name: values[member] for name, values in ratios.items() if math.isfinite(values[member])}
        for member in range(members)
    ]
