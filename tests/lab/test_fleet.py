"""The fleet: every member as its recipe would be alone, however it runs, whatever becomes of the others."""

import copy
import math
import os
import signal
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from ravine.errors import MemoryLimitError, ModelError, RecipeError, RunError
from ravine.generalize import regularize
from ravine.lab import Fleet
from ravine.lab.fleet import choice as choosing
from ravine.lab.fleet import fleet as module
from ravine.lab.fleet.choice import Choice
from ravine.lab.fleet.direct import chain
from ravine.lab.fleet.grouping import groups
from ravine.lab.fleet.products import products
from ravine.lab.fleet.rates import DropoutByMember
from ravine.lab.fleet.stack import Stack
from ravine.lab.fleet.stacked import StackedGroup
from ravine.training import run as runs
from ravine.training.signals import StopNow

EXACT = {"precision": "fp32"}
# Adam makes much of gradients that are rounding alone; here steps are as large as gradients.
PLAIN = {"name": "sgd", "lr": 0.05, "momentum": 0.9}
# 142 items in batches of 8: 12 epochs of 18 steps are more than 200.
LONG = {"stop": {"epochs": 12}, "data": {"batch_size": 8, "validation": 0.0}, **EXACT}


@contextmanager
def running(how):
    """Every group that can be stacked runs in this way."""
    before, module.choose = module.choose, lambda members: Choice(how, "asked for")
    try:
        yield
    finally:
        module.choose = before


def trained(how, *arguments, dtype=None, **options):
    fleet = Fleet(*arguments, **options)
    for member in fleet.members if dtype else ():
        in_dtype(member.setup, dtype)
        member.best = {name: tensor.to(dtype) for name, tensor in member.best.items()}
    with running(how):
        fleet.run()
    return fleet


def in_dtype(setup, dtype):
    for network in (setup.model, setup.averaged):
        if network is not None:
            network.to(dtype)
    for feed in setup.feeds.values():
        if feed.batches.inputs.is_floating_point():
            feed.batches.inputs = feed.batches.inputs.to(dtype)
        if feed.batches.targets.is_floating_point():
            feed.batches.targets = feed.batches.targets.to(dtype)


def weights(member):
    return dict(member.setup.model.state_dict())


def assert_same(fleet, other, rtol):
    for one, alone in zip(fleet.members, other.members, strict=True):
        for name, tensor in weights(alone).items():
            torch.testing.assert_close(
                weights(one)[name], tensor, rtol=rtol, atol=rtol, msg=f"{one.name} {name}"
            )


def by_members(*layers):
    return [{"seed": seed, **layer} for seed, layer in enumerate(layers)]


