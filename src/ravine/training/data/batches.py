"""Batches: whole tensors in memory, images streamed from files, and windows of a text.

All three have the same face (`Batches`). The order of an epoch is one permutation, addressed by
(seed, "order", epoch): any batch of any epoch can be had without the ones before, which is how a run
resumes in the middle of an epoch.
"""

import copy
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from ...errors import DataError
from ...randomness import generator
from .dataset import Dataset

Batch = tuple[Tensor, Tensor]

# Below this an epoch's items are put in order by one copy, and a batch is a view: about a microsecond.
# Above it a copy a batch costs no more, stays in the cache, and the memory is not doubled.
SMALL_BYTES = 2 * 2**20


class Batches(Protocol):
    """What a training loop takes its batches from."""

    def __len__(self) -> int:
        """Number of batches an epoch."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches (inputs, targets) of an epoch, without the first `start` of them."""

    def reseeded(self, seed: int) -> Self:
        """The same items, shared, in the order of another seed."""


@runtime_checkable
class NumberedBatches(Batches, Protocol):
    """Batches of items that keep their numbers, by which what is drawn for each is addressed."""

    def item_numbers(self, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """The numbers of the items of each batch, int64, without the first `start` batches."""


def batch_ends(items: int, batch_size: int, shuffle: bool) -> list[int]:
    """Where each batch ends in the order of an epoch.

    The last batch may be smaller. But training (`shuffle`) never ends with a batch of one item, on
    which batch normalisation fails: that item joins the batch before it, which is then one larger.
    Only a batch size of 1, or a set of one item, gives training batches of one.
    """
    if batch_size < 1:
        raise DataError(f"the batch size must be at least 1, not {batch_size}.")
    ends = list(range(batch_size, items + 1, batch_size))
    tail = items % batch_size
    if tail:
        if shuffle and tail == 1 and ends:
            ends.pop()
        ends.append(items)
    return ends


def epoch_order(seed: int, epoch: int, items: int) -> Tensor:
    """The order of an epoch: a permutation of `items` positions."""
    return torch.randperm(items, generator=generator(seed, "order", epoch))


class TensorBatches:
    """Batches of tensors in memory, on any device.

    Args:
        inputs: items first.
        targets: as many.
        batch_size: items a batch; for the last one see `batch_ends`.
        seed: addresses the order of each epoch.
        shuffle: a new order each epoch (training), or the given one (evaluation).
        numbers: of the items, int64; by default counted from 0.
    """

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        numbers: Tensor | None = None,
    ) -> None:
        self.numbers = torch.arange(len(inputs)) if numbers is None else numbers
        self.inputs = inputs
        self.targets = targets
        self.seed = seed
        self.shuffle = shuffle
        self._ends = batch_ends(len(inputs), batch_size, shuffle)

    def __len__(self) -> int:
        return len(self._ends)

    def reseeded(self, seed: int) -> Self:
        """The same items, shared, in the order of another seed."""
        made = copy.copy(self)
        made.seed = seed
        return made

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, without the first `start` of them."""
        if not self.shuffle:
            return self._views(self.inputs, self.targets, start)
        order = self.order(epoch).to(self.inputs.device)
        targets = self.targets.index_select(0, order)
        if self.inputs.nbytes <= SMALL_BYTES:
            return self._views(self.inputs.index_select(0, order), targets, start)
        return self._gathered(order, targets, start)

    def order(self, epoch: int) -> Tensor:
        """Where in `inputs` the items of an epoch are, one after the other."""
        items = len(self.inputs)
        return epoch_order(self.seed, epoch, items) if self.shuffle else torch.arange(items)

    def item_numbers(self, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """The numbers of the items of each batch."""
        return map(self.numbers.__getitem__, self.cut(self.order(epoch), start))

    def cut(self, items: Tensor, start: int = 0, dim: int = 0) -> Sequence[Tensor]:
        """Views of the batches from `start` on: of a tensor with an epoch's items in order along `dim`."""
        begins = [0, *self._ends]
        begin = begins[min(start, len(self._ends))]
        sizes = [end - own for own, end in zip(begins[start:], self._ends[start:], strict=False)]
        return items.narrow(dim, begin, sum(sizes)).split_with_sizes(sizes, dim)

    def _views(self, inputs: Tensor, targets: Tensor, start: int) -> Iterator[Batch]:
        return zip(self.cut(inputs, start), self.cut(targets, start), strict=True)

    def _gathered(self, order: Tensor, targets: Tensor, start: int) -> Iterator[Batch]:
        for chosen, answers in self._views(order, targets, start):
            yield self.inputs.index_select(0, chosen), answers


