"""Gains and their intervals, disagreement, and scores by the number of members."""

from itertools import combinations

import pytest
import torch
from scipy.stats import binom

from ravine.lab.ensemble.answers import Answers, combined
from ravine.lab.ensemble.growth import ORDERS, by_number, score_of_mean
from ravine.lab.ensemble.scoring import disagreement, gains, scores
from ravine.randomness import generator
from ravine.training import metrics
from ravine.training.evaluate import Outputs


def drawn(members=3, items=400, classes=4, seed=0):
    """Logits of members that err together on hard items, and the targets."""
    draw = generator(seed, "scoring test")
    targets = torch.randint(classes, (items,), generator=draw)
    hard = torch.rand(items, 1, generator=draw) * 3
    shared = torch.randn(items, classes, generator=draw) * hard
    own = torch.randn(members, items, classes, generator=draw) * 1.2
    return torch.nn.functional.one_hot(targets, classes) * 2.0 + shared + own, targets


def equal(members):
    return torch.full((members,), 1 / members)


def test_gains_are_differences_of_scores():
    logits, targets = drawn()
    answers = combined("classification", logits, targets, torch.tensor([0.6, 0.4, 0.0]))
    shares = 0.6 * logits[0].softmax(1) + 0.4 * logits[1].softmax(1)
    accuracy = float((shares.argmax(1) == targets).double().mean())
    alone = [float((each.argmax(1) == targets).double().mean()) for each in logits]
    assert [each["accuracy"] for each in scores(answers)] == pytest.approx(alone, abs=1e-12)
    over_mean, over_second = gains(answers, equal(3), 0), gains(answers, torch.tensor([0.0, 1, 0]), 0)
    assert over_mean["accuracy"] == pytest.approx(accuracy - sum(alone) / 3, abs=1e-7)
    assert over_second["accuracy"] == pytest.approx(accuracy - alone[1], abs=1e-12)
    # Against one member it is the paired bootstrap of two models, draw for draw.
    expected = metrics.differences("classification", answers.together.outputs, logits[1], targets, 0)
    assert over_second["loss_interval"] == pytest.approx(expected["loss_interval"], abs=1e-12)


def test_gains_on_itself_are_none():
    logits, targets = drawn(members=1)
    told = gains(combined("classification", logits, targets, torch.ones(1)), torch.ones(1), 0)
    assert told["accuracy"] == 0 and told["accuracy_interval"] == (0.0, 0.0)
    assert told["loss"] == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("against", [equal(3), torch.tensor([0.0, 0.0, 1.0])], ids=["mean", "one"])
def test_intervals_cover_the_truth_as_often_as_they_say(against):
    logits, targets = drawn(items=20_000)
    truth = gains(combined("classification", logits, targets, equal(3)), against, 0)
    trials, covered = 200, dict.fromkeys(("accuracy", "loss"), 0)
    for trial in range(trials):
        chosen = torch.randint(len(targets), (300,), generator=generator(trial, "items"))
        told = gains(combined("classification", logits[:, chosen], targets[chosen], equal(3)), against, trial)
        for name in covered:
            low, high = told[f"{name}_interval"]
            covered[name] += low <= truth[name] <= high
    lowest, highest = binom.ppf([0.001, 0.999], trials, 0.95)
    assert all(lowest <= count <= highest for count in covered.values()), covered


def test_gains_of_a_regression_and_of_a_language():
    draw = generator(0, "regression test")
    targets = torch.randn(50, generator=draw)
    values = targets + torch.randn(2, 50, generator=draw)
    answers = combined("regression", values, targets, equal(2))
    told = gains(answers, equal(2), 0, deviation=10.0)
    errors = [
        float((each - targets).double().square().mean().sqrt()) * 10 for each in (values.mean(0), *values)
    ]
    assert told["rmse"] == pytest.approx(errors[0] - sum(errors[1:]) / 2, rel=1e-5)
    assert told["rmse_interval"][0] <= told["rmse"] <= told["rmse_interval"][1] < 0

    losses = torch.rand(3, 4, 6, generator=draw)
    losses[:, -1, 2:] = torch.nan  # a shorter window
    right = torch.where(losses.isnan(), losses, (losses < 0.5).float())
    text = Answers(
        "language",
        Outputs(losses[0], right[0]),
        [Outputs(*pair) for pair in zip(losses[1:], right[1:], strict=True)],
    )
    means = losses.double().flatten(1).nanmean(1)
    told = gains(text, torch.tensor([0.25, 0.75]), 0)
    assert told["loss"] == pytest.approx(float(means[0] - 0.25 * means[1] - 0.75 * means[2]), abs=1e-7)


