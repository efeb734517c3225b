"""Gradients that a stack works out without autograd: those of autograd, in float64."""

import copy

import pytest
import torch
from torch import nn

from ravine.generalize import regularize
from ravine.lab.fleet.objective import CrossEntropy
from ravine.lab.fleet.rates import DropoutByMember
from ravine.lab.fleet.stack import Stack

ACTIVATION = nn.ReLU(inplace=True)
NETWORKS = {
    "products": lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 40)),
    "one activation in two places": lambda: nn.Sequential(
        nn.Linear(6, 5), ACTIVATION, nn.Linear(5, 5), ACTIVATION, nn.Linear(5, 3)
    ),
    "batch normalization": lambda: nn.Sequential(
        nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.0), nn.Linear(5, 3)
    ),
    "batch normalization first": lambda: nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3)),
    "layers between that autograd follows": lambda: nn.Sequential(
        nn.LayerNorm(6), nn.Linear(6, 5), nn.SiLU(), nn.LayerNorm(5), nn.GELU(), nn.Linear(5, 3), nn.Tanh()
    ),
    "a frozen layer": lambda: nn.Sequential(
        nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 5).requires_grad_(False), nn.BatchNorm1d(5), nn.Linear(5, 3)
    ),
    "a frozen beginning": lambda: nn.Sequential(
        nn.Linear(6, 5).requires_grad_(False), nn.BatchNorm1d(5).requires_grad_(False), nn.Linear(5, 3)
    ),
}
KNOWN = {name: name != "layers between that autograd follows" for name in NETWORKS}


def made(make, count=3):
    torch.manual_seed(0)
    networks = [make().double() for _ in range(count)]
    for network in networks:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d):
                nn.init.uniform_(module.weight)
                nn.init.uniform_(module.bias)
    return networks


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("items", [(7,), (4, 3)])
def test_gradients_and_statistics_are_those_of_autograd(name, items):
    if len(items) > 1 and ("batch" in name or "Flatten" in str(NETWORKS[name]()) or "frozen" in name):
        pytest.skip("of vectors alone")
    alone = made(NETWORKS[name])
    stack = Stack(copy.deepcopy(alone))
    assert stack.knows_gradients == KNOWN[name]
    inputs = torch.randn(3, *items, 6, dtype=torch.float64)
    taken = stack.traced(inputs)
    upon = torch.randn_like(taken.outputs)
    taken.backward(upon)
    for number, network in enumerate(alone):
        outputs = network.train()(inputs[number])
        torch.testing.assert_close(taken.outputs[number], outputs)
        outputs.backward(upon[number])
        for key, parameter in network.named_parameters():
            found = stack.trained[key].grad[number] if parameter.requires_grad else None
            assert (found is None) == (parameter.grad is None)
            if found is not None:
                torch.testing.assert_close(found, parameter.grad)
        for key, buffer in network.named_buffers():
            torch.testing.assert_close(stack.others[key][number], buffer)


def test_gradients_are_added_to_those_that_are_there():
    (network,) = made(NETWORKS["batch normalization"], 1)
    stack = Stack([network])
    parts = []
    for inputs in torch.randn(2, 1, 9, 6, dtype=torch.float64):
        before = {name: 0 if own.grad is None else own.grad.clone() for name, own in stack.trained.items()}
        taken = stack.traced(inputs)
        taken.backward(torch.ones_like(taken.outputs))
        parts.append({name: own.grad - before[name] for name, own in stack.trained.items()})
    for own in stack.trained.values():
        own.grad = None
    taken = stack.traced(inputs)
    taken.backward(torch.ones_like(taken.outputs))
    for name, own in stack.trained.items():
        torch.testing.assert_close(parts[1][name], own.grad)


@pytest.mark.parametrize("rates", [(0.4, 0.4), (0.2, 0.7)])
def test_noise_is_the_same_on_the_way_back(rates):
    """The gradient of what was kept is what it was multiplied by: linear layers around it make it seen."""
    networks = []
    for rate in rates:
        network = nn.Sequential(nn.Linear(1, 50, bias=False), nn.Linear(50, 50, bias=False))
        regularize(network, dropout=rate)
        nn.init.ones_(network[0].weight)
        nn.init.eye_(network[1].weight)
        networks.append(network)
    stack = Stack(networks)
    assert stack.knows_gradients
    assert ("1.noise_before.p" in stack.others) == (rates[0] != rates[1])
    taken = stack.traced(torch.ones(2, 1, 1))
    taken.backward(torch.ones_like(taken.outputs))
    torch.testing.assert_close(stack.trained["0.weight"].grad[:, :, 0], taken.outputs[:, 0])
    for outputs, rate in zip(taken.outputs, rates, strict=True):
        kept = outputs[outputs != 0]
        assert 0 < len(kept) < outputs.numel()
        torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - rate)))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("items", [(7,), (4, 3)])
def test_the_cross_entropys_gradient_is_that_of_autograd(smoothing, items):
    torch.manual_seed(0)
    outputs = (3 * torch.randn(2, *items, 5, dtype=torch.float64)).requires_grad_()
    targets = torch.randint(5, (2, *items))
    loss = CrossEntropy(smoothing)
    found, gradient = loss.with_gradient(outputs.detach(), targets)
    expected = torch.stack(
        [
            nn.functional.cross_entropy(own.flatten(0, -2), wanted.flatten(), label_smoothing=smoothing)
            for own, wanted in zip(outputs, targets, strict=True)
        ]
    )
    torch.testing.assert_close(found, expected.detach())
    torch.testing.assert_close(loss(outputs, targets), expected)
    expected.sum().backward()
    torch.testing.assert_close(gradient, outputs.grad)


def test_a_mask_that_drops_everything_is_finite():
    assert not bool(DropoutByMember.mask(torch.ones(9), torch.tensor(1.0)).any())
