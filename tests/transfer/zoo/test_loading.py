"""Weights go into a network whole or not at all, and all that does not fit is told at once."""

import pytest
import torch
from torch import nn

from ravine.errors import ModelError
from ravine.models import make
from ravine.transfer.zoo.loading import load_weights


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal(model, expected):
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_the_weights_are_those_of_the_file():
    model, other = network(), network(1)
    load_weights(model, other.state_dict(), "file")
    assert_equal(model, other.state_dict())


def test_all_that_does_not_fit_is_told_and_nothing_is_changed():
    model = network()
    before = state(model)
    weights = state(network(1))
    del weights["0.bias"], weights["1.running_mean"]
    weights["4.weight"] = torch.zeros(2)
    weights["3.weight"] = torch.zeros(10, 4)
    weights["3.bias"] = torch.zeros(10)
    with pytest.raises(ModelError) as caught:
        load_weights(model, weights, "some.pt")
    assert str(caught.value) == (
        "some.pt does not fit the network: missing: 0.bias, 1.running_mean; unexpected: 4.weight; "
        "of another shape: 3.weight is (10, 4) and must be (2, 4), 3.bias is (10,) and must be (2,)"
    )
    assert_equal(model, before)


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_one_that_does_not_fit_is_enough(change):
    model, weights = network(), state(network(1))
    before = state(model)
    if change == "missing":
        del weights["3.bias"]
    elif change == "unexpected":
        weights["extra"] = torch.zeros(1)
    else:
        weights["3.bias"] = torch.zeros(1)  # which torch alone would refuse after copying the others
    with pytest.raises(ModelError, match=r"3\.bias|extra"):
        load_weights(model, weights, "file")
    assert_equal(model, before)


def test_of_very_many_the_first_are_told_and_the_others_counted():
    model = make("resnet", (3, 16, 16), 4, {"width": 8})
    missing = len([name for name in model.state_dict() if not name.endswith("num_batches_tracked")])
    with pytest.raises(ModelError, match=rf"missing: .* and {missing - 8} more; unexpected: other"):
        load_weights(model, {"other": torch.zeros(1)}, "file")


def test_counts_of_batches_may_be_missing():
    """Files of programs that kept none: they do not change what a network gives."""
    weights = {name: t for name, t in network(1).state_dict().items() if "num_batches" not in name}
    model = network()
    load_weights(model, weights, "file")
    assert_equal(model, {**weights, "1.num_batches_tracked": torch.tensor(0)})


def test_rounded_weights_are_refused_and_counts_are_not():
    model = network()
    before = state(model)
    weights = {name: t.int() for name, t in network(1).state_dict().items() if not name.endswith("bias")}
    weights |= {name: t for name, t in network(1).state_dict().items() if name.endswith("bias")}
    with pytest.raises(ModelError) as caught:
        load_weights(model, weights, "w.npz")
    assert str(caught.value) == (
        "w.npz does not fit the network: not of floating point: 0.weight is torch.int32, 1.weight is "
        "torch.int32, 1.running_mean is torch.int32, 1.running_var is torch.int32, 3.weight is torch.int32"
    )
    assert_equal(model, before)
    load_weights(model, {**state(network(1)), "1.num_batches_tracked": torch.tensor(7)}, "file")
    assert model[1].num_batches_tracked == 7


def test_half_precision_becomes_that_of_the_network():
    weights = {name: t.half() if t.is_floating_point() else t for name, t in network(1).state_dict().items()}
    model = network()
    load_weights(model, weights, "file")
    assert_equal(model, {name: t.float() if t.is_floating_point() else t for name, t in weights.items()})
