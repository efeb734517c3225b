import zipfile

import numpy as np
import pytest
import torch

from ravine.errors import DataError
from ravine.training.data import DataOptions, arrays, open_data

X = np.random.default_rng(0).normal(size=(24, 3))
Y = np.arange(24) % 3


@pytest.mark.parametrize("names", [("x", "y"), ("X", "labels"), ("data", "target"), ("images", "label")])
def test_arrays_are_found_by_their_usual_names(tmp_path, names):
    np.savez(tmp_path / "a.npz", **{names[0]: X, names[1]: Y})
    data = open_data(tmp_path / "a.npz")
    assert torch.equal(data.inputs, torch.from_numpy(X.astype(np.float32)))
    assert data.targets.tolist() == Y.tolist()
    assert (data.kind, data.task, data.classes) == ("array", "classification", ("0", "1", "2"))


def test_parts_are_told_by_their_names(tmp_path):
    np.savez_compressed(
        tmp_path / "a.npz",
        X_train=X[:12],
        y_train=Y[:12],
        X_val=X[12:18],
        y_val=Y[12:18],
        X_test=X[18:],
        y_test=Y[18:],
    )
    data = open_data(tmp_path / "a.npz")
    assert {part: positions.tolist() for part, positions in data.parts.items()} == {
        "train": list(range(12)),
        "validation": list(range(12, 18)),
        "test": list(range(18, 24)),
    }
    assert torch.equal(data.inputs, torch.from_numpy(X.astype(np.float32)))


def test_npy_files_side_by_side(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    file, folder = open_data(tmp_path / "x.npy"), open_data(tmp_path)
    assert torch.equal(file.inputs, folder.inputs)
    assert file.fingerprint == folder.fingerprint


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((6, 5, 4), (1, 5, 4)), ((6, 5, 4, 3), (3, 5, 4)), ((6, 3, 5, 4), (3, 5, 4)), ((6, 5, 4, 1), (1, 5, 4))],
)
def test_bytes_of_image_shape_are_images_with_channels_first(tmp_path, shape, expected):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    np.savez(tmp_path / "a.npz", x=pixels, y=[0, 1] * 3)
    data = open_data(tmp_path / "a.npz")
    assert (data.kind, data.item_shape, data.inputs.dtype) == ("image", expected, torch.uint8)
    moved = pixels.reshape(6, 1, 5, 4) if len(shape) == 3 else pixels
    moved = moved.transpose(0, 3, 1, 2) if moved.shape[-1] in (1, 3) else moved
    assert torch.equal(data.inputs, torch.from_numpy(moved.copy()))


def test_answers_may_be_one_hot_a_column_text_or_values(tmp_path):
    def targets(y, **options):
        np.savez(tmp_path / "a.npz", x=X, y=y)
        data = open_data(tmp_path / "a.npz", DataOptions(**options))
        return data.task, data.targets.tolist(), data.classes

    assert targets(np.eye(3)[Y]) == ("classification", Y.tolist(), ("0", "1", "2"))
    assert targets(Y[:, None]) == ("classification", Y.tolist(), ("0", "1", "2"))
    assert targets(np.array(["b", "a", "c"])[Y]) == (
        "classification",
        [[1, 0, 2][y] for y in Y],
        ("a", "b", "c"),
    )
    assert targets(np.array([b"b", b"a"])[Y % 2])[2] == ("a", "b")
    assert targets(Y > 0)[2] == ("false", "true")
    assert targets(Y.astype(float))[0] == "classification"
    assert targets(X[:, 0])[:2] == ("regression", X[:, 0].astype(np.float32).tolist())
    assert targets(Y, task="regression")[0] == "regression"


def test_the_target_can_be_named(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, y=Y, age=X[:, 1])
    data = open_data(tmp_path / "a.npz", DataOptions(target="age"))
    assert data.task == "regression"
    with pytest.raises(DataError, match=r"no answers.*did you mean 'age'"):
        open_data(tmp_path / "a.npz", DataOptions(target="agee"))