class Tied(nn.Module):
    """One matrix for two layers, a frozen layer, a buffer, attention: what a plain stack of layers lacks."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(13, 13), nn.Linear(13, 13), nn.Linear(13, 3)
        self.second.weight = self.first.weight
        self.frozen = nn.Linear(13, 12).requires_grad_(False)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm = nn.BatchNorm1d(13)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.calls.add_(1)
        x = self.norm(torch.tanh(self.second(torch.relu(self.first(x)))))
        parts = self.frozen(x).unflatten(1, (3, 4))
        return self.head(x) + self.attention(parts, parts, parts)[0].mean(2)


OPTIMIZERS = [
    ("sgd", {"lr": 0.1, "momentum": 0.9}, {"lr": 0.02, "momentum": 0.5, "weight_decay": 0.1}),
    ("adamw", {"lr": 0.01, "weight_decay": 0.1}, {"lr": 0.003, "betas": [0.8, 0.99], "weight_decay": 0.02}),
    ("adam", {"lr": 0.01, "clip_norm": 0.1}, {"lr": 0.02, "eps": 1e-3}),
    ("rmsprop", {"lr": 0.01, "alpha": 0.9}, {"lr": 0.002, "alpha": 0.99}),
    ("lion", {"lr": 0.001}, {"lr": 0.0003, "weight_decay": 0.1}),
]


@pytest.mark.parametrize(("name", "one", "other"), OPTIMIZERS, ids=[name for name, *_ in OPTIMIZERS])
@pytest.mark.parametrize("network", ["layers", Tied])
def test_members_equal_their_own_trainings(name, one, other, network):
    """More than 200 steps in float64, against the training loop itself: rounding alone may grow."""
    if name == "lion" and network is Tied:
        return  # a gradient that is zero but for rounding, as attention's key bias has, has no sign
    members = by_members(*({"optimizer": {"name": name, **each}} for each in (one, other, one)))
    members[1] |= {"schedule": {"name": "linear", "warmup": 5}, "loss": {"label_smoothing": 0.2}}
    if network == "layers":
        network, settings = "mlp", [LONG, {"model": {"normalization": "layer", "width": 16}}]
    else:
        settings = [LONG]
    stacked = trained("stacked", network, "wine", members, settings=settings, dtype=torch.float64)
    alone = trained("in turn", network, "wine", members, settings=settings, dtype=torch.float64)
    assert [choice.how for choice in stacked.choices.values()] == ["stacked"]
    assert stacked.members[0].state.step > 200
    assert_same(stacked, alone, 1e-9)
    for one, other in zip(stacked.members, alone.members, strict=True):
        assert one.rows[-1]["train.loss"] == pytest.approx(other.rows[-1]["train.loss"], rel=1e-6)
        for key in ("lr", "gradient_norm", "update_ratio", "train.accuracy", "step", "epoch"):
            assert one.rows[-1][key] == pytest.approx(other.rows[-1][key], rel=1e-6), key
        assert (
            one.setup.optimizer.state_dict()["param_groups"]
            == other.setup.optimizer.state_dict()["param_groups"]
        )


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("cnn", {"model": {"width": 4, "depth": 2}}),
        ("resnet", {"model": {"width": 4, "blocks": [1], "stem_stride": 1}}),
        ("cnn", {"model": {"width": 4, "depth": 2}, "augment": ["shift"], "optimizer": {"average": 0.9}}),
        (
            "mlp",
            {"model": {"width": 8}, "regularize": {"l1": 1e-3, "l2": 1e-2}, "optimizer": {"average": 0.5}},
        ),
        ("mlp", {"model": {"width": 8}, "augment": ["mixup"]}),
    ],
)
def test_convolutions_statistics_averages_penalties_and_augmentation(model, settings):
    settings = [
        {"stop": {"epochs": 2}, "data": {"batch_size": 64}, "optimizer": PLAIN, **EXACT},
        settings,
    ]
    members = by_members({}, {"optimizer": {"weight_decay": 0.3}}, {})
    if "regularize" in settings[1]:
        members[1] = {"seed": 1, "regularize": {"l1": 0.0, "l2": 0.1}}
    stacked, alone = (
        trained(how, model, "digits", members, settings=settings) for how in ("stacked", "in turn")
    )
    assert [choice.how for choice in stacked.choices.values()] == ["stacked"]
    assert_same(stacked, alone, 2e-3)
    for one, other in zip(stacked.members, alone.members, strict=True):
        for name, tensor in other.best.items():
            torch.testing.assert_close(one.best[name], tensor, rtol=2e-3, atol=2e-3)
        assert one.rows[-1]["validation.loss"] == pytest.approx(other.rows[-1]["validation.loss"], rel=1e-3)


def test_a_regression_and_a_text(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be, that is the question: " * 60)
    small = {
        "model": {"width": 16, "depth": 1, "context": 16},
        "stop": {"epochs": 2},
        "optimizer": PLAIN,
        **EXACT,
    }
    for data, settings in (
        ("diabetes", {"stop": {"epochs": 5}, "model": {"dropout": 0.0}, "optimizer": PLAIN, **EXACT}),
        (text, small),
    ):
        stacked, alone = (trained(how, None, data, 3, settings=[settings]) for how in ("stacked", "in turn"))
        assert [choice.how for choice in stacked.choices.values()] == ["stacked"]
        assert_same(stacked, alone, 1e-3)


def test_a_member_is_the_run_of_its_recipe(tmp_path):
    """What `ravine train` makes of the member's settings, wherever it stands and however many there are."""
    settings = [{"model": {"width": 8}, "stop": {"epochs": 4}, **EXACT}]
    members = by_members({}, {"optimizer": {"lr": 0.02}}, {})
    for order in ([0, 1, 2], [2, 0, 1]):
        fleet = trained("stacked", "mlp", "wine", [members[at] for at in order], settings=settings)
        cut = {"data": {"split": fleet.members[0].setup.recipe.seed}}
        for place, at in enumerate(order):
            out = tmp_path / f"{order[0]}{place}"
            run = runs.train("mlp", "wine", settings=[cut, *settings, members[at]], out=out)
            network = fleet.network(place)
            for name, tensor in run.model.state_dict().items():
                torch.testing.assert_close(network.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)
            assert fleet.members[place].state.best_epoch == run.result["best_epoch"]


def test_members_of_other_shapes_and_kinds_train_beside_each_other():
    members = [
        {"model": {"width": 8}},
        {"model": {"width": 16}},
        {"model": {"width": 8}, "seed": 3},
        {"optimizer": {"name": "muon"}},
    ]
    fleet = trained("stacked", "mlp", "wine", members, settings=[{"stop": {"epochs": 2}, **EXACT}])
    told = {names: (choice.how, choice.why) for names, choice in fleet.choices.items()}
    assert told[("00", "02")][0] == "stacked"
    assert told[("01",)] == ("stacked", "asked for")
    assert told[("03",)] == ("in turn", "muon looks at whole tensors, not at each element")
    assert all(member.state.epoch == 2 for member in fleet.members)


