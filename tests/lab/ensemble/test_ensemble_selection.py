"""Greedy selection and soups, each against its definition step by step."""

import pytest
import torch
from torch import nn

from ravine.errors import ModelError
from ravine.lab.ensemble.answers import combined
from ravine.lab.ensemble.selection import ROUNDS, rank_of_weights, select, weights_by_validation
from ravine.lab.ensemble.soups import greedy, soup
from ravine.randomness import generator
from ravine.training import metrics


def answers(members=5, items=30, classes=3):
    draw = generator(0, "selection test")
    targets = torch.randint(classes, (items,), generator=draw)
    logits = torch.randn(members, items, classes, generator=draw, dtype=torch.float64) * 1.5
    logits += torch.nn.functional.one_hot(targets, classes)
    return combined("classification", logits, targets, torch.full((members,), 1 / members)), logits, targets


def by_definition(logits, targets, rounds):
    """Bags of members, as the paper writes them down; scored by the mean of the bag's probabilities."""
    chances, bag, seen = logits.softmax(-1), [], []

    def ranked(bag):
        mean = torch.stack([chances[each] for each in bag]).mean(0)
        right = int((mean.argmax(1) == targets).sum())
        return -right, round(float(-mean[range(len(targets)), targets].log().mean()), 12)

    for _ in range(rounds):
        best = min(range(len(chances)), key=lambda each: (ranked([*bag, each]), each))
        bag = [*bag, best]
        seen.append((ranked(bag), bag))
    return min(seen, key=lambda pair: (pair[0], len(pair[1])))[1]


def test_greedy_selection_is_its_definition():
    given, logits, targets = answers()
    bag = by_definition(logits, targets, 20)
    counts = torch.bincount(torch.tensor(bag), minlength=5).double()
    found = select(rank_of_weights(given), 5, 20)
    torch.testing.assert_close(found, counts / counts.sum(), rtol=0, atol=1e-15)
    assert len(set(bag)) < len(bag)  # some member is in it twice


def test_the_selected_are_no_worse_than_any_alone():
    given, *_ = answers()
    ranked = rank_of_weights(given)
    chosen = ranked(weights_by_validation(given))
    assert all(chosen <= ranked(each) for each in torch.eye(5, dtype=torch.float64))
    assert ROUNDS >= 5


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_ranks_are_by_the_scores_of_a_run(task):
    given, logits, targets = answers()
    if task == "regression":
        given, targets = (
            combined(task, logits[..., 0], targets.double(), torch.full((5,), 0.2)),
            targets.double(),
        )
        logits = logits[..., 0]
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.0], dtype=torch.float64)
    again = combined(task, logits, targets, weights)
    expected = metrics.evaluate_outputs(task, again.together.outputs, targets)
    score, loss = rank_of_weights(given)(weights)
    assert loss == pytest.approx(expected["loss"], rel=1e-6)
    assert score == pytest.approx(-expected["accuracy"] if task == "classification" else loss, rel=1e-6)


def test_a_soup_of_linear_networks_gives_the_mean_of_their_outputs():
    torch.manual_seed(0)
    ends = [nn.Linear(6, 3, dtype=torch.float64) for _ in range(2)]
    mean = nn.Linear(6, 3, dtype=torch.float64)
    mean.load_state_dict(soup([each.state_dict() for each in ends]))
    x = torch.randn(9, 6, dtype=torch.float64)
    torch.testing.assert_close(mean(x), (ends[0](x) + ends[1](x)) / 2, rtol=0, atol=1e-15)


def test_a_soup_of_equals_is_that_network_and_counters_stay():
    norm = nn.BatchNorm1d(4)
    norm(torch.randn(8, 4))
    state = norm.state_dict()
    for name, tensor in soup([state, state, state]).items():
        assert torch.equal(tensor, state[name]) and tensor.dtype == state[name].dtype


def test_networks_of_other_shapes_are_refused_by_name():
    wide, narrow = nn.Linear(6, 3), nn.Linear(6, 2)
    with pytest.raises(ModelError, match=r"weight is \(3, 6\) and \(2, 6\)"):
        soup([wide.state_dict(), narrow.state_dict()])
    with pytest.raises(ModelError, match=r"bias is \(3,\) and none"):
        soup([wide.state_dict(), nn.Linear(6, 3, bias=False).state_dict()])


def test_the_greedy_soup_is_its_definition():
    tasted = []

    def ranked(taken):
        tasted.append(tuple(taken))
        alone = {0: 3.0, 1: 1.0, 2: 2.0, 3: 4.0}
        together = {(1, 2): 1.5, (1, 0): 1.0, (1, 0, 3): 0.5}
        value = alone[taken[0]] if len(taken) == 1 else together[tuple(taken)]
        return value, 0.0

    # From the best on; 2 makes it worse, 0 no better and no worse, 3 better.
    assert greedy(ranked, 4) == [1, 0, 3]
    assert tasted == [(0,), (1,), (2,), (3,), (1, 2), (1, 0), (1, 0, 3)]
