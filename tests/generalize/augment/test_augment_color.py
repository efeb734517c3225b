import kornia.enhance
import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from ravine.generalize.augment.color import (
    LUMA,
    ColorJitter,
    PCAColor,
    covariance_of,
    jitter,
    map_colors,
    turn_hue,
)
from ravine.generalize.augment.draws import Draws

FORMATS = [torch.contiguous_format, torch.channels_last]
ONE = torch.ones(4)


def images(channels: int = 3, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
    share = torch.rand(4, channels, 9, 7, generator=torch.Generator().manual_seed(0))
    return low + (high - low) * share


def jittered(batch: torch.Tensor, **changes: torch.Tensor) -> torch.Tensor:
    parts = {"brightness": ONE, "contrast": ONE, "saturation": ONE} | changes
    return map_colors(batch, jitter(batch.mean((2, 3)), **parts))


FACTORS = torch.tensor([0.0, 0.6, 1.0, 1.3])


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize(
    ("change", "function"),
    [
        ("brightness", "adjust_brightness_accumulative"),
        ("contrast", "adjust_contrast_with_mean_subtraction"),
        ("saturation", "adjust_saturation_with_gray_subtraction"),
    ],
)
def test_single_changes_are_kornias(change, function, layout):
    # In a range where nothing is cut off.
    batch = images(low=0.3, high=0.6).contiguous(memory_format=layout)
    found = jittered(batch, **{change: FACTORS})
    wanted = getattr(kornia.enhance, function)(batch, FACTORS)
    assert (found - wanted).abs().max() < 1e-6
    assert found.is_contiguous(memory_format=layout)


@pytest.mark.parametrize(
    ("change", "enhancer"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ],
)
@pytest.mark.parametrize("factor", [0.0, 0.5, 1.6])
def test_single_changes_are_pillows_but_for_its_rounding(change, enhancer, factor):
    levels = (images() * 255).round()
    found = jittered(levels / 255, **{change: torch.full((4,), factor)}).clamp(0, 1) * 255
    for image, result in zip(levels, found, strict=True):
        pillow = Image.fromarray(image.byte().permute(1, 2, 0).numpy())
        wanted = np.asarray(enhancer(pillow).enhance(factor)).transpose(2, 0, 1)
        # Pillow rounds the grey it blends with, then the blend.
        assert np.abs(wanted - result.numpy()).max() <= 1.0 + 0.6 * abs(1 - factor)


def turned_by_hand(color: np.ndarray, turn: float) -> np.ndarray:
    """By the axes' definition: I = 0.74 (R − Y) − 0.27 (B − Y), Q = 0.48 (R − Y) + 0.41 (B − Y)."""
    y = color @ np.array(LUMA)
    r, b = color[0] - y, color[2] - y
    chroma = complex(0.74 * r - 0.27 * b, 0.48 * r + 0.41 * b) * np.exp(2j * np.pi * turn)
    r, b = np.linalg.solve([[0.74, -0.27], [0.48, 0.41]], [chroma.real, chroma.imag])
    red, blue = y + r, y + b
    return np.array([red, (y - LUMA[0] * red - LUMA[2] * blue) / LUMA[1], blue])


@pytest.mark.parametrize("turn", [-0.3, 0.0, 0.05, 0.5])
def test_hue_is_turned_in_the_plane_of_chroma(turn):
    matrix = turn_hue(torch.tensor([turn], dtype=torch.float64))[0].numpy()
    for color in ([1.0, 0.2, 0.3], [0.1, 0.9, 0.4], [0.5, 0.5, 0.5]):
        np.testing.assert_allclose(matrix @ color, turned_by_hand(np.array(color), turn), atol=1e-12)


def test_the_four_changes_commute():
    batch = images()
    shares = torch.rand(4, 4, generator=torch.Generator().manual_seed(1))
    b, c, s, turn = (0.5 + shares).unbind(0)
    at_once = jittered(batch, brightness=b, contrast=c, saturation=s, turn=turn)
    steps = [{"brightness": b}, {"contrast": c}, {"saturation": s}, {"turn": turn}]
    for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0]):
        after = batch
        for step in order:
            after = jittered(after, **steps[step])
        assert (after - at_once).abs().max() < 1e-5


