"""A fleet whose members are trained by several processes: the same members, whatever befalls a process."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import types
from pathlib import Path

import numpy
import psutil
import pytest
import torch
from torch import nn

from ravine.errors import DataError, RunError
from ravine.lab import Fleet
from ravine.lab.fleet import choice as choosing
from ravine.lab.fleet import fleet as module
from ravine.lab.fleet import processes, sharing
from ravine.lab.fleet.choice import Choice
from ravine.lab.fleet.processes import obstacle
from ravine.training.signals import StopNow

SMALL = {
    "model": {"width": 8}, "data": {"batch_size": 32}, "precision": "fp32", "stop": {"patience": 0}
}  # fmt: skip
ENDLESS = {"stop": {"epochs": 100_000, "patience": 0}, "log": {"checkpoint_seconds": 0.1}}
TIMES = ("seconds", "samples_per_second")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    assert multiprocessing.active_children() == []


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A file of three classes: to open it takes a process less than to load what has the embedded sets."""
    path = tmp_path_factory.mktemp("data") / "data.npz"
    drawn = numpy.random.default_rng(0)
    classes = drawn.integers(0, 3, 160)
    numpy.savez(path, x=drawn.normal(classes[:, None], 1.0, (160, 13)).astype("float32"), y=classes)
    return path


@pytest.fixture
def shared(monkeypatch):
    """Every fleet has two processes, and they are always worth it."""
    monkeypatch.setattr(sharing, "cores", lambda: 2)
    monkeypatch.setattr(sharing, "pays", lambda shared, alone: True)
    monkeypatch.setattr(sharing, "seconds_in_turn", lambda group: 1e3)
    run_in(monkeypatch, "in turn")
    return monkeypatch


@pytest.fixture
def spawned(shared):
    """Processes that have nothing of what is here, as on other systems than Linux."""
    shared.setattr(processes, "METHOD", "spawn")
    return shared


@pytest.fixture(params=["fork", "spawn"])
def started(shared, request):
    shared.setattr(processes, "METHOD", request.param)
    return shared


def run_in(monkeypatch, how):
    monkeypatch.setattr(module, "choose", lambda members: Choice(how, "asked for"))


def members(count, **layer):
    return [{"seed": seed, **layer} for seed in range(count)]


def assert_equal(fleet, other):
    """Bit for bit, in all that members have."""
    for one, alone in zip(fleet.members, other.members, strict=True):
        assert (one.name, one.failed) == (alone.name, alone.failed)
        assert one.folder.path.name == alone.folder.path.name
        if not one.failed:  # of a bad one's last epoch the predictions are counted now and then
            for found, wanted in zip(timeless(one), timeless(alone), strict=True):
                assert found == wanted, one.name
        tensors, others = (each.snapshot()[0] for each in (one, alone))
        exact(tensors, others)
        exact(one.kept, alone.kept)
        assert one.setup.optimizer.param_groups[0]["lr"] == alone.setup.optimizer.param_groups[0]["lr"]
        assert one.setup.schedule.state_dict() == alone.setup.schedule.state_dict()


def exact(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)


def timeless(member):
    """Its evaluations, and where it is."""
    rows = [{key: value for key, value in row.items() if key not in TIMES} for row in member.rows]
    return [*rows, {key: value for key, value in vars(member.state).items() if key != "seconds"}]


