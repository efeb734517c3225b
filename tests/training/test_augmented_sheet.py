"""The kept sheet shows what training saw: the same pictures, by the same addresses."""

import torch
from safetensors.torch import load_file

from ravine.training import run as runs
from ravine.training.augmented_sheet import sheet

SMALL = {"model": {"name": "mlp", "width": 4}, "stop": {"epochs": 1}, "data": {"preprocess": "none"}}


def test_the_pictures_are_those_of_the_training():
    setup = runs.make_setup(None, "digits", settings=[SMALL, {"augment": ["shift", "color"]}])
    kept = sheet(setup)
    images = kept["augmented.images"]
    assert images.shape == (6, 7, 1, 8, 8) and images.dtype == torch.uint8
    assert kept["augmented.targets"].tolist() == [0, 1, 2, 3, 4, 5]
    for epoch in (0, 1):
        seen = torch.cat([inputs for inputs, _ in setup.feeds["train"].epoch(epoch)]).reshape(-1, 64)
        for picture in images[:, 1 + epoch].reshape(6, 64):
            prepared = setup.preprocessing(picture.view(1, 1, 8, 8)).flatten()
            assert (seen - prepared).abs().amax(1).min() < 0.51 / 255  # bytes are rounded


def test_each_row_begins_with_the_image_itself():
    setup = runs.make_setup(None, "digits", settings=[SMALL, {"augment": ["flip"]}])
    for row, target in zip(*sheet(setup).values(), strict=True):
        own = setup.dataset.fetch(setup.splits.train)[setup.dataset.targets[setup.splits.train] == target]
        assert (own == row[0]).flatten(1).all(1).any()
        assert all(torch.equal(copy, row[0]) or torch.equal(copy, row[0].flip(2)) for copy in row[1:])


def test_mixed_images_are_mixed_among_themselves():
    setup = runs.make_setup(None, "digits", settings=[SMALL, {"augment": ["mixup"]}])
    images = sheet(setup)["augmented.images"].double()
    own, mixed = images[:, 0].flatten(1), images[:, 1].flatten(1)
    # Each is a point on the line from the image itself to one of the others.
    for row, seen in enumerate(mixed):
        ways = own - own[row]
        shares = ((seen - own[row]) * ways).sum(1) / ways.square().sum(1).clamp(min=1)
        off = (own[row] + shares[:, None] * ways - seen).abs().amax(1)
        assert off.min() <= 1.0  # bytes are rounded, and with them the share that is found here


def test_a_run_folder_keeps_it_only_where_something_is_augmented(tmp_path):
    runs.train(None, "digits", settings=[SMALL, {"augment": ["flip"]}], out=tmp_path / "flipped")
    runs.train(None, "digits", settings=[SMALL, {"augment": []}], out=tmp_path / "plain")
    assert "augmented.images" in load_file(tmp_path / "flipped" / "augmented.safetensors")
    assert not (tmp_path / "plain" / "augmented.safetensors").exists()
