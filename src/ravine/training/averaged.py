"""A network whose noise or views are averaged out, as `[predict]` chooses: a module like any other."""

import torch
from torch import Tensor, nn

from ..errors import RecipeError
from ..generalize.average_out import Over, average_out
from ..generalize.noise.foreign import has_noise
from ..generalize.views import TenCrop, View, flip, log_mean, pieces_seen, same
from .data.dataset import Kind, Task
from .recipe import Recipe

VIEWS: dict[str, tuple[View, ...]] = {"flip": (same, flip), "ten-crop": (TenCrop(),)}


def for_prediction(model: nn.Module, recipe: Recipe, task: Task) -> nn.Module:
    """The network as it is to predict: itself, where its closed form is chosen."""
    how = recipe.predict.average
    if how == "expectation":
        return model
    if how == "samples":
        return OverSamples(model, recipe.predict.samples, recipe.seed, task)
    return OverViews(model, how, task)


def refuse(recipe: Recipe, model: nn.Module, kind: Kind, sample: Tensor) -> None:
    """Refuse a way of averaging that has nothing to average.

    Args:
        recipe: every value concrete.
        model: the network.
        kind: of the data.
        sample: an item or more as the network takes them, (N, ...), on its device.

    Raises:
        RecipeError: views of what is no image, or samples of a network without noise.
    """
    how = recipe.predict.average
    if how in VIEWS and kind != "image":
        raise RecipeError([f"predict.average = {how!r}: views are of images, and these data are a {kind}"])
    asked = any(recipe.regularize.noise.values())
    if how == "samples" and not asked and not has_noise(model, sample):
        raise RecipeError(
            [
                "predict.average = 'samples': the network has no noise; set regularize.dropout or "
                "model.dropout, or use torch.nn.Dropout in its code"
            ]
        )


class OverViews(nn.Module):
    """A network's mean prediction over views of each image: logits of the mean probabilities, or values."""

    def __init__(self, model: nn.Module, how: str, task: Task) -> None:
        super().__init__()
        self.model, self.how, self.task = model, how, task

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, outputs)."""
        return torch.cat([self._mean(seen) for seen in pieces_seen(x, VIEWS[self.how])])

    def _mean(self, seen: list[Tensor]) -> Tensor:
        answers = self.model(torch.cat(seen)).unflatten(0, (len(seen), -1))
        mean: Tensor = answers.mean(0) if self.task == "regression" else log_mean(answers, 1)
        return mean


class OverSamples(nn.Module):
    """A network's mean prediction over draws of its noise: logits of the mean probabilities, or values.

    The draws are the same at every call, and for all items: an item gets the same answer in any company, but
    where `average_out` says otherwise.
    """

    def __init__(self, model: nn.Module, samples: int, seed: int, task: Task) -> None:
        super().__init__()
        self.model, self.samples, self.seed, self.task = model, samples, seed, task

    def forward(self, x: Tensor) -> Tensor:
        """What the model takes, to what it gives."""
        over: Over = "outputs" if self.task == "regression" else "probabilities"
        axis = -1 if self.task == "language" else 1
        found = average_out(self.model, x, "samples", self.samples, over=over, axis=axis, seed=self.seed)
        if self.task == "regression":
            return found.mean
        # A probability below what the type can hold counts as the least that it can.
        return found.mean.clamp_min(torch.finfo(found.mean.dtype).tiny).log()
