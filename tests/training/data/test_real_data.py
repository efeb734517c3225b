import torch

from ravine.training.data import open_data
from ravine.training.data.inspect import inspect
from ravine.training.data.splits import cut


def test_fashion_mnist(real_data):
    data = open_data(real_data / "fashion-mnist")
    assert tuple(data.inputs.shape) == (70_000, 1, 28, 28)
    assert len(data.parts["test"]) == 10_000
    assert torch.bincount(data.targets).tolist() == [7000] * 10
    parts = cut(data, validation=0.1, test=0.1, seed=0)
    assert torch.bincount(data.targets[parts.validation]).tolist() == [600] * 10
    assert parts.test.tolist() == list(range(60_000, 70_000))


def test_cifar10(real_data):
    data = open_data(real_data / "cifar10-15k")
    assert tuple(data.inputs.shape) == (16_000, 3, 32, 32)
    assert len(data.parts["test"]) == 1000
    assert data.classes[:2] == ("airplane", "automobile")
    content = (real_data / "cifar10-15k" / "data_batch_2_first5000.bin").read_bytes()[:3073]
    assert data.targets[10_000] == content[0]
    assert bytes(data.inputs[10_000].flatten().tolist()) == content[1:]


def test_sign_digits(real_data):
    data = open_data(real_data / "sign-digits")
    assert tuple(data.inputs.shape) == (2062, 3, 64, 64)
    assert data.classes == tuple("0123456789")
    assert any("LICENSE" in note for note in data.notes)
    found = inspect(data, cut(data, validation=0.1, test=0.1, seed=0))
    assert found["unreadable"] == []
    assert found["items"]["total"] == 2062


def test_tiny_shakespeare(real_data):
    data = open_data(real_data / "tinyshakespeare" / "input.txt")
    text = (real_data / "tinyshakespeare" / "input.txt").read_text()
    assert len(data.classes) == 65
    assert "".join(data.classes[token] for token in data.inputs[:1000].tolist()) == text[:1000]
    assert len(data.inputs) == 1_115_394
