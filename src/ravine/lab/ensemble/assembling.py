"""From run folders to an ensemble's: all of them, the best together, or one network of mean weights."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...training.run_folder import RunFolder
from .answers import Answers, answers_of
from .cooking import cook
from .fitting import refuse_without_validation
from .members import Pool, open_pool
from .selection import weights_by_validation
from .writing import write


def assemble(
    members: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    how: str = "runs",
    weights: Sequence[float] | None = None,
    names: Sequence[str] | None = None,
    seconds: float | None = None,
    trust: bool = False,
) -> Path:
    """Put finished runs together: their mean prediction, scored on the items that none was trained on.

    The members are copied, so that the ensemble's folder can be moved as one; it appears whole or not at all.

    Args:
        members: run folders, two or more, on the same data and with the same test part.
        out: the folder to make; by default `runs/DATA-ensemble-DATE-TIME`.
        how: where the members come from, for the record.
        weights: what each counts, above 0; by default all the same.
        names: what to call them; by default by what differs between their recipes.
        seconds: how long all the training took; by default as long as the members' own together.
        trust: a run's recipe may name the network by `module:name`, which runs that code.

    Returns:
        the ensemble's folder.

    Raises:
        RunError: the runs do not fit together (`members.open_pool`), `out` exists or cannot be written.
        TrustError: a network is code that is not trusted.
        ValueError: weights are not positive, or not one a member.
    """
    _refuse_existing(out)
    pool = open_pool(members, names=names, trust=trust)
    given = torch.tensor(weights or [1.0] * len(members))
    if len(given) != len(pool.members) or not bool((given > 0).all()):
        raise ValueError(f"Invalid weights: {weights!r}; one above 0 for each of {len(members)} members")
    return _averaged(pool, out, how, given / given.sum(), seconds)


def assemble_selected(
    pool: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    names: Sequence[str] | None = None,
    trust: bool = False,
) -> Path:
    """As `assemble`, of those runs of a pool that predict the validation part best together (`selection`).

    Raises:
        RunError: as `assemble`; or the runs have no validation part in common besides the scored one.
    """
    _refuse_existing(out)
    opened = open_pool(pool, names=names, trust=trust)
    refuse_without_validation(opened.steering, "runs are selected by how well they predict")
    equal = torch.full((len(pool),), 1 / len(pool))
    weights = weights_by_validation(answers_of(opened, "validation", equal))
    return _averaged(opened, out, "selected", weights.float(), None)


def assemble_soup(
    members: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    how: str = "soup",
    names: Sequence[str] | None = None,
    seconds: float | None = None,
    trust: bool = False,
) -> Path:
    """One network with the mean weights of runs of one architecture (`soups`), as an ensemble of that one.

    A "soup" takes those that make it no worse on the validation part, an "average" all of them.

    Raises:
        RunError: as `assemble_selected`; the data are not there any more, or were prepared differently.
        ModelError: the networks' shapes differ.
    """
    _refuse_existing(out)
    pool = open_pool(members, names=names, trust=trust)
    made = cook(pool, everything=how == "average", trust=trust)
    found = {}
    for part, outputs in made.outputs.items():
        alone = answers_of(pool, part, torch.full((len(members),), 1 / len(members)))
        found[part] = Answers(pool.task, outputs, alone.members, alone.guesses)
    return write(pool, out, how, made.shares, found, made=made, seconds=seconds)


def _refuse_existing(out: str | Path | None) -> None:
    if out is not None:
        RunFolder.refuse_existing(Path(out))


def _averaged(pool: Pool, out: str | Path | None, how: str, shares: Tensor, seconds: float | None) -> Path:
    found = {part: answers_of(pool, part, shares) for part in pool.parts}
    return write(pool, out, how, shares, found, seconds=seconds)