def test_a_member_that_goes_bad_fails_alone():
    settings = [{"stop": {"epochs": 6}, "model": {"width": 8}, "optimizer": {"name": "sgd"}, **EXACT}]
    good = by_members({"optimizer": {"lr": 0.1}}, {"optimizer": {"lr": 0.05}})
    bad = {"seed": 7, "optimizer": {"lr": 1e30}}
    with_bad = trained("stacked", "mlp", "wine", [good[0], bad, good[1]], settings=settings)
    without = trained("stacked", "mlp", "wine", good, settings=settings)
    failed = with_bad.members[1]
    assert failed.failed.startswith("the loss became ") and "in epoch 1, at step" in failed.failed
    assert failed.rows == []
    assert all(bool(torch.isfinite(tensor).all()) for tensor in failed.best.values())
    for one, other in zip((with_bad.members[0], with_bad.members[2]), without.members, strict=True):
        assert not one.failed and one.state.epoch == 6
        for name, tensor in other.best.items():
            torch.testing.assert_close(one.best[name], tensor, rtol=1e-4, atol=1e-6)


def test_each_member_stops_when_its_own_patience_ends():
    settings = [{"stop": {"epochs": 30, "patience": 3}, "model": {"width": 8}, **EXACT}]
    members = by_members(*({"optimizer": {"lr": rate}} for rate in (0.3, 0.01, 0.1)))
    stacked, alone = (
        trained(how, "mlp", "wine", members, settings=settings) for how in ("stacked", "in turn")
    )
    ended = [member.state.epoch for member in stacked.members]
    assert ended == [member.state.epoch for member in alone.members]
    assert len(set(ended)) > 1 and min(ended) < 30
    assert [len(member.rows) for member in stacked.members] == ended


@pytest.mark.parametrize("outputs", [5, 40])
@pytest.mark.parametrize("rectified", [False, True])
def test_products_in_mixed_precision_are_those_of_each_member(outputs, rectified):
    torch.manual_seed(0)
    rows, weight, bias = torch.randn(3, 6, 7), torch.randn(3, outputs, 7), torch.randn(3, outputs)
    tensors = [each.requires_grad_() for each in (rows, weight, bias)]
    with torch.autocast("cpu", torch.bfloat16):
        together = products(*tensors, rectified=rectified)
        alone = torch.stack([nn.functional.linear(*own) for own in zip(*tensors, strict=True)])
        alone = alone.relu() if rectified else alone
    assert together.dtype == alone.dtype == torch.bfloat16
    torch.testing.assert_close(together, alone, rtol=2**-7, atol=2**-7)
    upon = torch.randn_like(together)
    for found, wanted in zip(
        torch.autograd.grad(together, tensors, upon), torch.autograd.grad(alone, tensors, upon), strict=True
    ):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, wanted, rtol=2**-6, atol=2**-5)


@pytest.mark.parametrize("where", ["choosing", "training"])
def test_members_that_do_not_fit_together_go_on_in_halves(monkeypatch, where):
    """At the third step, after the statistics of batch normalization took the batch in."""
    settings = [{"stop": {"epochs": 3}, "model": {"width": 8, "normalization": "batch"}, **EXACT}]
    settings.append({"optimizer": PLAIN})
    alone = trained("stacked", "mlp", "wine", 5, settings=settings)
    backward, steps, told = StackedGroup.backward, [], []

    def short(group, inputs, targets):
        steps.append(len(group.members))
        found = backward(group, inputs, targets)
        if len(group.members) > 2 and (where == "choosing" or len(steps) > 2):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return found

    monkeypatch.setattr(StackedGroup, "backward", short)
    if where == "training":
        halved = trained("stacked", "mlp", "wine", 5, settings=settings, tell=told.append)
    else:
        monkeypatch.setattr(choosing, "_compare", compared_as_stacked)
        halved = Fleet("mlp", "wine", 5, settings=settings, tell=told.append)
        halved.run()
    assert steps[:4] == ([5, 5, 5, 2] if where == "training" else [5, 2, 2, 2])
    assert [text for text in told if "halves" in text] == [
        "5 members at once do not fit into the memory: they go on in two halves",
        "3 members at once do not fit into the memory: they go on in two halves",
    ]
    assert_same(halved, alone, 1e-5)
    for one, other in zip(halved.members, alone.members, strict=True):
        assert one.state.step == other.state.step > 3
        torch.testing.assert_close(
            dict(one.setup.model.named_buffers()),
            dict(other.setup.model.named_buffers()),
            rtol=1e-5,
            atol=1e-6,
        )


