"""Residual branches found by tracing: networks in the styles that people write, and sums that are none."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional

from ravine.errors import ModelError
from ravine.generalize import StochasticDepth, average_out, regularize
from ravine.generalize.residual import BranchEnd, branch_ends
from ravine.generalize.tracing import called_modules
from ravine.models import make

IMAGES, TOKENS, ROWS = (4, 3, 16, 16), (4, 6, 8), (4, 8)


class LayerScale(nn.Module):
    """timm's."""

    def __init__(self, width):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x):
        return x * self.gamma


class DropPath(nn.Module):
    """timm's."""

    def __init__(self, drop_prob=0.0):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x):
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep = 1 - self.drop_prob
        return x * x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep) / keep


class Bottleneck(nn.Module):
    """torchvision's, with the normalization and the activation shared as there."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, stride, 1, bias=False), nn.BatchNorm2d(4)
        self.conv3, self.bn3 = nn.Conv2d(4, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def shortcut(self, x):
        return x if self.downsample is None else self.downsample(x)

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(out)))))
        out += self.shortcut(x)
        return self.relu(out)


class PreActivation(nn.Module):
    """He et al. 2016b: the projection comes from what is activated already."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.project = nn.Conv2d(inputs, outputs, 1, stride)

    def shortcut(self, x):
        return self.project(self.bn1(x).relu())

    def forward(self, x):
        out = functional.relu(self.bn1(x))
        return self.conv2(functional.relu(self.bn2(self.conv1(out)))) + self.project(out)


class ConvNeXt(nn.Module):
    """timm's block: a gain without a module, and axes moved behind it."""

    def __init__(self, width):
        super().__init__()
        self.conv_dw, self.norm = nn.Conv2d(width, width, 3, padding=1, groups=width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 16), nn.GELU(), nn.Linear(16, width))
        self.gamma = nn.Parameter(torch.full((width,), 0.5))

    def shortcut(self, x):
        return x

    def forward(self, x):
        y = self.gamma * self.mlp(self.norm(self.conv_dw(x).permute(0, 2, 3, 1)))
        return x + y.permute(0, 3, 1, 2)


class SqueezeExcite(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gate = nn.Conv2d(width, width, 1)

    def forward(self, x):
        return x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()


class GatedBlock(nn.Module):
    """SE-ResNet: the branch ends in a gate, which is a module of its own."""

    def __init__(self, width):
        super().__init__()
        self.conv, self.bn, self.se = (
            nn.Conv2d(width, width, 3, 1, 1),
            nn.BatchNorm2d(width),
            SqueezeExcite(width),
        )

    def shortcut(self, x):
        return x

    def forward(self, x):
        return x + self.se(self.bn(self.conv(x)))


class MBConv(nn.Module):
    """torchvision's EfficientNet: a gate within the branch, which ends in a normalization."""

    def __init__(self, width, drop_path):
        super().__init__()
        self.block = nn.Sequential(
            nn.Sequential(nn.Conv2d(width, 16, 1, bias=False), nn.BatchNorm2d(16), nn.SiLU()),
            SqueezeExcite(16),
            nn.Sequential(nn.Conv2d(16, width, 1, bias=False), nn.BatchNorm2d(width)),
        )
        self.drop_path = drop_path

    def shortcut(self, x):
        return x

    def forward(self, x):
        result = self.drop_path(self.block(x))
        result += x
        return result


class PoolFormer(nn.Module):
    """A branch without a layer."""

    class Pooling(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)

        def forward(self, x):
            return self.pool(x) - x

    def __init__(self, width):
        super().__init__()
        self.norm, self.mixer = nn.GroupNorm(1, width), self.Pooling()

    def shortcut(self, x):
        return x

    def forward(self, x):
        return x + self.mixer(self.norm(x))


class Frozen(nn.Module):
    """torchvision's FrozenBatchNorm2d: no module of torch's, and a constant added."""

    def __init__(self, width):
        super().__init__()
        self.register_buffer("scale", torch.rand(width) + 0.5)
        self.register_buffer("bias", torch.randn(width))

    def forward(self, x):
        return x * self.scale.reshape(1, -1, 1, 1) + self.bias.reshape(1, -1, 1, 1)


class FrozenBlock(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, 1, 1), Frozen(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1), Frozen(outputs)
        self.project, self.norm = nn.Conv2d(inputs, outputs, 1), Frozen(outputs)

    def shortcut(self, x):
        return self.norm(self.project(x))

    def forward(self, x):
        return self.shortcut(x) + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))


