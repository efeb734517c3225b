import numpy as np
import pytest
import torch
from PIL import Image

from ravine.errors import DataError
from ravine.training.data import DataOptions, open_data


def fill(folder, colour: tuple[int, int, int], count: int = 3, size: int = 12) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (size + number, size), colour).save(folder / f"{number}.png")


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "things"
    fill(root / "red", (255, 0, 0))
    fill(root / "blue", (0, 0, 255), 4)
    return root


def test_class_folders_give_classes_in_sorted_order_and_names_of_items(folder):
    data = open_data(folder)
    assert data.classes == ("blue", "red")
    assert data.targets.tolist() == [0] * 4 + [1] * 3
    assert tuple(data.inputs.shape) == (7, 3, 12, 12)
    assert data.inputs.dtype == torch.uint8
    assert data.inputs[0, :, 5, 5].tolist() == [0, 0, 255]
    assert data.item_name(4) == "red/0.png"
    assert data.name == "things"


@pytest.mark.parametrize("validation", ["val", "valid", "Validation"])
def test_part_folders_are_kept_apart(tmp_path, validation):
    for part, count in (("train", 4), (validation, 2), ("test", 1)):
        fill(tmp_path / part / "a", (1, 2, 3), count)
        fill(tmp_path / part / "b", (9, 8, 7), count)
    data = open_data(tmp_path)
    assert {part: len(positions) for part, positions in data.parts.items()} == {
        "train": 8,
        "validation": 4,
        "test": 2,
    }
    for part, positions in data.parts.items():
        folders = {data.item_name(position).split("/")[0] for position in positions.tolist()}
        assert folders == {validation if part == "validation" else part}


def test_a_class_may_be_called_train(tmp_path):
    fill(tmp_path / "train", (1, 1, 1))
    fill(tmp_path / "plane", (2, 3, 4))
    assert open_data(tmp_path).classes == ("plane", "train")


def test_sets_of_grey_levels_have_one_channel_however_they_are_stored(tmp_path):
    fill(tmp_path / "a", (7, 7, 7))
    fill(tmp_path / "b", (8, 8, 8))
    Image.new("L", (12, 12), 9).save(tmp_path / "b" / "grey.png")
    data = open_data(tmp_path)
    assert data.item_shape == (1, 12, 12)
    assert data.inputs[:, 0, 0, 0].tolist() == [7, 7, 7, 8, 8, 8, 9]


def test_files_that_are_no_images_are_left_out_with_a_note(folder):
    (folder / "LICENSE").write_text("MIT")
    (folder / "red" / "Thumbs.db").write_bytes(b"x")
    (folder / "red" / ".hidden.png").write_bytes(b"x")
    (folder / ".git").mkdir()
    data = open_data(folder)
    assert len(data.targets) == 7
    assert any("no images: 3" in note and "LICENSE" in note for note in data.notes)


def test_an_empty_class_folder_is_refused(folder):
    (folder / "green").mkdir()
    with pytest.raises(DataError, match=r"class folder .*green has no images"):
        open_data(folder)


def test_a_single_class_is_refused(tmp_path):
    fill(tmp_path / "only", (1, 2, 3))
    with pytest.raises(DataError, match=r"one class \(only\)"):
        open_data(tmp_path)


def test_a_class_that_training_does_not_have_is_refused(tmp_path):
    for name in ("a", "b"):
        fill(tmp_path / "train" / name, (1, 2, 3))
    fill(tmp_path / "test" / "c", (1, 2, 3))
    with pytest.raises(DataError, match=r"test/c/0.png of the test part .* class 'c'"):
        open_data(tmp_path)


def test_a_part_without_class_folders_is_refused(tmp_path):
    for name in ("a", "b"):
        fill(tmp_path / "train" / name, (1, 2, 3))
    fill(tmp_path / "test", (1, 2, 3))
    with pytest.raises(DataError, match=r"test has no class folders"):
        open_data(tmp_path)


@pytest.fixture
def damaged(folder):
    whole = (folder / "red" / "1.png").read_bytes()
    (folder / "red" / "1.png").write_bytes(whole[:40])
    (folder / "blue" / "2.png").write_bytes(b"")
    return folder


