"""Augmentation in a training: named transforms, each item's own draw, whatever the batches."""

from itertools import combinations_with_replacement

import pytest
import torch
from torch import nn

from ravine import registry
from ravine.errors import RecipeError
from ravine.generalize.augment import ColorJitter, Draws, Flip, Mixing, PaddedCrop, compose
from ravine.training import run as runs
from ravine.training.augment import Shift, made
from ravine.training.data.batches import TensorBatches
from ravine.training.data.dataset import Dataset
from ravine.training.feed import Feed
from ravine.training.preprocessing_statistics import TrainingPart

ALL = [entry.name for entry in registry.entries("augmentation")]
CPU = torch.device("cpu")
EVERY = [
    entry.name
    for entry in registry.entries("augmentation")
    if entry.name != "shift" and not issubclass(entry.part, Mixing)
]


def images(*shape):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def part_of(pixels, positions=None, task="classification", classes=3):
    """A training part of images, all of them or those at `positions`."""
    names = tuple(map(str, range(classes)))
    dataset = Dataset("pictures", "image", task, pixels, torch.arange(len(pixels)) % classes, {}, names)
    return TrainingPart.of(dataset, torch.arange(len(pixels)) if positions is None else positions, 0)


def changes(names, shape):
    """What changes single images of such a shape."""
    return made(names, part_of(images(20, *shape))).change


def test_strengths_follow_the_size_of_the_images():
    assert changes(["shift", "crop", "flip"], (3, 32, 32)).transforms == (Shift(1), PaddedCrop(4), Flip())
    assert changes(["shift", "crop"], (1, 224, 300)).transforms == (Shift(8), PaddedCrop(28))
    assert changes(["shift", "crop"], (1, 8, 8)).transforms == (Shift(1), PaddedCrop(1))


@pytest.mark.parametrize("name", EVERY)
def test_every_name_gives_images_of_the_same_shape(name):
    x, numbers = images(20, 3, 16, 16), torch.arange(20)
    batches = TensorBatches(x, numbers, 20, seed=1)
    ((out, _),) = Feed(batches, CPU, nn.Identity(), changes([name], (3, 16, 16)), seed=1).epoch(0)
    assert out.shape == x.shape and not torch.equal(out.float(), x.index_select(0, _).float())
    assert float(out.min()) >= 0 and float(out.max()) <= 255 and float(out.float().max()) > 1


@pytest.mark.parametrize("names", [["shift", "flip"], ["crop", "color", "pca-color", "rotate", "erase"]])
def test_an_item_s_picture_is_its_own_whatever_the_batches(names):
    """The same (seed, epoch, item) in batches of any size, in any order; another epoch gives another."""
    x, change = images(50, 3, 12, 12), changes(names, (3, 12, 12))

    def pictures(size, epoch, shuffle=True, part=None):
        chosen = torch.arange(50) if part is None else part
        batches = TensorBatches(x[chosen], chosen, size, 3, shuffle, chosen)
        found = {}
        for inputs, numbers in Feed(batches, CPU, nn.Identity(), change, seed=3).epoch(epoch):
            found |= dict(zip(numbers.tolist(), inputs, strict=True))
        return found

    whole = pictures(50, 0)
    for other in (
        pictures(7, 0),
        pictures(16, 0, shuffle=False),
        pictures(5, 0, part=torch.tensor([4, 9, 40])),
    ):
        assert all(torch.equal(picture, whole[number]) for number, picture in other.items())
    assert any(not torch.equal(picture, whole[number]) for number, picture in pictures(50, 1).items())


def test_the_rest_of_an_epoch_is_what_it_would_have_been():
    batches = TensorBatches(images(40, 1, 8, 8), torch.arange(40), 8, 2)
    feed = Feed(batches, CPU, nn.Identity(), changes(["shift"], (1, 8, 8)), seed=2)
    whole, rest = list(feed.epoch(1)), list(feed.epoch(1, start=3))
    assert all(
        torch.equal(a, b)
        for one, other in zip(whole[3:], rest, strict=True)
        for a, b in zip(one, other, strict=True)
    )


