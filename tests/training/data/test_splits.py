from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ravine.errors import DataError
from ravine.training.data import open_data
from ravine.training.data.dataset import Dataset
from ravine.training.data.splits import cut, ranges, to_json


def labelled(labels: list[int], parts=None, **more) -> Dataset:
    count = len(labels)
    return Dataset(
        name="made",
        kind="array",
        task="classification",
        inputs=torch.zeros(count, 1),
        targets=torch.tensor(labels),
        parts=parts or {"train": torch.arange(count)},
        classes=tuple(map(str, range(max(labels) + 1))),
        **more,
    )


def positions_of(text: str) -> torch.Tensor:
    """What `ranges` wrote, read back."""
    runs = [run.split("-") for run in text.split()]
    return torch.tensor([n for run in runs for n in range(int(run[0]), int(run[-1]) + 1)], dtype=torch.int64)


def text(length: int) -> Dataset:
    return Dataset(
        name="text",
        kind="text",
        task="language",
        inputs=torch.zeros(length, dtype=torch.int64),
        targets=torch.empty(0, dtype=torch.int64),
        parts={"train": torch.arange(length)},
        classes=("a", "b"),
    )


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 60), min_size=2, max_size=6),
    validation=st.sampled_from([0.1, 0.2, 0.3]),
    test=st.sampled_from([0.1, 0.25, 0.4]),
    seed=st.integers(0, 5),
)
def test_parts_are_disjoint_whole_and_stratified(counts, validation, test, seed):
    labels = [number for number, count in enumerate(counts) for _ in range(count)]
    if len(labels) < 20:
        return
    parts = cut(labelled(labels), validation=validation, test=test, seed=seed)
    together = torch.cat([parts.train, parts.validation, parts.test])
    assert sorted(together.tolist()) == list(range(len(labels)))
    for part, share in ((parts.validation, validation), (parts.test, test)):
        assert part.tolist() == sorted(part.tolist())
        by_class = Counter(labels[position] for position in part.tolist())
        for number, count in enumerate(counts):
            if count >= 4:
                assert abs(by_class[number] - share * count) < 2
            if count >= 3:
                assert by_class[number] >= 1
    remaining = Counter(labels[position] for position in parts.train.tolist())
    assert all(remaining[number] >= 1 for number in range(len(counts)))


def test_the_sizes_are_the_shares_of_the_whole():
    parts = cut(open_data("digits"), validation=0.1, test=0.2, seed=0)
    assert (len(parts.test), len(parts.validation), len(parts.train)) == (359, 180, 1258)


def test_the_cut_is_a_function_of_the_seed_and_really_random():
    data = open_data("digits")
    first, again, other = (cut(data, validation=0.1, test=0.2, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.test, again.test)
    assert torch.equal(first.validation, again.validation)
    assert not torch.equal(first.test, other.test)
    assert abs(float(first.test.double().mean()) - 898) < 80


def test_the_test_part_does_not_move_with_the_validation_share():
    data = open_data("digits")
    assert torch.equal(
        cut(data, validation=0.1, test=0.2, seed=0).test, cut(data, validation=0.3, test=0.2, seed=0).test
    )


def test_given_parts_are_taken_as_they_are():
    given = {"train": torch.arange(30), "test": torch.arange(30, 40)}
    parts = cut(labelled([0, 1] * 20, given), validation=0.2, test=0.5, seed=0)
    assert parts.given_test
    assert parts.test.tolist() == list(range(30, 40))
    assert len(parts.validation) == 6
    assert set(parts.validation.tolist()) <= set(range(30))
    given["validation"] = torch.arange(40, 50)
    parts = cut(labelled([0, 1] * 25, given), validation=0.2, test=0.5, seed=0)
    assert parts.validation.tolist() == list(range(40, 50))
    assert parts.train.tolist() == list(range(30))
    del given["test"]
    parts = cut(labelled([0, 1] * 25, given), validation=0.2, test=0.5, seed=0)
    assert not parts.given_test
    assert len(parts.test) == 15
    assert set(parts.test.tolist()) <= set(range(30))


def test_only_the_shares_that_are_cut_here_count():
    given = {"train": torch.arange(30), "test": torch.arange(30, 40)}
    parts = cut(labelled([0, 1] * 20, given), validation=0.5, test=0.5, seed=0)
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (15, 15, 10)
    with pytest.raises(DataError, match="together less than 1"):
        cut(labelled([0, 1] * 20, given), validation=1.0, test=0.1, seed=0)


def test_regressions_are_cut_at_random():
    parts = cut(open_data("diabetes"), validation=0.1, test=0.2, seed=0)
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (310, 44, 88)
    assert parts.test.tolist() == sorted(parts.test.tolist())


def test_text_is_cut_into_stretches_in_order():
    parts = cut(text(1000), validation=0.1, test=0.05, seed=3)
    assert parts.train.tolist() == list(range(850))
    assert parts.validation.tolist() == list(range(850, 950))
    assert parts.test.tolist() == list(range(950, 1000))


@pytest.mark.parametrize(("validation", "test"), [(-0.1, 0.2), (0.5, 0.5), (0.2, 1.0), (float("nan"), 0.1)])
def test_impossible_shares_are_refused(validation, test):
    with pytest.raises(DataError, match="together less than 1"):
        cut(labelled([0, 1] * 20), validation=validation, test=test, seed=0)


def test_too_few_items_are_refused():
    with pytest.raises(DataError, match=r"too few items \(2\)"):
        cut(labelled([0, 1]), validation=0.2, test=0.2, seed=0)


def test_no_share_is_an_empty_part():
    parts = cut(labelled([0, 1] * 20), validation=0.0, test=0.0, seed=0)
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (40, 0, 0)


def test_the_record_names_the_items():
    data = labelled([0, 1] * 5, item_name=[f"item {number}" for number in range(10)].__getitem__)
    parts = cut(data, validation=0.2, test=0.2, seed=0)
    record = to_json(data, parts)
    assert record["items_by"] == "name"
    assert record["test"] == [f"item {position}" for position in parts.test.tolist()]


def test_the_record_of_positions_is_short_and_whole():
    data = open_data("digits")
    parts = cut(data, validation=0.1, test=0.2, seed=0)
    record = to_json(data, parts)
    assert record["items_by"] == "position"
    assert record == to_json(data, cut(data, validation=0.1, test=0.2, seed=0))
    for part in ("train", "validation", "test"):
        assert torch.equal(positions_of(record[part]), parts.of(part))


@given(positions=st.sets(st.integers(0, 40)))
def test_ranges_are_read_back_as_they_were_written(positions):
    tensor = torch.tensor(sorted(positions), dtype=torch.int64)
    assert torch.equal(positions_of(ranges(tensor)), tensor)


def test_ranges_are_written_short():
    assert ranges(torch.tensor([0, 1, 2, 3, 7, 9, 10])) == "0-3 7 9-10"