class Images(nn.Module):
    """Blocks between a stem and a head."""

    def __init__(self, *blocks):
        super().__init__()
        self.stem, self.blocks, self.head = nn.Conv2d(3, 8, 3, 1, 1), nn.Sequential(*blocks), nn.LazyLinear(5)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class ViT(nn.Module):
    """timm's block: two branches, each behind a LayerScale and a drop path."""

    def __init__(self, scale=LayerScale):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.ls1, self.drop_path1 = scale(8), nn.Identity()
        self.norm2, self.fc1, self.fc2 = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.ls2 = scale(8)

    def shortcut(self, x):
        return x

    def forward(self, x):
        h = self.norm1(x)
        out, _ = self.attn(h, h, h, need_weights=False)
        x = x + self.drop_path1(self.ls1(out))
        return x + self.ls2(self.fc2(functional.gelu(self.fc1(self.norm2(x)))))


class ReZero(nn.Module):
    """Gains that are parameters, and one dropout for both branches."""

    def __init__(self):
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
        self.alpha, self.dropout = nn.Parameter(torch.tensor(0.5)), nn.Dropout(0.1)

    def shortcut(self, x):
        return x

    def forward(self, x):
        x = x + self.alpha * self.dropout(self.attn(x, x, x)[0])
        return x + 0.5 * self.dropout(-self.mlp(x)) / 2


class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.tokens = nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6), nn.Dropout(0.1))
        self.channels = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))

    def shortcut(self, x):
        return x

    def forward(self, x):
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Parallel(nn.Module):
    """GPT-J: attention and perceptron beside each other."""

    def __init__(self):
        super().__init__()
        self.ln, self.attn = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def shortcut(self, x):
        return x

    def forward(self, x):
        h = self.ln(x)
        return x + self.attn(query=h, key=h, value=h)[0] + self.mlp(h)


class Windows(nn.Module):
    """Swin: within the branch axis 0 holds windows, and its last layer is shared with nobody."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)

    def shortcut(self, x):
        return x

    def forward(self, x):
        parts = x.reshape(-1, 2, 8)
        return x + self.two(self.one(parts).relu()).view(x.shape)


class Sequence(nn.Module):
    def __init__(self, *blocks):
        super().__init__()
        self.embed, self.blocks, self.head = nn.Linear(8, 8), nn.Sequential(*blocks), nn.Linear(8, 5)
        self.position = nn.Parameter(torch.randn(1, 6, 8))

    def forward(self, x, mask=None):
        x = self.embed(x) + self.position[:, : x.size(1)]
        if mask is not None:
            x = x * mask
        return self.head(self.blocks(x))


class Text(nn.Module):
    """Positions are looked up by what the tokens' shape gives."""

    def __init__(self):
        super().__init__()
        self.token, self.position, self.block = (
            nn.Embedding(9, 8),
            nn.Embedding(6, 8),
            ViT(lambda _: nn.Identity()),
        )

    def forward(self, tokens):
        x = self.token(tokens) + self.position(torch.arange(6).expand(tokens.shape))
        return functional.linear(self.block(x), self.token.weight)


def encoder(depth=2, **settings):
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=True, **settings)
    return nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)


