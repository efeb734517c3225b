import math
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
import torch

from ravine import registry
from ravine.errors import RavineError
from ravine.lab import bench
from ravine.lab.bench import (
    SETS,
    ProblemSet,
    Result,
    Table,
    chosen,
    configurations,
    device_named,
    measure,
    problems,
    table,
    timing,
)
from ravine.lab.bench import peers as peers_module
from ravine.lab.bench.bandwidth import Copy, traffic
from ravine.lab.bench.timing import clock_for, interleaved

CPU = torch.device("cpu")
TINY = ProblemSet("tiny", ((4, 3), (5,), (1,)))
ELEMENTS = 18
LONE = ("torch",)


@pytest.fixture
def no_other_packages(monkeypatch):
    """As if nothing optional were installed."""
    for module in (peers_module, table):
        monkeypatch.setattr(module, "find_spec", lambda name: object() if name in LONE else None)


def tiny(configuration):
    return TINY.matrices if configuration.matrices_only else TINY


def stepped(configuration, steps=1):
    problem = tiny(configuration)
    ours = peers_module.ravine(configuration, problem, problems.gradients(problem, CPU))
    for _ in range(steps):
        ours.prepare()
        ours.step()
    return ours


# What is timed.


def test_every_optimizer_of_the_registry_is_there_and_every_variant_of_them():
    """But for those whose steps evaluate a loss several times: their cost is the loss's."""
    every = configurations()
    full_batch = {"lbfgs", "bfgs", "newton"}
    assert set(registry.names("optimizer")) - full_batch <= set(every)
    assert not full_batch & set(every)
    for name in ("sgd+momentum", "sgd+nesterov", "amsgrad", "rmsprop+centered+momentum"):
        assert every[name].settings
    assert list(every).index("sgd+momentum") == list(every).index("sgd") + 1


@pytest.mark.parametrize("name", configurations())
def test_every_configuration_steps(name):
    ours = stepped(configurations()[name])
    start = problems.parameters(tiny(configurations()[name]), CPU)
    assert all(not torch.equal(now, then) for now, then in zip(ours.parameters, start, strict=True))
    assert all(now.isfinite().all() for now in ours.parameters)


def test_names_are_taken_in_order_and_once():
    assert [one.name for one in chosen(["adam", "sgd+momentum", "adam"])] == ["adam", "sgd+momentum"]
    assert [one.name for one in chosen([])] == list(configurations())


def test_an_unknown_name_is_told_with_the_nearest():
    with pytest.raises(RavineError, match=r"unknown optimizer 'admw' \(did you mean 'adamw'\?\)"):
        chosen(["adam", "admw"])
    with pytest.raises(RavineError, match=r"unknown optimizer 'qqqqq'; valid are sgd, sgd\+momentum, "):
        chosen(["qqqqq"])


# On what.


def test_the_sets_are_those_that_are_promised():
    large, many = SETS["large"], SETS["many"]
    assert sorted(set(large.shapes)) == [(512,), (512, 512)] and len(large.shapes) == 128
    assert large.elements == 64 * 512 * 512 + 64 * 512
    assert len(many.shapes) == 120
    assert max(math.prod(shape) for shape in many.shapes) == 4160
    assert many.description == f"many: 120 tensors, {many.elements / 1e6:.2f} M parameters"


def test_everyone_gets_the_same_values_in_tensors_of_their_own():
    first, second = (problems.parameters(TINY, CPU) for _ in range(2))
    assert [tuple(each.shape) for each in first] == list(TINY.shapes)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other) and one.data_ptr() != other.data_ptr()
        assert one.is_leaf and one.requires_grad
    even, odd = problems.gradients(TINY, CPU)
    assert not torch.equal(even[0], odd[0])


def test_gradients_alternate_and_are_as_drawn_whatever_was_written_into_them():
    drawn = problems.gradients(TINY, CPU)
    ours = peers_module.ravine(configurations()["sgd"], TINY, drawn)
    seen = []
    for turn in range(4):
        ours.prepare()
        seen.append(ours.parameters[0].grad)
        assert torch.equal(seen[-1], drawn[1 - turn % 2][0])
        seen[-1].zero_()
    assert seen[0] is not seen[1] and seen[0] is seen[2] and seen[1] is seen[3]
    assert drawn[0][0].any()


# Timing.


class Scripted:
    """A contender whose steps take what a script says, and which writes down what is asked of it."""

    def __init__(self, name, log, seconds):
        self.name, self.log, self.seconds = name, log, iter(seconds)

    def prepare(self):
        self.log.append(("prepare", self.name))

    def step(self):
        self.log.append(("step", self.name))
        self.taken = next(self.seconds)


def scripted_clock(step):
    step()
    return step.__self__.taken


def turns(log):
    """The names in the order of their turns: repeats in a row are one turn."""
    names = [name for kind, name in log if kind == "step"]
    return [name for before, name in zip([None, *names], names, strict=False) if name != before]


