import sys

import pytest
import torch
from torch import nn

from ravine.errors import ModelError
from ravine.models import make

SOURCE = """
import torch
from torch import nn

def by_outputs(shape, outputs, width=4):
    return nn.Sequential(nn.Linear(shape[0], width), nn.Linear(width, outputs))

def by_classes(input_shape, *, num_classes):
    return nn.Linear(input_shape[0], num_classes)

def open_ended(classes, **settings):
    return nn.Linear(settings["features"], classes)

class Network(nn.Module):
    def __init__(self, num_classes=1000):
        super().__init__()
        self.head = nn.LazyLinear(num_classes)

def no_module(outputs):
    return [outputs]

def failing(outputs):
    raise KeyError("weights")

def needy(outputs, vocabulary):
    return nn.Linear(1, 1)

number = 3
"""


@pytest.fixture
def own_code(tmp_path, monkeypatch):
    (tmp_path / "own_networks.py").write_text(SOURCE)
    (tmp_path / "broken_networks.py").write_text("import no_such_package_here\n")
    (tmp_path / "wrong_networks.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    yield
    assert sys.path == path
    for name in ("own_networks", "broken_networks", "wrong_networks"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("own_code")
def test_called_with_what_its_signature_names():
    model = make("own_networks:by_outputs", (7,), 3, {"width": 9})
    assert [tuple(layer.weight.shape) for layer in model] == [(9, 7), (3, 9)]
    assert make("own_networks:by_classes", (7,), 3, {}).weight.shape == (3, 7)
    assert make("own_networks:open_ended", (7,), 3, {"features": 2}).weight.shape == (3, 2)


@pytest.mark.usefixtures("own_code")
def test_a_class_works_like_a_function():
    model = make("own_networks:Network", (7,), 3, {})
    assert isinstance(model, nn.Module)
    assert model.head.out_features == 3
    assert make("torch.nn:Linear", (7,), 3, {"in_features": 7, "out_features": 2})(
        torch.ones(1, 7)
    ).shape == (1, 2)


@pytest.mark.usefixtures("own_code")
@pytest.mark.parametrize(
    ("address", "settings", "told"),
    [
        ("own_networks:", {}, "write package.module:name"),
        (":by_outputs", {}, "write package.module:name"),
        ("no_such_module:f", {}, "no module 'no_such_module'"),
        ("own_networks.deeper:f", {}, "no module 'own_networks.deeper'"),
        ("broken_networks:f", {}, "no module 'no_such_package_here'"),
        ("wrong_networks:f", {}, "importing 'wrong_networks' failed: ZeroDivisionError"),
        ("own_networks:by_output", {}, "has no 'by_output' .did you mean 'by_outputs'"),
        ("own_networks:number", {}, "no function and no class, but a int"),
        ("own_networks:no_module", {}, "gave a list"),
        ("own_networks:failing", {}, "failed while being made: KeyError: 'weights'"),
        ("own_networks:needy", {}, "needs vocabulary"),
        ("own_networks:by_outputs", {"widht": 3}, "no setting 'widht' .did you mean 'width'"),
    ],
)
def test_what_cannot_be_made_is_told(address, settings, told):
    with pytest.raises(ModelError, match=told):
        make(address, (7,), 3, settings)
