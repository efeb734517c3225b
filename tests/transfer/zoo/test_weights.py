"""Files of weights are read without running anything in them, and whatever is wrong with one is told."""

import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ravine.errors import ModelError
from ravine.transfer.zoo.weights import checksum, read_weights

WEIGHTS = {
    "a.weight": torch.arange(12, dtype=torch.float32).view(3, 4) / 7,
    "a.bias": torch.tensor([1.5, -2.0, 0.25]),
    "a.count": torch.tensor(7),
}


def write_torch(path, content):
    torch.save(content, path)


def write_old_torch(path, content):
    torch.save(content, path, _use_new_zipfile_serialization=False)


def write_npz(path, content):
    np.savez(path, **{name: tensor.numpy() for name, tensor in content.items()})


def write_small_npz(path, content):
    np.savez_compressed(path, **{name: tensor.numpy() for name, tensor in content.items()})


WRITERS = {
    "w.safetensors": lambda path, content: save_file(content, path),
    "w.pt": write_torch,
    "w.th": write_torch,
    "w.bin": write_torch,
    "old.pth": write_old_torch,
    "w.npz": write_npz,
    "small.npz": write_small_npz,
}
TORCH = {"new.pt": write_torch, "old.pt": write_old_torch}


def assert_same(found, expected=WEIGHTS):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype, name


