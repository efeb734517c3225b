import torch

from ravine.training.data import open_data
from ravine.training.data.splits import cut
from ravine.training.examples import example_items
from ravine.training.preprocessing import Preprocessing


def preprocessing_of(source, step="normalize"):
    dataset = open_data(source)
    return Preprocessing.fit(dataset, cut(dataset, validation=0.1, test=0.2, seed=0), step)


def test_images_are_bytes_over_the_whole_range():
    items = example_items(preprocessing_of("digits"), 500, 0)
    assert items.dtype == torch.uint8 and items.shape == (500, 1, 8, 8)
    assert items.min() == 0 and items.max() == 255


def test_numbers_of_a_table_look_as_varied_to_a_model_as_real_ones():
    preprocessing = preprocessing_of("wine")  # columns from 0.1 to 1,700
    items = example_items(preprocessing, 2000, 0)
    assert items[0].isnan().all()
    inputs = preprocessing(items)
    assert torch.isfinite(inputs).all()
    torch.testing.assert_close(inputs[1:].mean(0), torch.zeros(13), atol=0.1, rtol=0)
    torch.testing.assert_close(inputs[1:].std(0), torch.ones(13), atol=0.1, rtol=0)


def test_categories_are_codes_that_exist(tmp_path):
    rows = "".join(f"{'red' if row % 2 else 'blue'},{row},{row * row}\n" for row in range(50))
    (tmp_path / "made.csv").write_text("colour,size,target\n" + rows)
    items = example_items(preprocessing_of(tmp_path / "made.csv", "none"), 100, 0)
    assert set(items[1:, 0].tolist()) == {0.0, 1.0}


def test_tokens_are_of_the_vocabulary(tmp_path):
    (tmp_path / "made.txt").write_text("abcd" * 200)
    items = example_items(preprocessing_of(tmp_path / "made.txt"), 8, 16)
    assert items.dtype == torch.int64 and items.shape == (8, 16)
    assert items.min() >= 0 and items.max() < 4


def test_the_items_are_the_same_each_time():
    preprocessing = preprocessing_of("digits")
    assert torch.equal(example_items(preprocessing, 4, 0), example_items(preprocessing, 4, 0))