def compared_as_stacked(stacked, single, members, batches):
    stacked()
    return {"stacked": 1.0, "in turn": 2.0}


def test_one_member_that_does_not_fit_is_told(monkeypatch):
    def short(group, inputs, targets):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(StackedGroup, "backward", short)
    with pytest.raises(MemoryLimitError, match="memory ran out"):
        trained("stacked", "mlp", "wine", 2, settings=[{"stop": {"epochs": 2}, **EXACT}])


class KilledError(Exception):
    """A kill, as far as what is on the disk goes."""


@pytest.mark.parametrize("how", ["stacked", "in turn"])
@pytest.mark.parametrize("after", [1, 5])
def test_a_fleet_goes_on_bit_for_bit(tmp_path, how, after):
    """Killed after some saves, within epochs too: what goes on ends as what was never stopped."""
    options = {
        "model": "mlp",
        "data": "wine",
        "members": by_members({}, {"model": {"dropout": 0.5}}, {"optimizer": {"average": 0.9}}),
        "settings": [
            {
                "stop": {"epochs": 4},
                "model": {"width": 8, "dropout": 0.2},
                "log": {"checkpoint_seconds": 0.0},
            },
            {"optimizer": {"average": 0.5}, "data": {"batch_size": 32}, **EXACT},
        ],
    }
    whole = Fleet(**options)
    killed = Fleet(**options, folder=tmp_path)
    saves = []

    def save():
        Fleet.save(killed)
        saves.append(1)
        if len(saves) == after:
            raise KilledError

    killed.save, killed._saving_took = save, 0.0
    killed._due = lambda: True
    with running(how):
        whole.run()
        with pytest.raises(KilledError):
            killed.run()
        resumed = Fleet(**options, folder=tmp_path)
        resumed.run()
    for one, other in zip(resumed.members, whole.members, strict=True):
        for name, tensor in weights(other).items():
            assert torch.equal(weights(one)[name], tensor), name
        assert all(torch.equal(one.best[name], tensor) for name, tensor in other.best.items())
        timeless = [
            [
                {k: v for k, v in row.items() if k not in ("seconds", "samples_per_second")}
                for row in member.rows
            ]
            for member in (one, other)
        ]
        assert timeless[0] == timeless[1]
        assert (
            one.setup.optimizer.state_dict()["state"].keys()
            == other.setup.optimizer.state_dict()["state"].keys()
        )


def test_a_signal_saves_and_stops(tmp_path):
    options = {"model": "mlp", "data": "wine", "members": 3, "settings": [{"stop": {"epochs": 50}, **EXACT}]}
    fleet = Fleet(**options, folder=tmp_path, tell=lambda text: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(StopNow):
        fleet.run()
    assert list((tmp_path / "checkpoints").glob("step-*"))
    resumed = Fleet(**options, folder=tmp_path)
    resumed._restore()
    assert 0 < resumed.members[0].state.step < 10
    with pytest.raises(RunError, match="of 3 members, not of 2"):
        Fleet(**options | {"members": 2}, folder=tmp_path).run()


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("cnn", {"regularize": {"dropout": 0.5, "feature_dropout": 0.2}}),
        ("mlp", {"regularize": {"drop_connect": 0.3}}),
        (
            "resnet",
            {
                "model": {"width": 4, "blocks": [1, 1], "stem_stride": 1},
                "regularize": {"stochastic_depth": 0.5},
            },
        ),
    ],
)
def test_noise_of_every_kind_trains_well_in_a_stack(model, settings):
    """In distribution: losses of 12 members each way agree within what their spread allows."""
    small = {"model": {"width": 8}, "stop": {"epochs": 2}, "optimizer": PLAIN, "augment": [], **EXACT}
    both = [trained(how, model, "digits", 12, settings=[small, settings]) for how in ("stacked", "in turn")]
    assert [choice.how for choice in both[0].choices.values()] == ["stacked"]
    for key in ("train.loss", "validation.loss"):
        one, other = (
            torch.tensor([member.rows[-1][key] for member in fleet.members], dtype=torch.float64)
            for fleet in both
        )
        error = math.sqrt((one.var() + other.var()) / 12)
        assert abs(one.mean() - other.mean()) < 4 * error, key
        assert one.std() > 0.2 * other.std()  # each draws its own


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_stack_trains_as_its_members_would(monkeypatch):
    """On a CPU, where it is not chosen: with a last batch of another size, penalties and statistics."""
    monkeypatch.setattr(choosing, "COMPILED_ON", ("cpu",))
    monkeypatch.setattr(choosing, "COMPILING", 0.0)
    settings = [
        {"stop": {"epochs": 2}, "optimizer": PLAIN, "data": {"batch_size": 32}, **EXACT},
        {"regularize": {"l2": 0.01}, "model": {"width": 8, "normalization": "layer"}},
    ]
    options = {"model": "mlp", "data": "wine", "members": 3, "settings": settings}
    fleet = Fleet(**options)
    choice = module.choose(fleet.members)
    assert "ms compiled" in choice.why and set(choice.seconds) == {"stacked", "compiled", "in turn"}
    compiled, alone = (trained(how, **options) for how in ("compiled", "in turn"))
    assert_same(compiled, alone, 1e-4)


