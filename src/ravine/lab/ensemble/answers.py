"""What members gave for the items of one part, each alone and all together."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ...errors import RunError
from ...training.data.dataset import PartName, Task
from ...training.ensemble import combine
from ...training.evaluate import Outputs
from .data import feeds_of
from .members import Opened, Pool


@dataclass(frozen=True)
class Answers:
    """Outputs over one part.

    Attributes:
        task: decides what they are.
        together: of the ensemble, or of a soup.
        members: of each member, for the same items.
        guesses: the members' first guesses (K, N), where their outputs do not tell them: of language.
    """

    task: Task
    together: Outputs
    members: Sequence[Outputs]
    guesses: Tensor | None = None

    @property
    def averaged(self) -> Tensor:
        """What the ensemble averages, members first, in float64.

        Probabilities (K, N, classes); values (K, N); of language the probabilities of the true characters.
        """
        outputs = torch.stack([member.outputs for member in self.members]).double()
        if self.task == "classification":
            return outputs.softmax(-1)
        return (
            outputs
            if self.task == "regression"
            else (-outputs[~outputs.isnan()]).exp().view(len(outputs), -1)
        )


def combined(task: Task, outputs: Tensor, targets: Tensor, weights: Tensor) -> Answers:
    """Of logits (K, N, classes) or values (K, N) and their targets (N,); `weights` (K,) may be 0."""
    chosen = weights > 0
    together = combine(task, outputs[chosen], weights[chosen])
    return Answers(task, Outputs(together, targets), [Outputs(member, targets) for member in outputs])


def answers_of(pool: Pool, part: PartName, weights: Tensor) -> Answers:
    """What the members of a pool gave for one part, in their final scores; language is run once more.

    Regression's values are standardised by the pool's `target_scale`.

    Args:
        pool: with the same items in this part.
        part: which.
        weights: (K,), at least 0, which sum to 1.

    Raises:
        RunError: a member kept no predictions, or other ones; the data of a language are not there any more.
    """
    if pool.task == "language":
        return _read_text(pool, part, weights)
    kept = [_kept(member, part) for member in pool.members]
    outputs, targets = torch.stack([given for given, _ in kept]), kept[0][1]
    for member, (_, wanted) in zip(pool.members, kept, strict=True):
        if not torch.equal(wanted, targets):
            raise RunError(f"{member.folder.path} kept predictions of other items than its splits.json names")
    if pool.task == "regression":  # they are kept in the target's own units
        mean, deviation = pool.target_scale
        outputs, targets = ((values - mean) / deviation for values in (outputs, targets))
    return combined(pool.task, outputs, targets, weights)


def _kept(member: Opened, part: PartName) -> tuple[Tensor, Tensor]:
    tensors = member.folder.read_tensors("predictions.safetensors")
    try:
        return tensors[f"{part}.outputs"].float(), tensors[f"{part}.targets"]
    except KeyError:
        raise RunError(f"{member.folder.path} kept no predictions of its {part} part") from None


@torch.inference_mode()
def _read_text(pool: Pool, part: PartName, weights: Tensor) -> Answers:
    """Run all members over the windows of a text side by side."""
    chosen = weights > 0
    losses: list[Tensor] = []  # (K + 1, B, T), the ensemble's last
    right: list[Tensor] = []
    guesses: list[Tensor] = []
    for inputs, targets in feeds_of(pool.members[0])[part].epoch(0):
        logits = torch.stack([member.predictor.model(inputs).float() for member in pool.members])
        all_of_them = torch.cat((logits, combine("language", logits[chosen], weights[chosen]).unsqueeze(0)))
        first = all_of_them.argmax(-1)
        wanted = targets.expand_as(first)
        losses.append(functional.cross_entropy(all_of_them.movedim(-1, 1), wanted, reduction="none"))
        right.append((first == targets).float())
        guesses.append(first[:-1].flatten(1))
    *members, together = map(Outputs, _joined(losses), _joined(right))
    return Answers("language", together, members, torch.cat(guesses, dim=1))


def _joined(pieces: Sequence[Tensor]) -> Tensor:
    """Windows of all batches; shorter ones, at the end, are filled up with not-a-number."""
    length = pieces[0].shape[-1]
    return torch.cat(
        [functional.pad(piece, (0, length - piece.shape[-1]), value=torch.nan) for piece in pieces], dim=1
    )
