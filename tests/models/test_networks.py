import inspect
import math
import typing

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ravine.errors import ModelError, RecipeError
from ravine.models import _typed, make
from ravine.models.activations import activation_expansion
from ravine.registry import entries, lookup, names
from ravine.training.output_check import check
from ravine.training.resolve import usual_model

SHAPES = {
    "linear": (7,),
    "mlp": (7,),
    "cnn": (1, 12, 12),
    "resnet": (3, 12, 12),
    "mobilenet": (3, 32, 32),
    "transformer": (),
}
SMALL = {
    "linear": {},
    "mlp": {"width": 16},
    "cnn": {"width": 8, "depth": 2},
    "resnet": {"width": 8, "blocks": (1, 1)},
    "mobilenet": {"width": 0.125},
    "transformer": {"width": 16, "depth": 2, "heads": 2, "context": 10},
}
CLASSES = 5


def items(name: str, count: int = 6) -> torch.Tensor:
    if name == "transformer":
        return torch.randint(0, CLASSES, (count, 10))
    return torch.randn(count, *SHAPES[name])


def small(name: str, **settings: object) -> nn.Module:
    torch.manual_seed(0)
    return make(name, SHAPES[name], CLASSES, {**SMALL[name], **settings})


def test_all_networks_are_tried_here():
    assert set(names("model")) == set(SHAPES)


@pytest.mark.parametrize("name", SHAPES)
def test_settings_are_plain_and_described_in_one_line_each(name):
    network = lookup("model", name)
    documented = inspect.getdoc(network).split("Args:")[1].split("Raises:")[0]
    plain = (int, float, bool, str, tuple[int, ...])
    for key, parameter in inspect.signature(network).parameters.items():
        assert f"\n    {key}: " in documented
        if parameter.kind is parameter.KEYWORD_ONLY:
            hint = typing.get_type_hints(network)[key]
            assert hint in plain or typing.get_origin(hint) is typing.Literal
            assert parameter.default is not parameter.empty
    assert all("\n" not in entry.description for entry in entries("model"))


@pytest.mark.parametrize("activation", names("activation"))
@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet", "transformer"])
def test_every_activation_trains_every_network(name, activation):
    model = small(name, activation=activation)
    out = model(items(name))
    assert out.shape[-1] == CLASSES
    out.square().sum().backward()
    missing = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert missing == []


@pytest.mark.parametrize("normalization", names("normalization"))
@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet", "transformer"])
def test_every_normalization_trains_every_network_or_is_refused_by_name(name, normalization):
    refused = {("mlp", "instance"), ("transformer", "instance"), ("transformer", "batch")}
    if (name, normalization) in refused:
        with pytest.raises(ModelError, match=normalization):
            small(name, normalization=normalization)
        return
    small(name, normalization=normalization)(items(name)).sum().backward()


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("initialization", names("initialization"))
def test_every_initialization_starts_every_network(name, initialization):
    check(small(name, initialization=initialization), items(name), CLASSES, task_of(name))


@pytest.mark.parametrize("name", SHAPES)
def test_the_first_loss_is_what_chance_gives(name):
    torch.manual_seed(0)
    model = make(name, SHAPES[name], CLASSES, {})
    x = items(name, 64)
    logits = model(x).flatten(0, -2)
    targets = torch.randint(0, CLASSES, (len(logits),))
    # The transformer's tied weights prefer the token just seen.
    tolerance = 0.08 if name == "transformer" else 0.05
    assert F.cross_entropy(logits, targets).item() == pytest.approx(math.log(CLASSES), rel=tolerance)