def test_what_cannot_be_compiled_is_stacked(monkeypatch):
    monkeypatch.setattr(choosing, "COMPILED_ON", ("cpu",))
    monkeypatch.setattr(choosing, "COMPILING", 0.0)
    monkeypatch.setattr(torch, "compile", lambda *args, **options: SimpleNamespace())
    fleet = Fleet("mlp", "wine", 2, settings=[EXACT])
    assert set(module.choose(fleet.members).seconds) == {"stacked", "in turn"}


def test_a_network_with_values_of_its_own_is_not_stacked():
    """What is hidden in an object of its own, such as a scale, is the same for all members of a stack."""
    scales = iter((1.0, 2.0, 2.0, 3.0))

    class Scaled(nn.Linear):
        def __init__(self):
            super().__init__(13, 3)
            self.scale = SimpleNamespace(by=next(scales))

        def forward(self, x):
            return self.scale.by * super().forward(x)

    fleet = Fleet(Scaled, "wine", 2, settings=[{"stop": {"epochs": 1}, **EXACT}])
    fleet.run()
    (choice,) = fleet.choices.values()
    assert choice.how == "in turn" and choice.why.startswith("01 gives other outputs in a stack")


class Noisy(nn.Module):
    """With a number of its own that acts in training alone."""

    def __init__(self, p):
        super().__init__()
        self.first, self.last, self.p = nn.Linear(13, 16), nn.Linear(16, 3), p

    def forward(self, x):
        return self.last(functional.dropout(self.first(x), self.p, self.training))


def test_members_with_other_values_of_their_own_are_not_stacked_together():
    rates = iter([0.0, 0.9, 0.0, 0.9])
    fleet = Fleet(lambda: Noisy(next(rates)), "wine", 4, settings=[EXACT])
    assert [[member.name for member in group] for group in groups(fleet.members)] == [
        ["00", "02"],
        ["01", "03"],
    ]


class Assigning(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(13, 3)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.seen = self.seen + 1
        return self.last(x)


class Asserting(nn.Linear):
    def forward(self, x):
        if torch._C._functorch.is_batchedtensor(x):
            raise AssertionError
        return super().forward(x)


@pytest.mark.parametrize(
    ("network", "told"),
    [
        (Assigning, "it cannot be stacked: its forward pass assigns seen, which is not changed in place"),
        (lambda: Asserting(13, 3), "it cannot be stacked: AssertionError"),
    ],
)
def test_what_a_stack_would_lose_or_break_runs_in_turn(network, told):
    fleet = Fleet(network, "wine", 3, settings=[{"stop": {"epochs": 2}, **EXACT}])
    fleet.run()
    assert [(choice.how, choice.why) for choice in fleet.choices.values()] == [("in turn", told)]
    for member in fleet.members:
        buffers = dict(member.setup.model.named_buffers())
        assert not buffers or buffers["seen"] == member.state.step > 0


def test_what_vmap_cannot_do_runs_in_turn():
    class Branching(nn.Linear):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else -super().forward(x)

    fleet = Fleet(lambda: Branching(13, 3), "wine", 2, settings=[{"stop": {"epochs": 1}, **EXACT}])
    fleet.run()
    (choice,) = fleet.choices.values()
    assert choice.how == "in turn" and choice.why.startswith("it cannot be stacked: ")
    assert all(member.state.epoch == 1 for member in fleet.members)


def test_choosing_leaves_everything_as_it_was():
    fleet = Fleet("mlp", "wine", 3, settings=[{"model": {"dropout": 0.3}, "stop": {"epochs": 1}, **EXACT}])
    before = [copy.deepcopy(weights(member)) for member in fleet.members]
    states, random = [copy.deepcopy(m.state) for m in fleet.members], torch.get_rng_state()
    choice = module.choose(fleet.members)
    assert choice.how in ("stacked", "in turn") and "a step of all takes" in choice.why
    assert torch.equal(random, torch.get_rng_state())
    assert [member.state for member in fleet.members] == states
    for kept, member in zip(before, fleet.members, strict=True):
        assert all(torch.equal(kept[name], tensor) for name, tensor in weights(member).items())
        assert not member.setup.optimizer.state_dict()["state"]


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_dropout_by_member_has_the_mean_and_variance_of_dropout(p):
    part = DropoutByMember()
    part.p = torch.tensor(p)
    x = torch.full((200_000,), 2.0, requires_grad=True)
    torch.manual_seed(0)
    out = part(x)
    out.sum().backward()
    share = float(out.count_nonzero()) / len(x)
    assert share == pytest.approx(1 - p, abs=4 * math.sqrt(p * (1 - p) / len(x)))
    assert bool(torch.isfinite(x.grad).all())
    torch.testing.assert_close(x.grad, out.detach() / 2.0)
    if p < 1:
        assert float(out.detach().mean()) == pytest.approx(2.0, abs=0.03)
        torch.testing.assert_close(
            out[out > 0].detach(), torch.full((int(out.count_nonzero()),), 2 / (1 - p))
        )
    part.eval()
    assert part(x) is x


def test_members_draw_noise_of_their_own_at_their_own_rate():
    rates = (0.1, 0.6, 0.6)
    fleet = Fleet(
        lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(13, 3)), "wine", by_members({}, {}, {}),
        settings=[{"stop": {"epochs": 1}, **EXACT}],
    )  # fmt: skip
    for member, rate in zip(fleet.members, rates, strict=True):
        member.setup.model[0].p = rate
    stack = module.StackedGroup(fleet.members).stack
    stack.trained["1.weight"].data.copy_(torch.eye(3, 13).expand(3, 3, 13))
    stack.trained["1.bias"].data.zero_()
    torch.manual_seed(0)
    out = stack(torch.ones(4000, 13), training=True, shared=True)
    shares = (out == 0).double().mean((1, 2)).tolist()
    assert shares == pytest.approx(rates, abs=4 * math.sqrt(0.25 / 12_000))
    assert not torch.equal(out[1], out[2])


