"""A fleet whose members are trained by Ray workers: the same members, whatever befalls a worker."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy
import pytest
import torch
from test_fleet_processes import ENDLESS, SMALL, Local, assert_equal, members, run_in
from torch import nn

from ravine.errors import DataError, RavineError, RunError
from ravine.lab import Fleet
from ravine.lab.fleet import processes, ray_workers, sharing
from ravine.training.signals import StopNow

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'ravine[ray]'")


@pytest.fixture(scope="module")
def cluster():
    """One of two CPUs, which was not started in the folder that the tests are in."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
    yield
    ray.shutdown()


@pytest.fixture
def two(cluster, monkeypatch):
    """Every fleet has two workers, and its members run in turn."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    run_in(monkeypatch, "in turn")
    yield monkeypatch
    torch.set_num_threads(before)


@pytest.fixture
def data(monkeypatch, tmp_path):
    """A file of three classes in the folder that the test is in."""
    monkeypatch.chdir(tmp_path)
    write(0)
    return "data.npz"


def write(seed):
    drawn = numpy.random.default_rng(seed)
    classes = drawn.integers(0, 3, 160)
    numpy.savez("data.npz", x=drawn.normal(classes[:, None], 1.0, (160, 13)).astype("float32"), y=classes)


@pytest.fixture
def started(monkeypatch):
    """Every worker that was started, and the newest checkpoint it started from."""
    starts = []
    start = ray_workers._Worker.start
    monkeypatch.setattr(
        ray_workers._Worker,
        "start",
        lambda worker: (starts.append((worker, worker._checkpoint())), start(worker)),
    )
    return starts


TRAINED = "workers/*/checkpoints/step-*[1-9]*-000"


def trained(folder):
    """Of how many workers something that they trained has come."""
    return len({place.parents[1] for place in folder.glob(TRAINED)})


def moved(worker):
    """Whether something of what it trained has come."""
    return worker._checkpoint() > "step-000000000-999"


def test_members_of_ray_workers_are_those_trained_here(two, data, tmp_path):
    """Of two shapes, averaged, with noise, a bad one, and ends of their own: in all that they have."""
    layers = members(6)
    layers[1] |= {"model": {"width": 12}}
    layers[3] |= {"model": {"width": 12}, "optimizer": {"average": 0.5}}
    layers[4] |= {"optimizer": {"name": "sgd", "lr": 1e30}}
    (tmp_path / "recipe.toml").write_text("[model]\ndropout = 0.2\n[stop]\nepochs = 5\npatience = 2\n")
    options = {"recipe": "recipe.toml", "settings": [SMALL, {"stop": {"patience": 2}}], "keep": [2]}
    told, watched = [], []
    fleet = Fleet(
        "mlp", data, layers, **options, folder=tmp_path / "fleet", engine="ray",
        tell=told.append, watch=lambda done, planned: watched.append((done, planned)),
    )  # fmt: skip
    (tmp_path / "recipe.toml").rename(tmp_path / "elsewhere.toml")  # no worker has it
    fleet.run()
    (tmp_path / "elsewhere.toml").rename(tmp_path / "recipe.toml")
    alone = Fleet("mlp", data, layers, **options)
    alone.run()
    assert "3 members on 2 Ray workers, in turn: asked for" in told
    assert fleet.members[4].failed and fleet.members[0].kept
    assert_equal(fleet, alone)
    assert watched[-1][0] == sum(member.state.epoch for member in fleet.members)
    assert sorted(fleet.choices) == [("00", "05"), ("01",), ("02",), ("03",), ("04",)]
    assert not (tmp_path / "fleet" / "workers").exists()
    assert ray.is_initialized()


def test_a_killed_worker_is_started_again(two, started, data):
    """Its members go on from their last checkpoint, in stacks as processes would have; others go on."""
    run_in(two, "stacked")
    options = {
        "model": "mlp", "data": data, "members": members(4),
        "settings": [
            SMALL, {"model": {"dropout": 0.3}, "stop": {"epochs": 300}, "log": {"checkpoint_seconds": 0.0}}
        ],
    }  # fmt: skip
    told, killed = [], []

    def kill(done, planned):
        for worker, _ in started:
            if not killed and worker.running and moved(worker):
                killed.append(worker)
                pid = ray.get(worker._actor.__ray_call__.remote(lambda actor: os.getpid()))
                os.kill(pid, signal.SIGKILL)

    fleet = Fleet(**options, engine="ray", watch=kill, tell=told.append)
    fleet.run()
    two.setattr(sharing, "cores", lambda: 2)
    two.setattr(sharing, "pays", lambda shared, alone: True)
    two.setattr(sharing, "seconds_in_turn", lambda group: 1e3)
    here = Fleet(**options)
    here.run()
    assert {names: choice.how for names, choice in fleet.choices.items()} == {
        ("00", "02"): "stacked", ("01", "03"): "stacked"
    }  # fmt: skip
    assert_equal(fleet, here)
    first, second, again = started
    assert again[0] is killed[0] and again[0] in (first[0], second[0])
    assert again[1] > "step-000000000-999"
    (sentence,) = [text for text in told if text.startswith("a Ray worker ended with ")]
    assert sentence.endswith(
        f"its members {', '.join(again[0].share.names)} go on from their last checkpoint"
    )


@pytest.mark.parametrize(
    ("do", "error", "text"),
    [
        ("raise", DataError, "a picture was removed"),
        pytest.param(
            "kill",
            RunError,
            r'the Ray worker of the members 0[01] ended 2 times, now with "The actor died',
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_worker_that_cannot_go_on_stops_the_others(two, data, tmp_path, do, error, text):
    """With a network that no worker can import."""
    here = os.getpid()

    class Bad(nn.Linear):
        """The first that trains in a worker does what the test says, when some of the other has come."""

        def __init__(self):
            super().__init__(13, 3)
            self.register_buffer("own", torch.rand(()))

        def forward(self, x):
            if self.training and os.getpid() != here:
                own = str(float(self.own))
                try:
                    (tmp_path / "first").symlink_to(own)  # which is there whole or not at all
                except FileExistsError:
                    if os.readlink(tmp_path / "first") != own:  # noqa: PTH115
                        return super().forward(x)
                ends = time.monotonic() + 120
                while not [*(tmp_path / "fleet").glob(TRAINED)]:
                    assert time.monotonic() < ends
                    time.sleep(0.01)
                if do == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise DataError("a picture was removed")
            return super().forward(x)

    two.setattr(processes, "RETRIES", 1)
    settings = [SMALL | {"model": {}}, ENDLESS]
    fleet = Fleet(Bad, data, 2, settings=settings, folder=tmp_path / "fleet", engine="ray")
    with pytest.raises(error, match=text) as raised:
        fleet.run()
    assert raised.value.exit_code == error.exit_code
    assert sorted(member.state.step > 0 for member in fleet.members) == [False, True]


def test_a_signal_stops_all_and_they_go_on_bit_for_bit(two, data, tmp_path):
    options = {
        "model": "mlp", "data": data, "members": members(3),
        "settings": [SMALL, {"model": {"dropout": 0.3}, "stop": {"epochs": 150}}],
    }  # fmt: skip
    stopped = []

    def interrupt(done, planned):
        if not stopped:
            stopped.append(done)
            os.kill(os.getpid(), signal.SIGINT)

    fleet = Fleet(**options, folder=tmp_path / "fleet", engine="ray", watch=interrupt)
    with pytest.raises(StopNow):
        fleet.run()
    assert fleet.signum == signal.SIGINT
    assert any(0 < member.state.epoch < 150 for member in fleet.members)
    assert sum(member.state.epoch for member in fleet.members) >= stopped[0]
    told = []
    resumed = Fleet(**options, folder=tmp_path / "fleet", engine="ray", tell=told.append)
    resumed._restore()
    assert [each.state.step for each in resumed.members] == [each.state.step for each in fleet.members]
    resumed.run()
    assert any(text.endswith("members go on in 2 Ray workers") for text in told)
    alone = Fleet(**options)
    alone.run()
    assert_equal(resumed, alone)


def test_what_workers_cannot_be_given_is_said(two, data):
    fleet = Fleet("mlp", data, 2, engine="ray", settings=[{"stop": {"epochs": 1}}])
    write(1)
    with pytest.raises(DataError, match=r"data\.npz are not those that the fleet was made of"):
        fleet.run()
    lock = threading.Lock()
    fleet = Fleet(lambda: (lock, nn.Linear(13, 3))[1], data, 2, engine="ray")
    with pytest.raises(RunError, match=r"cannot be sent to Ray workers: .*lock"):
        fleet.run()

    here = os.getpid()

    def unwilling():
        if os.getpid() != here:
            raise ModuleNotFoundError("No module named 'mine'")
        return nn.Linear(13, 3)

    fleet = Fleet(unwilling, data, 1, engine="ray")
    with pytest.raises(
        RunError, match="a Ray worker cannot make its members: ModuleNotFoundError: No module"
    ):
        fleet.run()

    class Alien:
        def __init__(self, making):
            raise ModuleNotFoundError("No module named 'ravine'")

        def hear(self):
            raise AssertionError

    two.setattr(ray_workers, "_Actor", Alien)
    fleet = Fleet("mlp", data, 1, engine="ray")
    with pytest.raises(RunError, match=r"a Ray worker cannot start: (?s:.*)No module named 'ravine'"):
        fleet.run()


def absent():
    raise ConnectionError("nobody answers at 192.0.2.1:6379")


def test_what_no_ray_worker_can_train_is_refused(monkeypatch):
    with pytest.raises(RunError, match=r"no engine is called 'rai' \(did you mean 'ray'\?\)"):
        Fleet("mlp", "wine", 2, engine="rai")
    with pytest.raises(RunError, match="batches from Python stay in the process that has them"):
        Fleet(lambda: nn.Linear(13, 3), Local(), 2, engine="ray")
    fleet = Fleet("mlp", "wine", 1)
    fleet.members[0].setup.device = torch.device("cuda")
    with pytest.raises(RunError, match="trains on CPUs, not on cuda"):
        ray_workers.refuse([fleet.members[0].setup])
    fleet = Fleet("mlp", "wine", 2, engine="ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)  # of the cluster that the other tests use
    monkeypatch.setattr(ray, "init", absent)
    with pytest.raises(RavineError, match="no cluster can be joined or started: nobody answers at 192"):
        fleet.run()
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RavineError, match=r"needs Ray: pip install 'ravine\[ray\]'"):
        Fleet("mlp", "wine", 2, engine="ray")


def test_needless_messages_are_not_kept():
    """A checkpoint takes the place of one that nobody has asked for yet; the order stays."""
    line = ray_workers._Queues()
    for message in (("begun",), ("saved", 1), ("tell", "a"), ("watch", 1, 9), ("saved", 2), ("tell", "b")):
        line.send(message)
    line.send(("done",))
    line.end()
    assert line.take() == [
        ("begun",), ("tell", "a"), ("watch", 1, 9), ("saved", 2), ("tell", "b"), ("done",), None
    ]  # fmt: skip


SCRIPT = """
    import json, signal, sys
    import ray
    from ravine.lab import Fleet
    from ravine.training.signals import StopNow

    before = signal.getsignal(signal.SIGTERM)
    fleet = Fleet(
        "mlp", sys.argv[1], 2, json.loads(sys.argv[3]), folder=sys.argv[2], engine="ray",
        watch=lambda done, planned: print("watch", flush=True),
    )
    try:
        fleet.run()
    except StopNow:
        print("stopped", fleet.signum, ray.is_initialized(), signal.getsignal(signal.SIGTERM) is before)
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_cluster_that_was_started_for_it_ends_with_it(data, tmp_path, signum):
    """Ctrl-C comes to all processes of a terminal, SIGTERM to one."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    with subprocess.Popen(
        [sys.executable, script, data, tmp_path, json.dumps(ENDLESS)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
    ) as program:  # fmt: skip
        for _ in program.stdout:  # until both have sent something of their training
            if trained(tmp_path) == 2:
                break
        if signum == signal.SIGINT:
            os.killpg(program.pid, signum)
        else:
            program.send_signal(signum)
        last = program.stdout.read().splitlines()[-1]
    assert last == f"stopped {int(signum)} False True"
    fleet = Fleet("mlp", data, 2, ENDLESS, folder=tmp_path)
    fleet._restore()
    assert all(member.state.step > 0 for member in fleet.members)
    assert not (tmp_path / "workers").exists()
