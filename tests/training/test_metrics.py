import json
import math

import pytest
import torch
from sklearn import metrics as peer
from torch import Tensor

from ravine.errors import RecipeError
from ravine.registry import names
from ravine.training.metrics import (
    baseline,
    better,
    differences,
    direction,
    evaluate_outputs,
    metrics_of,
    with_intervals,
)

NAN = float("nan")


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def classification(items: int, classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    targets = torch.randint(classes, (items,), generator=draw(seed))
    logits = torch.randn(items, classes, generator=draw(seed + 1))
    logits[torch.arange(items), targets] += 1
    return logits, targets


def regression(items: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    targets = torch.randn(items, generator=draw(seed))
    return targets + 0.5 * torch.randn(items, generator=draw(seed + 1)), targets


def language(windows: int, length: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Each character's loss, and whether it was guessed: alike within a window, as texts are."""
    level = 1 + torch.rand(windows, 1, generator=draw(seed))
    losses = level + 0.1 * torch.rand(windows, length, generator=draw(seed + 1))
    return losses, (losses < 1.5).float()


def test_classification_agrees_with_scikit_learn() -> None:
    logits, targets = classification(300)
    scores = evaluate_outputs("classification", logits, targets)
    assert list(scores) == ["loss", "accuracy"]
    assert scores["loss"] == pytest.approx(peer.log_loss(targets, logits.double().softmax(1)), rel=1e-6)
    assert scores["accuracy"] == peer.accuracy_score(targets, logits.argmax(1))


@pytest.mark.parametrize("column", [False, True])
def test_regression_agrees_with_scikit_learn(column: bool) -> None:
    outputs, targets = regression(300)
    scores = evaluate_outputs(
        "regression", outputs.unsqueeze(1) if column else outputs, targets, (50.0, 20.0)
    )
    mine, true = outputs.double() * 20 + 50, targets.double() * 20 + 50
    assert scores == pytest.approx(
        {
            "loss": peer.mean_squared_error(targets.double(), outputs.double()),
            "rmse": peer.root_mean_squared_error(true, mine),
            "mae": peer.mean_absolute_error(true, mine),
            "r2": peer.r2_score(true, mine),
        },
        rel=1e-6,
    )


def test_language_scores_count_each_character_once() -> None:
    losses = torch.tensor([[1.0, 2.0, 3.0], [4.0, NAN, NAN]])
    right = torch.tensor([[1.0, 0.0, 1.0], [1.0, NAN, NAN]])
    scores = evaluate_outputs("language", losses, right)
    assert scores == pytest.approx({"loss": 2.5, "accuracy": 0.75, "bits": 2.5 / math.log(2)})


@pytest.mark.parametrize("task", ["classification", "regression", "language"])
def test_a_loss_that_is_no_number_is_not_hidden(task) -> None:
    made = {"classification": classification(9), "regression": regression(9), "language": language(3, 3)}
    outputs, targets = made[task]
    outputs[0] = NAN
    assert math.isnan(evaluate_outputs(task, outputs, targets)["loss"])


def test_half_precision_outputs_are_scored_in_float32() -> None:
    logits, targets = classification(50)
    half = logits.bfloat16()
    assert evaluate_outputs("classification", half, targets) == evaluate_outputs(
        "classification", half.float(), targets
    )


def test_targets_without_variance_have_no_r2() -> None:
    assert math.isnan(evaluate_outputs("regression", torch.zeros(4), torch.ones(4))["r2"])


@pytest.mark.parametrize("task", ["classification", "regression", "language"])
def test_every_metric_comes_with_an_interval_around_it(task) -> None:
    made = {"classification": classification, "regression": regression, "language": lambda n: language(n, 20)}
    outputs, targets = made[task](200)
    told = with_intervals(task, outputs, targets, 0, (5.0, 3.0))
    assert {name: told[name] for name in metrics_of(task)} == evaluate_outputs(
        task, outputs, targets, (5.0, 3.0)
    )
    for name in metrics_of(task):
        low, high = told[f"{name}_interval"]
        assert low < told[name] < high
    assert json.loads(json.dumps(told))["loss"] == told["loss"]


def test_intervals_are_addressed_by_the_seed() -> None:
    outputs, targets = regression(100)
    one, same, other = (with_intervals("regression", outputs, targets, seed) for seed in (0, 0, 1))
    assert one == same != other


def test_the_interval_of_a_mean_agrees_with_the_normal_theory() -> None:
    outputs, targets = regression(2000)
    low, high = with_intervals("regression", outputs, targets, 0)["loss_interval"]
    error = (outputs - targets).double().square()
    width = 2 * 1.96 * error.std() / len(error) ** 0.5
    assert high - low == pytest.approx(width.item(), rel=0.1)


def test_more_items_than_groups_give_the_same_width() -> None:
    outputs, targets = regression(40_000)
    low, high = with_intervals("regression", outputs, targets, 0)["mae_interval"]
    error = (outputs - targets).double().abs()
    assert high - low == pytest.approx(2 * 1.96 * (error.std() / len(error) ** 0.5).item(), rel=0.1)


def test_characters_of_a_window_are_not_taken_for_independent() -> None:
    losses, right = language(100, 50)
    low, high = with_intervals("language", losses, right, 0)["loss_interval"]
    window = losses.double().mean(1)
    assert high - low == pytest.approx(2 * 1.96 * (window.std() / 10).item(), rel=0.15)


def test_the_bootstrap_covers_the_truth_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(200):
        outputs = torch.randn(80, generator=draw(1000 + seed))
        low, high = with_intervals("regression", outputs, torch.zeros(80), seed)["loss_interval"]
        covered += low <= 1 <= high
    assert 170 <= covered <= 197  # 95 % of 200 is 190; percentile intervals of 80 items are a little short


def test_the_baseline_of_classes_is_the_majority() -> None:
    train = torch.tensor([0] * 60 + [1] * 30 + [2] * 7)
    test = torch.tensor([0, 0, 1, 2, 3])
    scores = baseline("classification", train, test)
    shares = torch.tensor([61.0, 31.0, 8.0, 1.0]).double() / 101
    assert scores == pytest.approx({"loss": -shares[test].log().mean().item(), "accuracy": 0.4})


def test_the_baseline_of_values_is_the_training_mean() -> None:
    train, test = torch.tensor([-1.0, 1.0, 3.0]), torch.tensor([1.0, 2.0])
    scores = baseline("regression", train, test, (0.0, 10.0))
    assert scores == pytest.approx({"loss": 0.5, "rmse": 10 * 0.5**0.5, "mae": 5.0, "r2": -1.0})


def test_the_baseline_of_text_is_how_often_each_character_comes() -> None:
    train, test = torch.tensor([0, 0, 0, 1, 2, 0]), torch.tensor([0, 1])
    loss = -(math.log(5 / 9) + math.log(2 / 9)) / 2
    scores = baseline("language", train, test)
    assert scores == pytest.approx({"loss": loss, "accuracy": 0.5, "bits": loss / math.log(2)})


def test_each_metric_knows_its_better_direction() -> None:
    assert {name: direction(f"validation.{name}") for name in names("metric")} == {
        "loss": "lower",
        "accuracy": "higher",
        "bits": "lower",
        "rmse": "lower",
        "mae": "lower",
        "r2": "higher",
    }


@pytest.mark.parametrize(
    ("monitor", "new", "old", "wanted"),
    [
        ("validation.loss", 1.0, 2.0, True),
        ("validation.loss", 2.0, 2.0, False),
        ("train.accuracy", 0.5, 0.6, False),
        ("validation.r2", 0.5, -1.0, True),
        ("validation.loss", 5.0, None, True),
        ("validation.loss", NAN, None, False),
        ("validation.loss", NAN, 1.0, False),
        ("validation.loss", 1.0, NAN, True),
    ],
)
def test_better(monitor: str, new: float, old: float | None, wanted: bool) -> None:
    assert better(monitor, new, old) is wanted


@pytest.mark.parametrize(
    ("monitor", "task", "told"),
    [
        ("validation.acuracy", None, "did you mean 'validation.accuracy'"),
        ("validation.rmse", "classification", "for classification; valid are validation.loss, "),
        ("train.rmse", "regression", "valid are validation.loss, .*, train.loss$"),
        ("test.loss", None, "nothing is called 'test.loss'; valid are validation.loss, "),
        ("loss", None, "nothing is called 'loss'; valid are"),
    ],
)
def test_unknown_monitors_are_refused(monitor: str, task, told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        direction(monitor, task)


@pytest.mark.parametrize(("task", "made"), [("classification", classification), ("regression", regression)])
def test_a_difference_is_that_of_the_scores(task: str, made) -> None:
    (outputs, targets), scale = made(400), (3.0, 2.0)
    others = outputs + torch.randn(outputs.shape, generator=draw(9))
    found = differences(task, outputs, others, targets, 0, scale)
    for name in metrics_of(task):
        own, other = (evaluate_outputs(task, given, targets, scale)[name] for given in (outputs, others))
        low, high = found[f"{name}_interval"]
        assert found[name] == pytest.approx(own - other) and low < found[name] < high
    same = differences(task, outputs, outputs, targets, 0, scale)
    for name in metrics_of(task):
        assert [same[name], *same[f"{name}_interval"]] == pytest.approx([0, 0, 0], abs=1e-12)


def test_the_interval_of_a_difference_is_that_of_the_items_differences() -> None:
    """The central limit theorem on each item's own difference: correlation between the models counts."""
    outputs, targets = classification(4000)
    others = outputs + 0.5 * torch.randn(outputs.shape, generator=draw(9))
    low, high = differences("classification", outputs, others, targets, 0)["accuracy_interval"]
    right, other = ((given.argmax(1) == targets).double() for given in (outputs, others))
    deviation = float((right - other).std()) / len(targets) ** 0.5
    assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.08)
    unpaired = (float(right.var() + other.var()) / len(targets)) ** 0.5
    assert high - low < 0.6 * 2 * 1.96 * unpaired
