import json
import pickle
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image

from ravine.errors import DataError
from ravine.training.data import DataOptions, open_data
from ravine.training.data.read_inputs import input_spec, read_inputs


def spec_of(data) -> dict:
    """As a run saves and loads it."""
    return json.loads(json.dumps(input_spec(data)))


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for number in range(3):
            pixels = random.integers(0, 256, (20 + number, 30, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    data = open_data(root, DataOptions(image_size=10))
    return root, data, spec_of(data)


def test_images_are_read_as_in_training(photos):
    root, data, spec = photos
    found = read_inputs(root, spec)
    assert torch.equal(found.items, data.inputs)
    assert found.names == tuple(data.item_name(number) for number in range(6))
    assert found.unreadable == ()
    found = read_inputs(root / "b", spec)
    assert torch.equal(found.items, data.inputs[3:])
    assert found.names == ("0.png", "1.png", "2.png")
    found = read_inputs(root / "b" / "1.png", spec)
    assert torch.equal(found.items, data.inputs[4:5])
    assert found.names == ("1.png",)


def test_colour_files_become_grey_for_a_grey_run(tmp_path):
    spec = spec_of(open_data("digits"))
    Image.new("RGB", (16, 16), (9, 9, 9)).save(tmp_path / "a.png")
    inputs = read_inputs(tmp_path / "a.png", spec).items
    assert inputs.shape == (1, 1, 8, 8)
    assert inputs.unique().tolist() == [9]


def test_the_limit_on_pixels_is_the_runs_own(photos):
    root, _, _ = photos
    spec = spec_of(open_data(root, DataOptions(max_image_pixels=700)))
    Image.new("RGB", (30, 30)).save(root / "large.png")
    with pytest.raises(DataError, match="more than the limit of 700"):
        read_inputs(root / "large.png", spec)


def test_unreadable_images_are_refused_or_left_out(photos):
    root, data, spec = photos
    (root / "a" / "1.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"1 of 6 images cannot be read, for one .*1.png: .*--skip-bad"):
        read_inputs(root, spec)
    found = read_inputs(root, spec, skip_bad=True)
    assert torch.equal(found.items, data.inputs[[0, 2, 3, 4, 5]])
    assert len(found.names) == 5 and "a/1.png" not in found.names
    assert found.unreadable == ("a/1.png",)
    with pytest.raises(DataError, match="1 of 1 images"):
        read_inputs(root / "a" / "1.png", spec, skip_bad=True)


def test_idx_cifar_and_array_files_of_images(tmp_path):
    spec = spec_of(open_data("digits"))
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8), np.uint8)
    header = bytes((0, 0, 8, 3)) + struct.pack(">3I", 5, 8, 8)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
    np.save(tmp_path / "x.npy", pixels)
    np.savez(tmp_path / "x.npz", x=pixels, y=np.zeros(5))
    for name in ("t10k-images-idx3-ubyte", "x.npy", "x.npz"):
        found = read_inputs(tmp_path / name, spec)
        assert torch.equal(found.items[:, 0], torch.from_numpy(pixels))
        assert found.names == ("0", "1", "2", "3", "4")
    (tmp_path / "data_batch_1.bin").write_bytes(bytes(3073))
    inputs = read_inputs(tmp_path / "data_batch_1.bin", {**spec, "item_shape": [3, 32, 32]}).items
    assert inputs.shape == (1, 3, 32, 32)
    with pytest.raises(DataError, match=r"shape \(3, 32, 32\).* trained on \(1, 8, 8\)"):
        read_inputs(tmp_path / "data_batch_1.bin", spec)


def test_a_cifar_batch_of_the_python_layout(tmp_path):
    spec = {**spec_of(open_data("digits")), "item_shape": [3, 32, 32]}
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3072), np.uint8)
    (tmp_path / "test_batch").write_bytes(pickle.dumps({b"data": pixels, b"labels": [3, 1]}, 2))
    found = read_inputs(tmp_path / "test_batch", spec)
    assert torch.equal(found.items.flatten(1), torch.from_numpy(pixels))
    assert found.names == ("0", "1")
    (tmp_path / "test_batch").write_bytes(pickle.dumps({"data": pixels[:, :9]}, 2))
    with pytest.raises(DataError, match="no CIFAR batch"):
        read_inputs(tmp_path / "test_batch", spec)


@pytest.fixture
def table(tmp_path):
    lines = [
        f"{n * 0.5},{'red' if n % 3 else 'blue'},{'true' if n % 2 else 'false'},{n % 4 < 2}"
        for n in range(40)
    ]
    path = tmp_path / "train.csv"
    path.write_text("size,colour,on,target\n" + "\n".join(lines))
    data = open_data(path)
    return data, spec_of(data)


