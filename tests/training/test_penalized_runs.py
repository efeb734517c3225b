"""Penalties in a training: the steps they make, what is recorded without them, bounds, refusals."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.optimize import minimize
from test_resume import assert_identical, stop_at
from torch import nn
from torch.nn import functional

from ravine.errors import Interrupted, RecipeError
from ravine.lab.range_test import range_test
from ravine.training import checkpoint
from ravine.training import run as runs
from ravine.training.load import load

F64 = torch.float64
STEP = {
    "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.0, "nesterov": False, "average": 0.0},
    "schedule": {"name": "none"},
    "stop": {"epochs": 1},
    "precision": "fp32",
}
SMALL = {"model": {"name": "mlp", "width": 16, "depth": 1}, "stop": {"epochs": 3}}


def batches(count=1, items=12):
    draw = torch.manual_seed(0)
    return [
        (torch.randn(items, 4, dtype=F64, generator=draw), torch.randn(items, 2, dtype=F64, generator=draw))
        for _ in range(count)
    ]


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 2)).to(F64)


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def last_weights(folder):
    """Where training ended, whatever weights were the best."""
    tensors, state = checkpoint.load_newest(folder / "checkpoints", print)
    return checkpoint.unflatten(state["model"], tensors)


def stepped(tmp_path, settings, data, **optimizer):
    """The weights after one epoch, and its row."""
    recipe = STEP | {"optimizer": STEP["optimizer"] | optimizer}
    run = runs.train(network(), data, recipe, settings=[{"regularize": settings}], out=tmp_path / "run")
    return dict(run.model.named_parameters()), rows_of(run.folder)[0]


# Steps in closed form.


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize(("l1", "l2"), [(0.0, 0.3), (0.2, 0.0), (0.2, 0.3)])
def test_a_step_is_that_of_the_loss_with_the_terms(l1, l2, accumulate, tmp_path):
    """L2 of λ is a weight decay of 2λ and l1 adds λ·sign(w), on weights alone, once a step."""
    data = batches(accumulate)
    found, row = stepped(tmp_path, {"l1": l1, "l2": l2}, data, accumulate=accumulate)
    twin = network()
    loss = sum(functional.mse_loss(twin(inputs), targets) for inputs, targets in data) / accumulate
    loss.backward()
    for name, weight in twin.named_parameters():
        if weight.dim() > 1:
            weight.grad += 2 * l2 * weight.detach() + l1 * weight.detach().sign()
        torch.testing.assert_close(found[name], weight - 0.1 * weight.grad, rtol=1e-12, atol=1e-14)
    assert row["train.loss"] == pytest.approx(loss.item(), rel=1e-12), "recorded without the penalty"
    norm = torch.cat([weight.grad.flatten() for weight in twin.parameters()]).norm().item()
    assert row["gradient_norm"] == pytest.approx(norm, rel=1e-12)


def test_l2_is_a_weight_decay_twice_as_strong(tmp_path):
    """As the optimizer's own option makes it, where all parameters are weights."""
    data = [(torch.ones(2, 1, dtype=F64), torch.zeros(2, dtype=F64))]
    ends = []
    for number, (penalty, decay) in enumerate(((0.25, 0.0), (0.0, 0.5))):
        model = nn.Linear(1, 1, bias=False).to(F64)
        nn.init.constant_(model.weight, 3.0)
        recipe = STEP | {"optimizer": STEP["optimizer"] | {"weight_decay": decay}, "stop": {"epochs": 4}}
        settings = [{"regularize": {"l2": penalty}}]
        run = runs.train(model, data, recipe, settings=settings, out=tmp_path / str(number))
        ends.append(last_weights(run.folder)["weight"].item())
    assert ends[0] == pytest.approx(ends[1], rel=1e-14)
    assert ends[0] == pytest.approx(3.0 * (1 - 0.1 * (2 + 0.5)) ** 4, rel=1e-12)


def test_clipping_takes_the_penalty_along(tmp_path):
    found, _ = stepped(tmp_path, {"l2": 100.0}, batches(), clip_norm=0.5)
    length = sum((found[name] - weight).square().sum() for name, weight in network().named_parameters())
    assert length.sqrt().item() == pytest.approx(0.1 * 0.5, rel=1e-9)