def test_members_of_processes_are_those_trained_here(started, data, tmp_path):
    """Of two shapes, averaged, with noise, a bad one, and ends of their own: in all that they have."""
    layers = members(6)
    layers[1] |= {"model": {"width": 12}}
    layers[3] |= {"model": {"width": 12}, "optimizer": {"average": 0.5}}
    layers[4] |= {"optimizer": {"name": "sgd", "lr": 1e30}}
    options = {
        "settings": [SMALL, {"model": {"dropout": 0.2}, "stop": {"epochs": 5, "patience": 2}}],
        "keep": [2],
    }
    told, watched = [], []
    fleet = Fleet(
        "mlp", data, layers, **options, folder=tmp_path / "fleet",
        tell=told.append, watch=lambda done, planned: watched.append((done, planned)),
    )  # fmt: skip
    fleet.run()
    started.setattr(sharing, "cores", lambda: 1)
    alone = Fleet("mlp", data, layers, **options)
    alone.run()
    assert any("on 2 processes, in turn: " in text for text in told)
    assert fleet.members[4].failed and fleet.members[0].kept
    assert_equal(fleet, alone)
    assert watched[-1] == module._epochs(fleet.members)
    assert watched == sorted(watched, key=lambda each: each[0])
    # The three alike first, then the others, one after the other to one process and the other.
    assert sorted(fleet.choices) == [("00", "05"), ("01",), ("02",), ("03",), ("04",)]
    assert [member.folder.path for member in fleet.members] == [
        tmp_path / "fleet" / "members" / f"0{number}" for number in range(6)
    ]
    assert not (tmp_path / "fleet" / "workers").exists()
    again = Fleet("mlp", data, layers, **options, folder=tmp_path / "fleet")
    again.run()
    assert_equal(again, alone)


def test_a_stack_in_processes_stops_and_goes_on_bit_for_bit(shared, data, tmp_path):
    """A signal to all, as Ctrl-C sends it; then in processes again, or in one, where nothing is stacked."""
    run_in(shared, "stacked")
    options = {
        "model": "mlp", "data": data, "members": [*members(4), {"seed": 4, "model": {"width": 12}}],
        "settings": [SMALL, {"model": {"dropout": 0.3}, "stop": {"epochs": 60}}],
    }  # fmt: skip
    whole = Fleet(**options)
    whole.run()
    assert {names: choice.how for names, choice in whole.choices.items()} == {
        ("00", "02"): "stacked", ("01", "03"): "stacked", ("04",): "stacked"
    }  # fmt: skip

    def interrupt(done, planned):
        if not stopped:
            stopped.append(done)
            for process in (*multiprocessing.active_children(), multiprocessing.current_process()):
                os.kill(process.pid, signal.SIGINT)

    stopped = []
    fleet = Fleet(**options, folder=tmp_path / "one", watch=interrupt)
    with pytest.raises(StopNow):
        fleet.run()
    assert fleet.signum == signal.SIGINT
    assert any(0 < member.state.step < whole.members[0].state.step for member in fleet.members)
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    resumed = Fleet(**options, folder=tmp_path / "one")
    resumed.run()
    assert_equal(resumed, whole)
    shared.setattr(sharing, "cores", lambda: 1)
    told = []
    here = Fleet(**options, folder=tmp_path / "other", tell=told.append)
    here.run()
    assert "there are no 2 processes any more: how members run is chosen anew" in told
    assert all(member.state.epoch == 60 for member in here.members)
    here.members, whole.members = here.members[4:], whole.members[4:]
    assert_equal(here, whole)


def test_a_signal_while_a_stack_is_judged_leaves_its_members_at_one_place(monkeypatch):
    """A member's own average is judged by itself: what is recorded of the others before would part them."""
    run_in(monkeypatch, "stacked")
    settings = [SMALL, {"model": {"dropout": 0.3}, "optimizer": {"average": 0.9}, "stop": {"epochs": 3}}]
    whole, stopped = (Fleet("mlp", "wine", 3, settings=settings) for _ in range(2))
    whole.run()
    last = stopped.members[2]

    def poll():
        if last.state.step == 4:
            last.stop.signum = signal.SIGINT
        type(last).poll(last)

    last.poll = poll
    with pytest.raises(StopNow):
        stopped.run()
    assert {(member.state.epoch, member.state.step) for member in stopped.members} == {(0, 4)}
    last.poll, last.stop.signum = lambda: None, 0
    stopped.run()
    assert_equal(stopped, whole)


