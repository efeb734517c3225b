import itertools
import threading
import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ravine.errors import DataError
from ravine.training.data import batches as module
from ravine.training.data.batches import Batches, StreamBatches, TensorBatches, TextBatches, batch_ends
from ravine.training.data.dataset import Dataset


class CountingItems:
    """Items on demand that count how many fetches are running or done."""

    def __init__(self, count: int) -> None:
        self.shape = (count, 1, 2, 2)
        self.fetched = 0
        self.lock = threading.Lock()
        self.fail_at = -1

    def fetch(self, positions: torch.Tensor) -> torch.Tensor:
        with self.lock:
            self.fetched += 1
        if self.fail_at in positions.tolist():
            raise DataError("item is broken")
        return positions.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).clone()


def streamed(count: int) -> Dataset:
    return Dataset(
        name="stream",
        kind="image",
        task="classification",
        inputs=CountingItems(count),
        targets=torch.arange(count),
        parts={"train": torch.arange(count)},
        classes=("a",) * count,
    )


def made(kind: str, shuffle: bool, count: int = 37, size: int = 5, seed: int = 1) -> Batches:
    if kind == "tensor":
        items = torch.arange(count)
        return TensorBatches(items.float()[:, None], items, size, seed=seed, shuffle=shuffle)
    if kind == "stream":
        return StreamBatches(
            streamed(count), torch.arange(count), size, seed=seed, shuffle=shuffle, workers=2
        )
    return TextBatches(torch.arange(count * 4 + 7), 4, size, seed=seed, shuffle=shuffle)


def seen(batches: Batches, epoch: int, start: int = 0) -> list[tuple[list, list]]:
    return [(inputs.tolist(), targets.tolist()) for inputs, targets in batches.epoch(epoch, start)]


KINDS = ["tensor", "stream", "text"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("small", [0, 2**30])
def test_any_start_gives_the_rest_of_the_same_epoch(kind, shuffle, small, monkeypatch):
    monkeypatch.setattr(module, "SMALL_BYTES", small)
    batches = made(kind, shuffle)
    whole = seen(batches, 3)
    assert len(whole) == len(batches)
    for start in range(len(batches) + 1):
        assert seen(batches, 3, start) == whole[start:]


@pytest.mark.parametrize("kind", KINDS)
def test_training_orders_differ_by_epoch_and_are_addressed(kind):
    batches = made(kind, True)
    assert seen(batches, 0) != seen(batches, 1)
    assert seen(batches, 0) == seen(made(kind, True), 0)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_of_another_seed_are_those_made_with_it(kind):
    first = made(kind, True)
    before, other = seen(first, 2), first.reseeded(9)
    assert seen(other, 2) == seen(made(kind, True, seed=9), 2) != before
    assert seen(first, 2) == before


@pytest.mark.parametrize("kind", ["tensor", "stream"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_is_every_item_once_with_its_own_answer(kind, shuffle):
    batches = made(kind, shuffle)
    targets = []
    for inputs, answers in batches.epoch(0):
        assert inputs.flatten(1)[:, 0].long().tolist() == answers.tolist()
        targets += answers.tolist()
    assert sorted(targets) == list(range(37))
    assert (targets == sorted(targets)) is not shuffle


def test_both_ways_of_gathering_give_the_same_batches(monkeypatch):
    batches = made("tensor", True)
    monkeypatch.setattr(module, "SMALL_BYTES", 0)
    gathered = seen(batches, 2)
    monkeypatch.setattr(module, "SMALL_BYTES", 2**30)
    assert seen(batches, 2) == gathered


def test_streaming_gives_the_order_of_memory():
    assert [targets for _, targets in seen(made("stream", True), 4)] == [
        targets for _, targets in seen(made("tensor", True), 4)
    ]


@given(items=st.integers(0, 60), size=st.integers(1, 12), shuffle=st.booleans())
def test_sizes_of_batches(items, size, shuffle):
    ends = batch_ends(items, size, shuffle)
    sizes = [end - begin for begin, end in zip([0, *ends], ends, strict=False)]
    assert all(count == size for count in sizes[:-1])
    assert sum(sizes) == items
    if shuffle and size > 1 and items > 1:
        assert 1 not in sizes


def test_a_batch_size_below_one_is_refused():
    with pytest.raises(DataError, match="at least 1, not 0"):
        batch_ends(10, 0, True)


def test_few_batches_are_in_flight_and_none_after_leaving():
    data = streamed(400)
    batches = StreamBatches(data, torch.arange(400), 4, shuffle=False, workers=2)
    iterator = batches.epoch(0)
    next(iterator)
    time.sleep(0.05)
    assert data.inputs.fetched <= 4
    iterator.close()
    after = data.inputs.fetched
    time.sleep(0.05)
    assert data.inputs.fetched == after
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ravine-decode")]


def test_batches_before_the_start_are_not_decoded():
    data = streamed(100)
    assert len(list(StreamBatches(data, torch.arange(100), 10, workers=2).epoch(0, 8))) == 2
    assert data.inputs.fetched == 2


def test_an_error_while_decoding_reaches_the_loop():
    data = streamed(40)
    data.inputs.fail_at = 17
    with pytest.raises(DataError, match="item is broken"):
        list(StreamBatches(data, torch.arange(40), 4, shuffle=False, workers=2).epoch(0))


def test_sets_in_memory_can_be_streamed_by_position():
    data = replace(streamed(9), inputs=torch.arange(9)[:, None])
    batches = StreamBatches(data, torch.tensor([8, 2, 5]), 2, shuffle=False, workers=1)
    assert seen(batches, 0) == [([[8], [2]], [8, 2]), ([[5]], [5])]


@pytest.mark.parametrize("length", [5, 8, 9, 12, 13, 100])
@pytest.mark.parametrize("epoch", range(4))
def test_windows_are_stretches_of_text_and_targets_what_follows(length, epoch):
    batches = TextBatches(torch.arange(length), 4, 3, seed=0)
    starts = []
    for inputs, targets in batches.epoch(epoch):
        assert inputs.shape[1] == 4
        assert torch.equal(targets, inputs + 1)
        assert torch.equal(inputs, inputs[:, :1] + torch.arange(4))
        starts += inputs[:, 0].tolist()
    assert len(starts) == max(1, (length - 4) // 4)
    starts.sort()
    assert all(later - earlier == 4 for earlier, later in itertools.pairwise(starts))
    assert starts[-1] + 4 <= length - 1


def test_offsets_vary_over_the_whole_context():
    batches = TextBatches(torch.arange(100), 4, 50, seed=0)
    offsets = {min(inputs.min().item() for inputs, _ in batches.epoch(epoch)) for epoch in range(60)}
    assert offsets == {0, 1, 2, 3}


@pytest.mark.parametrize("length", [2, 5, 6, 9, 100])
def test_evaluation_predicts_every_token_but_the_first_once_in_order(length):
    batches = TextBatches(torch.arange(length), 4, 3, shuffle=False)
    found = list(batches.epoch(0))
    assert len(found) == len(batches)
    assert [t for _, targets in found for t in targets.flatten().tolist()] == list(range(1, length))
    assert all(torch.equal(targets, inputs + 1) for inputs, targets in found)


def test_a_text_shorter_than_the_context_is_refused():
    with pytest.raises(DataError, match="4 characters is too short for a context of 4"):
        TextBatches(torch.arange(4), 4, 2)
    with pytest.raises(DataError, match="too short"):
        TextBatches(torch.arange(1), 4, 2, shuffle=False)