def test_the_range_test_takes_the_recipe_s_steps():
    """The loss is w² on x = 1; a step multiplies w by 1 − 2·lr·(1 + λ), and the losses are without λ·w²."""
    model = nn.Linear(1, 1, bias=False).to(F64)
    nn.init.constant_(model.weight, 3.0)
    data = [(torch.ones(2, 1, dtype=F64), torch.zeros(2, dtype=F64))]
    setup = runs.make_setup(model, data, STEP, settings=[{"regularize": {"l2": 0.5, "max_norm": 2.0}}])
    weight = 3.0
    for row in range_test(setup, lowest=1e-4, highest=0.2, steps=40).rows:
        assert row["loss"] == pytest.approx(weight**2, rel=1e-9)
        weight = min(2.0, weight * (1 - 2 * row["lr"] * 1.5))
    assert model.weight.item() == 3.0


# Optima.


@pytest.mark.parametrize("name", ["lbfgs", "bfgs", "newton"])
def test_full_batches_reach_the_ridge(name, tmp_path):
    """Against the normal equations of diabetes; the offset is not penalized."""
    settings = [{"model": {"name": "linear"}, "optimizer": {"name": name}, "regularize": {"l2": 0.05}}]
    settings += [{"data": {"batch_size": 100}, "optimizer": {"accumulate": 10}, "stop": {"patience": 0}}]
    run = runs.train(None, "diabetes", settings=settings, out=tmp_path / "run")
    assert run.result["stopped"].startswith("converged")
    setup = runs.make_setup(None, "diabetes", settings=settings)
    inputs, targets = (torch.cat(part).double() for part in zip(*setup.feeds["train"].epoch(0), strict=True))
    targets = targets.flatten()
    x, y = inputs - inputs.mean(0), targets - targets.mean()
    ridge = torch.linalg.solve(x.T @ x / len(x) + 0.05 * torch.eye(x.shape[1], dtype=F64), x.T @ y / len(x))
    offset = targets.mean() - inputs.mean(0) @ ridge
    weights = last_weights(run.folder)
    (weight,) = [tensor for tensor in weights.values() if tensor.dim() == 2]
    (bias,) = [tensor for tensor in weights.values() if tensor.dim() == 1]
    torch.testing.assert_close(weight[0].double(), ridge, rtol=0, atol=2e-4)
    assert bias.item() == pytest.approx(float(offset), abs=2e-4)
    errors = (inputs @ ridge + offset - targets).square().mean()
    assert rows_of(run.folder)[-1]["train.loss"] == pytest.approx(float(errors), rel=1e-4)


def test_lbfgs_reaches_the_logistic_regression_of_scipy(tmp_path):
    settings = [{"model": {"name": "linear"}, "optimizer": {"name": "lbfgs"}, "stop": {"patience": 0}}]
    settings += [{"regularize": {"l2": 0.02}}]
    run = runs.train(None, "wine", settings=settings, out=tmp_path / "run")
    setup = runs.make_setup(None, "wine", settings=settings)
    inputs, targets = (torch.cat(part) for part in zip(*setup.feeds["train"].epoch(0), strict=True))
    x, one_hot = inputs.double().numpy(), np.eye(3)[targets.numpy()]

    def loss(flat):
        weight, bias = flat[:39].reshape(3, 13), flat[39:]
        logits = x @ weight.T + bias
        shifted = logits - logits.max(1, keepdims=True)
        logs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
        pull = (np.exp(logs) - one_hot) / len(x)
        value = -(one_hot * logs).sum(1).mean() + 0.02 * (weight**2).sum()
        return value, np.concatenate([(pull.T @ x + 0.04 * weight).ravel(), pull.sum(0)])

    best = minimize(loss, np.zeros(42), jac=True, method="BFGS", options={"gtol": 1e-9})
    weights = last_weights(run.folder)
    (weight,) = [tensor for tensor in weights.values() if tensor.dim() == 2]
    np.testing.assert_allclose(weight.numpy(), best.x[:39].reshape(3, 13), rtol=0, atol=1e-3)
    plain = best.fun - 0.02 * (best.x[:39] ** 2).sum()
    assert rows_of(run.folder)[-1]["train.loss"] == pytest.approx(plain, rel=1e-4)


# Bounds.


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_no_unit_is_longer_than_the_limit(average, tmp_path):
    settings = {"optimizer": {"name": "adam", "lr": 0.05, "average": average}}
    longest = {}
    for limit in (0.0, 0.7):
        bounded = [SMALL, settings, {"regularize": {"max_norm": limit}}]
        run = runs.train(None, "wine", settings=bounded, out=tmp_path / str(limit))
        found = [*load_file(run.folder / "model.safetensors").values(), *last_weights(run.folder).values()]
        longest[limit] = max(float(tensor.norm(dim=1).max()) for tensor in found if tensor.dim() == 2)
    assert longest[0.7] <= 0.7 < longest[0.0]


# Whole runs.