STYLES = {
    "resnet": (
        lambda: Images(Bottleneck(8, 8, 1), Bottleneck(8, 16, 2), Bottleneck(16, 16, 1)),
        IMAGES,
        ["blocks.0.bn3", "blocks.1.bn3", "blocks.2.bn3"],
    ),
    "pre-activation": (lambda: Images(PreActivation(8, 16, 2)), IMAGES, ["blocks.0.conv2"]),
    "convnext": (lambda: Images(ConvNeXt(8)), IMAGES, ["blocks.0.mlp.2"]),
    "senet": (lambda: Images(GatedBlock(8)), IMAGES, ["blocks.0.se"]),
    "efficientnet": (
        lambda: Images(MBConv(8, nn.Identity()), MBConv(8, DropPath(0.0))),
        IMAGES,
        ["blocks.0.drop_path", "blocks.1.drop_path"],
    ),
    "poolformer": (lambda: Images(PoolFormer(8)), IMAGES, ["blocks.0.mixer"]),
    "frozen": (lambda: Images(FrozenBlock(8, 16)), IMAGES, ["blocks.0.bn2"]),
    "vit": (
        lambda: Sequence(ViT(), ViT()),
        TOKENS,
        [f"blocks.{i}.{end}" for i in (0, 1) for end in ("drop_path1", "ls2")],
    ),
    "rezero": (lambda: Sequence(ReZero()), TOKENS, ["blocks.0.attn", "blocks.0.mlp.2"]),
    "mixer": (lambda: Sequence(Mixer()), TOKENS, ["blocks.0.tokens.2", "blocks.0.channels.2"]),
    "parallel": (lambda: Sequence(Parallel()), TOKENS, ["blocks.0.attn", "blocks.0.mlp.2"]),
    "windows": (lambda: Sequence(Windows()), TOKENS, ["blocks.0.two"]),
    "torch's encoder": (
        lambda: Sequence(encoder(norm_first=True)),
        TOKENS,
        [f"blocks.0.layers.{i}.{end}" for i in (0, 1) for end in ("self_attn", "linear2")],
    ),
    "torch's encoder alone": (
        encoder,
        TOKENS,
        [f"layers.{i}.{end}" for i in (0, 1) for end in ("self_attn", "linear2")],
    ),
    "torch's layer alone": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        TOKENS,
        ["self_attn", "linear2"],
    ),
}


def made(style):
    torch.manual_seed(0)
    make_it, shape, ends = STYLES[style]
    model, x = make_it().eval(), torch.randn(shape)
    model(x)  # the lazy layers
    return model, x, ends


@pytest.mark.parametrize("style", STYLES)
def test_the_branches_of_each_style(style):
    model, _, ends = made(style)
    assert [end.name for end in branch_ends(model)] == ends
    assert [end.name for end in branch_ends(model.train())] == ends


# Of the last block of each style: what is left of it without its branches.
BLOCKS = [style for style in STYLES if not style.startswith("torch's")]


@pytest.mark.parametrize("mode", ["row", "batch"])
@pytest.mark.parametrize("style", BLOCKS)
def test_a_block_without_its_branches_is_its_shortcut(style, mode):
    model, x, _ = made(style)
    block, seen = model.blocks[-1], []
    block.register_forward_hook(lambda block, inputs, output: seen.append((inputs[0].clone(), output)))
    regularize(model, stochastic_depth=0.5)
    for part in model.modules():
        if isinstance(part, StochasticDepth):
            part.p, part.mode = 1.0, mode
    # In training mode only the noise: batch statistics and dropout are not what is tested.
    for part in model.modules():
        part.training = isinstance(part, StochasticDepth)
    model(x)
    inputs, output = seen[0]
    wanted = block.shortcut(inputs)
    assert torch.equal(output, wanted.relu() if isinstance(block, Bottleneck) else wanted)


@pytest.mark.parametrize("style", STYLES)
def test_answers_names_and_copies(style):
    model, x, ends = made(style)
    kept, before = copy.deepcopy(model.state_dict()), model(x)
    told = regularize(model, stochastic_depth=0.4)
    assert f"({len(ends)} place" in told[0]
    assert list(model.state_dict()) == list(kept)
    torch.testing.assert_close(model(x), before)
    twin = copy.deepcopy(model)
    exported = torch.export.export(model, (x,))
    torch.testing.assert_close(exported.module()(x), before)
    # A second call finds its own noise, and changes its rate.
    regularize(model, stochastic_depth=0.8)
    depths = [part.p for part in model.modules() if isinstance(part, StochasticDepth)]
    assert depths == pytest.approx([0.8 * (number + 1) / len(ends) for number in range(len(ends))])
    assert sorted(part.p for part in twin.modules() if isinstance(part, StochasticDepth))[
        -1
    ] == pytest.approx(0.4)


@pytest.mark.parametrize("style", STYLES)
def test_pickles(style):
    model, x, _ = made(style)
    regularize(model, stochastic_depth=0.4)
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again(x), model(x))
    torch.manual_seed(1)
    wanted = model.train()(x)
    torch.manual_seed(1)
    assert torch.equal(again.train()(x), wanted)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("style", STYLES)
