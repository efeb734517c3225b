"""Foreign layouts against independent networks: a ResNet for CIFAR, and TensorFlow's MobileNet in NumPy."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ravine.errors import ModelError
from ravine.training.data import DataOptions, open_data
from ravine.transfer import open_model
from ravine.transfer.zoo.layouts import LAYOUTS, recognised
from ravine.transfer.zoo.opening import open_file


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.more = stride, outputs - inputs

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1 or self.more:
            before = self.more // 2
            thinned = x[:, :, :: self.stride, :: self.stride]
            x = F.pad(thinned, (0, 0, 0, 0, before, self.more - before))
        return F.relu(out + x)


class CifarResNet(nn.Module):
    """He et al. 2016, section 4.2, with the shortcuts of option A and the names of PyTorch's networks."""

    def __init__(self, width, blocks, classes):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        inputs = width
        for stage, count in enumerate(blocks):
            made = []
            for number in range(count):
                stride = 2 if stage and not number else 1
                made.append(Block(inputs, width * 2**stage, stride))
                inputs = width * 2**stage
            setattr(self, f"layer{stage + 1}", nn.Sequential(*made))
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        return self.linear(out.mean((2, 3)))


def shaken(model):
    """With statistics and gains that are not those of a start."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    return model.eval()


@pytest.mark.parametrize(("width", "blocks", "classes"), [(16, (3, 3, 3), 10), (8, (1, 2, 1), 7)])
def test_a_cifar_resnet_gives_what_it_gave(width, blocks, classes, tmp_path):
    torch.manual_seed(0)
    model = shaken(CifarResNet(width, blocks, classes))
    torch.save({"state_dict": nn.DataParallel(model).state_dict()}, tmp_path / "mine.th")
    opened = open_file(tmp_path / "mine.th")
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(opened.module(x), model(x), rtol=1e-5, atol=1e-5)
    card = opened.card
    assert (card.name, card.architecture, card.shape, card.outputs) == (
        "mine",
        "resnet",
        (3, 32, 32),
        classes,
    )
    assert card.settings["width"] == width and card.settings["blocks"] == list(blocks)
    assert card.mean == (0.485, 0.456, 0.406) and card.std == (0.229, 0.224, 0.225)


def test_what_is_of_no_known_layout_is_not_recognised():
    assert recognised({"conv1.weight": torch.zeros(1)}) is None
    for layout in LAYOUTS:
        assert recognised(dict.fromkeys(layout.keys, torch.zeros(1))) is layout


def resnet_weights():
    torch.manual_seed(0)
    return CifarResNet(8, (1, 1, 1), 5).state_dict()


RESNET = "has the names of a residual network for CIFAR with padded shortcuts, but"


@pytest.mark.parametrize(
    ("name", "tensor", "told"),
    [
        ("conv1.weight", None, f"{RESNET} conv1.weight is missing"),
        ("conv1.weight", torch.tensor(1.0), f"{RESNET} conv1.weight has 0 dimensions and must have 4"),
        ("linear.weight", torch.zeros(5), f"{RESNET} linear.weight has 1 dimensions and must have 2"),
        ("conv1.weight", torch.zeros(0, 3, 3, 3), "model 'resnet': width must be at least 1, not 0"),
        ("linear.bias", None, "does not fit the network: missing: head.bias"),
        ("linear.bias", torch.tensor(1.0), "of another shape: head.bias is () and must be (5,)"),
        ("extra", torch.zeros(2, 2), "does not fit the network: unexpected: extra"),
        ("bn1.weight", torch.ones(8).int(), "not of floating point: stem.norm.weight is torch.int32"),
    ],
)
def test_a_cifar_resnet_that_is_not_whole_is_told(name, tensor, told, tmp_path):
    weights = {**resnet_weights(), name: tensor}
    torch.save({key: value for key, value in weights.items() if value is not None}, tmp_path / "mine.th")
    with pytest.raises(ModelError) as caught:
        open_model(str(tmp_path / "mine.th"))
    assert told in str(caught.value)


# Keras' MobileNet, in float64 and NumPy.

STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
OUTPUTS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)


def same_convolution(x, kernel, stride, terms):
    """TensorFlow's "SAME" of (N, H, W, C): the odd row and column of zeros after the map."""
    size, k = x.shape[1], len(kernel)
    total = max((-(-size // stride) - 1) * stride + k - size, 0)
    around = (total // 2, total - total // 2)
    padded = np.pad(x, ((0, 0), around, around, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (k, k), (1, 2))[:, ::stride, ::stride]
    return np.einsum(terms, windows, kernel, optimize=True)


FULL, BY_CHANNEL = "nhwcij,ijco->nhwo", "nhwcij,ijco->nhwc"


def mobilenet_of_tensorflow(weights, x):
    """Logits (N, classes) of images (N, H, W, 3) in [-1, 1] by the arrays of a Keras file."""
    at = {name: array.astype(np.float64) for name, array in weights.items()}

    def normalized(x, layer):
        scale = at[f"{layer}/gamma"] / np.sqrt(at[f"{layer}/moving_variance"] + 1e-3)
        return np.clip((x - at[f"{layer}/moving_mean"]) * scale + at[f"{layer}/beta"], 0.0, 6.0)

    x = normalized(same_convolution(x, at["conv1/kernel"], 2, FULL), "conv1_bn")
    for block, stride in enumerate(STRIDES, 1):
        kernel = at[f"conv_dw_{block}/depthwise_kernel"]
        x = normalized(same_convolution(x, kernel, stride, BY_CHANNEL), f"conv_dw_{block}_bn")
        x = normalized(same_convolution(x, at[f"conv_pw_{block}/kernel"], 1, FULL), f"conv_pw_{block}_bn")
    return x.mean((1, 2)) @ at["conv_preds/kernel"][0, 0] + at["conv_preds/bias"]


def keras_arrays(width, classes):
    """Drawn arrays by Keras' names and in its shapes."""
    drawn = np.random.default_rng(0)
    arrays = {}

    def norm(layer, size):
        arrays[f"{layer}/gamma"] = drawn.uniform(0.5, 1.5, size)
        arrays[f"{layer}/beta"] = drawn.normal(0.5, 0.5, size)
        arrays[f"{layer}/moving_mean"] = drawn.normal(0, 0.3, size)
        arrays[f"{layer}/moving_variance"] = drawn.uniform(0.5, 2.0, size)

    inputs = int(32 * width)
    arrays["conv1/kernel"] = drawn.normal(0, 0.3, (3, 3, 3, inputs))
    norm("conv1_bn", inputs)
    for block, size in enumerate(OUTPUTS, 1):
        outs = int(size * width)
        arrays[f"conv_dw_{block}/depthwise_kernel"] = drawn.normal(0, 0.4, (3, 3, inputs, 1))
        norm(f"conv_dw_{block}_bn", inputs)
        arrays[f"conv_pw_{block}/kernel"] = drawn.normal(0, inputs**-0.5, (1, 1, inputs, outs))
        norm(f"conv_pw_{block}_bn", outs)
        inputs = outs
    arrays["conv_preds/kernel"] = drawn.normal(0, 0.1, (1, 1, inputs, classes))
    arrays["conv_preds/bias"] = drawn.normal(0, 0.1, classes)
    return {name: array.astype(np.float32) for name, array in arrays.items()}


@pytest.mark.parametrize(("width", "size"), [(0.25, 40), (0.5, 33)])
def test_a_keras_mobilenet_gives_what_tensorflow_computes(width, size, tmp_path):
    arrays = keras_arrays(width, 5)
    np.savez(tmp_path / "keras.npz", **arrays)
    opened = open_model(str(tmp_path / "keras.npz"))
    x = np.random.default_rng(1).uniform(-1, 1, (2, size, size, 3))
    expected = mobilenet_of_tensorflow(arrays, x)
    with torch.no_grad():
        found = opened.module.double()(torch.from_numpy(x.transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-9)
    card = opened.card
    assert (card.architecture, card.settings, card.outputs) == ("mobilenet", {"width": width}, 5)
    # Pixels scaled by x/127.5 − 1, as TensorFlow's networks have them.
    assert card.shape == (3, 224, 224) and card.mean == card.std == (0.5, 0.5, 0.5)


MOBILENET = "has the names of Keras' MobileNet, but"


@pytest.mark.parametrize(
    ("name", "array", "told"),
    [
        ("conv1/kernel", None, f"{MOBILENET} conv1/kernel is missing"),
        ("conv1/kernel", np.zeros((3, 3, 8)), f"{MOBILENET} conv1/kernel has 3 dimensions and must have 4"),
        ("conv_preds/kernel", np.zeros(5), f"{MOBILENET} conv_preds/kernel has 1 dimensions and must have 4"),
        ("conv_preds/bias", None, "does not fit the network: missing: head.bias"),
        ("extra/kernel", np.zeros((2, 2)), "does not fit the network: unexpected: extra.conv.weight"),
        (
            "conv_pw_1/kernel",
            np.zeros((8, 16)),
            "blocks.block1.pointwise.conv.weight is (8, 16) and must be (16, 8, 1, 1)",
        ),
    ],
)
def test_a_mobilenet_that_is_not_whole_is_told(name, array, told, tmp_path):
    arrays = {**keras_arrays(0.25, 5), name: array}
    np.savez(tmp_path / "m.npz", **{key: value for key, value in arrays.items() if value is not None})
    with pytest.raises(ModelError) as caught:
        open_model(str(tmp_path / "m.npz"))
    assert told in str(caught.value)


def test_a_mobilenet_of_whole_numbers_is_refused(tmp_path):
    np.savez(tmp_path / "m.npz", **{key: v.astype(np.int32) for key, v in keras_arrays(0.25, 5).items()})
    with pytest.raises(
        ModelError, match=r"m\.npz does not fit the network: not of floating point: stem\.conv"
    ):
        open_model(str(tmp_path / "m.npz"))


def test_the_imagenet_mobilenet_on_a_photograph(real_data):
    path = real_data / "weights" / "imagenet-mobilenet_v1_0.25_224.npz"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    opened = open_model(str(path))
    photographs = open_data(real_data / "sign-digits", DataOptions(image_size=96))
    pixels = photographs.fetch(torch.tensor([11])).double() / 127.5 - 1
    assert pixels.shape == (1, 3, 96, 96)
    with np.load(path) as arrays:
        expected = mobilenet_of_tensorflow(arrays, pixels.numpy().transpose(0, 2, 3, 1))
    with torch.no_grad():
        exact = opened.module.double()(pixels).numpy()
        found = opened.module.float()(pixels.float()).numpy()
    np.testing.assert_allclose(exact, expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.5, "logits that tell classes apart"


def test_the_cifar_resnet_scores_what_it_scored(real_data):
    path = real_data / "weights" / "cifar10-resnet20.th"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    opened = open_model(str(path))
    data = open_data(real_data / "cifar10-15k")
    test = data.parts["test"]
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (opened.card.mean, opened.card.std))
    with torch.no_grad():
        images = (data.fetch(test) / 255 - mean) / std
        right = opened.module(images).argmax(1) == data.targets[test]
    assert len(test) == 1000
    assert right.double().mean().item() == pytest.approx(0.915, abs=0.001)
