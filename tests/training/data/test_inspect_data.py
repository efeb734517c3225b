import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ravine.training.data import DataOptions, open_data
from ravine.training.data.dataset import Splits
from ravine.training.data.inspect import inspect
from ravine.training.data.splits import cut


def test_duplicates_contradictions_and_leaks_are_counted():
    data = open_data("wine")
    inputs = data.inputs.clone()
    inputs[100] = inputs[0]
    inputs[101] = inputs[0]
    inputs[60] = inputs[61]
    parts = Splits(torch.arange(100), torch.arange(100, 101), torch.arange(101, 178), False)
    found = inspect(replace(data, inputs=inputs), parts)["duplicates"]
    assert found["extra"] == 3
    assert found["contradictions"] == 1
    assert found["across_parts"] == {"train and validation": 1, "train and test": 1, "validation and test": 1}
    assert found["examples"] == [["0", "100"], ["60", "61"]]


def test_counts_balance_and_ranges():
    data = open_data("digits")
    parts = cut(data, validation=0.1, test=0.2, seed=0)
    found = inspect(data, parts)
    assert found["items"] == {"train": 1258, "validation": 180, "test": 359, "total": 1797}
    counts = torch.bincount(data.targets).tolist()
    assert [sum(found["classes"][name].values()) for name in data.classes] == counts
    assert found["imbalance"] == pytest.approx(max(counts) / min(counts))
    values = data.inputs.double()
    assert found["values"]["min"] == 0
    assert found["values"]["max"] == 255
    assert found["values"]["mean"] == pytest.approx(values.mean().item())
    assert found["values"]["std"] == pytest.approx(values.std(correction=0).item())
    json.dumps(found, allow_nan=False)


def test_missing_values_are_counted_by_column(tmp_path):
    rows = "\n".join(
        f"{'' if n % 4 == 0 else n},{'' if n % 5 == 0 else 'ab'[n % 2]},{n % 2}" for n in range(20)
    )
    (tmp_path / "t.csv").write_text("a,b,target\n" + rows)
    data = open_data(tmp_path / "t.csv")
    found = inspect(data, cut(data, validation=0.1, test=0.1, seed=0))
    assert found["missing"] == {"a": 5, "b": 4}
    assert found["columns"][0]["max"] == 19
    assert found["columns"][1] == {"name": "b", "categories": ["a", "b"]}
    json.dumps(found, allow_nan=False)


def test_the_target_of_a_regression_has_its_range():
    data = open_data("diabetes")
    found = inspect(data, cut(data, validation=0.1, test=0.1, seed=0))
    assert found["target"]["min"] == 25
    assert found["target"]["max"] == 346
    assert "classes" not in found


def test_streamed_images_are_inspected_as_those_in_memory(tmp_path):
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(4):
            Image.fromarray(random.integers(0, 256, (6, 6, 3), np.uint8)).save(
                tmp_path / name / f"{number}.png"
            )
    (tmp_path / "b" / "9.png").write_bytes((tmp_path / "a" / "0.png").read_bytes())
    (tmp_path / "b" / "bad.png").write_bytes(b"")
    reports = []
    for memory_gb in (1.0, 0.0):
        data = open_data(tmp_path, DataOptions(skip_bad=True, memory_gb=memory_gb))
        report = inspect(data, cut(data, validation=0.2, test=0.2, seed=0))
        reports.append({key: report[key] for key in ("values", "duplicates", "unreadable", "items")})
    assert reports[0] == reports[1]
    assert reports[0]["duplicates"]["extra"] == 1
    assert reports[0]["duplicates"]["examples"] == [["a/0.png", "b/9.png"]]
    assert reports[0]["unreadable"] == ["b/bad.png"]


def test_characters_of_a_text_are_counted(tmp_path):
    (tmp_path / "a.txt").write_text("aab\n" * 100)
    data = open_data(tmp_path / "a.txt")
    found = inspect(data, cut(data, validation=0.1, test=0.1, seed=0))
    assert found["characters"] == {"\n": 100, "a": 200, "b": 100}