def test_a_stopped_run_ends_bit_identical(tmp_path, monkeypatch):
    settings = [SMALL, {"regularize": {"l1": 1e-4, "l2": 1e-3, "max_norm": 0.8, "dropout": 0.2}}]
    runs.train(None, "wine", settings=settings, out=tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_at(patch, "between_steps_when_due", 6)
        with pytest.raises(Interrupted):
            runs.train(None, "wine", settings=settings, out=tmp_path / "run")
    assert_identical(runs.resume(tmp_path / "run").folder, tmp_path / "whole")
    load(tmp_path / "run")  # makes the network, with the noise and without the penalties


def test_frozen_weights_are_not_penalized():
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2)).to(F64)
    model[0].requires_grad_(False)
    setup = runs.make_setup(model, batches(), STEP, settings=[{"regularize": {"l2": 0.5}}])
    assert setup.penalty().item() == pytest.approx(0.5 * model[1].weight.square().sum().item(), rel=1e-12)


# Refusals.


class Gains(nn.Module):
    """A network whose parameters all have one dimension."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return x * self.gain


@pytest.mark.parametrize(
    ("settings", "messages"),
    [
        ({"regularize": {"l1": -1.0}}, [r"regularize\.l1 = -1\.0"]),
        ({"regularize": {"l2": float("inf")}}, [r"regularize\.l2 = inf"]),
        ({"regularize": {"max_norm": True}}, [r"regularize\.max_norm = True"]),
        ({"regularize": {"maxnorm": 1.0}}, ["did you mean 'max_norm'"]),
        (
            {"regularize": {"max_norm": 2.0}, "optimizer": {"name": "schedule_free_sgd"}},
            [r"regularize\.max_norm = 2\.0: ScheduleFreeSGD .* set regularize\.max_norm=0"],
        ),
        (
            {"regularize": {"l2": 0.1}, "predict": {"average": "samples"}, "model": {"name": "linear"}},
            ["the network has no"],
        ),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(settings, messages, tmp_path):
    with pytest.raises(RecipeError) as caught:
        runs.train(None, "wine", settings=[settings], out=tmp_path / "run")
    assert len(caught.value.problems) == len(messages)
    for message in messages:
        assert caught.match(message)
    assert not list(tmp_path.iterdir())


def test_a_network_without_weights_is_refused(tmp_path):
    data = [(torch.randn(8, 4), torch.randn(8, 4))]
    asked = {"regularize": {"l1": 0.1, "l2": 0.1, "max_norm": 2.0}}
    with pytest.raises(RecipeError) as caught:
        runs.train(Gains(), data, asked, out=tmp_path / "run")
    assert [problem.split(" = ")[0] for problem in caught.value.problems] == [
        "regularize.l1",
        "regularize.l2",
        "regularize.max_norm",
    ]
    assert all("no weights" in problem for problem in caught.value.problems)


# Which weights.


class Placed(nn.Module):
    """Gains of two dimensions, an embedding of positions, and layers whose units lie on either axis."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.position, self.norm = nn.Parameter(torch.randn(1, 3, 4)), nn.LayerNorm((3, 4))
        self.up, self.head = nn.ConvTranspose1d(3, 5, 1), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.up(self.norm(x + self.position)).mean(1))


def placed():
    draw = torch.Generator().manual_seed(0)
    data = [(torch.randn(8, 3, 4, generator=draw), torch.randn(8, 2, generator=draw))]
    return Placed(), data


def test_gains_of_several_dimensions_are_not_penalized():
    """What decay is for, and nothing else."""
    model, data = placed()
    model.up.requires_grad_(False)
    setup = runs.make_setup(model, data, STEP, settings=[{"regularize": {"l2": 1.0}}])
    wanted = model.position.square().sum() + model.head.weight.square().sum()
    assert setup.penalty().item() == pytest.approx(wanted.item(), rel=1e-6)


def test_gains_and_embeddings_are_not_bound(tmp_path):
    """A step of rate 0 leaves everything but the units of layers."""
    model, data = placed()
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    still = STEP | {"optimizer": STEP["optimizer"] | {"lr": 1e-30}}
    settings = [{"regularize": {"max_norm": 0.1}}]
    found = last_weights(runs.train(model, data, still, settings=settings, out=tmp_path / "run").folder)
    for name in ("position", "norm.weight", "norm.bias", "up.bias", "head.bias"):
        torch.testing.assert_close(found[name], before[name])
    for name, axis in (("up.weight", 1), ("head.weight", 0)):
        torch.testing.assert_close(found[name], torch.renorm(before[name], 2, axis, 0.1))
