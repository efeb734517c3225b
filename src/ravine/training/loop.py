"""The training loop, readable from top to bottom.

What must survive a kill is in `State` and in the objects that `snapshot` lists; everything else can be made
again from the recipe and the seed, because every random choice is addressed by epoch and step.
"""

import math
import time
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, cast

import torch
from torch import Tensor

from ..errors import DataError, NotFiniteError, RunError
from ..randomness import seed_noise
from . import checkpoint, diagnosis, full_batch, local_models, metrics, start, watch
from .evaluate import LOSS_UNIT, Outputs, count_right, outputs_over
from .progress import Progress
from .recipe_text import to_toml
from .run_folder import RunFolder
from .setup import Setup
from .signals import StopNow, StopRequest
from .tensorboard import Board

TICK_SECONDS = 0.2
# Checkpoints may take at most this share of the time, however large the model.
CHECKPOINT_SHARE = 0.05
# Up to here joining all gradients is quicker than a norm for each.
FEW_ENTRIES = 100_000


@dataclass
class State:
    """Where a run is.

    Attributes:
        epoch: epochs completed.
        batch: batches done of the epoch under way.
        step: optimizer steps taken.
        rows: evaluations recorded.
        best_value: of the monitored value; None before the first evaluation.
        best_epoch: when it was reached, counted from 1.
        waited: evaluations since.
        loss_sum: of the objective over this epoch, each batch times its items; without penalties.
        loss_units: of the plain cross-entropy of this epoch's items, in units of `LOSS_UNIT`; classification.
        correct: right predictions of this epoch, as `count_right` has it.
        seen: items of this epoch.
        norm: the length of the last gradient.
        ratios: of update to weight, by tensor, at the last step of an epoch.
        ended: why the optimizer cannot go on; empty while it can.
        seconds: time in each kind of work, over all sessions of the run.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    rows: int = 0
    best_value: float | None = None
    best_epoch: int = 0
    waited: int = 0
    loss_sum: float = 0.0
    loss_units: int = 0
    correct: int = 0
    seen: int = 0
    norm: float = 0.0
    ratios: dict[str, float] = field(default_factory=dict)
    ended: str = ""
    seconds: dict[str, float] = field(
        default_factory=lambda: {"start": 0.0, "training": 0.0, "evaluation": 0.0, "checkpoints": 0.0}
    )

    def end_epoch(self) -> None:
        """Go on to the next epoch, whose sums begin at nothing."""
        self.rows += 1
        self.epoch += 1
        self.batch = self.seen = self.correct = self.loss_units = 0
        self.loss_sum = 0.0


class Loop:
    """One run under way."""

    def __init__(self, setup: Setup, folder: RunFolder, progress: Progress, stop: StopRequest) -> None:
        self.setup = setup
        self.folder = folder
        self.progress = progress
        self.stop = stop
        self.state = State()
        self.best = checkpoint.clone(setup.judged.state_dict())
        self.notices: list[dict[str, str]] = []
        self.parameters = [parameter for parameter in setup.model.parameters() if parameter.requires_grad]
        self.pending: list[tuple[Tensor, Tensor]] = []
        self.saved_at = self.ticked_at = time.perf_counter()
        self.saving_took = 0.0
        self.rate = 0.0
        self.board: Board | None = None

    def look(self) -> None:
        """Tell whether what is about to be trained is healthy; what is found goes into `result.json` too."""
        inputs, targets = next(iter(self.setup.feeds["train"].epoch(0)))
        for notice in start.findings(self.setup, inputs, targets):
            self.notice(notice)
        self.look_around("first", inputs, targets)

    def look_around(self, which: Literal["first", "best"], inputs: Tensor, targets: Tensor) -> None:
        """Keep what the loss looks like around the weights as they are, for the report."""
        if model := local_models.around(self.setup, inputs, targets):
            self.folder.write_json(f"local_model.{which}.json", model)

    def notice(self, notice: watch.Notice) -> None:
        """Tell something a person should know, once."""
        record = {"level": notice.level, "text": notice.text}
        if record not in self.notices:
            self.notices.append(record)
            self.progress.notice(notice.level, notice.text)

    def run(self) -> str:
        """Train to the end; the reason why it ended. A checkpoint then holds everything.

        Raises:
            StopNow: a signal came; the last step's state is in this object.
            NotFiniteError: a loss, gradient or weight went bad; the weights from before it are kept.
            RunError: the disk is full or gone; the checkpoint before is whole.
        """
        state = self.state
        if self.setup.recipe.log.tensorboard:
            self.board = Board(self.folder.path, state.step + 1)
        try:
            while not self.over():
                if self.setup.full_batch:
                    full_batch.train_epoch(self)
                else:
                    self.train_epoch()
                self.record(self.evaluate())
        except StopNow as stopped:
            if stopped.whole:
                self.save()
            raise
        except NotFiniteError:
            self.keep_good_weights()
            raise
        except DataError:  # a file that cannot be read any more: what was trained is kept
            if state.batch % self.setup.recipe.optimizer.accumulate == 0:
                self.save()
            raise
        finally:
            if self.board is not None:
                self.board.close()
        self.save()
        return self.why()

    def why(self) -> str:
        """Why training came to its end."""
        stop, state = self.setup.recipe.stop, self.state
        if state.ended:
            return state.ended
        if state.epoch == stop.epochs:
            return f"reached {state.epoch} epochs"
        return (
            f"{stop.monitor} was no better for {state.waited} evaluations (stop.patience = {stop.patience})"
        )

    def over(self) -> bool:
        """Whether training has come to its end."""
        stop, state = self.setup.recipe.stop, self.state
        waited = stop.patience and state.waited >= stop.patience
        return bool(state.ended or waited or state.epoch >= cast(int, stop.epochs))

    def train_epoch(self) -> None:
        """Train to the end of the epoch."""
        setup, state, recipe = self.setup, self.state, self.setup.recipe
        model, optimizer, schedule = setup.model, setup.optimizer, setup.schedule
        feed, accumulate, limit = (
            setup.feeds["train"],
            recipe.optimizer.accumulate,
            recipe.optimizer.clip_norm,
        )
        mixed = recipe.precision != "fp32"
        autocast = setup.autocast()
        last, started, seen = len(feed), time.perf_counter(), state.seen
        saving = state.seconds["checkpoints"]
        setup.turn_optimizer("train")
        model.train()
        for inputs, targets in feed.epoch(state.epoch, start=state.batch):
            seed_noise(recipe.seed, "noise", state.epoch, state.batch, device=setup.device)
            if mixed:
                with autocast:
                    outputs = model(inputs)
                outputs = outputs.float()
            else:
                outputs = model(inputs)
            loss = setup.objective(outputs, targets)
            group = min(accumulate, last - (state.batch // accumulate) * accumulate)
            (loss if group == 1 else loss / group).backward()
            value = loss.item()
            if not math.isfinite(value):
                raise diagnosis.bad_loss(setup, inputs, state.epoch, state.step, value)
            items = setup.objective.count(targets)
            state.loss_sum += value * items
            state.seen += items
            state.batch += 1
            if setup.task == "classification":
                self.pending.append((outputs.detach(), targets))
            if state.batch % accumulate and state.batch < last:
                continue

            if setup.penalty is not None:  # once a step, however many batches it has
                setup.penalty().backward()
            gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
            state.norm = gradient_norm(gradients)
            if not math.isfinite(state.norm):
                if bad := diagnosis.bad_gradient(setup, state.epoch, state.step):
                    raise bad
                state.norm = gradient_norm([gradient.double() for gradient in gradients])
            if limit and state.norm > limit:
                torch._foreach_mul_(gradients, limit / state.norm)
            before = watch.snapshot(model) if state.batch >= last else None
            optimizer.step()
            schedule.step()
            for parameter in self.parameters:  # what zero_grad does, without what it costs a tiny model
                parameter.grad = None
            state.step += 1
            if setup.averaged is not None:
                setup.averaged.update_parameters(model)
            if before is not None:
                state.ratios = watch.update_ratios(before, watch.snapshot(model))
            self.between_steps_when_due(value, started, state.seen - seen)
        took = time.perf_counter() - started - (state.seconds["checkpoints"] - saving)
        state.seconds["training"] += took
        self.rate = (state.seen - seen) / took

    def between_steps_when_due(self, loss: float, started: float, seen: int) -> None:
        """`between_steps`, when a fraction of a second has passed or a signal came."""
        now = time.perf_counter()
        if self.stop.signum or now - self.ticked_at > TICK_SECONDS:
            self.between_steps(loss, now, started, seen)

    def between_steps(self, loss: float, now: float, started: float, seen: int) -> None:
        """What is due every fraction of a second: tell, stop when asked, save when it is time."""
        state, feed = self.state, self.setup.feeds["train"]
        self.fold()
        if self.stop.signum:
            raise StopNow
        self.ticked_at = now
        done = self.state.epoch * len(feed) + state.batch
        epochs = self.setup.recipe.stop.epochs
        assert isinstance(epochs, int)
        spent = sum(state.seconds.values()) - state.seconds["start"] + now - started
        self.progress.tick(
            {
                "epoch": state.epoch + 1,
                "step": state.step,
                "steps_per_epoch": self.setup.steps_per_epoch,
                "loss": loss,
                "lr": self.setup.optimizer.param_groups[0]["lr"],
                "samples_per_second": seen / max(now - started, 1e-9),
                "seconds": spent,
                "seconds_left": spent * (epochs * len(feed) - done) / max(done, 1),
            }
        )
        self.save_when_due(now)

    def fold(self) -> None:
        """Count the predictions that wait: how many are right, and their plain cross-entropy."""
        if self.pending:
            outputs = torch.cat([outputs for outputs, _ in self.pending])
            targets = torch.cat([targets for _, targets in self.pending])
            units, correct = count_right(outputs, targets)
            self.state.loss_units += units
            self.state.correct += correct
        self.pending.clear()

    def evaluate(self) -> dict[str, Any]:
        """Score the validation part; the line for `metrics.jsonl`."""
        setup, state = self.setup, self.state
        self.fold()
        started = time.perf_counter()
        setup.turn_optimizer("eval")
        row: dict[str, Any] = {
            "epoch": state.epoch + 1,
            "step": state.step,
            "seconds": round(sum(state.seconds.values()), 4),
            "lr": setup.optimizer.param_groups[0]["lr"],
            "samples_per_second": round(self.rate, 1),
            "train.loss": state.loss_sum / state.seen,
        }
        if setup.task == "classification":
            row["train.loss"] = state.loss_units * LOSS_UNIT / state.seen
            row["train.accuracy"] = state.correct / state.seen
        if "validation" in setup.feeds:
            found = self.validation_outputs()
            scores = metrics.evaluate_outputs(setup.task, found.outputs, found.targets, setup.target_scale)
            row |= {f"validation.{name}": score for name, score in scores.items()}
            if not math.isfinite(scores["loss"]):
                told = f"the validation loss became {scores['loss']}"
                raise diagnosis.bad_evaluation(setup, state.epoch, state.step, told)
        elif watch.first_not_finite(setup.judged.state_dict()):
            raise diagnosis.bad_evaluation(setup, state.epoch, state.step, "the weights became not finite")
        row["gradient_norm"] = state.norm
        row["update_ratio"] = watch.median_ratio(state.ratios)
        row["update_ratios"] = state.ratios
        group = setup.optimizer.param_groups[0]
        settled = group["lr"] < 0.1 * group["initial_lr"]  # small steps are meant at a schedule's ends
        # A line search needs no advice on the rate; a new head alone starts from almost nothing.
        advised = not setup.full_batch and setup.recipe.transfer.train != "head"
        tell = state.epoch == 0 and not settled and advised
        if tell and (notice := watch.ratio_notice(state.ratios)):
            self.notice(notice)
        state.seconds["evaluation"] += time.perf_counter() - started
        return row

    def validation_outputs(self) -> Outputs:
        """What the judged network says of the validation part."""
        setup = self.setup
        with setup.autocast():
            return outputs_over(setup.judged, setup.feeds["validation"], setup.task, self.poll)

    def judge(self, row: dict[str, Any]) -> bool:
        """Whether an evaluation is the best so far; its weights are kept then."""
        state, monitor = self.state, self.setup.recipe.stop.monitor
        value = row[monitor]
        # A value that is never a number, such as r2 of equal targets, chooses the newest weights.
        nothing_yet = state.best_value is None or math.isnan(state.best_value)
        best = nothing_yet or metrics.better(monitor, value, state.best_value)
        if best:
            state.best_value, state.best_epoch, state.waited = value, state.epoch + 1, 0
            self.best = checkpoint.clone(self.setup.judged.state_dict())
        else:
            state.waited += 1
        return bool(best)

    def record(self, row: dict[str, Any]) -> None:
        """Write the line, keep the weights where they are the best so far, go on to the next epoch."""
        best = self.judge(row)
        self.folder.append_row(row)
        self.progress.evaluated(row, best)
        if self.board is not None:
            self.board.evaluated(row)
        self.state.end_epoch()
        self.save_when_due(time.perf_counter())

    def keep_good_weights(self) -> None:
        """After numbers went bad: the best weights so far; before any evaluation the last finite ones."""
        self.folder.flush()
        if self.state.best_value is None:  # what the bad batch spoilt, such as statistics, is as it began
            last = checkpoint.clone(self.setup.judged.state_dict())
            good = {name: tensor for name, tensor in last.items() if bool(torch.isfinite(tensor).all())}
            self.best |= good
        self.folder.write_tensors("model.safetensors", self.setup.weights(self.best))

    def poll(self) -> None:
        """Stop when a signal asked for it."""
        if self.stop.signum:
            raise StopNow

    def save_when_due(self, now: float) -> None:
        """Save when the recipe's interval is over, and saving takes no more than its share."""
        wait = max(self.setup.recipe.log.checkpoint_seconds, self.saving_took / CHECKPOINT_SHARE)
        if now - self.saved_at >= wait:
            self.save()

    def save(self) -> None:
        """Bring everything that is needed to go on to the disk."""
        started = time.perf_counter()
        self.fold()
        self.folder.flush()
        self.folder.write_tensors("model.safetensors", self.setup.weights(self.best))
        tensors, state = self.snapshot()
        checkpoint.save(self.folder.checkpoints, self.state.step, tensors, state)
        self.saved_at = time.perf_counter()
        self.saving_took = self.saved_at - started
        self.state.seconds["checkpoints"] += self.saving_took

    def snapshot(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that a resumed run starts from: tensors, and what JSON can hold."""
        setup = self.setup
        tensors: dict[str, Tensor] = {}
        state = {
            "recipe": to_toml(setup.recipe),
            "state": asdict(self.state),
            "notices": self.notices,
            "model": checkpoint.flatten("model", dict(setup.model.state_dict()), tensors),
            "best": checkpoint.flatten("best", self.best, tensors),
            "optimizer": checkpoint.flatten("optimizer", setup.optimizer.state_dict(), tensors),
            "schedule": checkpoint.flatten("schedule", setup.schedule.state_dict(), tensors),
        }
        if setup.averaged is not None:
            state["averaged"] = checkpoint.flatten("averaged", dict(setup.averaged.state_dict()), tensors)
        return tensors, state

    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """The inverse of `snapshot`.

        Raises:
            RunError: the recipe or the network is another than when the run was started.
        """
        setup = self.setup
        if state["recipe"] != to_toml(setup.recipe):
            raise RunError(
                f"{self.folder.path / 'recipe.toml'} was changed since the run was started; a run goes on as "
                "it began. Undo the change, or start a new run with it: ravine train DATA --recipe FILE"
            )
        known = {entry.name for entry in fields(State)} & state["state"].keys()
        self.state = State(**{name: state["state"][name] for name in known})
        self.notices = state["notices"]
        try:
            setup.model.load_state_dict(checkpoint.unflatten(state["model"], tensors))
        except RuntimeError as error:
            raise RunError(f"the network is not the one of {self.folder.path}: {error}") from error
        self.best = checkpoint.unflatten(state["best"], tensors)
        setup.optimizer.load_state_dict(checkpoint.unflatten(state["optimizer"], tensors))
        setup.schedule.load_state_dict(checkpoint.unflatten(state["schedule"], tensors))
        if setup.averaged is not None:
            setup.averaged.load_state_dict(checkpoint.unflatten(state["averaged"], tensors))


def gradient_norm(gradients: list[Tensor]) -> float:
    """The 2-norm of all gradients together; not finite where any entry is not."""
    if not gradients:
        return 0.0
    if sum(gradient.numel() for gradient in gradients) <= FEW_ENTRIES:
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        return math.sqrt(torch.dot(flat, flat).item())
    return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))))
