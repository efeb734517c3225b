"""Every `auto` becomes a value that fits the data."""

import pytest
import torch

from ravine.training.data.dataset import Dataset, Splits, no_positions
from ravine.training.recipe import Recipe
from ravine.training.resolve import resolve


def resolved(kind: str, items: int, shape: tuple[int, ...], **sections: dict) -> Recipe:
    dataset = Dataset(
        name="made up",
        kind=kind,
        task="classification",
        inputs=torch.zeros(1, *shape).expand(items, *shape),
        targets=torch.zeros(items, dtype=torch.int64),
        parts={"train": torch.arange(items)},
        classes=("a", "b"),
    )
    splits = Splits(torch.arange(items), no_positions(), no_positions(), given_test=False)
    return resolve(Recipe.model_validate(sections), dataset, splits)


@pytest.mark.parametrize(
    ("kind", "items", "shape", "batch", "model"),
    [
        ("table", 100, (13,), 16, "mlp"),
        ("image", 1_258, (1, 8, 8), 64, "cnn"),
        ("image", 54_000, (1, 28, 28), 128, "resnet"),
        ("image", 20_000, (3, 256, 256), 32, "resnet"),
        ("image", 20_000, (3, 2048, 2048), 8, "resnet"),
    ],
)
def test_batches_and_models_by_the_data(kind: str, items: int, shape: tuple, batch: int, model: str) -> None:
    recipe = resolved(kind, items, shape)
    assert recipe.data.batch_size == batch
    assert recipe.model.name == model


def test_epochs_fall_with_the_items_and_follow_the_effort() -> None:
    epochs = [resolved("table", items, (3,)).stop.epochs for items in (100, 20_000, 54_000, 10**7)]
    assert epochs == [60, 31, 19, 5]
    assert resolved("table", 54_000, (3,), stop={"effort": 0.15}).stop.epochs == 3
    assert resolved("table", 54_000, (3,), stop={"epochs": 7}).stop.epochs == 7


def test_nothing_is_left_open() -> None:
    recipe = resolved("image", 1_258, (1, 8, 8))
    assert "auto" not in {recipe.model.name, recipe.data.batch_size, recipe.data.image_size, recipe.stop.epochs}
    assert recipe.model.settings["width"] > 0
    assert recipe.optimizer.settings["lr"] > 0