def test_a_killed_process_is_started_again(started, data):
    """Its members go on from their last checkpoint, and those of the other are not touched."""
    options = {
        "model": "mlp", "data": data, "members": members(2),
        "settings": [SMALL, {"stop": {"epochs": 100}, "log": {"checkpoint_seconds": 0.0}}],
    }  # fmt: skip
    starts, told, killed = [], [], []
    start = processes._Worker.start
    started.setattr(
        processes._Worker, "start", lambda worker: (starts.append(worker.share.names), start(worker))
    )

    def kill(done, planned):
        if not killed:
            killed.append(multiprocessing.active_children()[0].pid)
            os.kill(killed[0], signal.SIGKILL)

    fleet = Fleet(**options, watch=kill, tell=told.append)
    fleet.run()
    started.setattr(sharing, "cores", lambda: 1)
    alone = Fleet(**options)
    alone.run()
    assert_equal(fleet, alone)
    assert sorted(starts[:2]) == [["00"], ["01"]] and len(starts) == 3
    assert [text for text in told if "a process ended by signal 9" in text and starts[2][0] in text]


class Bad(nn.Linear):
    """The first member that trains in another process does what the test says, when the other has trained."""

    def __init__(self):
        super().__init__(13, 3)
        self.register_buffer("own", torch.rand(()))

    def forward(self, x):
        if self.training and multiprocessing.parent_process() is not None:
            marks, own = Path(os.environ["RAVINE_TEST_MARKS"]), str(float(self.own))
            try:
                (marks / "first").symlink_to(own)  # which is there whole or not at all
            except FileExistsError:
                if (marks / "first").readlink() != Path(own):
                    (marks / "other").touch()
                    return super().forward(x)
            ends = time.monotonic() + 120
            while not (marks / "other").exists():
                assert time.monotonic() < ends
                time.sleep(0.01)
            if os.environ["RAVINE_TEST_DO"] == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise DataError("a picture was removed")
        return super().forward(x)


@pytest.mark.parametrize(
    ("do", "error", "text"),
    [
        ("raise", DataError, "a picture was removed"),
        ("kill", RunError, r"the process of the members 0[01] ended 2 times, now by signal 9"),
    ],
)
def test_a_process_that_cannot_go_on_stops_the_others(shared, data, tmp_path, do, error, text):
    shared.setenv("RAVINE_TEST_MARKS", str(tmp_path))
    shared.setenv("RAVINE_TEST_DO", do)
    shared.setattr(processes, "RETRIES", 1)
    fleet = Fleet(Bad, data, 2, settings=[SMALL | {"model": {}}, ENDLESS | {"log": {}}])
    with pytest.raises(error, match=text) as raised:
        fleet.run()
    assert raised.value.exit_code == error.exit_code
    assert sorted(member.state.step > 0 for member in fleet.members) == [False, True]


def unwilling():
    if multiprocessing.parent_process() is not None:
        raise RuntimeError("not here")
    return nn.Linear(13, 3)


def test_what_a_process_cannot_make_is_trained_here(spawned, data):
    told = []
    fleet = Fleet(unwilling, data, 2, settings=[{"stop": {"epochs": 2}}], tell=told.append)
    fleet.run()
    assert "all members are trained in one process: RuntimeError: not here" in told
    assert [member.state.epoch for member in fleet.members] == [2, 2]
    assert {choice.why for choice in fleet.choices.values()} == {"asked for"}


SCRIPT = """
    import json, multiprocessing, sys
    import torch
    from ravine.lab import Fleet
    from ravine.lab.fleet import sharing

    if __name__ == "__main__":
        torch.set_num_threads(1)
        sharing.cores = lambda: 2
        sharing.pays = lambda shared, alone: True
        sharing.seconds_in_turn = lambda group: 1e3

        def watch(done, planned):
            print(*(child.pid for child in multiprocessing.active_children()), flush=True)

        Fleet(
            "mlp", sys.argv[1], 2, json.loads(sys.argv[3]), folder=sys.argv[2], watch=watch,
        ).run()
"""