def test_noise_before_a_layer_is_drawn_for_each_member_at_its_rate():
    """Without `vmap`, whose batch normalization takes no bfloat16 beside statistics in float32."""
    rates = (0.1, 0.6)
    alone = [nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)) for _ in rates]
    for network, rate in zip(alone, rates, strict=True):
        regularize(network, dropout=rate)
        nn.init.eye_(network[2].weight)
        nn.init.zeros_(network[2].bias)
    stack = Stack(copy.deepcopy(alone))
    inputs = torch.randn(4000, 5)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        noisy = stack(inputs, training=True, shared=True)
    shares = (noisy == 0).double().mean((1, 2)).tolist()
    assert shares == pytest.approx(rates, abs=4 * math.sqrt(0.25 / 12_000))
    outputs = stack(inputs, training=False, shared=True)
    for number, network in enumerate(alone):
        network[1].load_state_dict(
            {
                name: stack.others.get(f"1.{name}", stack.trained.get(f"1.{name}"))[number]
                for name in network[1].state_dict()
            }
        )
        torch.testing.assert_close(outputs[number], network.eval()(inputs))


def test_layers_that_do_nothing_do_not_part_a_product_from_its_activation():
    """And an activation that changes its input in place is the same in a stack, which is of views."""
    inputs = torch.randn(2, 6, 5)
    for layer in (nn.ReLU(inplace=True), nn.SiLU(inplace=True)):
        alone = [nn.Sequential(nn.Linear(5, 4), nn.Identity(), layer, nn.Linear(4, 3)) for _ in range(2)]
        networks = copy.deepcopy(alone)
        stack = Stack(networks)
        outputs = stack(inputs, training=True)
        outputs.square().sum().backward()
        for number, network in enumerate(alone):
            own = network(inputs[number])
            torch.testing.assert_close(outputs[number], own)
            own.square().sum().backward()
            for name, parameter in network.named_parameters():
                torch.testing.assert_close(stack.trained[name].grad[number], parameter.grad)
        assert layer.inplace
    assert len(chain(nn.Sequential(nn.Linear(5, 4), nn.Identity(), nn.ReLU()), stack.trained)) == 1


def test_networks_that_are_taken_out_have_memory_of_their_own():
    fleet = trained("stacked", "mlp", "wine", 2, settings=[{"stop": {"epochs": 1}, **EXACT}])
    network = fleet.network(0)
    kept = copy.deepcopy(network.state_dict())
    with torch.no_grad():
        for tensor in fleet.members[0].setup.model.parameters():
            tensor.zero_()
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in kept.items())
    assert not network.training


