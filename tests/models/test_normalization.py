import pytest
import torch
from torch import nn

from ravine.errors import ModelError, RecipeError
from ravine.models.normalization import group_count, normalization

SHAPES = {"vector": (40, 32), "map": (40, 32, 5, 7), "sequence": (40, 9, 32)}
REFUSED = {("batch", "sequence"), ("instance", "sequence"), ("instance", "vector")}


def normalized_axes(name: str, layout: str) -> tuple[int, ...]:
    """Over which axes mean and variance become 0 and 1, with channels split into (groups, rest)."""
    return {
        ("batch", "vector"): (0,),
        ("batch", "map"): (0, 2, 3),
        ("layer", "vector"): (1,),
        ("layer", "map"): (1, 2, 3),
        ("layer", "sequence"): (2,),
        ("instance", "map"): (2, 3),
        ("group", "vector"): (2,),
        ("group", "map"): (2, 3, 4),
        ("group", "sequence"): (3,),
    }[name, layout]


@pytest.mark.parametrize("layout", SHAPES)
@pytest.mark.parametrize("name", ["batch", "layer", "instance", "group"])
def test_mean_zero_and_variance_one_over_the_right_axes(name, layout):
    if (name, layout) in REFUSED:
        with pytest.raises(ModelError, match=name):
            normalization(name, 32, layout)
        return
    x = torch.randn(SHAPES[layout], dtype=torch.float64) * 3 + torch.arange(40.0).view(
        -1, *[1] * (len(SHAPES[layout]) - 1)
    )
    y = normalization(name, 32, layout).double()(x)
    assert y.shape == x.shape
    if name == "group":
        y = y.unflatten(2 if layout == "sequence" else 1, (group_count(32), -1))
    axes = normalized_axes(name, layout)
    torch.testing.assert_close(y.mean(axes), torch.zeros_like(y.mean(axes)), atol=1e-9, rtol=0)
    variance = y.var(axes, correction=0)
    torch.testing.assert_close(variance, torch.ones_like(variance), atol=1e-3, rtol=0)


def test_none_is_the_identity():
    assert isinstance(normalization("none", 3, "sequence"), nn.Identity)


@pytest.mark.parametrize("name", ["layer", "group"])
def test_sequences_are_normalized_position_by_position(name):
    x = torch.randn(2, 6, 32)
    norm = normalization(name, 32, "sequence")
    changed = x.clone()
    changed[:, 4:] += 5
    assert torch.equal(norm(x)[:, :4], norm(changed)[:, :4])


@pytest.mark.parametrize(
    ("features", "groups"),
    [(1, 1), (7, 1), (16, 2), (32, 4), (64, 8), (96, 12), (90, 10), (512, 32), (768, 32)],
)
def test_group_counts_divide_and_leave_eight_channels(features, groups):
    assert group_count(features) == groups


def test_why_the_transformer_refuses_batch_normalization():
    with pytest.raises(ModelError, match="would see the characters it has to predict"):
        normalization("batch", 8, "sequence")


def test_an_unknown_name_is_told_with_the_nearest():
    with pytest.raises(RecipeError, match="did you mean 'group'"):
        normalization("grup", 8, "map")