def test_all_of_it_is_averaged_out(style):
    model, x, _ = made(style)
    regularize(model, stochastic_depth=0.5)
    parts = [part for part in model.modules() if isinstance(part, StochasticDepth)]
    drawn = []
    for part in parts:
        part.register_forward_hook(lambda part, inputs, output: drawn.append(part))
    average_out(model, x, "samples", 2)
    assert set(drawn) == set(parts)  # some are run twice: not all attention runs side by side


def test_ravine_s_transformer_has_two_branches_a_block():
    torch.manual_seed(0)
    model = make(
        "transformer", (), 9, {"width": 8, "depth": 2, "heads": 2, "context": 6, "dropout": 0.1}
    ).eval()
    ends = [f"blocks.block{i}.{end}" for i in (1, 2) for end in ("attention.output", "perceptron.output")]
    assert branch_ends(model) == [BranchEnd(end, True) for end in ends]
    tokens = torch.randint(9, (4, 6))
    kept, before = list(model.state_dict()), model(tokens)
    regularize(model, stochastic_depth=0.5)
    assert list(model.state_dict()) == kept and torch.equal(model(tokens), before)
    for part in model.modules():
        if isinstance(part, StochasticDepth):
            part.p = 1.0
            part.train()
    embedded = model.token(tokens) + model.position.weight
    assert torch.equal(model(tokens), functional.linear(model.norm(embedded), model.token.weight))
    with pytest.raises(ModelError, match="a text of 7 tokens does not fit"):
        model(torch.zeros(1, 7, dtype=torch.int64))


def test_embeddings_of_positions_are_no_branch():
    torch.manual_seed(0)
    assert [end.name for end in branch_ends(Text())] == ["block.drop_path1", "block.ls2"]


@pytest.mark.parametrize("norm_first", [True, False])
def test_torch_s_layers_without_their_branches(norm_first):
    torch.manual_seed(0)
    model, x = encoder(1, norm_first=norm_first), torch.randn(TOKENS)
    regularize(model, stochastic_depth=0.5)
    for part in model.modules():
        part.training = isinstance(part, StochasticDepth)
        if isinstance(part, StochasticDepth):
            part.p = 1.0
    layer = model.layers[0]
    assert torch.equal(model(x), x if norm_first else layer.norm2(layer.norm1(x)))


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_torch_s_whole_transformer():
    model = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)
    ends = ["encoder.layers.0.self_attn", "encoder.layers.0.linear2"]
    ends += [f"decoder.layers.0.{end}" for end in ("self_attn", "multihead_attn", "linear2")]
    assert [end.name for end in branch_ends(model)] == ends


def test_axis_0_without_items_gets_one_draw():
    layer = nn.TransformerEncoderLayer(8, 2, 16)  # (T, N, C)
    assert not any(end.by_item for end in branch_ends(layer))
    told = regularize(layer, stochastic_depth=0.5)
    assert told == [
        "stochastic depth up to 0.5 at the end of self_attn, linear2 (2 places, 2 drawn for whole batches)"
    ]
    assert {part.mode for part in layer.modules() if isinstance(part, StochasticDepth)} == {"batch"}
    by_item = {
        style: [end.by_item for end in branch_ends(made(style)[0])]
        for style in ("windows", "mixer", "convnext")
    }
    assert by_item == {"windows": [False], "mixer": [True, True], "convnext": [True]}


class Own(nn.TransformerEncoderLayer):
    """It may end its branches anywhere."""


def test_layers_derived_from_torch_s_are_refused():
    with pytest.raises(ModelError, match=r"blocks\.0 is a Own, made of a layer of torch's"):
        branch_ends(Sequence(Own(8, 2, 16, batch_first=True)))


class Wide(nn.Module):
    """Wide and deep, between what may come before and after."""

    def __init__(self, before=None, after=None):
        super().__init__()
        self.before, self.after = before or nn.Identity(), after or nn.Identity()
        self.wide = nn.Linear(8, 8)
        self.deep = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))

    def forward(self, x):
        x = self.before(x)
        return self.after(self.wide(x) + self.deep(x)).sigmoid()


def test_a_linear_model_beside_a_deep_one_is_no_block():
    assert branch_ends(Wide()) == []
    assert [end.name for end in branch_ends(Wide(after=nn.Linear(8, 2)))] == ["deep.2"]
    assert [end.name for end in branch_ends(Wide(nn.Linear(8, 8), nn.Linear(8, 2)))] == ["deep.2"]
    with pytest.raises(ModelError, match="a residual block and a sum of two answers look the same"):
        branch_ends(Wide(nn.Linear(8, 8)))


