import pytest
import torch

from ravine import registry
from ravine.randomness import generator
from ravine.training.augment import flip, shift


def images(*shape: int, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    return torch.randint(1, 256, shape, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
def test_flip_mirrors_about_half_of_the_images_and_leaves_the_others(dtype):
    batch = images(400, 3, 5, 7, dtype=dtype)
    out = flip(batch, generator(0, "flip"))
    kept = (out == batch).flatten(1).all(1)
    mirrored = (out == batch.flip(3)).flatten(1).all(1)
    assert bool((kept ^ mirrored).all())
    assert 150 < int(mirrored.sum()) < 250
    assert out.dtype == dtype


def moved(image: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """One image moved, pixel by pixel."""
    out = torch.zeros_like(image)
    _, height, width = image.shape
    for row in range(height):
        for column in range(width):
            if 0 <= row - down < height and 0 <= column - right < width:
                out[:, row, column] = image[:, row - down, column - right]
    return out


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("shape", [(60, 1, 6, 6), (60, 3, 4, 7)])
def test_shift_moves_each_image_by_its_own_whole_pixels(shape, dtype):
    batch = images(*shape, dtype=dtype)
    out = shift(batch, generator(0, "shift"), pixels=2)
    seen = set()
    for image, result in zip(batch, out, strict=True):
        moves = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if torch.equal(moved(image, down, right), result)
        ]
        assert len(moves) == 1
        seen.add(moves[0])
    assert len(seen) > 15
    assert {down for down, _ in seen} == {right for _, right in seen} == {-2, -1, 0, 1, 2}


@pytest.mark.parametrize("augment", [flip, shift])
def test_the_same_generator_gives_the_same_images_and_the_batch_is_untouched(augment):
    batch = images(32, 3, 8, 8)
    before = batch.clone()
    first = augment(batch, generator(3, "a", 1))
    assert torch.equal(first, augment(batch, generator(3, "a", 1)))
    assert not torch.equal(first, augment(batch, generator(3, "a", 2)))
    assert torch.equal(batch, before)


@pytest.mark.parametrize("augment", [flip, shift])
def test_memory_formats_give_the_same_images(augment):
    batch = images(8, 3, 6, 6, dtype=torch.float32)
    last = batch.contiguous(memory_format=torch.channels_last)
    assert torch.equal(augment(last, generator(0)), augment(batch, generator(0)))


def test_no_move_is_the_same_image():
    batch = images(4, 1, 5, 5)
    assert torch.equal(shift(batch, generator(0), pixels=0), batch)


def test_both_are_registered():
    assert {"flip", "shift"} <= set(registry.names("augmentation"))


@pytest.mark.parametrize(("side", "most"), [(8, 1), (28, 1), (64, 2)])
def test_by_default_images_move_by_a_small_share_of_their_size(side, most):
    batch = torch.zeros(500, 1, side, side)
    batch[:, 0, side // 2, side // 2] = 1
    moved = shift(batch, generator(0, "shift")).nonzero()[:, 2:] - side // 2
    assert (moved.min(), moved.max()) == (-most, most)
