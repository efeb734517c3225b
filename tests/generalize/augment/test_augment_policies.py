import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats

from ravine.generalize.augment.draws import Draws
from ravine.generalize.augment.policies import (
    RAND_AUGMENT,
    TRIVIAL_AUGMENT_WIDE,
    Operation,
    RandAugment,
    TrivialAugment,
    operate,
)
from ravine.generalize.augment.tones import autocontrast, equalize, posterize, sharpen, solarize


def levels() -> torch.Tensor:
    """Bytes: noise, a dark photo-like ramp, two values, one value, and nearly all one value."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(256, (3, 30, 40), generator=generator)
    ramp = torch.arange(40).expand(3, 30, 40) * 2 + torch.randint(20, (3, 30, 40), generator=generator)
    two = torch.randint(2, (3, 30, 40), generator=generator) * 90 + 60
    one = torch.full((3, 30, 40), 77)
    nearly = torch.full((3, 30, 40), 200)
    nearly[:, 3, 4:9] = 10
    return torch.stack((noise, ramp, two, one, nearly)).byte()


def by_pillow(change) -> np.ndarray:
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in levels()]
    return np.stack([np.asarray(change(picture)).transpose(2, 0, 1) for picture in pictures])


def as_levels(images: torch.Tensor) -> np.ndarray:
    return (images * 255).numpy()


SHARES = levels().float() / 255


def each(value: float) -> torch.Tensor:
    return torch.full((len(SHARES),), value)


@pytest.mark.parametrize("bits", [1, 2, 4, 7, 8])
def test_posterize_is_pillows(bits):
    found = as_levels(posterize(SHARES, each(bits).long()))
    np.testing.assert_allclose(found, by_pillow(lambda picture: ImageOps.posterize(picture, bits)), atol=1e-4)


@pytest.mark.parametrize("threshold", [0, 1, 77, 200, 256])
def test_solarize_is_pillows(threshold):
    # Between two levels, where rounding of the shares does not matter.
    found = as_levels(solarize(SHARES, each((threshold - 0.5) / 255)))
    np.testing.assert_allclose(
        found, by_pillow(lambda picture: ImageOps.solarize(picture, threshold)), atol=1e-4
    )


def test_equalize_is_pillows():
    np.testing.assert_allclose(as_levels(equalize(SHARES)), by_pillow(ImageOps.equalize), atol=1e-4)


def test_autocontrast_is_pillows_but_for_its_rounding_down():
    below = as_levels(autocontrast(SHARES)) - by_pillow(ImageOps.autocontrast)
    assert below.min() > -1e-3 and below.max() < 1 + 1e-3


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.9])
def test_sharpness_is_pillows_but_for_its_rounding(factor):
    found = as_levels(sharpen(SHARES, each(factor)))
    wanted = by_pillow(lambda picture: ImageEnhance.Sharpness(picture).enhance(factor))
    # Pillow rounds the smoothed picture, then the blend.
    assert np.abs(found - wanted).max() <= 1 + 0.5 * abs(1 - factor) + 1e-3


def test_images_without_an_inside_have_nothing_to_smooth():
    narrow = torch.rand(2, 3, 2, 9)
    assert torch.equal(sharpen(narrow, torch.tensor([0.0, 2.0])), narrow)


PILLOWS = {
    Operation.IDENTITY: lambda picture, _: picture,
    Operation.ROTATE: lambda picture, strength: picture.rotate(30 * strength, Image.Resampling.BILINEAR),
    Operation.BRIGHTNESS: lambda picture, strength: ImageEnhance.Brightness(picture).enhance(
        1 + 0.9 * strength
    ),
    Operation.CONTRAST: lambda picture, strength: ImageEnhance.Contrast(picture).enhance(1 + 0.9 * strength),
    Operation.SATURATION: lambda picture, strength: ImageEnhance.Color(picture).enhance(1 + 0.9 * strength),
    Operation.SHARPNESS: lambda picture, strength: ImageEnhance.Sharpness(picture).enhance(
        1 + 0.9 * strength
    ),
    Operation.POSTERIZE: lambda picture, strength: ImageOps.posterize(picture, 8 - round(4 * abs(strength))),
    Operation.SOLARIZE: lambda picture, strength: ImageOps.solarize(picture, 256 - 256 * abs(strength)),
    Operation.AUTOCONTRAST: lambda picture, _: ImageOps.autocontrast(picture),
    Operation.EQUALIZE: lambda picture, _: ImageOps.equalize(picture),
    # Pillow maps a place of the result to one of the source, in pixels from the corner.
    Operation.SHEAR_X: lambda picture, strength: affine(
        picture, 1, 0.3 * strength, -0.3 * strength * 15, 0, 1, 0
    ),
    Operation.SHEAR_Y: lambda picture, strength: affine(
        picture, 1, 0, 0, -0.3 * strength, 1, 0.3 * strength * 20
    ),
    Operation.TRANSLATE_X: lambda picture, strength: affine(
        picture, 1, 0, -40 * 150 / 331 * strength, 0, 1, 0
    ),
    Operation.TRANSLATE_Y: lambda picture, strength: affine(
        picture, 1, 0, 0, 0, 1, -30 * 150 / 331 * strength
    ),
}


def affine(picture: Image.Image, *numbers: float) -> Image.Image:
    return picture.transform(picture.size, Image.Transform.AFFINE, numbers, Image.Resampling.BILINEAR)


@pytest.mark.parametrize("strength", [-0.55, 0.3, 1.0])
@pytest.mark.parametrize("operation", Operation, ids=lambda operation: operation.name.lower())
def test_each_operation_is_pillows(operation, strength):
    chosen = torch.full((len(SHARES),), int(operation))
    found = as_levels(operate(SHARES, chosen, each(strength), RAND_AUGMENT))
    wanted = by_pillow(lambda picture: PILLOWS[operation](picture, strength))
    if operation in range(Operation.SHEAR_X, Operation.ROTATE + 1):
        # At the edge Pillow takes the nearest pixel where half of zeros is mixed in here.
        white = operate(torch.ones_like(SHARES), chosen, each(strength), RAND_AUGMENT).numpy()
        inside = white > 1 - 1e-5
        assert inside.mean() > 0.25
        # And it rounds down.
        cut = (found - wanted)[inside]
        assert cut.min() > -0.01 and cut.max() < 1.01
    else:
        assert np.abs(found - wanted).max() <= 1.6


@pytest.mark.parametrize("most", [RAND_AUGMENT, TRIVIAL_AUGMENT_WIDE])
def test_operations_of_strength_0_leave_images(most):
    for operation in set(Operation) - {Operation.AUTOCONTRAST, Operation.EQUALIZE}:
        found = operate(SHARES, torch.full((len(SHARES),), int(operation)), each(0.0), most)
        assert (found - SHARES).abs().max() < 5e-6, operation.name


def test_the_wide_space_is_wide():
    white = torch.ones(2, 1, 80, 100)
    found = operate(white, torch.tensor([3, 4]), torch.tensor([1.0, -1.0]), TRIVIAL_AUGMENT_WIDE)
    dark = found < 1e-3
    assert dark[0, 0, 40].sum() == dark[1, 0, :, 50].sum() == 32
    assert dark[0, 0, 40, 0] and dark[1, 0, -1, 50]


def test_different_operations_in_one_batch_are_each_images_own():
    count = len(Operation)
    batch = SHARES[:1].expand(count, -1, -1, -1).contiguous()
    chosen, strength = torch.arange(count), torch.linspace(-1, 1, count)
    together = operate(batch, chosen, strength, RAND_AUGMENT)
    for place in range(count):
        one = slice(place, place + 1)
        assert torch.equal(together[one], operate(batch[one], chosen[one], strength[one], RAND_AUGMENT))


def test_operations_and_strengths_are_drawn_alike():
    draws = Draws(0, 0, torch.arange(10_000))
    ((operation, strength, most),) = TrivialAugment().choices(draws)
    assert most is TRIVIAL_AUGMENT_WIDE
    assert stats.chisquare(torch.bincount(operation, minlength=14).numpy()).pvalue > 0.001
    steps = (strength * 30).round().long() + 30
    counts = torch.bincount(steps, minlength=61)
    assert len(counts) == 61
    # Strength 0 has one sign, and so counts twice.
    expected = np.full(61, 10_000 / 62)
    expected[30] *= 2
    assert stats.chisquare(counts.numpy(), expected).pvalue > 0.001
    both = operation * 2 + (strength > 0)
    assert stats.chi2_contingency(torch.bincount(both, minlength=28).view(14, 2).numpy()).pvalue > 0.001


def test_rand_augments_operations_follow_one_another_at_one_strength():
    draws = Draws(0, 0, torch.arange(len(SHARES)))
    transform = RandAugment(n=3, magnitude=15)
    steps = transform.choices(draws)
    assert [len({*operation.tolist()}) > 1 for operation, _, _ in steps] == [True] * 3
    assert not torch.equal(steps[0][0], steps[1][0])
    wanted = SHARES
    for operation, strength, most in steps:
        assert (strength.abs() == 0.5).all() and most is RAND_AUGMENT
        wanted = operate(wanted, operation, strength, most)
    assert torch.equal(transform(SHARES, draws), wanted)


@pytest.mark.parametrize("transform", [RandAugment(), TrivialAugment()])
def test_grey_images_are_taken_and_others_refused_by_name(transform):
    draws = Draws(0, 0, torch.arange(200))
    assert transform(torch.rand(200, 1, 8, 8), draws).shape == (200, 1, 8, 8)
    with pytest.raises(ValueError, match=f"{type(transform).__name__} cannot take images of 4 channels"):
        transform(torch.rand(200, 4, 8, 8), draws)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandAugment(n=-1), "Invalid n: -1; it must be a whole number, at least 0"),
        (lambda: RandAugment(n=1.5), "Invalid n: 1.5"),
        (lambda: RandAugment(magnitude=31), "Invalid magnitude: 31; it must be at most 30"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