def test_processes_end_with_the_one_that_started_them(data, tmp_path):
    """Killed, it cannot end them; what they saved is there for the next."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    with subprocess.Popen(
        [sys.executable, script, data, tmp_path, json.dumps(ENDLESS)], stdout=subprocess.PIPE, text=True
    ) as parent:
        for line in parent.stdout:  # until both have saved something of their training
            pids = [int(pid) for pid in line.split()]
            saved = tmp_path.glob("workers/*/checkpoints/step-*[1-9]*-000")
            if len({place.parents[1] for place in saved}) == 2:
                break
        parent.kill()
    assert len(pids) == 2
    ends = time.monotonic() + 30
    while any(map(runs, pids)):
        assert time.monotonic() < ends
        time.sleep(0.05)
    fleet = Fleet("mlp", data, 2, ENDLESS, folder=tmp_path)
    fleet._restore()
    assert all(member.state.step > 0 for member in fleet.members)
    fleet.save()
    assert not (tmp_path / "workers").exists()


def runs(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Local:
    """Given as data: batches, which no other process may take."""

    def __iter__(self):
        return iter([(torch.ones(4, 13), torch.tensor([0, 1, 2, 0]))])

    def __len__(self):
        return 1


def test_what_cannot_be_sent_is_trained_here_and_said(spawned):
    class Hidden(nn.Linear):
        def __init__(self):
            super().__init__(13, 3)

    for model, data, text in (
        (lambda: nn.Linear(13, 3), "wine", "cannot be sent to other processes: "),
        (Hidden, "wine", "cannot be sent to other processes: "),
        (unwilling, Local(), "batches from Python stay in the process that has them"),
    ):
        told = []
        fleet = Fleet(model, data, 2, settings=[{"stop": {"epochs": 1}}], tell=told.append)
        fleet.run()
        assert told[0].startswith("all members are trained in one process: ") and text in told[0]
        assert [member.state.epoch for member in fleet.members] == [1, 1]


def test_programs_that_others_cannot_import(spawned, tmp_path):
    order = Fleet("mlp", "wine", 2)._order
    program = types.ModuleType("__main__")
    spawned.setitem(sys.modules, "__main__", program)
    assert obstacle(order) == ""  # nothing of the program is asked for
    program.__file__ = str(tmp_path / "program.py")
    Path(program.__file__).write_text("import ravine\nravine.lab.Fleet('mlp', 'wine', 2).run()\n")
    assert "program.py does not begin its work under `if __name__ ==" in obstacle(order)
    Path(program.__file__).write_text("import ravine\nif __name__ == '__main__':\n    pass\n")
    assert obstacle(order) == ""


def test_processes_are_taken_where_the_longest_of_them_ends_sooner(shared):
    """By what a step of all takes here, and a step of a part takes on one thread."""
    shared.undo()
    shared.setattr(sharing, "seconds_in_turn", lambda group: 1e3)
    layers = [*members(3), *members(2, model={"width": 12})]
    fleet = Fleet("mlp", "wine", layers, settings=[SMALL, {"stop": {"epochs": 100}}])
    steps = 100 * len(fleet.members[0].setup.feeds["train"])
    found = module.groups(fleet.members)
    asked, start = [], 4.0

    def way(seconds):
        def look(group):
            asked.append((torch.get_num_threads(), [member.name for member in group]))
            return Choice("stacked", "timed", {"stacked": seconds * len(group)})

        return look

    def share(here, there, count=2, threads=1):
        asked.clear()
        shared.setattr(sharing, "cores", lambda: count)
        return sharing.share_out(found, way(here / steps), way(there / steps), start, lambda: "")

    # Five members of a second each take 5 s here, and 3 s and the start in the longer of two processes.
    assert share(1.0, 1.0) == ""
    assert asked == [(1, ["00", "02"]), (1, ["03"])]
    assert share(100.0, 100.0, count=1) == "" and asked == []
    found_out = share(100.0, 100.0)
    assert [[member.name for member in each] for each in found_out.shares] == [
        ["00", "02", "04"],
        ["01", "03"],
    ]
    assert {names: choice.how for names, choice in found_out.choices.items()} == {
        ("00", "02"): "stacked", ("04",): "stacked", ("01",): "stacked", ("03",): "stacked"
    }  # fmt: skip
    assert asked[2:] == [(1, ["00", "01", "02"]), (1, ["03", "04"])]
    told = found_out.told[0]
    assert told.startswith("3 members on 2 processes, stacked: ")
    assert f"about {300 + start:.3g} s in all on 2 processes and 500 s on one" in told
    # Threads that help as much as processes would: 300 s against 290 s.
    assert share(58.0, 100.0) == ""
    assert isinstance(share((300 + start) / 5 / sharing.WORTH + 0.1, 100.0), sharing.Sharing)
    # Dealt out evenly and started at once, processes need no comparison.
    del found[1], found[0][2]
    assert isinstance(share(0.0, 100.0), sharing.Sharing) and asked == [(1, ["00"])]
    shared.setattr(sharing, "_fitting", lambda: 1)
    assert "free memory" in share(100.0, 100.0)


class Clock:
    """Time that passes with work alone."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def perf_counter(self):
        return self.now

    def work(self, name, seconds):
        def go():
            self.now += seconds
            self.calls.append(name)

        return go