def test_hooks_of_a_layer_are_kept_in_a_stack():
    """Before an activation, too, which a stack would otherwise take together with the products before it."""

    def hooked():
        network = nn.Sequential(nn.Linear(13, 8), nn.ReLU(), nn.Linear(8, 3))
        network[1].register_forward_pre_hook(lambda module, inputs: (inputs[0] - 1.0,))
        return network

    settings = [{"stop": {"epochs": 2}, "optimizer": PLAIN, **EXACT}]
    stacked, alone = (trained(how, hooked, "wine", 2, settings=settings) for how in ("stacked", "in turn"))
    assert_same(stacked, alone, 1e-4)


def test_members_share_the_items_they_have_in_common():
    members = [{}, {"seed": 3}, {"seed": 4, "data": {"bootstrap": True}}]
    setups = [member.setup for member in Fleet("mlp", "wine", members).members]
    one, other, bag = (setup.feeds["train"].batches for setup in setups)
    assert one.inputs is other.inputs and one.inputs is not bag.inputs
    assert not torch.equal(next(one.epoch(0))[0], next(other.epoch(0))[0])
    assert all(setup.dataset is setups[0].dataset for setup in setups)


def shared_norm():
    norm = nn.LayerNorm(16)
    return nn.Sequential(nn.Linear(13, 16), norm, nn.ReLU(), nn.Linear(16, 16), norm, nn.Linear(16, 3))


def shared_bias():
    one, other = nn.Linear(13, 13), nn.Linear(13, 13)
    nn.init.zeros_(one.bias)
    other.bias = one.bias
    return nn.Sequential(one, nn.ReLU(), other, nn.ReLU(), nn.Linear(13, 3))


def frozen_matrices():
    network = nn.Sequential(nn.BatchNorm1d(13), nn.Linear(13, 3))
    network[1].requires_grad_(False)
    return network


def hooked_gradient():
    network = nn.Sequential(nn.Linear(13, 8), nn.ReLU(), nn.Linear(8, 3))
    network[0].weight.register_hook(lambda gradient: gradient * 0)
    return network


def hooked_backward():
    network = nn.Sequential(nn.Linear(13, 8), nn.ReLU(), nn.Linear(8, 3))
    network[2].register_full_backward_hook(lambda module, below, above: (below[0] * 0,))
    return network


def own_forward():
    network = nn.Sequential(nn.Linear(13, 8), nn.ReLU(), nn.Linear(8, 3))
    layer = network[0]
    layer.forward = lambda x: (
        nn.functional.linear(x, layer.weight, layer.bias) * (0.5 if layer.training else 1)
    )
    return network


@pytest.mark.parametrize(
    "network", [shared_norm, shared_bias, frozen_matrices, hooked_gradient, hooked_backward, own_forward]
)
@pytest.mark.parametrize("members", [1, 3])
def test_however_a_fleet_runs_odd_networks_train_as_alone(network, members):
    settings = [{"stop": {"epochs": 3}, "optimizer": PLAIN, **EXACT}]
    chosen = Fleet(network, "wine", members, settings=settings)
    chosen.run()
    assert_same(chosen, trained("in turn", network, "wine", members, settings=settings), 1e-4)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_parametrized_layers_are_stacked():
    def network():
        return nn.Sequential(parametrizations.weight_norm(nn.Linear(13, 8)), nn.ReLU(), nn.Linear(8, 3))

    settings = [{"stop": {"epochs": 2}, "optimizer": PLAIN, **EXACT}]
    fleet = Fleet(network, "wine", 3, settings=settings)
    assert len(groups(fleet.members)) == 1
    stacked, alone = (trained(how, network, "wine", 3, settings=settings) for how in ("stacked", "in turn"))
    assert_same(stacked, alone, 1e-4)


def test_one_dropout_in_two_places_has_each_members_rate_in_both():
    def network():
        dropout = nn.Dropout(0.5)
        return nn.Sequential(nn.Linear(13, 50), dropout, nn.Linear(50, 50), dropout, nn.Linear(50, 3))

    fleet = Fleet(network, "wine", 2, settings=[EXACT])
    for member, rate in zip(fleet.members, (0.2, 0.7), strict=True):
        member.setup.model[1].p = rate
        nn.init.eye_(member.setup.model[2].weight)
        nn.init.zeros_(member.setup.model[2].bias)
    seen = []
    stack = StackedGroup(fleet.members).stack
    stack._chain.insert(4, lambda x: seen.append(x) or x)  # after the second of them
    stack(torch.randn(2, 400, 13), training=True)
    dropped = (seen[0] == 0).double().mean((1, 2)).tolist()
    assert dropped == pytest.approx([1 - 0.8**2, 1 - 0.3**2], abs=0.02)


