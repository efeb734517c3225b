"""Brier score and calibration error against other implementations; the temperature against its definition."""

import numpy
import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss
from torch.nn import functional

from ravine.lab.ensemble.answers import Answers
from ravine.lab.ensemble.calibration import brier, calibration_error, fit_temperature
from ravine.lab.ensemble.measured import calibration
from ravine.randomness import generator
from ravine.training.evaluate import Outputs


def drawn(items=500, classes=4, sure=1.5, seed=0):
    """Logits, and targets drawn from them: calibrated as they are."""
    draw = generator(seed, "calibration test")
    logits = torch.randn(items, classes, generator=draw, dtype=torch.float64) * sure
    return logits, torch.multinomial(logits.softmax(1), 1, generator=draw).squeeze(1)


def test_the_brier_score_is_that_of_scikit_learn():
    logits, targets = drawn()
    shares = logits.softmax(1)
    expected = brier_score_loss(targets.numpy(), shares.numpy(), labels=range(4), scale_by_half=False)
    assert brier(shares, targets) == pytest.approx(expected, abs=1e-14)
    assert brier(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1])) == 1.0  # 0 and 2


def test_the_calibration_error_is_that_of_its_definition():
    logits, targets = drawn()
    shares = logits.softmax(1).numpy()
    confidence, right = shares.max(1), shares.argmax(1) == targets.numpy()
    expected = 0.0
    for step in range(15):
        inside = (confidence > step / 15) & (confidence <= (step + 1) / 15)
        if inside.any():
            gap = abs(right[inside].mean() - confidence[inside].mean())
            expected += inside.sum() / len(right) * gap
    assert calibration_error(torch.from_numpy(shares), targets) == pytest.approx(expected, abs=1e-13)


def test_confidence_on_the_edge_of_a_bin_belongs_to_the_lower_one():
    shares = torch.tensor([[0.5, 0.5], [0.6, 0.4]], dtype=torch.float64)
    # (0, 0.5] and (0.5, 1]: |1 - 0.5| / 2 + |0 - 0.6| / 2; in one bin they would cancel to 0.05.
    assert calibration_error(shares, torch.tensor([0, 1]), bins=2) == pytest.approx(0.55)
    assert calibration_error(torch.tensor([[1.0, 0.0]]), torch.tensor([0])) == 0.0


@pytest.mark.parametrize("scale", [0.2, 1.0, 7.0])
def test_the_likelihood_is_flat_at_the_temperature(scale):
    logits, targets = drawn()
    found = torch.tensor(fit_temperature(logits * scale, targets), dtype=torch.float64, requires_grad=True)
    loss = functional.cross_entropy(logits * scale / found, targets)
    loss.backward()
    assert abs(float(found.grad * found.detach())) < 1e-12  # the slope by log T, which has no unit
    for other in (0.9, 1.1):
        assert float(functional.cross_entropy(logits * scale / (other * found.detach()), targets)) > float(
            loss.detach()
        )


@pytest.mark.parametrize("scale", [0.3, 4.0])
def test_a_known_temperature_is_found_again(scale):
    logits, targets = drawn(items=20_000)
    found = fit_temperature(logits * scale, targets) / scale
    shares = logits.softmax(1)
    spread = (shares * logits.square()).sum(1) - (shares * logits).sum(1).square()
    deviation = float((len(logits) * spread.mean()).rsqrt())  # of 1/T, by the Fisher information
    assert abs(1 / found - 1) < 4 * deviation < 0.05


def test_where_no_temperature_is_best_there_is_none():
    logits, _ = drawn(items=50)
    assert fit_temperature(logits, logits.argmax(1)) is None  # all right: the surer the better
    assert fit_temperature(logits, logits.argmin(1)) is None  # worse than chance
    assert fit_temperature(torch.zeros(3, 2), torch.tensor([0, 1, 0])) is None  # nothing to be scaled


def test_extreme_logits_are_fitted_too():
    logits, targets = drawn()
    for scale in (1e-3, 1e4):
        expected = fit_temperature(logits, targets) * scale
        assert fit_temperature(logits * scale, targets) == pytest.approx(expected, rel=1e-9)


def test_the_temperature_is_of_the_validation_part_and_the_scores_are_not():
    steering = drawn(seed=1)
    logits, targets = drawn(seed=2)
    answers = [
        Answers("classification", Outputs(4 * given, wanted), [])
        for given, wanted in (steering, (logits, targets))
    ]
    told = calibration(answers[1], answers[0])
    assert told["temperature"] == pytest.approx(fit_temperature(4 * steering[0], steering[1]), rel=1e-12)
    for side, scale in (("before", 1.0), ("after", told["temperature"])):
        shares = (4 * logits / scale).softmax(1).numpy()
        assert told[side]["loss"] == pytest.approx(log_loss(targets.numpy(), shares), abs=1e-12)
    assert told["after"]["calibration_error"] < told["before"]["calibration_error"]
    assert "after" not in calibration(answers[1], None)
    assert numpy.isfinite(told["after"]["brier"])
