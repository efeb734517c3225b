import numpy as np
import pytest
import torch
from PIL import Image

from ravine.generalize.augment.boxes import Boxes
from ravine.generalize.augment.crop import PaddedCrop, RandomResizedCrop, crop, pad, resized_crop
from ravine.generalize.augment.draws import Draws
from ravine.generalize.augment.flip import Flip, flip

FORMATS = [torch.contiguous_format, torch.channels_last]


def images(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    if dtype == torch.uint8:
        return torch.randint(256, shape, generator=generator).to(dtype)
    return torch.rand(shape, generator=generator).to(dtype)


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_the_chosen_images_are_mirrored(layout, dtype, channels):
    batch = images(6, channels, 5, 7, dtype=dtype).contiguous(memory_format=layout)
    chosen = torch.tensor([True, False, True, True, False, False])
    out = flip(batch, chosen)
    for image, result, mirrored in zip(batch, out, chosen, strict=True):
        assert torch.equal(result, image.flip(2) if mirrored else image)
    assert out.is_contiguous(memory_format=layout)
    assert out.dtype == dtype


def test_half_of_the_images_are_mirrored_each_by_its_own_draw():
    batch, draws = images(2000, 1, 2, 3), Draws(0, 0, torch.arange(2000))
    out = Flip(p=0.5)(batch, draws)
    mirrored = (out == batch.flip(3)).flatten(1).all(1)
    assert ((out == batch).flatten(1).all(1) ^ mirrored).all()
    assert abs(int(mirrored.sum()) - 1000) < 3.3 * 22.4
    assert torch.equal(Flip(p=1.0)(batch, draws), batch.flip(3))


def window_by_hand(image: torch.Tensor, padding: int, mode: str, top: int, left: int) -> torch.Tensor:
    """Pixel by pixel, from Pillow's or NumPy's padding."""
    kind = {"zeros": "constant", "reflect": "reflect"}[mode]
    around = [(0, 0), (padding, padding), (padding, padding)]
    padded = np.pad(image.numpy(), around, mode=kind)
    _, height, width = image.shape
    return torch.from_numpy(padded[:, top : top + height, left : left + width].copy())


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("shape", [(9, 1, 6, 5), (9, 3, 4, 7)])
def test_each_window_is_cut_from_its_padded_image(layout, mode, dtype, shape):
    batch = images(*shape, dtype=dtype).contiguous(memory_format=layout)
    top, left = torch.arange(9) % 7, torch.arange(9) * 5 % 7
    out = crop(pad(batch, 3, mode), top, left, *shape[2:])
    for image, result, down, right in zip(batch, out, top.tolist(), left.tolist(), strict=True):
        assert torch.equal(result, window_by_hand(image, 3, mode, down, right))
    assert out.is_contiguous(memory_format=layout)
    assert out.dtype == dtype


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_every_shift_comes_about_as_often(mode):
    batch = torch.zeros(4000, 1, 7, 7)
    batch[:, 0, 3, 3] = 1
    out = PaddedCrop(padding=2, mode=mode)(batch, Draws(0, 0, torch.arange(4000)))
    places = out.flatten(1).argmax(1)
    seen, counts = places.unique(return_counts=True)
    assert len(seen) == 25
    assert (counts - 160).abs().max() < 4 * 160**0.5


def test_images_too_small_to_be_reflected_are_refused():
    with pytest.raises(ValueError, match="4 × 9 cannot be padded by reflection of 4 pixels"):
        PaddedCrop(padding=4, mode="reflect")(images(2, 3, 4, 9), Draws(0, 0, torch.arange(2)))


def test_a_window_larger_than_the_image_is_refused():
    with pytest.raises(ValueError, match="images of 4 × 9 have no window of 5 × 5"):
        crop(images(2, 3, 4, 9), torch.zeros(2).long(), torch.zeros(2).long(), 5, 5)


BOXES = [(0.0, 0.0, 17.0, 23.0), (3.25, 5.5, 9.0, 12.3), (1.0, 0.0, 16.0, 4.4), (7.1, 2.0, 3.3, 20.5)]


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("size", [1, 5, 16, 24, 40])
def test_a_resized_window_is_pillows(size, layout):
    batch = images(len(BOXES), 3, 17, 23).contiguous(memory_format=layout)
    boxes = Boxes(*torch.tensor(BOXES).unbind(1))
    out = resized_crop(batch, boxes, size)
    for image, result, (top, left, height, width) in zip(batch, out, BOXES, strict=True):
        for plane, found in zip(image, result, strict=True):
            box = (left, top, left + width, top + height)
            wanted = Image.fromarray(plane.numpy()).resize((size, size), Image.Resampling.BILINEAR, box)
            assert np.abs(np.asarray(wanted) - found.numpy()).max() < 2e-5
    assert out.is_contiguous(memory_format=layout)


def test_a_window_of_the_whole_image_at_its_size_is_the_image():
    batch = images(3, 3, 9, 9)
    whole = Boxes(*(torch.full((3,), value) for value in (0.0, 0.0, 9.0, 9.0)))
    assert (resized_crop(batch, whole, 9) - batch).abs().max() < 1e-6


@pytest.mark.parametrize(("height", "width"), [(40, 40), (20, 60)])
def test_windows_have_areas_and_shapes_in_their_ranges_and_lie_inside(height, width):
    transform = RandomResizedCrop(8, scale=(0.1, 0.5), ratio=(0.5, 2.0))
    top, left, tall, wide = transform.boxes(Draws(0, 0, torch.arange(5000)), height, width)
    share = tall * wide / (height * width)
    assert 0.1 - 1e-6 <= share.min() < 0.11 and 0.45 < share.max() <= 0.5 + 1e-6
    assert 0.5 - 1e-6 <= (wide / tall).min() < 0.52 and 1.9 < (wide / tall).max() <= 2 + 1e-6
    assert top.min() >= 0 and left.min() >= 0
    assert (top + tall).max() <= height + 1e-4 and (left + wide).max() <= width + 1e-4


def test_where_no_window_fits_it_is_the_largest_in_the_middle():
    transform = RandomResizedCrop(8, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    boxes = transform.boxes(Draws(0, 0, torch.arange(3)), 10, 30)
    for found, wanted in zip(boxes, (0.0, 10.0, 10.0, 10.0), strict=True):
        assert torch.equal(found, torch.full((3,), wanted))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Flip(p=1.1), r"Invalid p: 1.1; it must be in \[0, 1\]"),
        (lambda: Flip(p=float("nan")), "Invalid p"),
        (lambda: PaddedCrop(padding=-1), "Invalid padding: -1; it must be a whole number, at least 0"),
        (lambda: PaddedCrop(mode="mirror"), "Invalid mode: 'mirror'; valid are zeros, reflect"),
        (lambda: RandomResizedCrop(0), "Invalid size: 0"),
        (lambda: RandomResizedCrop(8, scale=(0.5, 1.5)), "0 < low <= high <= 1"),
        (lambda: RandomResizedCrop(8, ratio=(2.0, 0.5)), "Invalid ratio"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
