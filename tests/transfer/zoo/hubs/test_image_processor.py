"""How images were prepared: the card's mean and deviation against the processor's arithmetic."""

import json

import numpy as np
import pytest

from ravine.errors import ModelError
from ravine.transfer.zoo.hubs.image_processor import preparation, size_of

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]


def processed(pixels, record):
    """What the processor's settings say, step by step in float64: pixels (N, C, H, W), 0 to 255."""
    out = pixels.astype(np.float64)
    if record.get("do_rescale", True):
        out = out * record.get("rescale_factor", 1 / 255)
    if record.get("do_normalize", True) and "image_mean" in record:
        mean, std = (np.reshape(record[key], (1, -1, 1, 1)) for key in ("image_mean", "image_std"))
        out = (out - mean) / std
    return out


@pytest.mark.parametrize(
    "record",
    [
        {"image_mean": MEAN, "image_std": STD},
        {"image_mean": MEAN, "image_std": STD, "rescale_factor": 1 / 127.5},
        {"image_mean": [120.0, 110.0, 100.0], "image_std": [60.0, 61.0, 62.0], "do_rescale": False},
        {"image_mean": MEAN, "image_std": STD, "do_normalize": False},
        {"do_rescale": False, "do_normalize": False},
        {"image_mean": 0.5, "image_std": 0.25},
        {},
    ],
)
def test_scaled_pixels_are_normalized_as_the_processor_does(record):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5))
    found = preparation(record, 3, "a test")
    mean, std = (np.reshape(each, (1, 3, 1, 1)) for each in (found.mean, found.std))
    given = (pixels / 255 - mean) / std
    np.testing.assert_allclose(given, processed(pixels, record), rtol=0, atol=1e-12 * np.abs(given).max())


def test_it_agrees_with_the_processor_that_wrote_it(tmp_path, quiet_transformers):
    processor = quiet_transformers.ViTImageProcessor(
        do_resize=False, rescale_factor=1 / 200, image_mean=MEAN, image_std=STD
    )
    processor.save_pretrained(tmp_path)
    record = json.loads((tmp_path / "preprocessor_config.json").read_bytes())
    pixels = np.random.default_rng(1).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    wanted = processor(pixels, return_tensors="np")["pixel_values"][0]
    found = preparation(record, 3, "a test")
    given = ((pixels / 255 - found.mean) / found.std).transpose(2, 0, 1)
    np.testing.assert_allclose(given, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("record", "size"),
    [
        ({"size": 224}, (224, 224)),
        ({"size": {"shortest_edge": 30}}, (30, 30)),
        ({"size": {"height": 20, "width": 30}}, (20, 30)),
        ({"size": 40, "crop_size": 32}, (40, 40)),
        ({"size": 40, "crop_size": 32, "do_center_crop": True}, (32, 32)),
        ({"size": 40, "crop_size": None, "do_center_crop": True}, (40, 40)),
        ({"size": {"longest_edge": 40}}, None),
        ({}, None),
    ],
)
def test_the_size_is_that_of_the_crop_where_there_is_one(record, size):
    assert preparation(record, 3, "a test").size == size


@pytest.mark.parametrize("value", [None, "224", [224], {}, {"height": 3}])
def test_no_size_is_made_up(value):
    assert size_of(value) is None


def test_channels_that_do_not_match_are_refused():
    with pytest.raises(ModelError, match="images of 1 channels"):
        preparation({"image_mean": MEAN, "image_std": STD}, 1, "a test")


@pytest.mark.parametrize(
    "key", ["rescale_offset", "include_top", "do_flip_channel_order", "do_color_quantize"]
)
def test_what_no_mean_can_say_is_refused(key):
    with pytest.raises(ModelError, match=key):
        preparation({key: True}, 3, "a test")
    preparation({key: False}, 3, "a test")
