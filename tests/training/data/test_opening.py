import numpy as np
import pytest
from PIL import Image

from ravine import registry
from ravine.errors import DataError
from ravine.training.data import Column, open_data


def test_embedded_digits_are_scikit_learns_scaled_to_bytes():
    from sklearn.datasets import load_digits

    data = open_data("digits")
    assert tuple(data.inputs.shape) == (1797, 1, 8, 8)
    expected = load_digits().images
    assert np.abs(data.inputs[:, 0].numpy() * (16 / 255) - expected).max() <= 0.5 * 16 / 255
    assert sorted(set(data.inputs.flatten().tolist()))[-1] == 255
    assert data.targets.tolist() == load_digits().target.tolist()


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [("wine", (178, 13), 3), ("breast_cancer", (569, 30), 2), ("diabetes", (442, 10), 0)],
)
def test_embedded_tables(name, shape, classes):
    data = open_data(name)
    assert (tuple(data.inputs.shape), len(data.classes)) == (shape, classes)
    assert data.task == ("classification" if classes else "regression")
    assert len(data.columns) == shape[1]
    assert all(isinstance(column, Column) and column.categories is None for column in data.columns)


def test_an_embedded_name_can_still_be_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    with pytest.raises(DataError, match="empty folder"):
        open_data("./digits")


def test_the_fingerprint_is_stable_and_tells_data_apart(tmp_path):
    assert open_data("wine").fingerprint == open_data("wine").fingerprint
    prints = set()
    for value in (0.0, 1.0):
        inputs = np.zeros((10, 2))
        inputs[3, 1] = value
        np.savez(tmp_path / "a.npz", x=inputs, y=[0, 1] * 5)
        prints.add(open_data(tmp_path / "a.npz").fingerprint)
    np.savez(tmp_path / "a.npz", x=np.zeros((10, 2)), y=[0, 1] * 4 + [1, 0])
    prints.add(open_data(tmp_path / "a.npz").fingerprint)
    assert len(prints) == 3
    assert all(len(print_) == 32 for print_ in prints)


def test_a_missing_path_is_refused_with_the_nearest_name():
    with pytest.raises(DataError, match=r"no such file or folder \(did you mean 'digits'\?\)"):
        open_data("digit")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x" * 300, "cannot be read: File name too long"),
        ("~nobody-of-this-name/x", "cannot be found: .*home"),
    ],
)
def test_a_path_that_the_system_refuses_is_told(source, message):
    with pytest.raises(DataError, match=message):
        open_data(source)


@pytest.mark.parametrize("way", ["exists", "iterdir"])
def test_a_place_that_may_not_be_read_is_told(tmp_path, monkeypatch, way):
    def forbidden(path, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(tmp_path), way, forbidden)
    with pytest.raises(DataError, match="may not be read: permission denied"):
        open_data(tmp_path)


def image(path):
    path.parent.mkdir(exist_ok=True)
    Image.new("L", (4, 4)).save(path)


@pytest.mark.parametrize(
    ("names", "argument", "message"),
    [
        ([], ".", "empty folder"),
        (["README.md"], ".", "empty folder"),
        (["a.png", "b.png"], ".", "images but no class folders"),
        (["a.csv", "b.csv"], ".", "has 2 files such as a.csv"),
        (["a.png"], "a.png", "a single image"),
        (["train-images-idx3-ubyte"], "train-images-idx3-ubyte", "one file of a set"),
        (["data_batch_1.bin"], "data_batch_1.bin", "one file of a set"),
        (["a.csv"], "a.csv", "empty file"),
    ],
)
def test_what_is_not_recognised_is_refused(tmp_path, names, argument, message):
    for name in names:
        if name.endswith(".png"):
            image(tmp_path / name)
        else:
            (tmp_path / name).write_bytes(b"" if argument == "a.csv" else b"x")
    with pytest.raises(DataError, match=message):
        open_data(tmp_path / argument)


def test_every_source_is_listed():
    listed = registry.names("data")
    assert set(listed) >= {
        "digits",
        "wine",
        "breast_cancer",
        "diabetes",
        "idx",
        "cifar",
        "images",
        "table",
        "arrays",
        "text",
    }
