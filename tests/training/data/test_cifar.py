import os
import pickle

import numpy as np
import pytest
import torch

from ravine.errors import DataError
from ravine.training.data import open_data, safe_pickle


def batch(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, 3072), np.uint8), (np.arange(count) % 10).astype(np.uint8)


@pytest.fixture
def binary(tmp_path):
    for name, count, seed in (("data_batch_1", 30, 1), ("data_batch_2_part", 12, 2), ("test_batch", 10, 3)):
        pixels, labels = batch(count, seed)
        (tmp_path / f"{name}.bin").write_bytes(np.column_stack([labels, pixels]).tobytes())
    (tmp_path / "batches.meta.txt").write_text("\n".join("abcdefghij") + "\n\n")
    return tmp_path


def python_layout(folder, protocol: int, keys=(b"data", b"labels")):
    for name, count, seed in (("data_batch_1", 30, 1), ("data_batch_2", 12, 2), ("test_batch", 10, 3)):
        pixels, labels = batch(count, seed)
        content = {keys[0]: pixels, keys[1]: labels.tolist(), "batch_label": "one"}
        (folder / name).write_bytes(pickle.dumps(content, protocol))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}, protocol))
    (folder / "readme.html").write_text("")


def test_binary_batches_become_planes_red_green_blue(binary):
    data = open_data(binary)
    assert tuple(data.inputs.shape) == (52, 3, 32, 32)
    pixels, labels = batch(12, 2)
    assert data.inputs[30:42].flatten(1).numpy().tolist() == pixels.tolist()
    assert data.targets[30:42].tolist() == labels.tolist()
    assert data.parts["train"].tolist() == list(range(42))
    assert data.parts["test"].tolist() == list(range(42, 52))
    assert data.classes == tuple("abcdefghij")
    assert data.inputs.is_contiguous()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_the_python_layout_gives_the_same_data(binary, tmp_path_factory, protocol):
    folder = tmp_path_factory.mktemp("python")
    python_layout(folder, protocol)
    data, reference = open_data(folder), open_data(binary)
    assert torch.equal(data.inputs, reference.inputs)
    assert torch.equal(data.targets, reference.targets)
    assert data.classes == reference.classes
    assert data.fingerprint == reference.fingerprint


def test_pickles_of_python_2_and_old_numpy_are_read(tmp_path):
    python_layout(tmp_path, 2)
    for path in tmp_path.glob("*batch*"):
        path.write_bytes(path.read_bytes().replace(b"numpy._core.", b"numpy.core."))
    assert len(open_data(tmp_path).targets) == 52


@pytest.mark.parametrize("layout", ["python", "binary"])
def test_cifar_100_takes_the_fine_labels(tmp_path, layout):
    pixels, _ = batch(200, 0)
    fine = np.arange(200) % 100
    names = [f"class {number}" for number in range(100)]
    for part in ("train", "test"):
        if layout == "python":
            content = {"data": pixels, "fine_labels": fine.tolist(), "coarse_labels": [0] * 200}
            (tmp_path / part).write_bytes(pickle.dumps(content))
        else:
            records = np.column_stack([np.zeros(200, np.uint8), fine.astype(np.uint8), pixels])
            (tmp_path / f"{part}.bin").write_bytes(records.tobytes())
    (tmp_path / "meta").write_bytes(pickle.dumps({"fine_label_names": names, "coarse_label_names": ["x"]}))
    (tmp_path / "fine_label_names.txt").write_text("\n".join(names))
    data = open_data(tmp_path)
    assert data.targets.tolist() == fine.tolist() * 2
    assert data.classes == tuple(names)
    assert data.inputs[7].flatten().numpy().tolist() == pixels[7].tolist()


def test_a_length_that_is_no_whole_number_of_records_is_refused(binary):
    path = binary / "data_batch_1.bin"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match=r"data_batch_1.bin has the wrong length: 92185 bytes"):
        open_data(binary)


def test_a_label_out_of_range_is_named_by_file_and_record(binary):
    path = binary / "data_batch_1.bin"
    content = bytearray(path.read_bytes())
    content[3073 * 4] = 11
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"label out of range: record 5 of .*data_batch_1.bin has 11"):
        open_data(binary)


def test_test_batches_alone_are_refused(binary):
    for path in binary.glob("data_batch*"):
        path.unlink()
    with pytest.raises(DataError, match="no data_batch file to train on"):
        open_data(binary)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path, protocol):
    python_layout(tmp_path, 4)
    trap = tmp_path / "trap"
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({"data": Malicious(trap)}, protocol))
    with pytest.raises(DataError, match=r"data_batch_1 is refused: its pickle asks for posix.mkdir"):
        open_data(tmp_path)
    assert not trap.exists()


@pytest.mark.parametrize(
    "module", ["builtins", "numpy", "numpy.core.multiarray", "ravine.training.data.safe_pickle"]
)
def test_no_other_name_can_be_reached(tmp_path, module):
    (tmp_path / "p").write_bytes(f"c{module}\neval\n.".encode())
    with pytest.raises(DataError, match="refused"):
        safe_pickle.load(tmp_path / "p")


def test_a_pickle_that_contains_itself_is_refused(tmp_path):
    loop: list[object] = []
    loop.append(loop)
    (tmp_path / "p").write_bytes(pickle.dumps(loop))
    with pytest.raises(DataError, match="cannot be read as a pickle"):
        safe_pickle.load(tmp_path / "p")


def test_arrays_of_objects_are_refused(tmp_path):
    (tmp_path / "p").write_bytes(pickle.dumps(np.array([{}, 1], object), 4))
    with pytest.raises(DataError, match="array of objects"):
        safe_pickle.load(tmp_path / "p")


@pytest.mark.parametrize("dtype", ["<i8", ">i4", "f4", "u1", "bool"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_numeric_arrays_survive(tmp_path, dtype, order):
    array = np.array([[1, 2, 3], [4, 5, 6]]).astype(dtype).copy(order=order)
    for protocol in (2, 4, 5):
        (tmp_path / "p").write_bytes(pickle.dumps({"a": [array]}, protocol))
        loaded = safe_pickle.load(tmp_path / "p")["a"][0]
        assert loaded.dtype == array.dtype
        assert loaded.tolist() == array.tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as a pickle"),
        (b"garbage", "cannot be read as a pickle"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8)})[:-50], "cannot be read as a pickle"),
        (pickle.dumps([1, 2]), "holds no dict"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8)}), "no CIFAR batch"),
        (pickle.dumps({"data": np.zeros((2, 9), np.uint8), "labels": [0, 1]}), "no CIFAR batch"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}), "2 images need as many"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0, "x"]}), "whole-number labels"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 2**63]}), "label out of range"),
        (
            pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [-(2**70)] * 2}),
            "label out of range",
        ),
    ],
)
def test_damaged_batches_of_the_python_layout_are_refused(tmp_path, content, message):
    python_layout(tmp_path, 4)
    (tmp_path / "data_batch_1").write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_data(tmp_path)


@pytest.mark.parametrize("names", [7, None, b"abc", {"a": 1}])
def test_names_of_the_classes_that_are_no_list_are_refused(tmp_path, names):
    python_layout(tmp_path, 4)
    (tmp_path / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    with pytest.raises(DataError, match=r"batches.meta is no CIFAR file: its names of the classes"):
        open_data(tmp_path)