class UNet(nn.Module):
    """Skips that are added; with blocks at the bottom, or without."""

    def __init__(self, bottom):
        super().__init__()
        self.stem, self.down = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.bottom, self.up, self.out = bottom, nn.ConvTranspose2d(8, 8, 2, 2), nn.Conv2d(8, 1, 1)

    def forward(self, x):
        first = self.stem(x).relu()
        return self.out(self.up(self.bottom(self.down(first).relu())).relu() + first)


class Lateral(nn.Module):
    """A feature pyramid: a projection of early maps beside late ones, made larger."""

    def __init__(self):
        super().__init__()
        self.stem, self.next = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.lateral, self.top, self.head = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 1, 1)

    def forward(self, x):
        early = self.stem(x).relu()
        late = self.top(self.next(early).relu())
        return self.head(self.lateral(early) + functional.interpolate(late, scale_factor=2.0))


class LongSkip(nn.Module):
    """EDSR: the sum over all blocks is no block."""

    def __init__(self):
        super().__init__()
        self.head, self.tail = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 3, 3, 1, 1)
        self.body = nn.Sequential(ConvNeXt(8), ConvNeXt(8), nn.Conv2d(8, 8, 3, 1, 1))

    def forward(self, x):
        x = self.head(x)
        return self.tail(x + self.body(x))


class Inception(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.three = nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 8))
        self.five = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 8))
        self.stem, self.head = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        x = self.stem(x).relu()
        return self.head(self.one(x) + self.three(x) + self.five(x))


class Activated(Inception):
    """Two paths that both end in an activation: the shorter is no projection."""

    def forward(self, x):
        x = self.stem(x).relu()
        return self.head(self.one(x).relu() + self.three(x).relu())


class Towers(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))

    def forward(self, one, two):
        return (self.one(one) + self.two(two)).relu()


class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(8, 4), nn.Linear(12, 4)

    def forward(self, x):
        x = torch.cat([x, self.one(x).relu()], 1)
        return torch.cat([x, self.two(x).relu()], 1)


class Highway(nn.Module):
    """Neither term is the value itself: the gate is in both."""

    def __init__(self):
        super().__init__()
        self.gate, self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        gate = self.gate(x).sigmoid()
        return self.two(gate * self.one(x).relu() + (1 - gate) * x)


class Split(nn.Module):
    """Res2Net: parts of a tensor are added, each of which is another value."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(8, 8)

    def forward(self, x):
        first, second = x.chunk(2, 1)
        first = self.one(first)
        return self.out(torch.cat([first, self.two(first + second)], 1))


class HandWritten(nn.Module):
    """GELU's cubic term, and rotated pairs: sums without a module."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        x = self.one(x)
        x = 0.5 * x * (1 + torch.tanh(0.8 * (x + 0.044715 * torch.pow(x, 3))))
        return self.two(x * 0.3 + torch.cat([-x[:, 4:], x[:, :4]], 1) * 0.7)


class Positions(nn.Module):
    """What is added depends on the shape of x, and not on x."""

    def __init__(self):
        super().__init__()
        self.embed, self.position, self.head = nn.Linear(8, 8), nn.Embedding(6, 8), nn.Linear(8, 2)

    def forward(self, x):
        x = self.embed(x)
        return self.head(x + self.position(torch.arange(x.size(1))))


@pytest.mark.parametrize(
    ("model", "ends"),
    [
        (lambda: UNet(nn.Conv2d(8, 8, 3, 1, 1)), []),
        (lambda: UNet(ConvNeXt(8)), ["bottom.mlp.2"]),
        (Lateral, []),
        (LongSkip, ["body.0.mlp.2", "body.1.mlp.2"]),
        (Inception, []),
        (Activated, []),
        (Towers, []),
        (Dense, []),
        (Highway, []),
        (Split, []),
        (HandWritten, []),
        (Positions, []),
    ],
)
def test_sums_that_are_no_blocks(model, ends):
    assert [end.name for end in branch_ends(model())] == ends


class Gated(nn.Module):
    """The same gate as SENet's, in the block's own code."""

    def __init__(self):
        super().__init__()
        self.body, self.gate = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        y = self.body(x)
        return x + y * self.gate(y).sigmoid()