def changed(array: np.ndarray, place: tuple[int, ...], value: float) -> np.ndarray:
    out = array.astype(float)
    out[place] = value
    return out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"x": X}, "no answers for it"),
        ({"y": Y}, "no array called x"),
        ({"x": X, "y": Y[:-1]}, "'x' has 24 items but 'y' has 23"),
        ({"x": changed(X, (4, 1), np.nan), "y": Y}, r"not finite: nan at \[4, 1\], and 1 such"),
        ({"x": changed(X, (4, 1), np.inf), "y": Y}, r"not finite: inf at \[4, 1\]"),
        ({"x": changed(X, (4, 1), 1e300), "y": Y}, r"not finite: 1e\+300"),
        ({"x": X, "y": changed(Y, (5,), np.nan)}, "not finite at item 6"),
        ({"x": X, "y": np.zeros(24)}, "one class"),
        ({"x": X, "y": np.full(24, 0.5)}, "0.5 for every item"),
        ({"x": X, "y": X}, "one answer an item"),
        ({"x": np.array(["a"] * 24), "y": Y}, "numbers are needed"),
        ({"x": X[:, 0], "y": Y}, "items first"),
        ({"x": np.array([{}] * 24), "y": Y}, "run foreign code"),
        ({"x_train": X, "y_train": Y, "x_test": X[:, :2], "y_test": Y}, "differ in shape"),
        ({"x_train": X, "y_train": Y % 2, "x_test": X, "y_test": Y}, "label out of range: 26 of the test"),
        ({"x": X[:0], "y": Y[:0]}, "no items"),
    ],
)
def test_arrays_that_cannot_be_used_are_refused(tmp_path, content, message):
    np.savez(tmp_path / "a.npz", **content)
    with pytest.raises(DataError, match=message):
        open_data(tmp_path / "a.npz")


@pytest.mark.parametrize("name", ["a.npz", "x.npy"])
def test_damaged_files_are_refused(tmp_path, name):
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    np.save(tmp_path / "x.npy", X)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="cannot be read"):
        open_data(path)


def npy_header(descr: str, shape: str) -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header = header.ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"garbage that is neither", r"a.npz is no NumPy array, or it is damaged"),
        (b"PK\x03\x04 garbage", "cannot be read: File is not a zip file. It is damaged"),
        (b"\x93NUMPY\x01\x00\x05\x00(((((", "cannot be read: .* It is damaged"),
        (npy_header("'<f8'", "(10**12,)") + bytes(80), "cannot be read"),
        (npy_header("'<f8'", "(1000000000000,)") + bytes(80), "announces 8,000,000,000,000 bytes .* are 80"),
        (npy_header("'<f8'", "(-5, 2)") + bytes(80), "announces -80 bytes"),
        (npy_header("'|O'", "(1,)") + bytes(80), "holds Python objects"),
    ],
)
def test_what_is_no_array_is_told_from_what_holds_objects(tmp_path, content, message):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_data(tmp_path / "a.npz")


def test_a_member_that_is_no_array_is_named(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("notes.txt", "not an array")
    with pytest.raises(DataError, match=r"notes.txt in .*a.npz is no NumPy array"):
        open_data(tmp_path / "a.npz")


def test_an_archive_larger_than_the_free_memory_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((1 << 17, 8)), y=np.arange(1 << 17) % 2)
    assert (tmp_path / "a.npz").stat().st_size < 1 << 17
    monkeypatch.setattr(arrays, "available_memory", lambda: 9 << 20)
    monkeypatch.setattr(arrays.npy, "read_array", lambda *a, **k: pytest.fail("it was unpacked"))
    with pytest.raises(DataError, match=r"a.npz is too large: 0.0 GiB once unpacked"):
        open_data(tmp_path / "a.npz")


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    def forbidden(path, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(path))

    np.savez(tmp_path / "a.npz", x=X, y=Y)
    monkeypatch.setattr(type(tmp_path), "open", forbidden)
    with pytest.raises(DataError, match=r"a.npz may not be read: permission denied"):
        open_data(tmp_path / "a.npz")


def test_the_free_memory_is_known():
    assert 2**24 < arrays.available_memory() < 2**50


def test_a_member_that_unpacks_to_more_than_it_says_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", npy_header("'<f8'", "(1000000000,)") + bytes(8))
    with pytest.raises(DataError, match=r"x.npy in .* announces 8,000,000,000 bytes"):
        open_data(tmp_path / "a.npz")
