"""Every `auto` becomes a value that fits the data."""

import tomllib

import pytest
import torch

from ravine.errors import RecipeError
from ravine.training import recipe_text
from ravine.training.data.dataset import Dataset, Splits, no_positions
from ravine.training.recipe import Recipe, validate
from ravine.training.resolve import resolve
from ravine.training.run import make_setup


def resolved(
    kind: str,
    items: int,
    shape: tuple[int, ...],
    *,
    task: str = "classification",
    reader: str = "arrays",
    asked: dict | None = None,
    **sections: dict,
) -> Recipe:
    dataset = Dataset(
        name="made up",
        kind=kind,
        task=task,
        inputs=torch.zeros(1, *shape).expand(items, *shape),
        targets=torch.zeros(items, dtype=torch.int64),
        parts={"train": torch.arange(items)},
        classes=("a", "b"),
        options={"reader": reader},
    )
    splits = Splits(torch.arange(items), no_positions(), no_positions(), given_test=False)
    return resolve(validate([sections]), dataset, splits, asked)


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
    recipe = resolved("image", 1_258, (1, 8, 8), reader="images")
    assert "auto" not in {
        recipe.model.name,
        recipe.data.batch_size,
        recipe.data.image_size,
        recipe.stop.epochs,
    }
    assert recipe.model.settings["width"] > 0
    assert recipe.optimizer.settings["lr"] > 0


@pytest.mark.parametrize("reader", ["arrays", "images"])
@pytest.mark.parametrize("side", [3, 5000])
def test_the_recipe_of_images_of_any_size_is_a_recipe(side: int, reader: str) -> None:
    recipe = resolved("image", 16, (3, side, side), reader=reader, data={"batch_size": 8})
    assert recipe.data.image_size == "auto"
    assert validate([tomllib.loads(recipe_text.to_toml(recipe))]) == recipe


def test_the_size_that_files_were_brought_to_is_recorded() -> None:
    assert resolved("image", 16, (3, 48, 48), reader="images").data.image_size == 48
    assert resolved("image", 16, (3, 48, 48), reader="idx").data.image_size == "auto"


def test_principal_components_are_no_images() -> None:
    setup = make_setup(None, "digits", {"data": {"preprocess": "pca"}})
    assert setup.model(next(iter(setup.feeds["train"].epoch(0)))[0]).shape[1] == 10
    assert resolved("image", 1_258, (1, 8, 8), data={"preprocess": "pca"}).model.name == "mlp"
    assert resolved("image", 1_258, (1, 8, 8), data={"preprocess": "whiten"}).model.name == "cnn"


NO_SUCH_DATA = [
    ("table", "classification", "augment", ["flip"]),
    ("image", "regression", "loss", {"label_smoothing": 0.1}),
    ("image", "regression", "loss", {"class_weights": "balanced"}),
    ("text", "language", "loss", {"class_weights": "balanced"}),
]


@pytest.mark.parametrize(("kind", "task", "key", "value"), NO_SUCH_DATA)
def test_what_the_data_cannot_have_is_refused_where_it_was_asked_for(
    kind: str, task: str, key: str, value: object
) -> None:
    shape = {"table": (13,), "image": (1, 8, 8), "text": ()}[kind]
    name = key if key == "augment" else f"{key}.{next(iter(value))}"
    with pytest.raises(RecipeError, match=name):
        resolved(kind, 100, shape, task=task, asked={key: value}, **{key: value})


def test_what_a_named_recipe_brought_along_is_dropped_and_recorded_so() -> None:
    assert resolved("table", 100, (13,), augment=["flip"]).augment == ()
    recipe = resolved("image", 100, (1, 8, 8), task="regression", loss={"label_smoothing": 0.1})
    assert recipe.loss.label_smoothing == 0
    kept = resolved("image", 100, (1, 8, 8), augment=["flip"], loss={"label_smoothing": 0.1})
    assert kept.augment == ("flip",) and kept.loss.label_smoothing == 0.1
