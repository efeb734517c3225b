"""Threads and processes: two optimizers at once, fork and spawn after a first step, no folder to write to."""

import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
import traceback

import pytest
import torch

import ravine.optim
from ravine.optim.kernels import cpu, threads

SIZE = 3 * 65536 + 7


def start(seed=0):
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def train(parameter, steps=range(6), name="Adam", optimizer=None):
    optimizer = optimizer or getattr(ravine.optim, name)(
        [parameter], lr=0.01, weight_decay=0.1, clip_norm=1.0, engine="cpu"
    )
    for step in steps:
        parameter.grad = torch.cos(parameter.detach() * 3 + step)
        optimizer.step()
    return optimizer


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


NAMES = ("Adam", "SGD", "RMSprop", "NAdam")


def side_by_side(actions):
    """Run actions in threads of their own, all begun at one signal."""
    barrier, failures = threading.Barrier(len(actions)), []

    def act(action):
        try:
            barrier.wait()
            action()
        except BaseException:
            failures.append(traceback.format_exc())
            raise

    running = [threading.Thread(target=act, args=(action,)) for action in actions]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(timeout=120)
    assert not failures, failures[0]
    assert not any(thread.is_alive() for thread in running)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("team", ["torch's threads", "our own threads"])
def test_optimizers_step_at_once_in_several_threads(team, monkeypatch):
    """Some find the workers busy and go on alone; compilation, too, happens in all of them at once."""
    if team == "our own threads":
        monkeypatch.setattr(threads, "torchs_team", lambda: None)
    expected = [start(seed) for seed in range(4)]
    for parameter, name in zip(expected, NAMES, strict=True):
        train(parameter, name=name)
    cpu.update_kernel.cache_clear()
    cpu.squares_kernel.cache_clear()
    found = [start(seed) for seed in range(4)]
    side_by_side(
        [
            lambda parameter=parameter, name=name: train(parameter, name=name)
            for parameter, name in zip(found, NAMES, strict=True)
        ]
    )
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.usefixtures("two_threads")
def test_a_busy_crew_leaves_the_work_to_the_caller(monkeypatch):
    monkeypatch.setattr(threads, "torchs_team", lambda: None)
    expected, found = start(), start()
    train(expected)
    with threads.crew.free:
        train(found)
    assert torch.equal(found, expected)
    assert not threads.crew.free.locked()


@pytest.mark.parametrize("team", ["torch's threads", "our own threads"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_any_number_of_threads_gives_the_same_bits(count, team, monkeypatch):
    if team == "our own threads":
        monkeypatch.setattr(threads, "torchs_team", lambda: None)
    results = []
    before = torch.get_num_threads()
    try:
        for number in (1, count):
            torch.set_num_threads(number)
            parameter = start()
            optimizer = train(parameter)
            results.append([parameter.detach(), *optimizer.state[parameter].values()])
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def in_a_fork(action):
    """Run an action in a forked child; its traceback is told here."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        told = ""
        try:
            action()
        except BaseException:  # noqa: BLE001, the child must end here whatever happens
            told = traceback.format_exc()
        os.write(writing, told.encode()[-4000:])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        told = answer.read()
    assert os.waitpid(child, 0)[1] == 0
    assert not told, told


@needs_fork
@pytest.mark.usefixtures("two_threads")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("team", ["torch's threads", "our own threads"])
def test_a_forked_child_goes_on(team, monkeypatch):
    """The parent's threads are not in the child: it makes its own. Then the parent goes on as before."""
    if team == "our own threads":
        monkeypatch.setattr(threads, "torchs_team", lambda: None)
    expected, parameter = start(), start()
    train(expected)
    optimizer = train(parameter, range(3))
    assert threads.ALONE < SIZE

    def go_on():
        for step in range(3, 6):
            torch.set_num_threads(1)  # torch's own operators would wait for the threads that are gone
            parameter.grad = torch.cos(parameter.detach() * 3 + step)
            torch.set_num_threads(2)
            optimizer.step()
        assert len(threads.crew.tasks) == 1, "this step was to take two threads"
        torch.set_num_threads(1)
        assert torch.equal(parameter, expected)
        train(start(5), range(2), name="Adagrad")

    in_a_fork(go_on)
    train(parameter, range(3, 6), optimizer=optimizer)
    assert torch.equal(parameter, expected)


@needs_fork
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_a_fork_while_another_thread_compiles():
    """The lock is held for ever in the child, unless it is made anew."""

    def compile_anew():
        torch.set_num_threads(1)
        cpu.update_kernel.cache_clear()
        train(torch.ones(100, requires_grad=True), range(1))

    with cpu._compiling:
        in_a_fork(compile_anew)


def spawned(queue):
    parameter = start()
    train(parameter)
    queue.put(parameter.detach().double().sum().item())


def test_a_spawned_process_steps():
    parameter = start()
    train(parameter)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=spawned, args=(queue,))
    process.start()
    found = queue.get(timeout=120)
    process.join(timeout=60)
    assert process.exitcode == 0
    assert found == parameter.detach().double().sum().item()


STEP = """
    import sys, torch, ravine.optim
    assert "torch._dynamo" not in sys.modules, "importing it takes a second"
    from ravine.optim.kernels import threads
    threads.torchs_team = lambda: None
    torch.set_num_threads(2)
    weights = [torch.ones(300_000).requires_grad_(), torch.ones(3).bfloat16().requires_grad_()]
    optimizer = ravine.optim.Adam(weights, engine="cpu", average=0.9, clip_norm=1.0)
    for _ in range(2):
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        optimizer.step()
    assert weights[0].isfinite().all() and weights[0][0] < 1
    assert threads.crew.tasks
    print("stepped")
"""


def test_no_folder_is_needed_and_workers_keep_no_process_alive(tmp_path):
    """Kernels for the processor are compiled in memory: no home, no cache, nothing left behind."""
    names = ("HOME", "XDG_CACHE_HOME", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")
    nowhere = dict.fromkeys(names, str(tmp_path / "nowhere"))
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(STEP)],
        env={**os.environ, **nowhere, "TMPDIR": str(tmp_path)},  # torch itself wants the last
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == "stepped\n"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