class Payload:
    """What makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file(name, tmp_path):
    WRITERS[name](tmp_path / name, WEIGHTS)
    assert_same(read_weights(tmp_path / name))


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.parametrize("wrapping", ["state_dict", "model_state_dict", "model", "net"])
def test_what_a_training_wraps_around_them_is_taken_off(name, wrapping, tmp_path):
    content = {"epoch": 3, "best": 0.915, wrapping: WEIGHTS, "optimizer": {"state": {}, "lr": [0.1]}}
    TORCH[name](tmp_path / name, content)
    assert_same(read_weights(tmp_path / name))
    TORCH[name](tmp_path / name, {"net": content})
    assert_same(read_weights(tmp_path / name))


@pytest.mark.parametrize("name", WRITERS)
def test_the_prefix_of_data_parallel_is_taken_off(name, tmp_path):
    WRITERS[name](tmp_path / name, {f"module.{key}": tensor for key, tensor in WEIGHTS.items()})
    assert_same(read_weights(tmp_path / name))


def test_a_prefix_that_only_some_have_is_part_of_the_names(tmp_path):
    mixed = {"module.weight": torch.ones(2), "weight": torch.zeros(2)}
    save_file(mixed, tmp_path / "w.safetensors")
    assert_same(read_weights(tmp_path / "w.safetensors"), mixed)


def test_parameters_that_take_gradients_are_plain_tensors(tmp_path):
    torch.save(dict(nn.Linear(2, 3).named_parameters()), tmp_path / "w.pt")
    assert not any(tensor.requires_grad for tensor in read_weights(tmp_path / "w.pt").values())


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_was_cut_off(name, tmp_path):
    WRITERS[name](tmp_path / name, WEIGHTS)
    content = (tmp_path / name).read_bytes()
    for size in range(0, len(content), max(1, len(content) // 40)):
        (tmp_path / name).write_bytes(content[:size])
        # An older file that ends within the name of a class seems to hold a class that is not known.
        with pytest.raises(ModelError, match=f"{name} is (damaged or cut off|refused)"):
            read_weights(tmp_path / name)


@pytest.mark.parametrize("name", WRITERS)
def test_any_byte_altered_gives_weights_or_a_clear_error(name, tmp_path):
    """Readers end in many ways on damaged files: each is told as such, and no file is left open."""
    WRITERS[name](tmp_path / name, WEIGHTS)
    content = (tmp_path / name).read_bytes()
    drawn = random.Random(0)
    refused = 0
    for place in range(0, len(content), max(1, len(content) // 400)):
        altered = bytearray(content)
        altered[place] ^= drawn.randrange(1, 256)
        (tmp_path / name).write_bytes(altered)
        try:
            found = read_weights(tmp_path / name)
            assert all(torch.isfinite(t).all() for t in found.values() if t.is_floating_point())
        except ModelError as error:
            refused += 1
            assert name in str(error)
    assert refused > 20


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(
    "content", [b"", b"hello", b"<html>Not found</html>" * 40, b"PK\x03\x04", pickle.dumps([1])]
)
def test_a_file_of_another_kind(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=f"{name} is damaged or cut off"):
        read_weights(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("w.safetensors", "x.pt"),
        ("w.safetensors", "x.npz"),
        ("w.npz", "x.pt"),
        ("w.npz", "x.safetensors"),
        ("w.pt", "x.npz"),
        ("w.pt", "x.safetensors"),
        ("old.pth", "x.npz"),
        ("old.pth", "x.safetensors"),
    ],
)
def test_one_kind_by_the_name_of_another(name, other, tmp_path):
    WRITERS[name](tmp_path / name, WEIGHTS)
    (tmp_path / name).rename(tmp_path / other)
    with pytest.raises(ModelError, match=rf"{other} is damaged or cut off"):
        read_weights(tmp_path / other)


def test_one_array_alone_is_no_archive(tmp_path):
    with (tmp_path / "w.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ModelError, match="no archive of arrays"):
        read_weights(tmp_path / "w.npz")


@pytest.mark.parametrize("name", ["none.safetensors", "none.pt", "none.npz"])
def test_an_absent_file_and_a_folder(name, tmp_path):
    with pytest.raises(ModelError, match=r"there is no file .*none"):
        read_weights(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(ModelError, match=r"there is no file .*none"):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("name", TORCH)
def test_a_payload_is_refused_and_never_run(name, tmp_path):
    trap = tmp_path / "trap"
    for content in (
        {**WEIGHTS, "x": Payload(trap)},
        {"state_dict": WEIGHTS, "x": Payload(trap)},
        Payload(trap),
    ):
        TORCH[name](tmp_path / name, content)
        with pytest.raises(ModelError, match="refused: it holds pickled objects besides tensors"):
            read_weights(tmp_path / name)
        assert not trap.exists()
    torch.load(tmp_path / name, weights_only=False)
    assert trap.exists(), "the payload is one that works"


def test_a_bare_pickle_is_refused_and_never_run(tmp_path):
    trap = tmp_path / "trap"
    (tmp_path / "w.pt").write_bytes(pickle.dumps(Payload(trap), protocol=2))
    with pytest.raises(ModelError, match="refused: it holds pickled objects"):
        read_weights(tmp_path / "w.pt")
    for name in ("w.npz", "w.safetensors"):
        (tmp_path / "w.pt").rename(tmp_path / name)
        with pytest.raises(ModelError, match="damaged"):
            read_weights(tmp_path / name)
        (tmp_path / name).rename(tmp_path / "w.pt")
    assert not trap.exists()


def test_an_array_of_objects_is_refused_and_never_run(tmp_path):
    trap = tmp_path / "trap"
    np.savez(tmp_path / "w.npz", a=np.zeros(3), b=np.array([Payload(trap), None], dtype=object))
    with pytest.raises(ModelError, match="refused: it holds pickled objects"):
        read_weights(tmp_path / "w.npz")
    assert not trap.exists()


def test_a_whole_network_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"refused.*Save its state_dict alone"):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite(name, bad, tmp_path):
    WRITERS[name](tmp_path / name, {**WEIGHTS, "b.weight": torch.tensor([1.0, bad])})
    with pytest.raises(ModelError, match=rf"{name}: the weights b\.weight are not finite"):
        read_weights(tmp_path / name)


ODD = {
    "sparse": lambda: torch.eye(3).to_sparse(),
    "meta": lambda: torch.empty(3, device="meta"),
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated:UserWarning")
def test_weights_that_are_no_plain_numbers(kind, tmp_path):
    odd = ODD[kind]()
    torch.save({**WEIGHTS, "b.weight": odd}, tmp_path / "w.pt")
    with pytest.raises(ModelError) as caught:
        read_weights(tmp_path / "w.pt")
    assert str(caught.value) == (
        f"{tmp_path / 'w.pt'}: the weights b.weight are sparse, quantised or without values; "
        "save them as plain numbers"
    )


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_of_eight_bits_are_finite_or_refused(kind, tmp_path):
    save_file({"a": torch.ones(3).to(kind)}, tmp_path / "w.safetensors")
    assert read_weights(tmp_path / "w.safetensors")["a"].float().tolist() == [1, 1, 1]
    save_file({"a": torch.tensor([1.0, float("nan")]).to(kind)}, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"w\.safetensors: the weights a are not finite"):
        read_weights(tmp_path / "w.safetensors")


def test_a_text_file_is_told_as_none_of_torchs(tmp_path):
    (tmp_path / "passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
    with pytest.raises(ModelError) as caught:
        read_weights(tmp_path / "passwd")
    assert str(caught.value) == (
        f"{tmp_path / 'passwd'} is damaged or cut off: it is no file of weights that torch wrote. "
        "Download it again."
    )


@pytest.mark.parametrize("content", [[torch.ones(2)], torch.ones(2), {"a": torch.ones(2), "b": 3}, 3])
def test_what_is_no_state_dict(content, tmp_path):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ModelError, match="holds no state_dict"):
        read_weights(tmp_path / "w.pt")


def test_what_holds_itself(tmp_path):
    endless = {}
    endless["model"] = endless
    torch.save(endless, tmp_path / "w.pt")
    with pytest.raises(ModelError, match="holds no state_dict"):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors", "w.npz"])
def test_no_weights_at_all(name, tmp_path):
    WRITERS[name](tmp_path / name, {})
    with pytest.raises(ModelError, match="holds no tensors"):
        read_weights(tmp_path / name)


def test_words_are_no_weights(tmp_path):
    np.savez(tmp_path / "w.npz", a=np.array(["one", "two"]))
    with pytest.raises(ModelError, match="damaged"):
        read_weights(tmp_path / "w.npz")


def test_the_checksum_is_sha_256(tmp_path):
    """The second example of FIPS 180-4's test vectors: the message "abc"."""
    (tmp_path / "f").write_bytes(b"abc")
    assert checksum(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
