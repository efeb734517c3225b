"""Checkpoints: what goes in comes out; damage is found; a full disk loses nothing."""

import errno
from pathlib import Path

import pytest
import torch

from ravine import files
from ravine.errors import RunError
from ravine.training import checkpoint


def test_flatten_and_unflatten_give_back_an_optimizer_state() -> None:
    weight = torch.nn.Parameter(torch.randn(3, 2))
    optimizer = torch.optim.Adam([weight], lr=0.1)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    state = optimizer.state_dict()
    tensors: dict[str, torch.Tensor] = {}
    again = checkpoint.unflatten(checkpoint.flatten("optimizer", state, tensors), tensors)
    assert again["param_groups"] == state["param_groups"]
    assert again["state"].keys() == {0}, "whole-number keys stay whole numbers"
    assert torch.equal(again["state"][0]["exp_avg"], state["state"][0]["exp_avg"])


def test_only_the_newest_two_are_kept_and_the_newest_is_loaded(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        checkpoint.save(tmp_path, step, {"x": torch.full((2,), float(step))}, {"step": step})
    assert sorted(place.name for place in tmp_path.iterdir()) == ["step-000000002-000", "step-000000010-000"]
    tensors, state = checkpoint.load_newest(tmp_path, print) or ({}, {})
    assert state == {"step": 10}
    assert tensors["x"].tolist() == [10.0, 10.0]


def test_any_number_of_checkpoints_at_one_step(tmp_path: Path) -> None:
    """A run that is stopped again and again before it takes a step; the newest is the last one."""
    for number in range(6):
        checkpoint.save(tmp_path, 3, {"x": torch.ones(1)}, {"number": number})
    _, state = checkpoint.load_newest(tmp_path, print) or ({}, {})
    assert state == {"number": 5}
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_taken(
    tmp_path: Path, name: str, damage: str
) -> None:
    checkpoint.save(tmp_path, 1, {"x": torch.ones(100)}, {"step": 1})
    place = checkpoint.save(tmp_path, 2, {"x": torch.ones(100)}, {"step": 2})
    content = bytearray((place / name).read_bytes())
    if damage == "remove":
        (place / name).unlink()
    else:
        content[-8] ^= 1
        (place / name).write_bytes(content if damage == "flip" else content[: len(content) // 2])
    told: list[str] = []
    _, state = checkpoint.load_newest(tmp_path, told.append) or ({}, {})
    assert state == {"step": 1}
    assert len(told) == 1
    assert str(place) in told[0]


def test_all_damaged_is_an_error_and_none_is_none(tmp_path: Path) -> None:
    assert checkpoint.load_newest(tmp_path, print) is None
    place = checkpoint.save(tmp_path, 1, {"x": torch.ones(1)}, {})
    (place / "state.json").write_text("{")
    with pytest.raises(RunError, match="every checkpoint"):
        checkpoint.load_newest(tmp_path, lambda _: None)


def test_two_at_one_step_are_both_whole_and_the_later_one_counts(tmp_path: Path) -> None:
    for rows in (3, 4, 5):
        checkpoint.save(tmp_path, 7, {"x": torch.ones(1)}, {"rows": rows})
    assert checkpoint.load_newest(tmp_path, print)[1] == {"rows": 5}
    assert len(list(tmp_path.iterdir())) == 2


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, 1, {"x": torch.ones(1)}, {"step": 1})

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "sync", full)
    with pytest.raises(RunError, match="No space left"):
        checkpoint.save(tmp_path, 2, {"x": torch.ones(1)}, {"step": 2})
    assert [place.name for place in tmp_path.iterdir()] == ["step-000000001-000"], "no draft is left either"
    _, state = checkpoint.load_newest(tmp_path, print) or ({}, {})
    assert state == {"step": 1}


def test_what_cannot_be_kept_is_named() -> None:
    with pytest.raises(TypeError, match=r"optimizer\.hook"):
        checkpoint.flatten("optimizer", {"hook": print}, {})
