"""From batches of raw items to what the model takes: on its device, augmented, preprocessed."""

import copy
from collections.abc import Iterable, Iterator, Sized
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..errors import DataError
from ..generalize.augment import Compose, Draws
from ..randomness import address_seed
from .augment import Mix
from .data.batches import Batch as Batch
from .data.batches import Batches, NumberedBatches, TensorBatches


class Feed:
    """Batches made ready for the model.

    Args:
        batches: what to draw from.
        device: where the model is.
        preprocessing: from raw items to model inputs; None where the batches hold model inputs already.
        augment: changes raw images; None leaves them as they are.
        seed: addresses what it draws, together with each item's number and the epoch.
        mix: mixes the images of a batch afterwards, and their targets; None leaves them as they are.
    """

    def __init__(
        self,
        batches: Batches,
        device: torch.device,
        preprocessing: nn.Module | None = None,
        augment: Compose | None = None,
        seed: int = 0,
        mix: Mix | None = None,
    ) -> None:
        self.batches = batches
        self.device = device
        self.preprocessing = preprocessing
        self.augment = augment
        self.seed = seed
        self.mix = mix

    def __len__(self) -> int:
        return len(self.batches)

    def reseeded(self, seed: int) -> "Feed":
        """The same items, shared, in the order and with the changes of another seed."""
        made = copy.copy(self)
        made.batches, made.seed = self.batches.reseeded(seed), seed
        return made

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch after the first `start`, ready for the model."""
        if self.preprocessing is None and not self.augments and self.device.type == "cpu":
            return self.batches.epoch(epoch, start)  # nothing to do: no cost a batch either
        return self._ready(epoch, start)

    def _ready(self, epoch: int, start: int) -> Iterator[Batch]:
        numbers: Iterator[Tensor] = iter(())
        if self.augments:
            assert isinstance(self.batches, NumberedBatches)
            numbers = self.batches.item_numbers(epoch, start)
        for inputs, targets in self.batches.epoch(epoch, start):
            inputs = inputs.to(self.device, non_blocking=True)
            targets = targets.to(self.device, non_blocking=True)
            if self.augments:
                inputs, targets = self.augmented(inputs, targets, epoch, next(numbers).to(self.device))
            if self.preprocessing is not None:
                inputs = self.preprocessing(inputs)
            yield inputs, targets

    @property
    def shelf(self) -> TensorBatches | None:
        """The batches, where they are plain selections from tensors that are ready for the model."""
        batches = self.batches
        if self.preprocessing is not None or self.augments or not isinstance(batches, TensorBatches):
            return None
        return batches if batches.inputs.device == self.device else None

    @property
    def augments(self) -> bool:
        """Whether items are changed at random."""
        return self.augment is not None or self.mix is not None

    def augmented(self, inputs: Tensor, targets: Tensor, epoch: int, numbers: Tensor) -> Batch:
        """Raw items as an epoch changes them, still in 0..255, and their targets: shares, where mixed.

        Args:
            inputs: raw items (N, ...).
            targets: of these items.
            epoch: from 0.
            numbers: of the items, int64 (N,).
        """
        raw, draws = inputs.dtype, Draws(self.seed, epoch, numbers)
        if self.augment is not None:
            inputs = self.augment(inputs, draws)
        if self.mix is not None:
            inputs, targets = self.mix(inputs, targets, draws)
        if inputs.dtype != raw:  # changed in [0, 1], and prepared from 0..255
            inputs = inputs.mul_(255.0)
        return inputs, targets


class GivenBatches:
    """A caller's own iterable of (inputs, targets) batches, such as a DataLoader.

    Its order is its own; what it draws from torch's global random stream is addressed, by epoch.
    """

    def __init__(self, batches: Iterable[Any], name: str, seed: int) -> None:
        """`name`: what to call it in messages, for example "the training batches".

        `seed` addresses the global random stream at the beginning of each pass: a DataLoader that shuffles
        draws its order from it, so a resumed run sees the same batches.

        Raises:
            DataError: it can be iterated only once, is empty, or does not give pairs of tensors.
        """
        if iter(batches) is batches:
            raise DataError(
                f"{name} can be iterated only once; give a list, a DataLoader or a class with __iter__"
            )
        self.given = batches
        self.name = name
        self.seed = seed
        self.classes = 0
        first = next(self.epoch(0), None)
        if first is None:
            raise DataError(f"{name} are empty")
        self.first = first
        try:
            self._length = len(batches)  # type: ignore[arg-type]
        except TypeError:  # it has no length, or is a DataLoader over a data set that has none
            self._length = sum(1 for _ in batches)

    def __len__(self) -> int:
        return self._length

    def reseeded(self, seed: int) -> Self:
        """The same batches; what they draw from the global random stream is addressed by another seed."""
        made = copy.copy(self)
        made.seed = seed
        return made

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """One pass; the first `start` batches are drawn and left out.

        Raises:
            DataError: a batch is no pair of tensors, or has a class number out of range.
        """
        torch.default_generator.manual_seed(address_seed(self.seed, "order", epoch))
        for index, batch in enumerate(self.given):
            if not (isinstance(batch, tuple | list) and len(batch) == 2):
                raise DataError(
                    f"{self.name} must give pairs (inputs, targets); batch {index} is {type(batch)}"
                )
            if not all(isinstance(part, Tensor) for part in batch):
                kinds = " and ".join(type(part).__name__ for part in batch)
                raise DataError(f"{self.name} must give tensors; batch {index} holds {kinds}")
            if index >= start:
                self._check(index, batch[1])
                yield batch[0], batch[1]

    def _check(self, index: int, targets: Tensor) -> None:
        """Refuse class numbers that a model of `classes` outputs (0: not known, or none) cannot give."""
        if (
            self.classes
            and targets.numel()
            and not 0 <= int(targets.min()) <= int(targets.max()) < self.classes
        ):
            raise DataError(
                f"{self.name}: batch {index} has class numbers from {int(targets.min())} to "
                f"{int(targets.max())}, and the model gives {self.classes} outputs"
            )

    @property
    def items(self) -> int:
        """How many items a pass has, as far as that is known without a pass: else batches times the first."""
        dataset = getattr(self.given, "dataset", None)
        if isinstance(self.given, list | tuple):
            return sum(len(targets) for _, targets in self.given)
        return len(dataset) if isinstance(dataset, Sized) else self._length * len(self.first[1])
