"""The recipe: layers, checks, and the text that is itself a recipe."""

import tomllib

import pytest

from ravine.errors import RecipeError
from ravine.training import recipe_text, settings
from ravine.training.recipe import merge, named_layer, named_recipes, set_layer, validate


def test_every_mistake_is_told_at_once_with_the_nearest_name() -> None:
    layer = {
        "seeed": 1,
        "precision": "fp8",
        "stop": {"epochs": -3, "pacience": 2},
        "optimizer": {"name": "adamm"},
        "model": {"name": "mlp", "widht": 3},
    }
    with pytest.raises(RecipeError) as caught:
        validate([layer])
    text = str(caught.value)
    for expected in ("'seed'", "precision", "stop.epochs", "'patience'", "'adam'", "'width'"):
        assert expected in text
    assert len(caught.value.problems) == 6


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("optimizer.lr=0.01", {"optimizer": {"lr": 0.01}}),
        ("optimizer.name=sgd", {"optimizer": {"name": "sgd"}}),
        ("seed=7", {"seed": 7}),
        ('augment=["shift", "flip"]', {"augment": ["shift", "flip"]}),
        ("data.skip_bad=true", {"data": {"skip_bad": True}}),
        ("data.target=y=x", {"data": {"target": "y=x"}}),
    ],
)
def test_assignments_are_toml_or_bare_text(assignment: str, expected: dict) -> None:
    assert set_layer([assignment]) == expected


def test_assignments_that_are_none_are_all_named() -> None:
    with pytest.raises(RecipeError) as caught:
        set_layer(["lr", "=3", "seed=1", "seed.x=2"])
    assert len(caught.value.problems) == 3


def test_a_new_part_drops_the_settings_of_the_old_one() -> None:
    layers = [
        {"optimizer": {"name": "adamw", "lr": 0.003, "betas": [0.9, 0.95], "clip_norm": 1.0}},
        {"optimizer": {"name": "sgd"}},
    ]
    optimizer = merge(layers)["optimizer"]
    assert optimizer["clip_norm"] == 1.0, "what surrounds the rule stays"
    assert "betas" not in optimizer
    assert optimizer["lr"] == settings.registry.entries("optimizer")[0].suggested["lr"]


def test_impossible_values_of_parts_are_found_by_the_parts() -> None:
    with pytest.raises(RecipeError, match="learning rate"):
        validate([{"optimizer": {"name": "sgd", "lr": -1.0}}])
    with pytest.raises(RecipeError, match=r"optimizer\.lr = 'fast'"):
        validate([{"optimizer": {"name": "sgd", "lr": "fast"}}])
    with pytest.raises(RecipeError, match=r"schedule"):
        validate([{"schedule": {"name": "cosine", "warmup": "3 fortnights"}}])


@pytest.mark.parametrize("kind", ["image", "table", "text"])
def test_named_recipes_are_valid_and_their_text_is_a_recipe(kind: str) -> None:
    assert {"default", "fast"} <= set(named_recipes())
    for name, description in named_recipes().items():
        recipe = validate([named_layer(name, kind)])
        text = recipe_text.to_toml(recipe)
        again = validate([tomllib.loads(text)])
        assert recipe_text.to_toml(again) == text
        assert description


def test_every_line_of_the_recipe_says_what_it_means() -> None:
    text = recipe_text.to_toml(validate([{"model": {"name": "mlp"}, "schedule": {"name": "cosine"}}]))
    lines = [line for line in text.splitlines() if line]
    assert [line for line in lines if "#" not in line] == []
