"""C16: turned against the axes, an ellipse defeats Adam; SOAP does not notice the turn."""

import importlib.util
import math
from pathlib import Path

import pytest

from ravine.optim import Adam
from ravine.optim.matrix import SOAP, Shampoo

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "turned_ellipse.py"
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 0.1)


@pytest.fixture(scope="module")
def ellipse():
    spec = importlib.util.spec_from_file_location("turned_ellipse", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def adam(params, lr):
    return Adam(params, lr, betas=(0.95, 0.95))


def soap(params, lr):
    return SOAP(params, lr, weight_decay=0)


def test_soap_needs_at_most_half_of_adams_steps(ellipse):
    best_soap, best_adam = (ellipse.best(make, RATES, most=2000) for make in (soap, adam))
    assert best_soap.steps <= best_adam.steps / 2


def test_the_turn_costs_adam_and_not_soap(ellipse):
    """SOAP's path is the same in turned coordinates; Adam's best rate no longer is one."""
    straight = [ellipse.best(make, RATES, angle=0.0, most=2000).steps for make in (soap, adam)]
    turned = [ellipse.best(make, RATES, most=2000).steps for make in (soap, adam)]
    assert turned[0] == pytest.approx(straight[0], abs=2)
    assert turned[1] > 2 * straight[1]


def test_adam_with_its_usual_leaks_is_no_better(ellipse):
    fewest = ellipse.best(soap, RATES, most=2000).steps
    assert ellipse.best(Adam, (0.3, 1.0), most=2 * fewest).steps is None


def test_shampoo_finds_the_axes(ellipse):
    made = [
        ellipse.best(
            lambda params, lr: Shampoo(params, lr, precondition_frequency=1), (1.0, 2.0), angle=angle
        )
        for angle in (0.0, math.pi / 4)
    ]
    assert made[1].steps < 300


def test_what_diverges_is_given_up(ellipse):
    from ravine.optim import SGD

    assert ellipse.steps_to(SGD, 1.0) is None