def test_contenders_take_turns_and_every_step_is_prepared():
    log = []
    contenders = [Scripted(name, log, [timing.TURN_SECONDS / 2] * 100) for name in "ABC"]
    interleaved(contenders, 3, scripted_clock)
    assert turns(log) == list("ABC" * 4)  # the warm-up, and three rounds
    assert log[::2] == [("prepare", name) for kind, name in log if kind == "step"]
    steps = [name for kind, name in log if kind == "step"]
    assert steps.count("A") == timing.WARM_UP_STEPS + 3 * (1 + 2)


def test_warm_up_is_not_counted_and_a_turn_is_its_median():
    unit = timing.TURN_SECONDS / 3
    warm = [50.0, unit, 20.0]
    rounds = [9.0, 1.0, 2.0, 60.0, 9.0, 5.0, 4.0, 3.0]  # one not counted, then three, in two rounds
    (seconds,) = interleaved([Scripted("A", [], warm + rounds)], 2, scripted_clock)
    assert seconds == [2.0, 4.0]


def test_a_long_step_is_taken_once_a_turn():
    long = timing.LONG_STEP_SECONDS * 2
    log = []
    interleaved([Scripted("A", log, [long] * 10)], 4, scripted_clock)
    assert log.count(("step", "A")) == timing.WARM_UP_STEPS + 4


def test_a_step_without_measurable_time_ends():
    log = []
    interleaved([Scripted("A", log, [0.0] * 1000)], 1, scripted_clock)
    assert log.count(("step", "A")) == timing.WARM_UP_STEPS + 1 + timing.MOST_STEPS


def test_on_a_gpu_the_clock_waits_for_its_kernels(monkeypatch):
    log = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            log.append("record")

        def synchronize(self):
            log.append("wait")

        def elapsed_time(self, end):
            return 250.0 if end is not self else 0.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: log.append("idle"))
    assert clock_for(torch.device("cuda"))(lambda: log.append("step")) == 0.25
    assert log == ["idle", "record", "step", "record", "wait"]


# Bandwidth.


@pytest.mark.parametrize(
    ("name", "bytes_an_element"),
    [
        ("sgd", 4 * 3),  # x and dx read, x written
        ("sgd+momentum", 4 * 5),  # and v read and written
        ("adam", 4 * 7),  # m and v
        ("amsgrad", 4 * 9),  # m, v and the largest v
        ("rmsprop+centered+momentum", 4 * 9),
    ],
)
def test_bytes_that_a_step_moves(name, bytes_an_element):
    assert traffic(stepped(configurations()[name]).optimizer) == bytes_an_element * ELEMENTS


def test_a_parameter_without_gradient_moves_nothing():
    ours = stepped(configurations()["adam"])
    ours.parameters[0].grad = None
    assert traffic(ours.optimizer) == 28 * (ELEMENTS - 12)


def test_the_copy_is_as_large_as_the_parameters():
    parameters = problems.parameters(TINY, CPU)
    copy = Copy(parameters)
    copy.step()
    assert copy.traffic == 2 * 4 * ELEMENTS
    assert torch.equal(copy.target, torch.cat([each.detach().flatten() for each in parameters]))


# Peers.


@pytest.mark.parametrize("name", configurations())
def test_torch_computes_the_same(name, no_other_packages):
    """A ratio means something only where both sides take the same step."""
    configuration = configurations()[name]
    ours = stepped(configuration, steps=7)
    problem = tiny(configuration)
    gradients = problems.gradients(problem, CPU)
    # Both of Muon's iterate in bfloat16, each in its own order.
    near = {"rtol": 0.0, "atol": 5e-4} if name == "muon" else {"rtol": 1e-4, "atol": 1e-6}
    for package, theirs in peers_module.peers(configuration, problem, gradients):
        for _ in range(7):
            theirs.prepare()
            theirs.step()
        for one, other in zip(ours.parameters, theirs.parameters, strict=True):
            torch.testing.assert_close(one, other, **near, msg=lambda text, at=package: f"{at}: {text}")


@pytest.mark.parametrize(
    ("name", "implementations"),
    [
        ("adam", {"torch fused", "torch foreach", "torch for-loop"}),
        ("rmsprop", {"torch foreach", "torch for-loop"}),
    ],
)
def test_all_that_torch_offers_is_timed(name, implementations, no_other_packages):
    gradients = problems.gradients(TINY, CPU)
    assert dict(peers_module.peers(configurations()[name], TINY, gradients)).keys() == implementations


def install(monkeypatch, name, **contents):
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    vars(module).update(contents)
    monkeypatch.setitem(sys.modules, name, module)
    return module


def test_pytorch_optimizer_is_timed_where_it_has_a_class_of_its_own(monkeypatch):
    class Adam(torch.optim.SGD):
        def __init__(self, params, lr=1e-3):
            super().__init__(params, lr)

    Adam.__module__ = "pytorch_optimizer.optimizer.adam"
    install(monkeypatch, "pytorch_optimizer", Adam=Adam, RMSprop=torch.optim.RMSprop)
    monkeypatch.setattr(peers_module, "OPTAX", {})
    gradients = problems.gradients(TINY, CPU)
    found = dict(peers_module.peers(configurations()["adam"], TINY, gradients))
    assert "pytorch_optimizer for-loop" in found
    for name in ("amsgrad", "rmsprop"):  # it does not take amsgrad, and hands on torch's RMSprop
        found = dict(peers_module.peers(configurations()[name], TINY, gradients))
        assert found and not any(key.startswith("pytorch_optimizer") for key in found)