def test_disagreement_is_the_share_of_other_first_guesses():
    logits = torch.eye(3)[torch.tensor([[0, 1, 2, 0], [0, 1, 1, 1], [0, 1, 2, 0]])]
    found = disagreement(combined("classification", logits, torch.zeros(4).long(), equal(3)))
    assert found.tolist() == [[0, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0]]
    values = combined("regression", torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.zeros(2), equal(2))
    assert disagreement(values, deviation=2.0)[0, 1] == pytest.approx(2 * 12.5**0.5)
    guesses = torch.tensor([[1, 2, 3], [1, 2, 0]])
    assert disagreement(Answers("language", Outputs(None, None), [], guesses))[0, 1] == pytest.approx(1 / 3)


@pytest.mark.parametrize("weights", [equal(4), torch.tensor([0.4, 0.3, 0.2, 0.1])])
def test_scores_by_number_are_over_all_subsets(weights):
    logits, targets = drawn(members=4, items=60)
    answers = combined("classification", logits, targets, weights)
    score = score_of_mean("classification", answers.together)
    means, deviations = by_number(answers.averaged, weights, score, 0)
    for size in range(1, 5):
        found = []
        for subset in combinations(range(4), size):
            mean = sum(weights[each].double() * logits[each].double().softmax(1) for each in subset)
            found.append(float((mean.argmax(1) == targets).double().mean()))
        found = torch.tensor(found, dtype=torch.float64)
        assert means[size - 1] == pytest.approx(float(found.mean()), abs=1e-12)
        assert deviations[size - 1] == pytest.approx(float(found.std(correction=0)), abs=1e-9)
    assert (
        means[-1] == metrics.evaluate_outputs("classification", answers.together.outputs, targets)["accuracy"]
    )


def test_subsets_of_values_and_of_texts_are_averaged_before_they_are_scored():
    draw = generator(1, "growth test")
    values, targets = torch.randn(3, 20, generator=draw), torch.randn(20, generator=draw)
    answers = combined("regression", values, targets, equal(3))
    means, _ = by_number(answers.averaged, equal(3), score_of_mean("regression", answers.together, 5.0), 0)
    assert means[2] == pytest.approx(5 * float((values.mean(0) - targets).square().mean().sqrt()), rel=1e-6)
    losses = torch.tensor([[[0.5, torch.nan]], [[1.5, torch.nan]]])
    text = Answers("language", Outputs(None, None), [Outputs(each, None) for each in losses])
    means, _ = by_number(text.averaged, equal(2), score_of_mean("language", text.together), 0)
    expected = -losses[:, 0, 0].double().neg().exp().mean().log2()
    assert means[1] == pytest.approx(float(expected), rel=1e-12)


def test_of_many_members_orders_are_drawn():
    logits, targets = drawn(members=12, items=40)
    answers = combined("classification", logits, targets, equal(12))
    score = score_of_mean("classification", answers.together)
    means, deviations = by_number(answers.averaged, equal(12), score, 5)
    assert (means, deviations) == by_number(answers.averaged, equal(12), score, 5)
    alone = torch.tensor([each["accuracy"] for each in scores(answers)], dtype=torch.float64)
    error = float(alone.std(correction=0)) / ORDERS**0.5
    assert abs(means[0] - float(alone.mean())) < 4 * error and means[0] != float(alone.mean())
    assert deviations[-1] == pytest.approx(0, abs=1e-12)
