"""Real kills at random moments, a full disk: nothing is lost, and a resumed run is bit-identical."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

DRIVER = Path(__file__).with_name("interrupted_runs.py")


def drive(action: str, folder: Path, seed: int = 0, most: int = 0) -> tuple[dict[str, Any], str]:
    done = subprocess.run(
        [sys.executable, str(DRIVER), action, str(folder), str(seed), str(most)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def left_by(folder: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]], dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    result = json.loads((folder / "result.json").read_text())
    for record in [*rows, result]:
        for key in ("seconds", "samples_per_second", "timing"):
            record.pop(key, None)
    return load_file(folder / "model.safetensors"), rows, result


def assert_identical(left: Path, right: Path) -> None:
    (weights, rows, result), (others, other_rows, other_result) = left_by(left), left_by(right)
    assert rows == other_rows
    assert result == other_result
    assert all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert drive("whole", folder)[0] == {"code": 0}
    return folder


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_random_moments_and_resumed(whole: Path, tmp_path: Path, seed: int) -> None:
    told, complaints = drive("kills", tmp_path / "run", seed, most=12)
    assert told["code"] == 0, complaints
    assert told["killed"] >= 3, told
    assert_identical(whole, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 20))
def test_killed_at_many_random_moments(whole: Path, tmp_path: Path, seed: int) -> None:
    told, complaints = drive("kills", tmp_path / "run", seed, most=30)
    assert told["code"] == 0, complaints
    assert_identical(whole, tmp_path / "run")


def test_a_full_disk_is_told_and_loses_nothing(whole: Path, tmp_path: Path) -> None:
    told, complaints = drive("full disk", tmp_path / "run")
    assert told["refused"] == 2
    assert "File too large" in complaints
    assert "before is whole" in complaints
    assert told["left"], "the checkpoint before is still there"
    assert all(name.startswith("step-") for name in told["left"]), "and no draft"
    assert told["code"] == 0
    assert_identical(whole, tmp_path / "run")


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_checkpoint_and_says_how_to_go_on(tmp_path: Path, signum: int, code: int) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "ravine", "train"]
    process = subprocess.Popen(
        [*command, "digits", "--out", str(folder), "--set", "stop.epochs=2000", "--set", "model.width=8"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(6000):
        if process.poll() is not None or (folder / "metrics.jsonl").exists():
            break
        time.sleep(0.01)
    process.send_signal(signum)
    _, complaints = process.communicate(timeout=60)
    assert process.returncode == code
    assert f"ravine train --resume {folder}" in " ".join(complaints.split())
    assert any(folder.glob("checkpoints/step-*"))
    assert not (folder / "result.json").exists()
