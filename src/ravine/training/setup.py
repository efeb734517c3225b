"""Everything a run needs, made from the data and the recipe, before anything is written."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from .. import models
from ..errors import ModelError, RavineError
from ..generalize.penalties import Penalty
from ..generalize.regularize import regularize
from ..optim.schedules import Schedule
from ..randomness import addressed
from ..registry import lookup
from ..transfer.freezing import trainable
from ..transfer.zoo.card import Card, Pretrained
from . import averaged, feeds, metrics, noise, penalties, pretrained, settings, tensorboard
from .averaging import moving_average
from .cached import cached, can_be_cached
from .data.dataset import Dataset, PartName, Splits, Task, outputs_of
from .feed import Feed
from .objective import Objective, objective
from .output_check import check, check_single
from .preprocessing import Preprocessing
from .quiet import is_full_batch
from .recipe import Recipe


@dataclass
class Setup:
    """A run, ready to start.

    Attributes:
        recipe: every value concrete.
        task: what is predicted.
        device: where the model is.
        model: the network that is trained.
        averaged: the moving average of its weights, or None.
        feeds: batches by part; "train" is always there.
        objective: what is minimised.
        optimizer: with the recipe's settings.
        schedule: stepped once an optimizer step.
        penalty: a term of the loss besides the objective; None where there is none.
        preprocessing: what turns raw items into model inputs; None for a caller's own batches.
        dataset: None for a caller's own batches.
        splits: None for a caller's own batches.
        facts: what the run is about: its data, kind, task, classes, and items by part.
        notes: what a person should know about the reading of the data.
        whole: the network of which `model` is the head, where the features of its body are cached.
        head: the head's name in it.
        clean: the training part's features as they are judged, likewise.
        working_out: seconds that the features took.
        card: of the pretrained network that training starts from.
        noise: what keeps the loss from being a function of the weights, where the optimizer needs one and
            goes on without.
    """

    recipe: Recipe
    task: Task
    device: torch.device
    model: nn.Module
    averaged: AveragedModel | None
    feeds: dict[PartName, Feed]
    objective: Objective
    optimizer: Optimizer
    schedule: Schedule
    penalty: Penalty | None = None
    preprocessing: Preprocessing | None = None
    dataset: Dataset | None = None
    splits: Splits | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    noise: list[str] = field(default_factory=list)
    whole: nn.Module | None = None
    head: str = ""
    clean: Feed | None = None
    working_out: float = 0.0
    card: Card | None = None

    @property
    def network(self) -> nn.Module:
        """The network that predicts, of which `model` may be the head alone."""
        return self.model if self.whole is None else self.whole

    def weights(self, judged: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights of the whole network, by those of `model`."""
        if self.whole is None:
            return judged
        return {**self.whole.state_dict(), **{f"{self.head}.{name}": own for name, own in judged.items()}}

    @property
    def full_batch(self) -> bool:
        """Whether a step of the optimizer works out the loss several times."""
        return bool(getattr(self.optimizer, "full_batch", False))

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps an epoch."""
        return -(-len(self.feeds["train"]) // self.recipe.optimizer.accumulate)

    @property
    def target_scale(self) -> tuple[float, float]:
        """Mean and deviation that regression targets were standardised with."""
        return (0.0, 1.0) if self.preprocessing is None else self.preprocessing.target_scale

    def turn_optimizer(self, mode: Literal["train", "eval"]) -> None:
        """Schedule-Free optimizers keep two sets of weights: one to train, one to judge."""
        if turn := getattr(self.optimizer, mode, None):
            turn()

    @property
    def judged(self) -> nn.Module:
        """The module whose scores count: the averaged one where there is one."""
        return self.model if self.averaged is None else self.averaged.module

    def autocast(self) -> torch.autocast:
        """Mixed precision for the forward pass, as the recipe says."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16")


