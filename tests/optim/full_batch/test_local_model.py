import dataclasses
import json
import math

import pytest
import torch
from torch import nn

from ravine.optim.full_batch.local_model import LocalModel, local_models

F64 = torch.float64


def bowl(x):
    return x[0] ** 2 + 3.0 * x[1] ** 2 + x[0] - 1.0


def test_a_quadratic_is_its_own_model():
    (found,) = local_models(bowl, torch.tensor([1.0, 2.0]))
    assert found.direction == "negative gradient"
    assert found.value == pytest.approx(13.0)
    assert found.slope == pytest.approx(-(3.0**2 + 12.0**2))
    assert found.curvature == pytest.approx(2.0 * 3.0**2 + 6.0 * 12.0**2)
    for step, value in zip(found.steps, found.values, strict=True):
        assert found.quadratic(step) == pytest.approx(value)
        assert found.linear(step) == pytest.approx(13.0 - 153.0 * step)
    assert found.best_step == pytest.approx(153.0 / 882.0)
    assert found.steps[0] == pytest.approx(-0.5 * found.best_step)
    assert found.steps[-1] == pytest.approx(2.5 * found.best_step)


def test_the_models_touch_the_function_to_first_and_second_order():
    def f(x):
        return torch.exp(x[0]) * torch.cos(x[1]) + x[2] ** 5

    x = torch.tensor([0.3, -0.4, 0.9])
    (found,) = local_models(f, x, steps=torch.tensor([1e-3, 1e-2]))
    linear, quadratic = (
        [abs(model(step) - value) for step, value in zip(found.steps, found.values, strict=True)]
        for model in (found.linear, found.quadratic)
    )
    assert linear[1] / linear[0] == pytest.approx(10.0**2, rel=0.1)
    assert quadratic[1] / quadratic[0] == pytest.approx(10.0**3, rel=0.1)


def test_given_directions_and_steps():
    directions = {"first": torch.tensor([1.0, 0.0]), "Newton": torch.tensor([-1.5, -2.0])}
    first, newton = local_models(bowl, torch.tensor([1.0, 2.0]), directions, steps=torch.tensor([1.0, 0.0]))
    assert (first.direction, first.slope, first.curvature) == ("first", 3.0, 2.0)
    assert first.steps == (0.0, 1.0)
    assert first.values == (13.0, 17.0)
    assert newton.best_step == pytest.approx(1.0)


def test_where_the_curvature_is_negative_there_is_no_best_step():
    (found,) = local_models(lambda x: -(x**2).sum(), torch.tensor([2.0]))
    assert found.best_step is None
    assert found.curvature == pytest.approx(-2.0 * 4.0**2)
    assert found.steps[-1] == pytest.approx(2.5 * 0.5)  # as far as if the curvature were positive


@pytest.mark.parametrize("f", [lambda x: 2.0 * x.sum(), lambda x: (x - 1.0).square().sum()])
def test_without_slope_or_curvature_the_size_of_x_tells_how_far(f):
    (found,) = local_models(f, torch.ones(4), {"all": torch.ones(4)}, points=4)
    assert found.steps == pytest.approx([-0.05, 0.05, 0.15, 0.25])


def test_a_step_out_of_the_domain_is_drawn_as_it_is():
    (found,) = local_models(
        lambda x: x[0] - torch.log(x[0]), torch.tensor([3.0]), steps=torch.tensor([0, 9.0])
    )
    assert math.isnan(found.values[1]) and math.isfinite(found.values[0])


def test_a_module_gets_its_parameters_back():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    inputs, targets = torch.randn(8, 3, dtype=F64), torch.randn(8, 1, dtype=F64)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    (found,) = local_models(lambda: (model(inputs) - targets).square().mean(), model)
    assert min(found.values) < found.value
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


def test_it_can_be_stored_as_json():
    (found,) = local_models(bowl, torch.tensor([1.0, 2.0]), points=5)
    assert LocalModel(**json.loads(json.dumps(dataclasses.asdict(found)))).best_step == found.best_step


def test_refusals():
    with pytest.raises(ValueError, match="no model here"):
        local_models(lambda x: x.abs().pow(1.5).sum() + x.sum(), torch.zeros(2))
    with pytest.raises(ValueError, match="points"):
        local_models(bowl, torch.ones(2), points=1)
    with pytest.raises(ValueError, match="elements"):
        local_models(bowl, torch.ones(2), {"wrong": torch.ones(3)})
