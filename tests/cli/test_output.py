import os
import subprocess
import sys

import pytest

from ravine.cli.output import UNFOLDED, make_place, wide_console
from ravine.errors import RunError


def test_long_lines_are_not_folded_outside_a_terminal(capsys):
    screen = wide_console()
    assert screen.width == UNFOLDED
    screen.print("word " * 100)
    assert capsys.readouterr().out.count("\n") == 1


def test_work_goes_on_when_the_reader_has_gone(tmp_path):
    """A training whose output is piped into `head` must not die of it."""
    code = (
        "import pathlib, sys; from ravine.cli.output import console; screen = console()\n"
        "for line in range(20000): screen.print('line', line)\n"
        "pathlib.Path(sys.argv[1]).write_text('done')"
    )
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "end")], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    os.read(read, 10)
    os.close(read)
    assert process.communicate(timeout=50)[1] == ""
    assert process.returncode == 0
    assert (tmp_path / "end").read_text() == "done"


def test_a_place_is_made_or_refused(tmp_path):
    make_place(tmp_path / "a" / "b" / "file.csv")
    assert (tmp_path / "a" / "b").is_dir() and list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "note").write_text("mine")
    with pytest.raises(RunError, match="cannot write"):
        make_place(tmp_path / "note" / "file.csv")
    with pytest.raises(RunError, match="is a folder"):
        make_place(tmp_path / "a")