# torch's attention on the CPU works under vmap, member by member, and warns that this is slower.
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("name", SHAPES)
def test_export_and_functional_call_give_the_same(name):
    model = small(name).eval()
    x = items(name, 4)
    expected = model(x)
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    exported = torch.export.export(model, (x,), dynamic_shapes=(batch,), strict=False).module()
    torch.testing.assert_close(exported(x[:3]), expected[:3], atol=1e-5, rtol=1e-4)
    weights = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    stacked = {key: torch.stack([value, value]) for key, value in weights.items()}
    both = torch.func.vmap(lambda w: torch.func.functional_call(model, w, (x,)))(stacked)
    torch.testing.assert_close(both, torch.stack([expected, expected]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", SHAPES)
def test_compiles_as_one_graph_and_gives_the_same(name):
    model = small(name)
    x = items(name, 4)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", SHAPES)
def test_bfloat16_and_channels_last_stay_near_float32(name):
    model = small(name)
    x = items(name, 32)
    if name == "mobilenet":  # each of its 27 normalizations by a batch magnifies what rounding did before
        model.eval()
    expected = model(x)
    if name in ("cnn", "resnet", "mobilenet"):
        model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(x)
    assert (out.float() - expected).abs().max() < 0.1 * expected.abs().max()
    out.float().square().sum().backward()


@pytest.mark.parametrize("name", SHAPES)
def test_tensors_of_the_state_share_no_memory(name):
    """So that safetensors can save it as it is."""
    state = small(name).state_dict()
    assert len({value.data_ptr() for value in state.values()}) == len(state)


@pytest.mark.parametrize("name", ["mlp", "cnn", "transformer"])
def test_dropout_acts_in_training_alone(name):
    model = small(name, dropout=0.5)
    x = items(name)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_regression_gives_one_column():
    assert make("mlp", (4,), 1, {})(torch.randn(3, 4)).shape == (3, 1)


def test_transformer_sees_no_later_token():
    model = small("transformer").eval()
    x = items("transformer")
    changed = x.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % CLASSES
    torch.testing.assert_close(model(x)[:, :6], model(changed)[:, :6])
    assert not torch.allclose(model(x)[:, 6:], model(changed)[:, 6:])


def test_attention_equals_its_definition():
    model = small("transformer").double()
    attention = model.get_submodule("blocks.block1.attention")
    x = torch.randn(2, 7, 16, dtype=torch.float64)
    query, key, value = attention.input(x).chunk(3, -1)
    heads = []
    for head in range(2):
        part = slice(8 * head, 8 * head + 8)
        scores = query[..., part] @ key[..., part].mT / math.sqrt(8)
        scores = scores.masked_fill(torch.ones(7, 7).triu(1).bool(), -math.inf)
        heads.append(scores.softmax(-1) @ value[..., part])
    torch.testing.assert_close(attention(x), attention.output(torch.cat(heads, -1)))


def test_residual_blocks_start_as_their_shortcuts():
    model = small("resnet").eval()
    block = model.get_submodule("stages.stage1.block1")
    x = torch.rand(2, 8, 6, 6)
    assert torch.equal(block(x), x)
    assert not torch.equal(
        small("resnet", zero_branches=False).get_submodule("stages.stage1.block1").eval()(x), x
    )


@pytest.mark.parametrize("activation", ["relu", "maxout"])
def test_projections_stand_only_where_shapes_change(activation):
    model = make("resnet", (3, 16, 16), 10, {"width": 8, "blocks": (2, 2), "activation": activation})
    projected = [
        name
        for name, module in model.named_modules()
        if name.endswith("shortcut") and list(module.parameters())
    ]
    if activation_expansion(activation) == 1:
        assert projected == ["stages.stage2.block1.shortcut"]
    else:
        assert len(projected) == 4


def test_the_paper_s_resnet_20_has_its_number_of_parameters():
    model = make("resnet", (3, 32, 32), 10, {"width": 16, "blocks": (3, 3, 3)})
    # He et al. 2016, table 6: 0.27 M; exactly, with projections (32·16 + 64·32 weights and two norms):
    assert sum(parameter.numel() for parameter in model.parameters()) == 269_722 + 32 * 16 + 64 * 32 + 2 * (
        32 + 64
    )
    assert (
        sum(isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) for module in model.modules())
        == 19
    )


@pytest.mark.parametrize("downsample", ["pool", "stride"])
@pytest.mark.parametrize("ending", ["mean", "flatten"])
@pytest.mark.parametrize("size", [5, 7, 8, 28])
def test_the_cnn_halves_odd_sizes_both_ways(downsample, ending, size):
    network = make("cnn", (1, size, size), 4, {"width": 4, "downsample": downsample, "ending": ending})
    assert network(torch.randn(2, 1, size, size)).shape == (2, 4)
    pools = [module for module in network.modules() if isinstance(module, torch.nn.MaxPool2d)]
    assert bool(pools) == (downsample == "pool")


def test_small_images_go_through_the_cnn_whatever_its_depth():
    assert make("cnn", (1, 3, 5), 4, {"depth": 4})(torch.randn(2, 1, 3, 5)).shape == (2, 4)


@pytest.mark.parametrize(
    ("kind", "shape", "expected"),
    [
        ("table", (13,), "mlp"),
        ("array", (3, 40, 40), "mlp"),
        ("image", (1, 8, 8), "cnn"),
        ("image", (3, 40, 12), "cnn"),
        ("image", (1, 28, 28), "resnet"),
        ("text", (), "transformer"),
    ],
)
def test_auto_picks_by_data(kind, shape, expected):
    assert usual_model(kind, shape) == expected


@pytest.mark.parametrize(
    ("name", "shape", "settings", "told"),
    [
        ("mlp", (4,), {"widht": 3}, "no setting 'widht' \\(did you mean 'width'"),
        ("mlp", (4,), {"width": 0}, "width must be at least 1, not 0"),
        ("mlp", (4,), {"dropout": 1.0}, "dropout must be at least 0 and below 1"),
        ("mlp", (), {}, "at least one number"),
        ("linear", (0,), {}, "at least one number"),
        ("cnn", (4,), {}, "takes images"),
        ("cnn", (1, 4, 4), {"normalization": "instance"}, "lower depth to 1"),
        ("resnet", (1, 2, 2), {}, "too small to be divided by 8"),
        ("resnet", (1, 8, 8), {"normalization": "instance", "stem_stride": 2}, "single pixels"),
        ("resnet", (1, 28, 28), {"blocks": ()}, "blocks must be at least 1"),
        ("resnet", (1, 28, 28), {"blocks": (2, -1)}, "must not be negative"),
        ("mlp", (4,), {"width": "abc"}, "model 'mlp': width = 'abc': input should be a valid integer"),
        (
            "mlp",
            (4,),
            {"width": 1.5, "activation": 5},
            "width = 1.5: .*; activation = 5: input should be a valid s",
        ),
        ("resnet", (1, 28, 28), {"blocks": 3}, "blocks = 3: input should be a valid tuple"),
        ("cnn", (1, 8, 8), {"ending": "max"}, "ending = 'max': input should be 'mean' or 'flatten'"),
        ("transformer", (4,), {}, "takes text"),
        ("transformer", (), {"width": 10, "heads": 4}, "multiple of heads"),
        ("transformer", (), {"normalization": "batch"}, "causal transformer"),
    ],
)
def test_what_cannot_be_made_is_refused_by_name(name, shape, settings, told):
    with pytest.raises(ModelError, match=told):
        make(name, shape, 10, settings)


def test_an_unknown_network_is_told_with_the_nearest():
    with pytest.raises(RecipeError, match="did you mean 'resnet'"):
        make("resnt", (1, 8, 8), 10, {})


def test_a_text_longer_than_the_context_is_refused():
    with pytest.raises(ModelError, match="context of 10"):
        small("transformer")(torch.zeros(1, 11, dtype=torch.int64))


def task_of(name: str) -> str:
    return "language" if name == "transformer" else "classification"


def test_settings_of_a_type_of_ones_own_are_handed_on():
    class Own:
        """What nothing outside knows how to check."""

    def network(shape: tuple[int, ...], outputs: int, *, own: Own, width: int = 2) -> nn.Module:
        raise NotImplementedError

    network.__annotations__["own"] = Own
    own = Own()
    assert _typed("mine", network, {"own": own, "width": 3}) == {"own": own, "width": 3}
    with pytest.raises(ModelError, match="model 'mine': width = 'x': input should be a valid integer"):
        _typed("mine", network, {"own": own, "width": "x"})