class StreamBatches:
    """Batches fetched from a data set that does not fit in memory, decoded ahead by threads.

    Threads do: Pillow releases the interpreter's lock while it decodes and resizes. At most
    `workers` + 1 batches are in flight, so memory is bounded.

    Args:
        dataset: where items are fetched from.
        positions: the items of an epoch (int64).
        batch_size: items a batch; for the last one see `batch_ends`.
        seed: addresses the order of each epoch.
        shuffle: a new order each epoch (training), or the given one (evaluation).
        workers: threads that decode; by default one a processor.
    """

    def __init__(
        self,
        dataset: Dataset,
        positions: Tensor,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        workers: int | None = None,
    ) -> None:
        self.dataset = dataset
        self.workers = workers or os.cpu_count() or 1
        self._positions = TensorBatches(positions, dataset.targets[positions], batch_size, seed, shuffle)

    def __len__(self) -> int:
        return len(self._positions)

    def reseeded(self, seed: int) -> Self:
        """The same files in the order of another seed."""
        made = copy.copy(self)
        made._positions = self._positions.reseeded(seed)
        return made

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, without the first `start` of them, which are not decoded."""
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="ravine-decode")
        flying: deque[tuple[Future[Tensor], Tensor]] = deque()
        try:
            for positions, targets in self._positions.epoch(epoch, start):
                flying.append((pool.submit(self.dataset.fetch, positions), targets))
                if len(flying) > self.workers:
                    yield _landed(flying)
            while flying:
                yield _landed(flying)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def item_numbers(self, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """The positions of the items of each batch."""
        return (positions for positions, _ in self._positions.epoch(epoch, start))


def _landed(flying: deque[tuple[Future[Tensor], Tensor]]) -> Batch:
    future, targets = flying.popleft()
    return future.result(), targets


class TextBatches:
    """Windows of a text: inputs (B, context) and the tokens that follow each (B, context).

    In training an epoch is all windows that lie end to end from a random offset, in random order; the
    same number every epoch. In evaluation the windows lie end to end from the first token, in order;
    what remains at the end is one shorter window in a batch of its own, so that every token but the
    first is predicted exactly once.

    Args:
        tokens: int64 (L,).
        context: tokens a window.
        batch_size: windows a batch.
        seed: addresses offset and order of each epoch.
        shuffle: training or evaluation.

    Raises:
        DataError: the text is too short for one window (in evaluation: for one prediction).
    """

    def __init__(
        self, tokens: Tensor, context: int, batch_size: int, seed: int = 0, shuffle: bool = True
    ) -> None:
        predicted = len(tokens) - 1
        if predicted < (context if shuffle else 1):
            raise DataError(
                f"a stretch of {len(tokens)} characters is too short for a context of {context}. Use a "
                f"longer text or a shorter context."
            )
        self.tokens = tokens
        self.context = context
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        # One context less than fits, in training: room for the offset.
        self._windows = max(1, (len(tokens) - context) // context) if shuffle else predicted // context
        self._rest = 0 if shuffle else predicted % context
        self._ends = batch_ends(self._windows, batch_size, shuffle)

    def __len__(self) -> int:
        return len(self._ends) + (1 if self._rest else 0)

    def reseeded(self, seed: int) -> Self:
        """The same text, cut and ordered by another seed."""
        made = copy.copy(self)
        made.seed = seed
        return made

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, without the first `start` of them."""
        length = self._windows * self.context
        offset = 0
        if self.shuffle:
            room = min(self.context - 1, len(self.tokens) - 1 - length)
            offset = int(torch.randint(room + 1, (), generator=generator(self.seed, "offset", epoch)))
        inputs = self.tokens.narrow(0, offset, length).view(self._windows, self.context)
        targets = self.tokens.narrow(0, offset + 1, length).view(self._windows, self.context)
        windows = TensorBatches(inputs, targets, self.batch_size, self.seed, self.shuffle)
        yield from windows.epoch(epoch, start)
        if self._rest and start < len(self):
            yield self.tokens[None, length:-1], self.tokens[None, length + 1 :]