@pytest.mark.parametrize(
    ("data", "members"),
    [
        ("digits", [{"augment": []}, {"augment": ["mixup"]}]),
        ("wine", [{"data": {"validation": 0.1}}, {"data": {"validation": 0.11}}]),
    ],
)
def test_members_whose_batches_differ_train_beside_each_other(data, members):
    settings = [{"stop": {"epochs": 1}, "model": {"name": "mlp"}, **EXACT}]
    fleet = Fleet(None, data, members, settings=settings)
    fleet.run()
    assert len(fleet.choices) == 2 and all(member.done and not member.failed for member in fleet.members)


@pytest.mark.parametrize("members", [1, 2])
def test_weighted_classes_with_smoothing_train(members):
    settings = [{"loss": {"class_weights": "balanced", "label_smoothing": 0.1}, "stop": {"epochs": 2}}]
    fleet = Fleet("mlp", "wine", members, settings=settings)
    fleet.run()
    assert all(member.done and not member.failed for member in fleet.members)


def test_members_with_tensors_in_common_are_refused():
    network = nn.Sequential(nn.Linear(13, 3))
    with pytest.raises(ModelError, match=r"members 0 and 1 have the same 0\.weight"):
        Fleet(lambda: network, "wine", 2)
    with pytest.raises(ModelError, match="must make a new one each time"):
        Fleet(lambda: nn.Sequential(network, nn.ReLU(), nn.Linear(3, 3)), "wine", 2)


def test_members_may_have_a_constant_in_common():
    constant = torch.full((13,), 2.0)

    class Scaled(nn.Linear):
        def __init__(self):
            super().__init__(13, 3)
            self.register_buffer("scale", constant)

        def forward(self, x):
            return super().forward(x * self.scale)

    settings = [{"stop": {"epochs": 2}, "optimizer": PLAIN, **EXACT}]
    stacked, alone = (trained(how, Scaled, "wine", 2, settings=settings) for how in ("stacked", "in turn"))
    assert_same(stacked, alone, 1e-4)


@pytest.mark.parametrize("members", [1, 2])
def test_batch_normalization_of_one_item_is_refused_before_the_training(members):
    with pytest.raises(ModelError, match="takes two items or more a batch"):
        Fleet("mlp", "wine", members, settings=[{"data": {"batch_size": 1}}])


@pytest.mark.parametrize("keep", [3, ["a"], [0], "ab"])
def test_epochs_that_are_none_are_refused(keep):
    with pytest.raises(RunError, match="keep: epochs, counted from 1"):
        Fleet("mlp", "wine", 2, keep=keep)


def test_the_seed_of_a_members_first_weights_may_stand_anywhere():
    def network():
        return nn.Sequential(nn.Linear(13, 3))

    fleets = [
        Fleet(network, "wine", [{"seed": 5}]),
        Fleet(network, "wine", [{}], settings=[{"seed": 5}]),
        Fleet(network, "wine", [{}], {"seed": 5}),
        Fleet(network, "wine", [{"seed": 5}], settings=[{"seed": 6}]),
    ]
    first, *others = (weights(fleet.members[0]) for fleet in fleets)
    assert all(torch.equal(first[name], other[name]) for other in others for name in first)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("mlp", "wine", ["a"]), "member 0: 'a' is no dictionary of settings"),
        (("mlp", "wine", [{}, {"data": "x"}]), "member 1: data = 'x': data is a section"),
        ((lambda: nn.Linear(13, 3), "wine", [{"seed": "x"}]), "member 0: seed = 'x'"),
        ((nn.Linear(13, 3), "wine", 2), "a function without arguments that makes one.*not a Linear"),
        ((lambda: 3, "wine", 2), "the function that makes a network gave a int"),
        (("mlp", "wine", True), "members: a number, or the settings of each, not True"),
        (("mlp", "wine", 2.0), "members: a number, or the settings of each, not 2.0"),
        (("mlp", "wine", []), "members: a fleet has one or more"),
    ],
)
def test_arguments_that_make_no_fleet_are_refused_in_words(arguments, told):
    with pytest.raises((RecipeError, ModelError), match=told):
        Fleet(*arguments)


def test_a_folder_that_cannot_be_made_is_refused_before_the_training(tmp_path):
    (tmp_path / "file").touch()
    fleet = Fleet("mlp", "wine", 2, folder=tmp_path / "file" / "fleet")
    with pytest.raises(RunError, match=r"cannot make .*fleet: Not a directory"):
        fleet.run()
    assert not any(member.state.step for member in fleet.members)


def test_refusals_name_the_member():
    with pytest.raises(RecipeError, match=r"member 1: optimizer.lrr"):
        Fleet("mlp", "wine", [{}, {"optimizer": {"lrr": 1}}])