def test_optax_is_compiled_and_gives_its_old_values_up(monkeypatch):
    asked = []

    def jit(function, donate_argnums):
        asked.append(donate_argnums)
        return function

    def sgd(lr):
        return SimpleNamespace(
            init=lambda values: 0,
            update=lambda gradients, state, values: ([-lr * each for each in gradients], state + 1),
        )

    def apply_updates(values, changes):
        return [value + change for value, change in zip(values, changes, strict=True)]

    waited = []
    numpy = SimpleNamespace(array=lambda array: array.copy())
    install(
        monkeypatch,
        "jax",
        jit=jit,
        numpy=numpy,
        block_until_ready=waited.append,
        default_backend=lambda: "cpu",
    )
    install(monkeypatch, "optax", sgd=sgd, apply_updates=apply_updates)
    install(monkeypatch, "optax.contrib")
    gradients = problems.gradients(TINY, CPU)
    theirs = dict(peers_module.peers(configurations()["sgd"], TINY, gradients))["optax jit"]
    for _ in range(2):
        theirs.prepare()
        theirs.step()
    start = problems.parameters(TINY, CPU)[0].detach()
    wanted = start - peers_module.LR * (gradients[0][0] + gradients[1][0])
    torch.testing.assert_close(torch.from_numpy(theirs._values[0]), wanted)
    assert asked == [(0, 1)] and len(waited) == 2 and theirs._state == 2


# The whole.


@pytest.mark.parametrize("name", ["sgd+momentum", "adam"])
def test_a_measurement_has_finite_positive_figures(name, no_other_packages):
    adam = configurations()["adam"]
    result = measure(configurations()[name], TINY, rounds=2, beside=[adam])
    assert list(result.seconds) == [
        *("ravine", "torch fused", "torch foreach", "torch for-loop", "beside adam", "copy")
    ]
    figures = [*result.seconds.values(), result.first_step, result.ratio, result.bandwidth, result.share]
    assert all(math.isfinite(figure) and figure > 0 for figure in figures)


def made(**seconds):
    return Result(
        configurations()["adam"],
        TINY,
        {name.replace("_", " "): s for name, s in seconds.items()},
        0.5,
        2800,
        800,
    )


def test_figures_follow_from_the_times():
    result = made(ravine=0.02, copy=0.01, torch_foreach=0.04, torch_fused=0.025)
    assert result.fastest("torch") == ("fused", 0.025)
    assert result.ratio == pytest.approx(0.8)
    assert result.bandwidth == pytest.approx(140_000)
    assert result.share == pytest.approx(140_000 / 80_000)
    record = result.record()
    assert (record["torch"], record["ratio"], record["set"]) == ("fused", result.ratio, "tiny")
    assert record["copy_bytes_per_second"] == pytest.approx(80_000)


def test_without_a_peer_there_is_no_ratio():
    result = made(ravine=0.02, copy=0.01)
    assert result.ratio is None and result.record()["torch"] is None


def test_what_is_not_elementwise_has_no_bandwidth(monkeypatch, no_other_packages):
    adam = configurations()["adam"]
    assert adam.elementwise
    monkeypatch.setattr(adam.part, "redirects", True)
    result = measure(adam, TINY, rounds=1)
    assert result.traffic is None and result.share is None
    assert result.record()["share_of_copy"] is None
    assert Table([adam]).line(result).split()[-3:-1] == ["-", "-"]


def test_the_table_is_aligned_and_a_missing_peer_is_a_dash(monkeypatch):
    monkeypatch.setattr(table, "find_spec", lambda name: name == "optax")
    drawn = Table(list(chosen(["adam", "rmsprop+centered+momentum"])))
    head, line = drawn.head(), drawn.line(made(ravine=0.02, copy=0.01, torch_fused=0.004))
    assert len(head) == len(line)
    assert "pytorch_optimizer" not in head
    assert line.split() == ["adam", "20.0", "4.000", "(fused)", "5.00", "-", "0.0", "175%", "0.500"]


def test_what_cannot_be_measured_is_refused(monkeypatch):
    with pytest.raises(RavineError, match="at least 1 round, not 0"):
        measure(configurations()["adam"], TINY, rounds=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_named("cpu") == CPU
    with pytest.raises(RavineError, match="there is no cuda device here; use --device cpu"):
        device_named("cuda")


def test_threads_are_set_for_the_block_alone():
    before = torch.get_num_threads()
    with bench.using_threads(before + 1) as count:
        assert count == before + 1 == torch.get_num_threads()
    with bench.using_threads(None) as count:
        assert count == before == torch.get_num_threads()
    with pytest.raises(KeyError), bench.using_threads(before + 1):
        raise KeyError
    assert torch.get_num_threads() == before
    with pytest.raises(RavineError, match="at least 1 thread, not 0"), bench.using_threads(0):
        pass
