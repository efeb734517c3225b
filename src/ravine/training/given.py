"""Runs on a caller's own batches: any iterable of (inputs, targets), with any module."""

from collections.abc import Iterable, Mapping
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn

from ..errors import DataError, ModelError, RecipeError
from ..modes import evaluating
from ..randomness import addressed
from . import averaged
from .data.dataset import PartName, Task
from .feed import Feed, GivenBatches
from .objective import objective
from .quiet import quieted
from .recipe import Layer, ModelSection, Recipe
from .resolve import usual_epochs
from .settings import GIVEN
from .setup import Setup, assemble, choose_device


def prepare(
    recipe: Recipe,
    data: Iterable[Any] | Mapping[str, Iterable[Any]],
    model: Any,
    asked: Layer | None = None,
) -> Setup:
    """Make a run from a caller's module and batches.

    The task follows from the targets: floating point is regression, whole numbers are classification,
    or language where the model gives outputs for each position.

    Args:
        recipe: validated.
        data: the training batches, or iterables by part ("train", "validation", "test").
        model: an `nn.Module`.
        asked: what the person chose themselves.

    Raises:
        DataError: the batches cannot be used.
        ModelError: `model` is no module, or its output does not fit the targets.
        RecipeError: the person asked for augmentation.
    """
    if asked and asked.get("augment"):
        raise RecipeError(
            [
                "augment: batches from Python are trained on as they come; leave it out, and change images "
                "where the batches are made, for example by ravine.generalize.augment"
            ]
        )
    if recipe.transfer.source:
        raise RecipeError(
            ["transfer.source: batches from Python come with a network: prepare it by ravine.transfer"]
        )
    if not isinstance(model, nn.Module):
        raise ModelError(
            "batches from Python need a torch.nn.Module as the model; a name needs a data set to read"
        )
    parts = dict(data) if isinstance(data, Mapping) else {"train": data}
    names = get_args(PartName)
    if "train" not in parts or not set(parts) <= set(names):
        raise DataError(f"data has the parts {sorted(parts)}; it must have 'train', and may have {names[1:]}")
    with addressed(recipe.seed, "given"):
        batches = {
            cast(PartName, part): GivenBatches(given, f"the {part} batches", recipe.seed)
            for part, given in parts.items()
        }
    device = choose_device(recipe.device)
    model.to(device)
    outputs, targets = _tried(model, batches["train"], device)
    task = _task(outputs, targets)
    items = {part: given.items for part, given in batches.items()}
    # As many items as fill the batches: a step of a full-batch optimizer takes all of them.
    recipe = quieted(recipe, asked or {}, GIVEN, len(targets), len(targets) * len(batches["train"]))
    epochs = recipe.stop.epochs
    if epochs == "auto":
        epochs = usual_epochs(items["train"], recipe.stop.effort)
    recipe = recipe.model_copy(
        update={
            "model": ModelSection(name=GIVEN),
            "augment": (),
            "stop": recipe.stop.model_copy(update={"epochs": epochs}),
            "data": recipe.data.model_copy(update={"batch_size": len(targets)}),
        }
    )
    if task != "regression":
        for given in batches.values():
            given.classes = outputs.shape[-1]
    feeds = {part: Feed(given, device) for part, given in batches.items()}
    sample = batches["train"].first[0][:1].to(device)
    averaged.refuse(recipe, model, "image" if sample.dim() == 4 else "array", sample)
    setup = assemble(recipe, task, device, model, feeds, objective(task, recipe.loss, None, device))
    setup.facts = {
        "data": "batches from Python",
        "kind": "array",
        "task": task,
        "classes": [] if task == "regression" else [str(number) for number in range(outputs.shape[-1])],
        "items": items,
    }
    return setup


def _tried(model: nn.Module, batches: GivenBatches, device: torch.device) -> tuple[Tensor, Tensor]:
    """The model's outputs for the first batch, and its targets."""
    inputs, targets = batches.first
    try:
        with evaluating(model), torch.no_grad():
            outputs = model(inputs.to(device))
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise ModelError(f"the model fails on inputs of shape {tuple(inputs.shape)}: {error}") from error
    if not isinstance(outputs, Tensor):
        raise ModelError(f"the model gives a {type(outputs).__name__}; it must give one tensor")
    return outputs, targets


def _task(outputs: Tensor, targets: Tensor) -> Task:
    if targets.is_floating_point():
        if outputs.numel() != targets.numel():
            raise ModelError(
                f"the model gives {tuple(outputs.shape)} where the targets are {tuple(targets.shape)}"
            )
        return "regression"
    task: Task = "classification" if outputs.dim() == 2 else "language"
    if outputs.shape[:-1] != targets.shape or targets.min() < 0 or targets.max() >= outputs.shape[-1]:
        raise ModelError(
            f"the model gives {tuple(outputs.shape)}, which does not fit class numbers of shape "
            f"{tuple(targets.shape)} up to {int(targets.max())}: it must give one logit a class for each"
        )
    return task