def test_rows_are_read_as_in_training_without_the_target(table, tmp_path):
    data, spec = table
    rows = ["on,unused,colour,size", "true,zz,red,0.5", "false,zz,blue,", "true,zz,,3"]
    (tmp_path / "new.csv").write_text("\n".join(rows))
    found = read_inputs(tmp_path / "new.csv", spec)
    inputs = found.items
    assert torch.equal(inputs[0], data.inputs[1])
    assert inputs[1].isnan().tolist() == [True, False, False]
    assert inputs[2].isnan().tolist() == [False, True, False]
    assert found.names == ("row 1", "row 2", "row 3")
    assert torch.equal(read_inputs(tmp_path / "train.csv", spec).items, data.inputs)


def test_unknown_categories_are_missing_and_numbers_can_be_categories(table, tmp_path):
    _, spec = table
    spec["columns"][1]["categories"] = ["1", "2"]
    parquet.write_table(
        pa.table({"size": [1, 2], "colour": [2, 7], "on": [True, False]}), tmp_path / "new.parquet"
    )
    (tmp_path / "new.csv").write_text("size,colour,on\n1,2,true\n2,7,false\n")
    for name in ("new.parquet", "new.csv"):
        inputs = read_inputs(tmp_path / name, spec).items
        assert inputs[0].tolist() == [1, 1, 1]
        assert inputs[1].isnan().tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("size,color,on\n1,red,true\n", r"lacks 1 of the columns .*'colour' \(did you mean 'color'\?\)"),
        ("size,colour,on\n1,red,true\nbig,red,true\n", "'big' in row 2 of the column 'size'"),
        ("size,colour,on\ninf,red,true\n", "not finite: inf in row 1"),
        ("size,colour,on\n", "no rows"),
        ("size,colour,on\n1,red\n", "ragged"),
    ],
)
def test_rows_that_do_not_fit_are_refused(table, tmp_path, content, message):
    _, spec = table
    (tmp_path / "new.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        read_inputs(tmp_path / "new.csv", spec)


def test_arrays_and_texts(tmp_path):
    x = np.random.default_rng(0).normal(size=(8, 3))
    np.savez(tmp_path / "a.npz", x=x, y=[0, 1] * 4)
    data = open_data(tmp_path / "a.npz")
    spec = spec_of(data)
    np.save(tmp_path / "new.npy", x[2:4])
    assert torch.equal(read_inputs(tmp_path / "new.npy", spec).items, data.inputs[2:4])
    np.save(tmp_path / "new.npy", x[:, :2])
    with pytest.raises(DataError, match="does not fit"):
        read_inputs(tmp_path / "new.npy", spec)
    (tmp_path / "a.txt").write_text("hello world\n" * 20)
    data = open_data(tmp_path / "a.txt")
    (tmp_path / "new.txt").write_text("world hello")
    found = read_inputs(tmp_path / "new.txt", spec_of(data))
    assert "".join(data.classes[token] for token in found.items.tolist()) == "world hello"
    assert found.names == ("new.txt",)
    (tmp_path / "new.txt").write_text("hello\nworlds")
    with pytest.raises(DataError, match="never seen: 's' on line 2"):
        read_inputs(tmp_path / "new.txt", spec_of(data))


@pytest.mark.parametrize(
    ("source", "name", "message"),
    [
        ("digits", "absent.png", "no such file"),
        ("digits", "x" * 300, "cannot be read: File name too long"),
        ("digits", "~nobody-of-this-name/x.png", "no such file"),
        ("digits", "empty", "has no images"),
        ("digits", "a.csv", "not recognised as images"),
        ("wine", "empty", "is a folder"),
        ("wine", "a.txt", "does not fit the run's data"),
    ],
)
def test_inputs_of_another_kind_are_refused(tmp_path, source, name, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(DataError, match=message):
        read_inputs(tmp_path / name, spec_of(open_data(source)))


@pytest.mark.parametrize("way", ["exists", "is_dir"])
def test_inputs_that_may_not_be_read_are_told(tmp_path, monkeypatch, way):
    spec = spec_of(open_data("digits"))
    (tmp_path / "a.png").write_bytes(b"x")

    def forbidden(path, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(tmp_path), way, forbidden)
    with pytest.raises(DataError, match=r"a.png may not be read: permission denied"):
        read_inputs(tmp_path / "a.png", spec)