def test_colours_come_back_to_the_scale_of_bytes():
    x = images(10, 3, 6, 6)
    ((out, order),) = Feed(
        TensorBatches(x, torch.arange(10), 10), CPU, nn.Identity(), compose([ColorJitter(0, 0, 0, 0)])
    ).epoch(0)
    torch.testing.assert_close(out.float(), x[order].float())


def test_a_transform_that_does_not_fit_is_refused_before_anything_is_trained():
    with pytest.raises(RecipeError, match="augment: resized-crop makes squares of images of 8x6"):
        changes(["flip", "resized-crop"], (3, 8, 6))
    with pytest.raises(RecipeError, match="augment: color: "):
        changes(["color"], (2, 8, 8))
    for channels, told in ((1, "the images are grey"), (4, "the images are of 4 channels")):
        with pytest.raises(RecipeError, match=f"augment: pca-color: .*{told}; leave it out"):
            changes(["pca-color"], (channels, 8, 8))
    with pytest.raises(RecipeError, match=r"unknown augmentation 'flop' \(did you mean 'flip'\?\)"):
        runs.make_setup(None, "digits", settings=[{"augment": ["flop"]}])


def test_the_covariance_of_colours_is_that_of_the_training_part_alone():
    pixels, positions = images(60, 3, 9, 7), torch.arange(0, 60, 2)
    pixels[:, 1] = pixels[:, 0] // 2 + pixels[:, 1] // 2
    (found,) = made(["pca-color"], part_of(pixels, positions)).change.transforms
    colors = (pixels[positions].double() / 255).transpose(0, 1).flatten(1)
    wanted = torch.cov(colors, correction=0)
    torch.testing.assert_close(torch.tensor(found.covariance, dtype=torch.float64), wanted, rtol=1e-9, atol=0)
    pixels[1::2] = 0
    assert made(["pca-color"], part_of(pixels, positions)).change.transforms == (found,)


def test_a_run_takes_them_from_the_recipe(tmp_path):
    settings = [{"augment": ["crop", "rotate", "erase"], "model": {"name": "mlp"}, "stop": {"epochs": 2}}]
    run = runs.train(None, "digits", settings=settings, out=tmp_path / "run")
    assert run.result["test"]["accuracy"] > 0.2


def addresses(names, monkeypatch):
    """What is drawn in one pass of a list of augmentations, in its order."""
    seen, bits = [], Draws._bits

    def noted(self, what, *shape):
        seen.append((self.within, what))
        return bits(self, what, *shape)

    x, numbers = images(4, 3, 16, 16), torch.arange(4)
    augmentation = made(sorted(names, key=lambda name: name in ("mixup", "cutmix")), part_of(x))
    with monkeypatch.context() as patch:
        patch.setattr(Draws, "_bits", noted)
        batches = TensorBatches(x, numbers % 3, 4, seed=1)
        feed = Feed(batches, CPU, nn.Identity(), augmentation.change, 1, mix=augmentation.mix)
        list(feed.epoch(0))
    return seen


@pytest.mark.parametrize(
    "names",
    [
        pair
        for pair in combinations_with_replacement(ALL, 2)
        if not set(pair) <= {"mixup", "cutmix"}  # drawn for the same partner
    ],
    ids="-".join,
)
def test_no_two_of_a_list_draw_the_same_numbers(names, monkeypatch):
    seen = addresses(names, monkeypatch)
    assert len(seen) == sum(len(addresses([name], monkeypatch)) for name in names)
    assert len(seen) == len(set(seen))


def test_a_shift_and_a_crop_are_independent():
    """The correlation of their offsets, 0.95 where both draw the same numbers, is within five errors of 0."""
    pixels = torch.arange(40.0).expand(3, 40, 40).clone()
    draws = Draws(0, 0, torch.arange(3000))
    pair = compose([Shift(2), PaddedCrop(6)])
    both = pair(pixels.expand(3000, 3, 40, 40), draws)[:, 0, 20, 20]
    first = Shift(2)(pixels.expand(3000, 3, 40, 40), draws)[:, 0, 20, 20]
    found = torch.corrcoef(torch.stack([first, both - first]))[0, 1]
    assert abs(float(found)) < 5 / 3000**0.5
