"""With the rest of torch: schedulers, scalers, torch.compile, DDP and FSDP2."""

import copy
import warnings

import pytest
import torch
import torch.distributed
from torch import nn
from torch.optim import lr_scheduler

import ravine.optim
from two_processes import in_two_processes, needs_processes

FUSED = ("SGD", "Adagrad", "Adam", "AdamW")
NAMES = (*FUSED, "RMSprop", "NAdam", "RAdam", "Adamax", "Adadelta")
every_class_of_torch = pytest.mark.parametrize("name", NAMES)


def small_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))


def backward(model, step=0):
    inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
    (model(inputs.to(next(model.parameters()).dtype)) - 1).square().mean().backward()


def assert_same(one, other, **tolerance):
    torch.testing.assert_close(list(one.parameters()), list(other.parameters()), **tolerance)


SCHEDULERS = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2, gamma=0.5),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.5, total_steps=12),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=3, cycle_momentum=False),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.5, 3), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("name", ["SGD", "Adam", "NAdam", "RMSprop"])
@pytest.mark.parametrize("tensor", [False, True])
def test_torchs_schedulers(name, scheduler, tensor):
    """OneCycleLR changes the momentum or β₁ too; a rate may be a tensor, which is filled anew."""
    options = {"momentum": 0.9} if name in ("SGD", "RMSprop") else {}
    pairs = []
    for module in (ravine.optim, torch.optim):
        if tensor and module is torch.optim:
            options["foreach"] = False
        model = small_model().double()
        optimizer = getattr(module, name)(
            model.parameters(), lr=torch.tensor(0.1) if tensor else 0.1, **options
        )
        pairs.append((model, optimizer, SCHEDULERS[scheduler](optimizer)))
    for step in range(10):
        for model, optimizer, schedule in pairs:
            optimizer.zero_grad()
            backward(model, step)
            optimizer.step()
            schedule.step()
    (ours, mine, _), (theirs, other, _) = pairs
    assert_same(ours, theirs, rtol=1e-5, atol=1e-6)  # NAdam counts in float32
    assert float(mine.param_groups[0]["lr"]) == pytest.approx(float(other.param_groups[0]["lr"]))


def test_a_plateau_lowers_the_rate():
    model = small_model()
    optimizer = ravine.optim.Adam(model.parameters(), lr=0.1)
    schedule = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.1)
    for metric in (1.0, 1.0):
        backward(model)
        optimizer.step()
        schedule.step(metric)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


