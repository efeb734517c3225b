"""TensorBoard events: the numbers of `metrics.jsonl`, read back by TensorBoard itself."""

import importlib.util
import json
from pathlib import Path

import pytest

from ravine.errors import RavineError
from ravine.training import run as runs

SETTINGS = {"model": {"name": "linear"}, "stop": {"epochs": 3}, "log": {"tensorboard": True}}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_events_hold_the_numbers_of_the_run(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = runs.train(None, "wine", settings=[SETTINGS], out=tmp_path / "run")
    events = EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    for name in ("train.loss", "validation.loss", "validation.accuracy", "lr"):
        assert [(event.step, event.value) for event in events.Scalars(name)] == [
            (row["step"], pytest.approx(row[name], rel=1e-6)) for row in rows
        ]


def test_without_the_extra_it_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ravine.training.tensorboard.find_spec", lambda name: None)
    assert importlib.util.find_spec("tensorboard") is not None
    with pytest.raises(RavineError, match=r"ravine\[tensorboard\]"):
        runs.train(None, "wine", settings=[SETTINGS], out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
