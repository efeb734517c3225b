"""Several trained networks as one (T15): the mean of their probabilities or values, from raw items.

An ensemble is a folder: `ensemble.json` says which members it has and what each weighs, and `members/` holds
them, run folders of their own. Each member is whole, with its own preprocessing, so that networks of
different kinds on differently prepared inputs go together.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from ..errors import RunError
from .data.dataset import Task
from .predict import Predictor
from .preprocessing import Preprocessing
from .run_folder import ENSEMBLE


@dataclass(frozen=True)
class Member:
    """A member of an ensemble: its folder, seen from the ensemble's; its name; its share of the mean."""

    folder: str
    name: str
    weight: float


@dataclass(frozen=True)
class Record:
    """The content of `ensemble.json`.

    Attributes:
        how: where the members come from, for example "runs".
        members: with weights that sum to 1.
        temperature: what the logarithms of the mean probabilities are to be divided by for confidences that
            can be trusted, as the validation part has it; None where it could not be fitted. Predictions are
            the plain mean and leave it to the reader: it changes no first guess.
    """

    how: str
    members: tuple[Member, ...]
    temperature: float | None


def is_ensemble(folder: Path) -> bool:
    """Whether a folder holds an ensemble."""
    return (folder / ENSEMBLE).is_file()


def read_record(folder: Path) -> Record:
    """What an ensemble consists of.

    Raises:
        RunError: `ensemble.json` is missing or damaged.
    """
    path = folder / ENSEMBLE
    try:
        told = json.loads(path.read_text())
        members = tuple(
            Member(str(each["folder"]), str(each["name"]), float(each["weight"])) for each in told["members"]
        )
        record = Record(str(told["how"]), members, told["temperature"])
        if not members or not min(member.weight for member in members) > 0:
            raise ValueError("it names no members, or their weights are not positive")
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged ({type(error).__name__}: {error})") from error
    return record


def combine(task: Task, outputs: Tensor, weights: Tensor) -> Tensor:
    """The outputs of all members together.

    Args:
        task: decides what is averaged.
        outputs: (K, ..., classes) logits, or for regression (K, ...) values.
        weights: (K,), positive, which sum to 1.

    Returns:
        Logarithms of the weighted mean probabilities (..., classes), whose softmax is that mean; or the
        weighted mean value (...).
    """
    shares = weights.to(outputs.dtype).reshape(-1, *[1] * (outputs.dim() - 1))
    if task == "regression":
        return (outputs * shares).sum(0)
    return (outputs.log_softmax(-1) + shares.log()).logsumexp(0)


class MeanOfMembers(nn.Module):
    """Raw items to the members' outputs together: logarithms of mean probabilities, or mean values."""

    weights: Tensor

    def __init__(self, members: Sequence[Predictor], weights: Sequence[float], task: Task) -> None:
        """`members` take raw items of one kind; `weights` are positive and sum to 1."""
        super().__init__()
        self.members = nn.ModuleList(members)
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float32))
        self.task = task

    def forward(self, raw: Tensor) -> Tensor:
        """(N, ...) to (N, classes); regression to (N,); language, (N, T), to (N, T, vocabulary)."""
        answers = [outputs_of(cast(Predictor, member), raw) for member in self.members]
        return combine(self.task, torch.stack(answers), self.weights)


def outputs_of(member: Predictor, raw: Tensor) -> Tensor:
    """What `combine` takes of one member: logits, or values in the target's own units."""
    if member.task == "regression":
        return cast(Tensor, member(raw))
    return cast(Tensor, member.model(member.preprocessing(raw))).float()


def together(members: Sequence[Predictor], weights: Sequence[float]) -> Predictor:
    """An ensemble as a predictor like any other: it is predicted with and exported as one network is.

    Args:
        members: of runs on the same data.
        weights: positive, one a member; they need not sum to 1.
    """
    whole = sum(weights)
    spec, task = members[0].preprocessing.spec, members[0].task
    model = MeanOfMembers(members, [weight / whole for weight in weights], task)
    # Members prepare the items themselves.
    return Predictor(Preprocessing(spec, "none", []), model, task).eval()


def fitted_preprocessing(predictor: Predictor) -> Preprocessing:
    """The preprocessing that knows how raw items are spread: the predictor's own, or its first member's."""
    if isinstance(predictor.model, MeanOfMembers):
        return fitted_preprocessing(cast(Predictor, predictor.model.members[0]))
    return predictor.preprocessing
