import pytest
import torch

from ravine.generalize.augment.boxes import Boxes
from ravine.generalize.augment.draws import Draws
from ravine.generalize.augment.erase import Erase, erase

MANY = Draws(0, 0, torch.arange(4000))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_the_rectangle_is_overwritten_and_nothing_else(layout, dtype):
    batch = torch.arange(1, 4 * 3 * 6 * 7 + 1).remainder(250).add(1).to(dtype).view(4, 3, 6, 7)
    batch = batch.contiguous(memory_format=layout)
    boxes = [(0, 0, 6, 7), (1, 2, 3, 4), (5, 6, 1, 1), (2, 2, 0, 3)]
    out = erase(batch, Boxes(*torch.tensor(boxes).unbind(1)), 0)
    for image, result, (top, left, height, width) in zip(batch, out, boxes, strict=True):
        wanted = image.clone()
        wanted[:, top : top + height, left : left + width] = 0
        assert torch.equal(result, wanted)
    assert out.is_contiguous(memory_format=layout)


def test_rectangles_have_areas_and_shapes_in_their_ranges_inside_the_image():
    transform = Erase(p=1.0, scale=(0.1, 0.3), ratio=(0.5, 2.0))
    top, left, height, width = transform.boxes(MANY, 60, 40)
    # Rounded to whole pixels.
    share = height * width / (60 * 40)
    assert 0.09 < share.min() < 0.105 and 0.29 < share.max() < 0.315
    assert 0.45 < (width / height).min() < 0.55 and 1.85 < (width / height).max() < 2.2
    assert top.min() == left.min() == 0
    assert (top + height).max() == 60 and (left + width).max() == 40


def test_as_many_are_erased_as_asked():
    changed = (Erase(p=0.3)(torch.ones(4000, 1, 8, 8), MANY) == 0).flatten(1).any(1)
    assert abs(int(changed.sum()) - 1200) < 3.3 * 29


def test_nothing_is_erased_where_no_rectangle_fits():
    batch = torch.ones(5, 1, 8, 8)
    out = Erase(p=1.0, scale=(0.9, 1.0), ratio=(9.0, 10.0))(batch, Draws(0, 0, torch.arange(5)))
    assert torch.equal(out, batch)


def test_the_value_of_bytes_is_a_share_of_255():
    batch = torch.zeros(5, 3, 8, 8, dtype=torch.uint8)
    draws = Draws(0, 0, torch.arange(5))
    assert Erase(p=1.0, value=0.5)(batch, draws).max() == 128
    assert Erase(p=1.0, value=-2.0)(batch.float(), draws).min() == -2
    with pytest.raises(ValueError, match=r"Invalid value: -2.0; it must be in \[0, 1\]"):
        Erase(p=1.0, value=-2.0)(batch, draws)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Erase(p=-0.1), "Invalid p: -0.1"),
        (lambda: Erase(scale=(0.0, 0.3)), "Invalid scale"),
        (lambda: Erase(ratio=(1.0, float("inf"))), "Invalid ratio"),
        (lambda: Erase(value=float("nan")), "Invalid value: nan"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
