"""A soup of runs: which of them go in, the averaged network, and its answers."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import RunError
from ...generalize.noise.batch_norm import reestimate
from ...training import metrics
from ...training.averaged import for_prediction
from ...training.data.dataset import PartName
from ...training.evaluate import Outputs, outputs_over
from ...training.load import load
from ...training.preprocessing import RECORD, TENSORS
from .data import feeds_of
from .fitting import refuse_without_validation
from .members import Opened, Pool
from .ranking import Rank, rank
from .soups import greedy, soup


@dataclass(frozen=True)
class Cooked:
    """An averaged network.

    Attributes:
        weights: its state dict.
        shares: (K,), of each member: 1 over the number of those taken, or 0.
        outputs: by part: the one that is scored, and the validation part besides.
    """

    weights: dict[str, Tensor]
    shares: Tensor
    outputs: dict[PartName, Outputs]


def cook(pool: Pool, *, everything: bool = False, trust: bool = False) -> Cooked:
    """Average the runs that do not make it worse on the validation part, from the best one on.

    Each soup's statistics of batch normalization are taken anew over one epoch of the training part.

    Args:
        pool: of one architecture, prepared alike.
        everything: average all of them, whatever comes of it.
        trust: as for `open_pool`.

    Raises:
        RunError: something is to be chosen, and there is no validation part that none was trained on; the
            data are not there any more; the preprocessings differ.
        ModelError: the networks' shapes differ.
    """
    if not everything:
        refuse_without_validation(pool.steering, "a soup takes what makes it no worse on")
    first = pool.members[0]
    for other in pool.members[1:]:
        _refuse_prepared_otherwise(first, other)
    states = [member.folder.read_tensors("model.safetensors") for member in pool.members]
    soup(states)  # refuses different shapes before the data are read
    feeds = feeds_of(first)
    model = load(first.folder.path, trust=trust)
    judge = for_prediction(model, first.recipe, pool.task).eval()

    def taste(taken: Sequence[int], part: PartName = "validation") -> Outputs:
        model.load_state_dict(soup([states[number] for number in taken]))
        if len(taken) > 1:  # one alone has its own statistics
            reestimate(model, (inputs for inputs, _ in feeds["train"].epoch(0)))
        return outputs_over(judge, feeds[part], pool.task)

    def ranked(taken: Sequence[int]) -> Rank:
        outputs = taste(taken)
        return rank(pool.task, metrics.evaluate_outputs(pool.task, outputs.outputs, outputs.targets))

    taken = list(range(len(states))) if everything else greedy(ranked, len(states))
    outputs = {part: taste(taken, part) for part in pool.parts}
    shares = torch.zeros(len(states))
    shares[taken] = 1 / len(taken)
    return Cooked(copy.deepcopy(model.state_dict()), shares, outputs)


def _refuse_prepared_otherwise(first: Opened, other: Opened) -> None:
    """Averaged weights are those of one network, which sees inputs prepared in one way."""
    for name in (RECORD, TENSORS):
        mine, its = (member.folder.path / name for member in (first, other))
        if mine.is_file() != its.is_file() or (mine.is_file() and mine.read_bytes() != its.read_bytes()):
            raise RunError(
                f"{first.folder.path} and {other.folder.path} prepare their inputs differently ({name}): "
                "their weights mean different things, and have no mean. An ensemble takes both as they are"
            )
