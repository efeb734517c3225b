"""What every noisy part keeps to: modes, ends of the range, kinds of tensors, copies, compilers, exports."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.func import vmap

from ravine.generalize import (
    DropConnect,
    Dropout,
    FeatureDropout,
    FractionalMaxPool,
    GaussianDropout,
    GaussianNoise,
    StochasticDepth,
)

IMAGES = (4, 3, 8, 8)


def linear():
    torch.manual_seed(0)
    return nn.Conv2d(3, 5, 3)


PARTS = {
    "dropout": lambda: Dropout(0.5),
    "plain dropout": lambda: Dropout(0.5, inverted=False),
    "feature dropout": lambda: FeatureDropout(0.5),
    "gaussian noise": lambda: GaussianNoise(0.5),
    "gaussian dropout": lambda: GaussianDropout(0.5),
    "drop connect": lambda: DropConnect(linear(), 0.5),
    "stochastic depth": lambda: StochasticDepth(0.5),
    "stochastic depth, batch": lambda: StochasticDepth(0.5, "batch"),
    "fractional": lambda: FractionalMaxPool(1.4),
    "fractional, random": lambda: FractionalMaxPool(1.4, "random"),
    "fractional, overlapping": lambda: FractionalMaxPool(1.4, overlapping=True),
}
EVERY = pytest.mark.parametrize("name", PARTS)


def images(*shape, **kind):
    return torch.rand(shape or IMAGES, generator=torch.Generator().manual_seed(1)).to(**kind) + 0.5


@EVERY
def test_training_draws_and_evaluation_does_not(name):
    part, x = PARTS[name](), images()
    torch.manual_seed(0)
    drawn = [part(x) for _ in range(12)]
    assert any(not torch.equal(drawn[0], other) for other in drawn)
    part.eval()
    assert torch.equal(part(x), part(x))
    torch.manual_seed(3)
    state = torch.get_rng_state()
    part(x)
    assert torch.equal(torch.get_rng_state(), state)


@EVERY
def test_the_same_stream_gives_the_same_noise(name):
    part, x = PARTS[name](), images()
    one, other = (torch.manual_seed(7) and part(x) for _ in range(2))
    assert torch.equal(one, other)


@EVERY
@pytest.mark.parametrize("training", [True, False])
def test_an_empty_batch_stays_empty(name, training):
    out = PARTS[name]().train(training)(images(0, 3, 8, 8))
    assert len(out) == 0 and out.dim() == 4


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_type_is_kept(name, dtype):
    part = PARTS[name]().to(dtype)
    for training in (True, False):
        out = part.train(training)(images(dtype=dtype))
        assert out.dtype == dtype and bool(out.isfinite().all())


@EVERY
@pytest.mark.parametrize("training", [True, False])
def test_the_layout_is_kept(name, training):
    x = images().to(memory_format=torch.channels_last)
    part = PARTS[name]().to(memory_format=torch.channels_last).train(training)
    assert part(x).is_contiguous(memory_format=torch.channels_last)


@EVERY
def test_copies_draw_alike_and_apart(name):
    part, x = PARTS[name](), images()
    for made in (copy.deepcopy(part), pickle.loads(pickle.dumps(part))):
        one, other = (torch.manual_seed(5) and each(x) for each in (part, made))
        assert torch.equal(one, other)
        assert not {id(parameter) for parameter in part.parameters()} & {
            id(parameter) for parameter in made.parameters()
        }
        assert made.state_dict().keys() == part.state_dict().keys()


@EVERY
def test_samples_of_vmap_differ_or_agree_as_asked(name):
    part, x = PARTS[name](), images()
    torch.manual_seed(0)
    different = vmap(lambda _: part(x), randomness="different")(torch.arange(12))
    assert len({tuple(sample.flatten().tolist()) for sample in different}) > 1
    same = vmap(lambda _: part(x), randomness="same")(torch.arange(3))
    assert torch.equal(same[0], same[1])


@EVERY
def test_it_compiles(name):
    torch._dynamo.reset()
    part, x = PARTS[name](), images()
    compiled = torch.compile(part, backend="aot_eager", fullgraph=True)
    for seed in range(6):  # of six draws of batch-wise depth some keep it, some do not
        found, wanted = (torch.manual_seed(seed) and each(x) for each in (compiled, part))
        torch.testing.assert_close(found, wanted)
    part.eval()
    torch.testing.assert_close(compiled(x), part(x))


@EVERY
def test_a_gradient_reaches_the_input(name):
    part, x = PARTS[name]().double(), images(dtype=torch.float64).requires_grad_()

    def drawn(x):
        torch.manual_seed(2)
        return part(x)

    assert torch.autograd.gradcheck(drawn, x, fast_mode=True)


def test_an_evaluated_network_of_all_parts_is_exported():
    torch.manual_seed(0)
    network = nn.Sequential(
        *(GaussianNoise(), DropConnect(nn.Conv2d(3, 6, 3)), FeatureDropout(), nn.ReLU()),
        *(FractionalMaxPool(1.5), FractionalMaxPool(1.5, overlapping=True), StochasticDepth(), nn.Flatten()),
        *(Dropout(inverted=False), GaussianDropout(), DropConnect(nn.Linear(6 * 4 * 4, 10))),
    ).eval()
    x = images(2, 3, 12, 12)
    exported = torch.export.export(network, (x,))
    torch.testing.assert_close(exported.module()(x), network(x))


@pytest.mark.filterwarnings("ignore")  # torch's exporter uses what torch deprecates
def test_an_evaluated_network_of_all_parts_goes_to_onnx(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    network = nn.Sequential(
        *(DropConnect(nn.Conv2d(3, 6, 3)), FeatureDropout(), nn.ReLU(), FractionalMaxPool(1.5)),
        *(StochasticDepth(), nn.Flatten(), Dropout(inverted=False), DropConnect(nn.Linear(6 * 6 * 6, 10))),
    ).eval()
    x = images(2, 3, 12, 12)
    path = tmp_path / "network.onnx"
    torch.onnx.export(network, (x,), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path)
    (out,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(out), network(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan"), "half", True, None])
@pytest.mark.parametrize(
    "made",
    [
        Dropout,
        FeatureDropout,
        GaussianDropout,
        StochasticDepth,
        lambda p: DropConnect(nn.Linear(2, 2), p),
    ],
)
def test_a_rate_that_is_no_probability_is_refused(made, rate):
    with pytest.raises(ValueError, match=r"Invalid p: .*; a probability is in \[0, 1\]"):
        made(rate)


@pytest.mark.parametrize("sigma", [-1.0, float("nan"), float("inf"), "much"])
def test_a_deviation_that_is_none_is_refused(sigma):
    with pytest.raises(ValueError, match="Invalid sigma"):
        GaussianNoise(sigma)


def test_a_variance_without_end_is_refused():
    with pytest.raises(ValueError, match=r"Invalid p: 1\.0"):
        GaussianDropout(1.0)
