"""The training loss around the weights (T9): the right numbers, nothing changed, nothing broken by it."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from ravine.training import local_models
from ravine.training import run as runs

SMALL = {"model": {"name": "mlp", "width": 16}, "stop": {"epochs": 2}}
EXACT = {"rel": 1e-3}


def first_batch(setup):
    return next(iter(setup.feeds["train"].epoch(0)))


def test_the_numbers_are_those_of_the_loss_without_noise():
    setup = runs.make_setup(None, "wine", settings=[SMALL, {"model": {"dropout": 0.5}}])
    inputs, targets = first_batch(setup)
    numbers = local_models.around(setup, inputs, targets)
    setup.model.eval()
    parameters = list(setup.model.parameters())
    loss = setup.objective(setup.model(inputs), targets)
    gradient = torch.autograd.grad(loss, parameters, create_graph=True)
    square = sum(part.square().sum() for part in gradient)
    assert numbers["items"] == len(targets)
    assert numbers["value"] == pytest.approx(loss.item())
    assert numbers["slope"] == pytest.approx(-square.item(), **EXACT)
    # With g held fixed, d(g·∇f)/dx · g is the curvature along g.
    product = torch.autograd.grad(
        sum((part * part.detach()).sum() for part in gradient), parameters, materialize_grads=True
    )
    along = sum((part * held).sum().item() for part, held in zip(product, gradient, strict=True))
    assert numbers["curvature"] == pytest.approx(along, **EXACT)
    step = numbers["steps"][-1]
    with torch.no_grad():
        for parameter, part in zip(parameters, gradient, strict=True):
            parameter -= step * part
        assert numbers["values"][-1] == pytest.approx(float(setup.objective(setup.model(inputs), targets)))


@pytest.mark.parametrize("data, model", [("wine", "mlp"), ("digits", "cnn"), ("digits", "resnet")])
def test_nothing_is_changed(data, model):
    setup = runs.make_setup(model, data)
    before = {name: tensor.clone() for name, tensor in setup.model.state_dict().items()}
    modes = [module.training for module in setup.model.modules()]
    random = torch.get_rng_state()
    assert local_models.around(setup, *first_batch(setup)) is not None
    for name, tensor in setup.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert [module.training for module in setup.model.modules()] == modes
    assert all(parameter.grad is None for parameter in setup.model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_attention_is_differentiated_twice(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("all work and no play makes jack a dull boy. " * 60)
    setup = runs.make_setup("transformer", text)
    assert local_models.around(setup, *first_batch(setup))["curvature"] != 0


def test_large_networks_get_fewer_items():
    setup = runs.make_setup(None, "digits", settings=[{"model": {"name": "mlp", "width": 4096}}])
    inputs, targets = first_batch(setup)
    assert 4 <= local_models.around(setup, inputs, targets)["items"] < len(targets)


def test_a_run_keeps_where_it_began_and_where_it_ended(tmp_path):
    folder = runs.train(None, "wine", settings=[SMALL], out=tmp_path / "run").folder
    first, best = (
        json.loads((folder / f"local_model.{which}.json").read_text()) for which in ("first", "best")
    )
    setup = runs.make_setup(None, "wine", settings=[SMALL])
    inputs, targets = first_batch(setup)
    assert first == json.loads(json.dumps(local_models.around(setup, inputs, targets)))
    setup.model.load_state_dict(load_file(folder / "model.safetensors"))
    assert best == json.loads(json.dumps(local_models.around(setup, inputs, targets)))
    assert best["value"] < first["value"]


class OnceDifferentiable(nn.Module):
    """With a kernel of attention that has no second derivative."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 12)

    def forward(self, x):
        query, key, value = self.layer(x)[:, None, None, :].split(4, dim=-1)
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return functional.scaled_dot_product_attention(query, key, value)[:, 0, 0, :3]


def test_a_network_that_cannot_be_differentiated_twice_trains_all_the_same(tmp_path):
    torch.manual_seed(0)
    batches = [(torch.randn(8, 5), torch.randint(0, 3, (8,))) for _ in range(3)]
    run = runs.train(OnceDifferentiable(), batches, {"stop": {"epochs": 2}}, out=tmp_path / "run")
    assert not list(run.folder.glob("local_model.*"))
    assert load_file(run.folder / "model.safetensors")