@every_class_of_torch
def test_a_scaler_unscales_and_skips(name):
    left, right = small_model(), small_model()
    scaled = getattr(ravine.optim, name)(left.parameters(), **({"fused": True} if name in FUSED else {}))
    plain = getattr(ravine.optim, name)(right.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale((left(torch.ones(2, 4)) ** 2).sum()).backward()
    scaler.step(scaled)
    scaler.update()
    (right(torch.ones(2, 4)) ** 2).sum().backward()
    plain.step()
    assert_same(left, right)
    before = copy.deepcopy(left)
    left[0].weight.grad.fill_(float("inf"))
    scaler.step(scaled)
    assert_same(left, before, rtol=0, atol=0)
    scaler.update()
    assert scaler.get_scale() == 4.0


def test_a_compiled_model_and_compiled_steps():
    """Compiled by tracing alone: the step itself is never traced, whoever calls it from where."""
    expected = small_model()
    reference = ravine.optim.AdamW(expected.parameters(), 0.1, clip_norm=1.0, average=0.9)
    for step in range(6):
        reference.zero_grad()
        backward(expected, step)
        reference.step()

    def whole(model, optimizer):
        compiled = torch.compile(model, backend="eager")

        def train_step(step):
            optimizer.zero_grad()
            inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
            (compiled(inputs) - 1).square().mean().backward()
            optimizer.step()

        return train_step

    def around_step(model, optimizer):
        step_compiled = torch.compile(optimizer.step, backend="eager")

        def train_step(step):
            optimizer.zero_grad()
            backward(model, step)
            step_compiled()

        return train_step

    def around_function(model, optimizer):
        function = torch.compile(lambda: optimizer.step(), backend="eager")

        def train_step(step):
            optimizer.zero_grad()
            backward(model, step)
            function()

        return train_step

    def with_closure(model, optimizer):
        compiled = torch.compile(model, backend="eager")

        def train_step(step):
            def closure():
                optimizer.zero_grad()
                inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
                loss = (compiled(inputs) - 1).square().mean()
                loss.backward()
                return loss

            assert optimizer.step(closure) > 0

        return train_step

    for way in (whole, around_step, around_function, with_closure):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        model = small_model()
        optimizer = ravine.optim.AdamW(model.parameters(), 0.1, clip_norm=1.0, average=0.9)
        train_step = way(model, optimizer)
        for step in range(6):
            train_step(step)
        assert_same(model, expected)
        assert torch._dynamo.utils.counters["frames"]["total"] <= 4, way.__name__
    torch._dynamo.reset()


def whole_on_halves(rank):
    """Each process sees half of the data; together they must do what one does with all."""
    from torch.distributed.checkpoint import state_dict
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    warnings.simplefilter("ignore")
    mesh = torch.distributed.init_device_mesh("cpu", (2,))

    def train(model, optimizer, steps, part):
        for step in steps:
            inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(step)).double()
            optimizer.zero_grad()
            (model(inputs[part]) - 1).square().mean().backward()
            optimizer.step()

    half = slice(rank * 4, rank * 4 + 4)
    for name, options in (
        ("AdamW", {"lr": 0.05, "clip_norm": 0.1, "average": 0.9}),
        ("SGD", {"lr": 0.05, "momentum": 0.9, "l1": 0.1, "proximal": True, "clip_value": 0.1}),
    ):
        make = getattr(ravine.optim, name)
        plain, replicated, sharded, resumed = (small_model().double() for _ in range(4))
        optimizer = make(plain.parameters(), **options)
        train(plain, optimizer, range(6), slice(None))

        parallel = DistributedDataParallel(replicated, gradient_as_bucket_view=True)
        train(parallel, make(parallel.parameters(), engine="cpu", **options), range(6), half)
        assert_same(replicated, plain, rtol=1e-9, atol=1e-11)

        fully_shard(sharded, mesh=mesh)
        fully_shard(resumed, mesh=mesh)
        one, two = make(sharded.parameters(), **options), make(resumed.parameters(), **options)
        train(sharded, one, range(3), half)
        saved = copy.deepcopy(state_dict.get_state_dict(sharded, one))
        state_dict.set_state_dict(resumed, two, model_state_dict=saved[0], optim_state_dict=saved[1])
        for model, stepped in ((sharded, one), (resumed, two)):
            train(model, stepped, range(3, 6), half)
            if name == "AdamW":
                assert stepped.gradient_norm == pytest.approx(optimizer.gradient_norm, rel=1e-9)
            for found, expected in zip(model.parameters(), plain.parameters(), strict=True):
                torch.testing.assert_close(found.full_tensor(), expected.detach(), rtol=1e-9, atol=1e-11)
        if options.get("average"):
            with one.averaged(), optimizer.averaged():
                for found, expected in zip(sharded.parameters(), plain.parameters(), strict=True):
                    torch.testing.assert_close(found.full_tensor(), expected.detach())

    narrow = small_model().bfloat16()
    fully_shard(narrow, mesh=mesh)
    wide = [weight.full_tensor().detach().float().requires_grad_() for weight in narrow.parameters()]
    compensated = ravine.optim.Adam(narrow.parameters(), 0.01, rounding="compensated")
    reference = ravine.optim.Adam(wide, 0.01, engine="eager")
    for step in range(4):
        compensated.zero_grad()
        backward(narrow, step)
        compensated.step()
        for weight, twin in zip(wide, narrow.parameters(), strict=True):
            weight.grad = twin.grad.full_tensor().float()
        reference.step()
    for weight, twin in zip(wide, narrow.parameters(), strict=True):
        torch.testing.assert_close(twin.full_tensor().float(), weight.detach(), rtol=2.0**-8, atol=0)

    members = ravine.optim.SGD(sharded[0].parameters(), torch.full((3,), 0.1))
    backward(sharded)
    with pytest.raises(RuntimeError, match="cannot step parameters sharded over processes"):
        members.step()


@needs_processes
def test_two_processes_step_as_one(tmp_path):
    in_two_processes(whole_on_halves, tmp_path)
