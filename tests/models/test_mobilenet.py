"""MobileNet's layers against TensorFlow's arithmetic, written out in NumPy and float64."""

import numpy as np
import pytest
import torch
from torch import nn

from ravine.errors import ModelError
from ravine.models import make
from ravine.models.mobilenet import SameConv2d


def same_convolution(x, kernel, stride, *, depthwise=False):
    """TensorFlow's "SAME": (N, H, W, C) by (k, k, C, O) or, by channels, (k, k, C, 1)."""
    size, k = x.shape[1], kernel.shape[0]
    out = -(-size // stride)
    total = max((out - 1) * stride + k - size, 0)
    padded = np.pad(x, ((0, 0), (total // 2, total - total // 2), (total // 2, total - total // 2), (0, 0)))
    found = np.zeros((len(x), out, out, kernel.shape[2] if depthwise else kernel.shape[3]))
    for row in range(out):
        for column in range(out):
            window = padded[:, row * stride : row * stride + k, column * stride : column * stride + k]
            if depthwise:
                found[:, row, column] = np.einsum("nijc,ijc->nc", window, kernel[..., 0])
            else:
                found[:, row, column] = np.einsum("nijc,ijco->no", window, kernel)
    return found


@pytest.mark.parametrize("size", [7, 8, 13, 32])
@pytest.mark.parametrize("depthwise", [False, True])
def test_strided_convolutions_pad_as_tensorflow_does(size, depthwise):
    drawn = np.random.default_rng(size)
    channels, outs = 4, 4 if depthwise else 6
    x, kernel = drawn.normal(size=(2, size, size, channels)), drawn.normal(size=(3, 3, channels, 6))
    if depthwise:
        kernel = kernel[..., :1]
    layer = SameConv2d(channels, outs, 3, 2, groups=channels if depthwise else 1, bias=False).double()
    order = (2, 3, 0, 1) if depthwise else (3, 2, 0, 1)
    layer.weight.data = torch.from_numpy(kernel.transpose(order))
    found = layer(torch.from_numpy(x.transpose(0, 3, 1, 2)))
    expected = same_convolution(x, kernel, 2, depthwise=depthwise)
    np.testing.assert_allclose(found.detach().numpy().transpose(0, 2, 3, 1), expected, rtol=1e-10, atol=1e-12)


def test_sizes_are_the_papers():
    """475,544 parameters at width 0.25 with 1,000 classes, batch normalization's statistics among them."""
    model = make("mobilenet", (3, 224, 224), 1000, {})
    statistics = sum(b.numel() for name, b in model.named_buffers() if "running" in name)
    assert sum(p.numel() for p in model.parameters()) + statistics == 475_544
    shapes = []
    for block in model.blocks:
        block.register_forward_hook(lambda module, inputs, out: shapes.append(tuple(out.shape[1:])))
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, 224, 224))
    assert shapes[0] == (16, 112, 112) and shapes[5] == (128, 14, 14) and shapes[-1] == (256, 7, 7)
    assert all(norm.eps == 1e-3 for norm in model.modules() if isinstance(norm, nn.BatchNorm2d))


@pytest.mark.parametrize(("shape", "width", "text"), [((3, 32, 32), 0.01, "width"), ((7,), 0.25, "images")])
def test_impossible_sizes(shape, width, text):
    with pytest.raises(ModelError, match=text):
        make("mobilenet", shape, 10, {"width": width})