def test_unreadable_images_are_all_named(damaged):
    with pytest.raises(DataError, match="2 of the images") as error:
        open_data(damaged)
    assert "red/1.png" in str(error.value)
    assert "blue/2.png: empty" in str(error.value)
    assert "--skip-bad" in str(error.value)


@pytest.mark.parametrize("memory_gb", [1.0, 0.0])
def test_unreadable_images_are_skipped_and_counted_on_request(damaged, memory_gb):
    data = open_data(damaged, DataOptions(skip_bad=True, memory_gb=memory_gb))
    assert data.inputs.shape[0] == len(data.targets) == 5
    assert data.unreadable == ("blue/2.png", "red/1.png")
    assert [data.item_name(i) for i in range(5)] == [
        "blue/0.png", "blue/1.png", "blue/3.png", "red/0.png", "red/2.png",
    ]  # fmt: skip
    assert any("2 images cannot be read" in note for note in data.notes)


@pytest.mark.parametrize("memory_gb", [1.0, 0.0])
def test_damage_within_an_image_is_found_before_training(folder, memory_gb):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = folder / "red" / "noise.png"
    Image.fromarray(noise).save(path)
    content = bytearray(path.read_bytes())
    content[3000:4000] = bytes(1000)
    path.write_bytes(content)
    (folder / "blue" / "2.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of the images") as error:
        open_data(folder, DataOptions(memory_gb=memory_gb))
    assert "blue/2.png: empty" in str(error.value) and "red/noise.png: damaged" in str(error.value)
    data = open_data(folder, DataOptions(memory_gb=memory_gb, skip_bad=True))
    assert data.unreadable == ("blue/2.png", "red/noise.png")
    assert len(data.fetch(torch.arange(len(data.targets)))) == 6


def test_a_class_must_not_vanish_with_its_bad_images(folder):
    for path in (folder / "red").iterdir():
        path.write_bytes(b"")
    (folder / "blue" / "1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"none of the images in .*red can be read") as error:
        open_data(folder, DataOptions(skip_bad=True))
    assert "4 images cannot be read" in str(error.value) and "blue/1.png: no known" in str(error.value)


def test_long_lists_of_unreadable_images_are_cut(folder):
    for number in range(10, 17):
        (folder / "red" / f"{number}.png").write_bytes(b"")
    with pytest.raises(DataError, match="7 of the images") as error:
        open_data(folder)
    assert "red/14.png" in str(error.value) and "red/15.png" not in str(error.value)
    assert "and 2 more" in str(error.value)


def test_bombs_are_refused_by_the_given_limit(folder):
    with pytest.raises(DataError, match="more than the limit of 150"):
        open_data(folder, DataOptions(max_image_pixels=150))


def test_streamed_items_equal_those_in_memory(folder):
    memory = open_data(folder, DataOptions(image_size=9))
    streamed = open_data(folder, DataOptions(image_size=9, memory_gb=0.0))
    assert not isinstance(streamed.inputs, torch.Tensor)
    assert streamed.inputs.shape == tuple(memory.inputs.shape)
    positions = torch.tensor([5, 0, 3])
    assert torch.equal(streamed.fetch(positions), memory.fetch(positions))
    assert any("do not fit in memory" in note for note in streamed.notes)


def test_the_fingerprint_of_streamed_files_sees_a_change(folder):
    options = DataOptions(memory_gb=0.0)
    before = open_data(folder, options).fingerprint
    assert open_data(folder, options).fingerprint == before
    Image.new("RGB", (12, 12), (255, 1, 0)).save(folder / "red" / "0.png")
    assert open_data(folder, options).fingerprint != before


def test_the_fingerprint_of_streamed_files_sees_a_change_anywhere(folder):
    options = DataOptions(memory_gb=0.0)
    path = folder / "red" / "noise.bmp"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    before = open_data(folder, options).fingerprint
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert open_data(folder, options).fingerprint != before


def test_a_streamed_file_that_breaks_later_is_named(folder):
    data = open_data(folder, DataOptions(memory_gb=0.0))
    (folder / "red" / "0.png").write_bytes(b"gone")
    with pytest.raises(DataError, match=r"red/0.png cannot be read"):
        data.fetch(torch.tensor([4]))