def test_factors_of_the_jitter_fill_their_ranges_and_are_drawn_apart():
    transform = ColorJitter(brightness=0.4, contrast=1.5, saturation=0.2, hue=0.0)
    draws = Draws(0, 0, torch.arange(4000))
    # For a mean of 0 the matrix is b·c·(grey + s·chroma): on grey b·c, and what s leaves of a colour.
    whole = transform.map(draws, torch.zeros(4000, 3)).matrix
    only_bright = ColorJitter(0.4, 0, 0, 0).map(draws, torch.zeros(4000, 3)).matrix.sum(2)[:, 0]
    assert 0.6 <= only_bright.min() < 0.61 and 1.39 < only_bright.max() <= 1.4 + 1e-6
    contrast = whole.sum(2)[:, 0] / only_bright
    assert -1e-6 <= contrast.min() < 0.01 and 2.49 < contrast.max() <= 2.5 + 1e-5
    assert abs(float(torch.corrcoef(torch.stack((only_bright, contrast)))[0, 1])) < 3.3 / 4000**0.5


@pytest.mark.parametrize("channels", [1, 3])
def test_values_stay_in_range_and_grey_images_stay_grey(channels):
    batch = images(channels)
    out = ColorJitter(3.0, 3.0, 3.0, 0.5)(batch, Draws(0, 0, torch.arange(4)))
    assert out.shape == batch.shape
    assert out.min() >= 0 and out.max() <= 1
    grey = batch[:, :1].expand(-1, 3, -1, -1).contiguous()
    out = ColorJitter()(grey, Draws(0, 0, torch.arange(4)))
    assert (out - out[:, :1]).abs().max() < 1e-6


def test_one_channel_is_jittered_as_a_grey_image():
    grey, draws = images(1), Draws(0, 0, torch.arange(4))
    wanted = ColorJitter()(grey.expand(-1, 3, -1, -1).contiguous(), draws)
    assert (ColorJitter()(grey, draws) - wanted).abs().max() < 1e-6


def test_the_offset_lies_along_the_principal_components_with_their_variances():
    pixels = images().transpose(0, 1).flatten(1)
    mixed = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.5, 0.0], [0.3, 0.2, 0.2]]) @ pixels
    photo = mixed.view(3, 4, 9, 7).transpose(0, 1)
    covariance = covariance_of(photo)
    np.testing.assert_allclose(covariance, np.cov(mixed.double().numpy(), bias=True), atol=1e-12)

    count = 20_000
    transform = PCAColor(covariance, sigma=0.1)
    offsets = transform.map(Draws(0, 0, torch.arange(count)), torch.zeros(count, 3)).offset.double()
    values, vectors = torch.linalg.eigh(torch.tensor(covariance, dtype=torch.float64))
    along = offsets @ vectors / (0.1 * values)
    # Now each is standard normal and they are independent.
    assert along.mean(0).abs().max() < 4 / count**0.5
    assert (torch.cov(along.T) - torch.eye(3)).abs().max() < 4 * (2 / count) ** 0.5


def test_pca_color_adds_one_offset_to_an_image():
    batch = images(low=0.45, high=0.55)
    moved = PCAColor(covariance_of(images()), sigma=0.3)(batch, Draws(0, 0, torch.arange(4))) - batch
    assert moved.abs().max() > 0.01
    assert (moved - moved[:, :, :1, :1]).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("transform", "channels", "message"),
    [
        (
            ColorJitter(),
            2,
            r"ColorJitter cannot take images of 2 channels; valid are 1 \(grey\) and 3 \(RGB\)",
        ),
        (PCAColor(((0.1,),)), 3, "PCAColor has the covariance of 1 channels; the images have 3"),
    ],
)
def test_other_channels_are_refused_by_name(transform, channels, message):
    with pytest.raises(ValueError, match=message):
        transform(images(channels), Draws(0, 0, torch.arange(4)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ColorJitter(brightness=-0.1), "Invalid brightness: -0.1; it must be finite and at least 0"),
        (lambda: ColorJitter(contrast=float("inf")), "Invalid contrast"),
        (lambda: ColorJitter(hue=0.6), r"Invalid hue: 0.6; it must be in \[0, 0.5\]"),
        (lambda: PCAColor(((1.0, 0.0),)), "Invalid covariance"),
        (lambda: PCAColor(((1.0, 2.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))), "must be symmetric"),
        (lambda: PCAColor(((1.0,),), sigma=-1.0), "Invalid sigma"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
