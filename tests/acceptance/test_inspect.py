"""`ravine inspect` on every kind of data."""

import numpy as np
import pytest
from PIL import Image


def line(text, title):
    """The rest of the line that starts with a title."""
    (found,) = [row for row in text.splitlines() if row.startswith(title)]
    return " ".join(found.removeprefix(title).split())


def cells(text, name):
    """The cells of a table's row."""
    (found,) = [row for row in text.splitlines() if row.split()[:1] == [name] and row.startswith("  ")]
    return found.split()


def test_an_embedded_set(ravine):
    done = ravine("inspect", "digits")
    assert done.code == 0, done.err
    assert done.out.startswith("digits · image · classification\n")
    assert line(done.out, "items") == "1,797: train 1,258 + validation 180 + test 359 (cut here)"
    assert line(done.out, "shape") == "1×8×8"
    assert [sum(map(int, cells(done.out, str(digit))[1:4])) for digit in range(10)] == [
        178, 182, 177, 183, 181, 182, 181, 179, 174, 180,
    ]  # fmt: skip


def test_a_table(ravine, runs):
    done = ravine("inspect", runs / "prices.csv", "--set", "data.target=price")
    assert done.code == 0, done.err
    assert line(done.out, "target").startswith("price: ")
    assert line(done.out, "columns") == "2; 12 values missing in 1"
    assert cells(done.out, "rooms") == ["rooms", "number", "1", "7", *cells(done.out, "rooms")[4:6], "12"]
    assert " ".join(cells(done.out, "district")) == "district 3 categories: north, south, west"


def test_a_text(ravine, runs):
    done = ravine("inspect", runs / "verse.txt")
    assert done.code == 0, done.err
    assert line(done.out, "characters").startswith("2,700: ")
    assert "'o'" in done.out and cells(done.out, "'o'")[1] == "240"


def test_arrays(ravine, tmp_path):
    x = np.arange(60, dtype=np.float32).reshape(20, 3)
    np.savez(tmp_path / "made.npz", x=x, y=np.arange(20) % 2)
    done = ravine("inspect", tmp_path / "made.npz", "--set", "data.validation=0.2")
    assert done.code == 0, done.err
    assert line(done.out, "values").startswith("0 to 59, mean 29.5, ")


@pytest.fixture
def pictures(tmp_path):
    """Images in class folders: a pair that is the same in two classes, one that cannot be read."""
    draw = np.random.default_rng(0)
    for name in ("[cat]", "dog"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(12):
            pixels = draw.integers(256, size=(16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / name / f"{number}.png")
    (tmp_path / "set" / "dog" / "3.png").write_bytes((tmp_path / "set" / "[cat]" / "0.png").read_bytes())
    (tmp_path / "set" / "dog" / "torn.png").write_bytes(
        (tmp_path / "set" / "dog" / "0.png").read_bytes()[:50]
    )
    return tmp_path / "set"


def test_images_with_faults(ravine, pictures):
    done = ravine("inspect", pictures)
    assert done.code == 0, done.err
    assert cells(done.out, "[cat]")[-1] == "50.0%"  # a name in brackets is no markup
    assert line(done.out, "duplicates") == "1 items repeat another exactly"
    assert "warning: 1 groups of equal items differ in their answer" in done.out
    assert "[cat]/0.png = dog/3.png" in done.out
    assert line(done.out, "unreadable").startswith("1 left out: ") and "torn.png" in line(
        done.out, "unreadable"
    )


def test_real_sets(ravine, real_data):
    done = ravine("inspect", real_data / "cifar10-15k")
    assert done.code == 0, done.err
    assert "image · classification" in done.out
    assert "the test part came with the data" in done.out
    assert line(done.out, "shape") == "3×32×32"
