"""Gradual unfreezing: which weights train in which epoch, and what the optimizer knows of them."""

import copy

import pytest
import torch
from torch import nn

import ravine.optim
from ravine.errors import ModelError
from ravine.models import make
from ravine.transfer import GradualUnfreezing

STEM = ["stem"]
STAGE1 = ["stages.stage1.block1", "stages.stage1.block2"]
STAGE2 = ["stages.stage2.block1", "stages.stage2.block2"]
# The stretches from the head down.
ORDER = [["head"], [STAGE2[1]], [STAGE2[0]], [STAGE1[1]], [STAGE1[0]], STEM]
INPUTS = (4, 3, 16, 16)


def resnet():
    torch.manual_seed(0)
    return make("resnet", (3, 16, 16), 4, {"width": 4, "blocks": (2, 2), "zero_branches": False})


def parameters_of(model, parts):
    return {
        name for name, _ in model.named_parameters() if name.startswith(tuple(f"{part}." for part in parts))
    }


def training(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def step(model, optimizer, seed):
    optimizer.zero_grad()
    inputs = torch.randn(INPUTS, generator=torch.Generator().manual_seed(seed))
    (model.train()(inputs) - 1).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("name", ["AdamW", "Lion", "SOAP"])
def test_which_weights_train_at_each_epoch(name, every, traced):
    """Gradients, changes, statistics and optimizer states, of the thawed alone."""
    model = resnet()
    unfreezing = GradualUnfreezing(model, every=every, sample=None if traced else torch.randn(INPUTS))
    assert len(unfreezing.names) == len(ORDER)
    optimizer = getattr(ravine.optim, name)(model.parameters(), lr=0.01, weight_decay=0.1)
    for epoch in range(every * len(ORDER) + 1):
        unfreezing.step(epoch)
        due = min(len(ORDER), 1 + epoch // every)
        parts = [part for stretch in ORDER[:due] for part in stretch]
        expected = parameters_of(model, parts)
        assert unfreezing.thawed == due and training(model) == expected
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        step(model, optimizer, epoch)
        named = dict(model.named_parameters())
        assert {name for name, parameter in named.items() if parameter.grad is not None} == expected
        assert set(optimizer.state) == {named[name] for name in expected}
        changed = {
            name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])
        }
        assert changed == {name for name in before if name.startswith(tuple(f"{part}." for part in parts))}
    assert training(model) == set(named)


def test_names_are_those_of_the_stretches_from_the_head():
    names = GradualUnfreezing(resnet()).names
    assert names == ["head", "pool", *STAGE2[:1], *STAGE1[::-1], "stem"]


@pytest.mark.parametrize("mode", [True, False])
def test_the_thawed_follow_the_networks_mode_and_the_frozen_stay(mode):
    """Their containers hold both."""
    model = resnet()
    unfreezing = GradualUnfreezing(model)
    for epoch in range(len(ORDER)):
        model.train(not mode)
        unfreezing.step(epoch)
        model.train(mode)
        thawed = [part for stretch in ORDER[: epoch + 1] for part in stretch]
        for name, module in model.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.training == (mode and name.startswith(tuple(f"{part}." for part in thawed)))
    assert all(module.training == mode for module in model.modules())


def test_validation_leaves_the_statistics_of_thawed_layers_alone():
    model = resnet()
    unfreezing = GradualUnfreezing(model)
    model.train()
    unfreezing.step(2)
    model.eval()
    before = copy.deepcopy(model.state_dict())
    model(torch.randn(INPUTS))
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("at", range(1, 6))
def test_resumed_by_its_state(at, every):
    """The rest of the training is the same, bit for bit."""
    model = resnet()
    unfreezing = GradualUnfreezing(model, every=every)
    optimizer = ravine.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    epochs = range(every * len(ORDER))
    for epoch in epochs:
        if epoch == at:
            saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), unfreezing.state_dict()))
        unfreezing.step(epoch)
        step(model, optimizer, epoch)
    again = resnet()
    resumed = GradualUnfreezing(again, every=every)
    other = ravine.optim.AdamW(again.parameters(), lr=0.01, weight_decay=0.1)
    for part, state in zip((again, other, resumed), saved, strict=True):
        part.load_state_dict(state)
    assert resumed.state_dict() == saved[2] == {"thawed": 1 + (at - 1) // every}
    assert len(training(again)) == len(parameters_of(again, [p for s in ORDER[: resumed.thawed] for p in s]))
    for epoch in epochs[at:]:
        resumed.step(epoch)
        step(again, other, epoch)
    torch.testing.assert_close(dict(again.state_dict()), dict(model.state_dict()), rtol=0, atol=0)


class Backwards(nn.Module):
    """What ends the network is registered first, and its embedding is its own."""

    def __init__(self):
        super().__init__()
        self.end = nn.LogSoftmax(1)
        self.head, self.body = nn.Linear(8, 4), nn.Linear(8, 8)
        self.position = nn.Parameter(torch.zeros(8))

    def forward(self, x):
        return self.end(self.head(torch.relu(self.body(x + self.position))))


@pytest.mark.parametrize("traced", [True, False])
def test_the_order_is_that_of_the_calls_and_own_weights_thaw_last(traced):
    model = Backwards()
    unfreezing = GradualUnfreezing(model, sample=None if traced else torch.randn(2, 8))
    assert unfreezing.names == ["end", "body"]
    assert training(model) == {"head.weight", "head.bias"}
    unfreezing.step(0)
    assert training(model) == {"head.weight", "head.bias"}
    unfreezing.step(1)
    assert training(model) == {name for name, _ in model.named_parameters()}


def test_what_was_frozen_otherwise_stays_frozen():
    model = resnet()
    model.stem.requires_grad_(False)
    unfreezing = GradualUnfreezing(model)
    unfreezing.step(100)
    assert training(model) == {name for name, _ in model.named_parameters()} - parameters_of(model, STEM)


def test_a_pause_below_one_is_refused():
    with pytest.raises(ModelError, match="every must be at least 1, not 0"):
        GradualUnfreezing(resnet(), every=0)