def test_a_look_at_too_many_at_once_is_at_half_of_them(monkeypatch):
    """Of a part of four; its time is that of two, twice."""
    looked = []

    def way(group):
        looked.append(len(group))
        if len(group) > 2:
            raise MemoryError
        return Choice("stacked", "measured", {"stacked": 1.0, "in turn": 3.0})

    fleet = Fleet("mlp", "wine", 8, settings=[{"precision": "fp32"}])
    found = sharing.spread([fleet.members], 2, way, "workers")
    assert looked == [4, 2]
    assert [len(share) for share in found.shares] == [4, 4]
    assert [choice.seconds for choice in found.choices.values()] == [{"stacked": 2.0, "in turn": 6.0}] * 2
    with pytest.raises(MemoryError):
        sharing.spread([fleet.members[:2]], 2, lambda group: way(fleet.members), "workers")


@pytest.mark.parametrize(
    ("stacked", "single", "batches", "stacks"),
    [
        (0.7, 0.003, 50, 1),  # the first step is past all that a look may take
        (0.7, 0.003, 10_000, 2),  # it may be that the first step made something ready
        (0.099, 0.001, 10, 2),  # three times slower
        (0.02, 0.001, 10, 3),  # close: more rounds, until the look is over
    ],
)
def test_a_look_is_short_where_one_way_is_hopeless(monkeypatch, stacked, single, batches, stacks):
    clock = Clock()
    monkeypatch.setattr(choosing, "time", clock)
    found = choosing._compare(clock.work("stacked", stacked), clock.work("single", single), 32, batches)
    assert found == pytest.approx({"stacked": stacked, "in turn": 32 * single})
    assert clock.calls.count("stacked") == stacks
    assert clock.now < max(0.1, 0.05 * batches * 32 * single) + 2 * stacked


def test_what_works_out_its_loss_several_times_a_step_trains_in_a_fleet():
    settings = [{"optimizer": {"name": "lbfgs"}, "stop": {"epochs": 2}, "precision": "fp32"}]
    fleet = Fleet("mlp", "wine", 2, settings=[*settings, {"model": {"width": 8, "dropout": 0.0}}])
    fleet.run()
    assert all(member.rows[1]["train.loss"] < member.rows[0]["train.loss"] for member in fleet.members)
