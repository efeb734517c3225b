import gzip
import struct

import numpy as np
import pytest
import torch

from ravine.errors import DataError
from ravine.training.data import open_data


def idx_bytes(values: np.ndarray, *, kind: int = 8) -> bytes:
    return (
        bytes((0, 0, kind, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()
    )


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (30, 5, 4), np.uint8)
    labels = np.arange(30, dtype=np.uint8) % 3
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx_bytes(images[:20]))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(labels[:20]))
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(images[20:])))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(labels[20:])))
    (tmp_path / "LICENSE").write_text("MIT")
    return tmp_path, images, labels


def test_images_labels_and_parts_are_those_in_the_files(folder):
    path, images, labels = folder
    data = open_data(path)
    assert torch.equal(data.inputs, torch.from_numpy(images)[:, None])
    assert torch.equal(data.targets, torch.from_numpy(labels).long())
    assert data.parts["train"].tolist() == list(range(20))
    assert data.parts["test"].tolist() == list(range(20, 30))
    assert data.classes == ("0", "1", "2")
    assert (data.kind, data.task) == ("image", "classification")


def test_without_the_test_files_there_is_no_test_part(folder):
    path, _, _ = folder
    for file in path.glob("t10k*"):
        file.unlink()
    assert set(open_data(path).parts) == {"train"}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: b"\0\0\x0d\x03" + content[4:], "bad magic number: 00000d03 where 00000803"),
        (lambda content: content[:-7], "wrong length.*416 bytes.*there are 409 bytes"),
        (lambda content: content + b"x", "wrong length.*there are more"),
        (lambda content: content[:9], "ends within its header"),
        (lambda content: b"", "bad magic number: nothing"),
        (lambda content: content[:4] + bytes(12), "is empty"),
    ],
)
def test_damaged_images_are_refused(folder, damage, message):
    path, _, _ = folder
    file = path / "train-images-idx3-ubyte"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match=message) as error:
        open_data(path)
    assert str(file) in str(error.value)


def test_a_truncated_gzip_file_is_refused(folder):
    path, _, _ = folder
    file = path / "t10k-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot be read"):
        open_data(path)


def test_a_file_that_is_not_gzipped_under_its_name_is_refused(folder):
    path, _, _ = folder
    (path / "t10k-images-idx3-ubyte.gz").write_bytes(b"not gzip at all")
    with pytest.raises(DataError, match="cannot be read"):
        open_data(path)


def test_counts_of_images_and_labels_must_agree(folder):
    path, _, labels = folder
    (path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(labels[:19]))
    with pytest.raises(DataError, match="20 images but 19 labels in the train part"):
        open_data(path)


def test_a_missing_file_is_named(folder):
    path, _, _ = folder
    (path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="the labels of the train part are missing"):
        open_data(path)


def test_parts_of_different_sizes_are_refused(folder):
    path, _, _ = folder
    (path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(np.zeros((10, 5, 5), np.uint8))))
    with pytest.raises(DataError, match="differ in size"):
        open_data(path)


def test_a_test_label_that_training_does_not_have_is_out_of_range(folder):
    path, _, _ = folder
    labels = np.array([0, 1, 2, 7, 0, 1, 2, 0, 1, 2], np.uint8)
    (path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(labels)))
    with pytest.raises(DataError, match=r"label out of range: 23 of the test part.*'7'"):
        open_data(path)


def test_one_class_is_refused(folder):
    path, _, _ = folder
    (path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(20, np.uint8)))
    with pytest.raises(DataError, match="at least two"):
        open_data(path)