def choose_device(name: str) -> torch.device:
    """The device of a recipe; "auto" takes a GPU where there is one.

    Raises:
        RavineError: the device is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    kind, _, index = name.partition(":")
    if not available[kind] or (index and int(index) >= torch.cuda.device_count()):
        raise RavineError(f"there is no {name} device here; use --device cpu or auto")
    return torch.device(name)


def prepare(
    recipe: Recipe,
    dataset: Dataset,
    splits: Splits,
    model: nn.Module | None,
    like: Setup | None = None,
    opened: Pretrained | None = None,
) -> Setup:
    """Make a run from a data set.

    Args:
        recipe: resolved.
        dataset: the data.
        splits: its parts.
        model: a caller's own network; None makes the recipe's.
        like: another run on these data and parts, whose prepared items are shared if they are the same.
        opened: the pretrained network to start from; its module is changed in place.

    Raises:
        RecipeError: no value is called as the monitored one.
        ModelError: the model cannot be made, or does not fit the data.
        RavineError: the device is missing, or the preprocessing cannot be fitted.
    """
    device = choose_device(recipe.device)
    # Where only a head trains, the other's batches are of features.
    shared = like is not None and like.whole is None and _same_items(like.recipe, recipe)
    if shared and like is not None and like.preprocessing is not None:
        preprocessing, parts = like.preprocessing, feeds.reseeded(like.feeds, recipe.seed)
    else:
        own = None
        if opened is not None and recipe.data.preprocess == "pretrained" and dataset.kind == "image":
            own = pretrained.steps_of(pretrained.grey(opened.card, dataset.item_shape[0]))
        preprocessing = Preprocessing.fit(dataset, splits, recipe.data.preprocess, recipe.split_seed, own)
        preprocessing.to(device)
        parts = feeds.make(recipe, dataset, splits, preprocessing, device)
    outputs = outputs_of(dataset)
    head = ""
    if model is None:
        with addressed(recipe.seed, "model"):
            shape = preprocessing.output_shape
            if opened is None:
                model = models.make(recipe.model.name, shape, outputs, recipe.model.settings)
            else:
                model, head = pretrained.fitted(
                    opened, shape, outputs, dataset.classes, recipe.transfer.depth
                )
    model.to(device)
    sample = preprocessing(_sample(recipe, dataset, splits).to(device))
    check(model, sample, outputs, dataset.task)
    if recipe.data.batch_size == 1:
        check_single(model, sample[:1])
    if sample.dim() == 4:  # convolutions run faster with the channels last
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    counts = None
    if dataset.task == "classification":
        counts = torch.bincount(dataset.targets[splits.train], minlength=outputs)
    averaged.refuse(recipe, model, dataset.kind, sample)
    loss = objective(dataset.task, recipe.loss, counts, device)
    if opened is None:
        setup = assemble(recipe, dataset.task, device, model, parts, loss)
    else:
        setup = _transferred(recipe, dataset, splits, preprocessing, model, head, parts, loss, sample)
        setup.card = opened.card
    setup.notes += dataset.notes
    if dataset.unreadable:
        setup.notes.append(f"{len(dataset.unreadable)} unreadable files were left out")
    setup.preprocessing, setup.dataset, setup.splits = preprocessing, dataset, splits
    return setup


def _transferred(
    recipe: Recipe,
    dataset: Dataset,
    splits: Splits,
    preprocessing: Preprocessing,
    model: nn.Module,
    head: str,
    parts: dict[PartName, Feed],
    loss: Objective,
    sample: Tensor,
) -> Setup:
    """A run that starts from a pretrained network: frozen in part, at rates by layer."""
    device = next(model.parameters()).device
    if recipe.transfer.train == pretrained.HEAD and can_be_cached(recipe, dataset):
        pretrained.frozen(recipe, model, head, sample)
        started = time.perf_counter()
        features, clean = cached(recipe, dataset, splits, preprocessing, model, head, parts)
        took = time.perf_counter() - started
        setup = assemble(recipe, dataset.task, device, model.get_submodule(head), features, loss)
        setup.working_out = took
        setup.whole, setup.head, setup.clean = model, head, clean
        setup.notes.append("the features of the frozen layers are worked out once: only the head is trained")
        return setup

    def trained(network: nn.Module) -> list[dict[str, Any]]:
        pretrained.frozen(recipe, network, head, sample)
        return pretrained.groups(recipe, network, sample)

    return assemble(recipe, dataset.task, device, model, parts, loss, trained)


def _same_items(one: Recipe, other: Recipe) -> bool:
    """Whether two runs on the same parts see the same items in batches of the same size."""
    drawn = one.data.bootstrap and one.seed != other.seed
    data = [each.data.model_copy(update={"split": each.split_seed}) for each in (one, other)]
    alike = [(each.augment, each.device, each.transfer.source) for each in (one, other)]
    return not drawn and data[0] == data[1] and alike[0] == alike[1]


def assemble(
    recipe: Recipe,
    task: Task,
    device: torch.device,
    model: nn.Module,
    parts: dict[PartName, Feed],
    loss: Objective,
    trained: Callable[[nn.Module], list[Any]] | None = None,
) -> Setup:
    """Put optimizer, schedule and average around a model and its batches.

    Without a validation part the weights are chosen by the training loss. `trained` gives the parameters, or
    groups of them, for the optimizer, once the noise is in the network; all that take gradients otherwise.

    Raises:
        RecipeError: no value is called as the monitored one; a schedule is longer than the training; the
            optimizer needs a loss without noise, and there is some; `[predict]` has nothing to average;
            there are no weights to penalize, or the optimizer lets none be bound.
        ModelError: there is nowhere to put a noise; the optimizer cannot train the network; a moving average
            was asked for, and the network cannot be copied.
        RavineError: TensorBoard was asked for and is not installed.
    """
    notes = regularize(model, **recipe.regularize.noise)
    if "validation" not in parts and recipe.stop.monitor.startswith("validation."):
        notes.append("there is no validation part: the weights are chosen by train.loss")
        recipe = recipe.model_copy(update={"stop": recipe.stop.model_copy(update={"monitor": "train.loss"})})
    metrics.direction(recipe.stop.monitor, task)
    if recipe.log.tensorboard:
        tensorboard.require()
    chosen = list(trainable(model)) if trained is None else trained(model)
    found = []
    if is_full_batch(recipe):
        found = noise.sources(recipe, model, parts["train"])
        noise.refuse(recipe, found)
    steps_per_epoch = -(-len(parts["train"]) // recipe.optimizer.accumulate)
    try:
        optimizer = settings.part("optimizer", recipe.optimizer.name)(chosen, **recipe.optimizer.settings)
    except ValueError as error:  # its settings were tried before: what does not fit is the network
        raise ModelError(f"{recipe.optimizer.name} cannot train this network: {error}") from error
    penalty = penalties.put(recipe.regularize, model, optimizer)
    assert isinstance(recipe.stop.epochs, int)
    schedule = lookup("schedule", recipe.schedule.name)(
        optimizer,
        total_steps=recipe.stop.epochs * steps_per_epoch,
        steps_per_epoch=steps_per_epoch,
        **recipe.schedule.settings,
    )
    average = recipe.optimizer.average
    if average and hasattr(optimizer, "eval"):
        notes.append(f"optimizer.average is not used: {recipe.optimizer.name} averages by itself")
        average = 0.0
    averaged = moving_average(model, average) if average else None
    return Setup(
        recipe,
        task,
        device,
        model,
        averaged,
        parts,
        loss,
        optimizer,
        schedule,
        penalty,
        notes=notes,
        noise=found,
    )


def _sample(recipe: Recipe, dataset: Dataset, splits: Splits) -> Tensor:
    """Two raw items (for text: one short window) to try the model on."""
    if dataset.kind == "text":
        return dataset.fetch(splits.train[: min(8, feeds.context_of(recipe))]).unsqueeze(0)
    return dataset.fetch(splits.train[:2])
