"""The sheet of augmented images in the report: its pictures, escaped, and only where there are any."""

import base64
import io
import re

import made_runs
import numpy
import pytest
from PIL import Image
from safetensors.numpy import save_file

from ravine.errors import RunError
from ravine.show.report import write_report

PICTURES = numpy.arange(2 * 3 * 3 * 5 * 4, dtype=numpy.uint8).reshape(2, 3, 3, 5, 4)


@pytest.fixture
def run(tmp_path):
    folder = made_runs.classification(tmp_path / "run")
    recipe = folder / "recipe.toml"
    recipe.write_text('augment = ["flip", "crop"]\n' + recipe.read_text())
    targets = numpy.array([1, 0])
    save_file({"augmented.images": PICTURES, "augmented.targets": targets}, folder / "augmented.safetensors")
    return folder


def test_every_picture_is_shown_as_it_is(run):
    text = write_report(run).read_text()
    sheet = re.search(r"<table class='sheet'>.*?</table>", text, re.S).group()
    shown = [
        numpy.asarray(Image.open(io.BytesIO(base64.b64decode(code))))
        for code in re.findall(r"base64,([^\"]+)", sheet)
    ]
    wanted = PICTURES.reshape(-1, 3, 5, 4).transpose(0, 2, 3, 1)
    assert len(shown) == 6 and all(map(numpy.array_equal, shown, wanted))
    assert re.findall(r"<th>(.*?)</th>", sheet) == ["as it is", "epoch 1", "epoch 2"]
    assert 'alt="1, epoch 2"' in sheet and 'alt="0, as it is"' in sheet
    assert "flip, crop" in text and sheet.count('class="small"') == 6


def test_a_run_without_augmentation_has_no_sheet(tmp_path):
    text = write_report(made_runs.classification(tmp_path / "run")).read_text()
    assert "sheet'" not in text.partition("<header>")[2]


def test_a_damaged_sheet_is_named(run):
    (run / "augmented.safetensors").write_bytes(b"no tensors")
    with pytest.raises(RunError, match=r"augmented.safetensors cannot be read"):
        write_report(run)


@pytest.mark.parametrize(("names", "told"), [('["flip", "mixup"]', True), ('["flip", "crop"]', False)])
def test_of_mixes_it_says_whose_the_partners_are(run, names, told):
    recipe = run / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('["flip", "crop"]', names))
    text = write_report(run).read_text()
    assert ("in training with others of their batch" in text) is told
