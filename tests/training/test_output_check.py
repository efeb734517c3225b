import pytest
import torch
from torch import nn

from ravine.errors import ModelError
from ravine.training.output_check import check


class Gives(nn.Module):
    """Whatever the function makes of the inputs."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


X = torch.ones(4, 6)


@pytest.mark.parametrize(
    ("function", "outputs", "task", "told"),
    [
        (
            lambda x: x,
            3,
            "classification",
            r"must be \(4, 3\).*but it is \(4, 6\); give its last layer 3 outputs",
        ),
        (lambda x: x[:, 0], 1, "regression", r"must be \(4, 1\) \(one value an item\).*unsqueeze"),
        (lambda x: x[None], 6, "classification", r"but it is \(1, 4, 6\)$"),
        (lambda x: x[:2], 6, "classification", r"must be \(4, 6\).*but it is \(2, 6\)"),
        (lambda x: x, 6, "language", r"must be \(4, 6, 6\) \(a logit for each of 6 tokens\)"),
        (lambda x: (x, x), 6, "classification", "gave a tuple"),
        (lambda x: x.long(), 6, "classification", "torch.int64"),
        (lambda x: x / 0, 6, "classification", "infinite or not-a-number"),
        (
            lambda x: x @ torch.ones(5, 3),
            3,
            "classification",
            r"failed for inputs of shape \(4, 6\): RuntimeError",
        ),
    ],
)
def test_an_output_that_does_not_fit_is_told_with_its_shapes(function, outputs, task, told):
    with pytest.raises(ModelError, match=told):
        check(Gives(function), X, outputs, task)


def test_a_fitting_model_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check(model, X, 3, "classification")
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
