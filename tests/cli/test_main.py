"""What surrounds the commands: help, version, exit codes, signals and pipes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ravine import __version__
from ravine.cli import main

PROGRAM = str(Path(sys.executable).with_name("ravine"))
COMMANDS = ("train", "predict", "export", "inspect", "lr", "recipe", "report", "ensemble", "bench")


def said(*arguments, **options):
    return subprocess.run(arguments, capture_output=True, text=True, timeout=60, **options)


def test_help_names_every_command_without_loading_anything_heavy():
    code = (
        "import sys; from ravine.cli import main; code = main(['--help']); "
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr); sys.exit(code)"
    )
    done = said(sys.executable, "-c", code)
    assert done.returncode == 0
    for name in COMMANDS:
        assert f"\n  {name} " in done.stdout
    assert "..." not in done.stdout.partition("Commands:")[2]  # no description is cut short
    loaded = set(done.stderr.split())
    assert not loaded & {"torch", "numpy", "plotly", "sklearn", "pyarrow", "PIL", "pydantic", "safetensors"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys, command):
    assert main([command, "--help"]) == 0
    assert f"Usage: ravine {command}" in capsys.readouterr().out


def test_the_version_both_ways():
    for program in ((PROGRAM,), (sys.executable, "-m", "ravine")):
        done = said(*program, "--version")
        assert (done.returncode, done.stdout) == (0, f"ravine {__version__}\n")


@pytest.mark.parametrize("wrong", [["trian"], ["train", "--sed", "1"], ["train", "--seed", "x"], ["predict"]])
def test_a_wrong_call_ends_with_2(capsys, wrong):
    assert main(wrong) == 2
    assert "Error: " in capsys.readouterr().err


def test_no_arguments_show_the_help(capsys):
    assert main([]) == 2
    assert "Usage: ravine" in "".join(capsys.readouterr())


def test_the_handlers_of_signals_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    main(["--version"])
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_set_up_ends_the_command_and_leaves_nothing(tmp_path, number):
    # A pipe that nobody writes to: the command waits in the reading of its recipe until the signal comes.
    pipe = tmp_path / "recipe.toml"
    os.mkfifo(pipe)
    process = subprocess.Popen(
        [PROGRAM, "train", "digits", "--recipe", str(pipe), "--out", str(tmp_path / "run")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 50
    while True:  # until the command has opened its end, which it does in the main thread
        try:
            writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            break
        except OSError:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
    process.send_signal(number)
    os.close(writer)
    err = process.communicate(timeout=50)[1]
    assert process.returncode == 128 + number
    assert err == f"stopped by {number.name}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.toml"]


def test_a_reader_that_leaves_is_no_error():
    for arguments in ("recipe", "--help"):
        done = said("bash", "-c", f"'{PROGRAM}' {arguments} | head -n 1 > /dev/null; exit ${{PIPESTATUS[0]}}")
        assert done.stderr == ""
    with subprocess.Popen([PROGRAM, "recipe"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()  # before anything is written
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (MemoryError(), 4, "error: memory ran out"),
        (RuntimeError("CUDA out of memory"), 4, "error: memory ran out"),
        (PermissionError(13, "Permission denied", "/far/away"), 2, "error: /far/away: Permission denied\n"),
        (OSError(28, "No space left on device"), 2, "error: No space left on device\n"),
    ],
)
@pytest.mark.parametrize("command", [["predict", "run", "new.csv"], ["export", "run", "model.pt2"]])
def test_what_the_machine_refuses_is_told(capsys, monkeypatch, command, error, code, told):
    def failing(*arguments, **options):
        raise error

    monkeypatch.setattr("ravine.training.load.load_predictor", failing)
    assert main(command) == code
    assert capsys.readouterr().err.startswith(told)
