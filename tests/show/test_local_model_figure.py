import made_runs
import numpy
import pytest
import torch

from ravine.optim.full_batch.local_model import LocalModel, local_models
from ravine.show import figures
from ravine.show.run import read_run


def test_the_function_and_its_two_models():
    (model,) = local_models(lambda x: torch.exp(x).sum() + x.square().sum(), torch.tensor([1.0, -0.5]))
    figure = figures.local_model(model.numbers())
    function, linear, quadratic, here, lowest = figure.data
    numpy.testing.assert_allclose(function.y, model.values)
    numpy.testing.assert_allclose(linear.y, model.value + numpy.array(model.steps) * model.slope)
    numpy.testing.assert_allclose(
        numpy.array(quadratic.y) - linear.y, 0.5 * numpy.array(model.steps) ** 2 * model.curvature, atol=1e-12
    )
    assert (here.x[0], here.y[0]) == (0.0, model.value)
    assert lowest.x[0] == pytest.approx(-model.slope / model.curvature)
    assert lowest.y[0] == pytest.approx(model.value - 0.5 * model.slope**2 / model.curvature)
    assert figure.layout.xaxis.title.text == "step (multiples of the negative gradient)"
    low, high = figure.layout.yaxis.range
    assert low < min(*model.values, lowest.y[0]) and high > max(model.values)


def test_a_model_without_a_lowest_point_marks_none():
    (model,) = local_models(lambda x: -x.square().sum(), torch.tensor([1.0]))
    assert [trace.name for trace in figures.local_model(model.numbers()).data] == [
        "function",
        "linear model",
        "quadratic model",
        "here",
    ]


def test_values_that_are_not_finite_leave_a_gap():
    model = LocalModel("<b>steep</b>", 1.0, -1.0, 1.0, (0.0, 1.0, 2.0), (1.0, float("inf"), 0.5))
    figure = figures.local_model(model.numbers())
    assert numpy.isnan(figure.data[0].y[1]) and not figure.data[0].connectgaps
    assert "&lt;b&gt;steep" in figure.layout.xaxis.title.text
    assert numpy.isfinite(figure.layout.yaxis.range).all()


def test_a_constant_function_has_a_picture_too():
    (model,) = local_models(lambda x: 0.0 * x.sum() + 2.0, torch.ones(2), {"any": torch.ones(2)})
    low, high = figures.local_model(model.numbers()).layout.yaxis.range
    assert low < 2.0 < high


def test_a_run_shows_where_it_began_and_where_it_ended(tmp_path):
    run = read_run(made_runs.classification(tmp_path / "run"))
    for which, value in (("first", 2.3), ("best", 0.02)):
        figure = getattr(figures, f"{which}_weights")(run)
        function, _, _, here, lowest = figure.data
        assert list(function.y[:-1]) == made_runs.around(value)["values"][:-1] and numpy.isnan(function.y[-1])
        assert (here.y[0], lowest.x[0], lowest.y[0]) == (value, 0.5, value - 0.75)
        assert figure.layout.yaxis.title.text == "training loss"