class GatedByInput(Gated):
    """This gate does not depend on what it multiplies."""

    def forward(self, x):
        return x + self.gate(x).sigmoid() * self.body(x)


class Squared(Gated):
    def forward(self, x):
        y = self.body(x)
        return x + y * y


class Functional(Gated):
    """What makes the branch is no module."""

    def forward(self, x):
        return x + functional.linear(self.body(x).sigmoid(), self.gate.weight, self.gate.bias)


class ReadTwice(Gated):
    def forward(self, x):
        y = self.body(x)
        return x + y, self.gate(y)


class Drawn(Gated):
    """Stochastic depth as a function."""

    def forward(self, x):
        y = self.body(x)
        if not self.training:
            return x + y
        return x + y * y.new_empty((x.shape[0], 1)).bernoulli_(0.9) / 0.9


class DrawnByHand(Gated):
    """The same, as it was written before."""

    def forward(self, x):
        mask = (torch.rand((x.shape[0], 1)) + 0.9).floor_() if self.training else 1.0
        return x + self.body(x).div(0.9) * mask


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Gated, "the residual branch that ends in mul in the network is no module's output"),
        (Squared, "ends in mul in the network is no module's output"),
        (lambda: nn.Sequential(Functional(), nn.Linear(8, 8)), "ends in linear in 0 is no module's output"),
        (ReadTwice, "body ends a residual branch and is used elsewhere too"),
        (Drawn, "stochastic depth of its own, in the network"),
        (DrawnByHand, "stochastic depth of its own, in the network"),
        (lambda: Images(MBConv(8, DropPath(0.1))), "stochastic depth of its own, in blocks.0.drop_path"),
        (
            lambda: Images(MBConv(8, StochasticDepth(0.1))),
            "stochastic depth of its own, in blocks.0.drop_path",
        ),
    ],
)
def test_what_cannot_be_multiplied_is_refused_by_name(model, message):
    model = model()
    with pytest.raises(ModelError, match=message):
        regularize(model, stochastic_depth=0.1)
    assert not any(hasattr(module, "noise_after") for module in model.modules())


def test_a_gate_of_the_input_leaves_the_branch_to_be_multiplied():
    assert branch_ends(GatedByInput()) == [BranchEnd("body", True)]


def test_rectifiers_pass_a_factor_on():
    class Reused(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.act = nn.Linear(3, 3), nn.Linear(3, 3), nn.ReLU()

        def forward(self, x):
            return x + self.act(self.two(self.act(self.one(x))))

    model, x = Reused(), torch.randn(4, 3)
    assert branch_ends(model) == [BranchEnd("two", True)]
    regularize(model, stochastic_depth=1.0)
    assert torch.equal(model.train()(x), x)


class Unordered(nn.Module):
    """Registered from the last to the first; it keeps what it saw, and one layer never runs."""

    def __init__(self):
        super().__init__()
        self.head, self.unused, self.middle, self.first = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x, loud=False, scale=None):
        self.seen = self.first(x)
        if loud or scale is not None:
            self.seen = self.seen * scale
        return self.head(self.middle(self.seen.relu()))


def test_modules_in_the_order_in_which_they_run():
    model = Unordered()
    assert called_modules(model) == ["first", "middle", "head"]
    assert not hasattr(model, "seen") and model.training


def test_tracing_leaves_buffers_and_modes_alone():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros(()))
            self.layer = nn.Linear(8, 8)

        def forward(self, x):
            self.count.add_(1)
            return x + self.layer(x)

    model = Counting().eval()
    assert branch_ends(model) == [BranchEnd("layer", True)]
    assert float(model.count) == 0 and not any(module.training for module in model.modules())


class Film(nn.Module):
    """scale(x)·y(x) + shift(x): three projections side by side, none of them a shortcut of the others."""

    def __init__(self, deeper=False):
        super().__init__()
        self.scale, self.value, self.shift = (nn.Linear(8, 8) for _ in range(3))
        self.stem, self.head = nn.Linear(8, 8), nn.Linear(8, 2)
        self.more = nn.Linear(8, 8) if deeper else nn.Identity()

    def forward(self, x):
        x = self.stem(x)
        return self.head(self.scale(x) * self.more(self.value(x)) + self.shift(x))


def test_layers_side_by_side_are_no_deeper_than_one():
    assert branch_ends(Film()) == []
    assert [end.name for end in branch_ends(Film(deeper=True))] == ["scale"]
