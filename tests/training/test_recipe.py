"""The recipe: layers, checks, and the text that is itself a recipe."""

import tomllib
from pathlib import Path

import hypothesis
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ravine import registry
from ravine.errors import RecipeError
from ravine.registry import lookup
from ravine.training import recipe_text, settings
from ravine.training import run as runs
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
        ("optimizer.lr=.01", {"optimizer": {"lr": 0.01}}),
        ("optimizer.lr=-1.e-2", {"optimizer": {"lr": -0.01}}),
        ("optimizer.nesterov=False", {"optimizer": {"nesterov": False}}),
        ("optimizer.nesterov=True", {"optimizer": {"nesterov": True}}),
        ("data.target=v1.0.", {"data": {"target": "v1.0."}}),
        ("data.target=.", {"data": {"target": "."}}),
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


@pytest.mark.parametrize(
    ("kind", "name", "given_values", "expected"),
    [
        ("optimizer", "sgd", {"nesterov": "False", "lr": "0.5"}, {"nesterov": False, "lr": 0.5}),
        (
            "model",
            "mlp",
            {"width": "64", "depth": 2.0, "dropout": ".1"},
            {"width": 64, "depth": 2, "dropout": 0.1},
        ),
        ("optimizer", "adam", {"betas": [0.8, "0.9"]}, {"betas": (0.8, 0.9)}),
    ],
)
def test_parts_get_values_of_the_types_in_their_signatures(
    kind: str, name: str, given_values: dict, expected: dict
) -> None:
    recipe = validate([{kind: {"name": name, **given_values}}])
    read = getattr(recipe, kind).settings
    for key, value in expected.items():
        assert read[key] == value
        assert type(read[key]) is type(value)


def test_a_text_that_says_false_switches_off() -> None:
    recipe = validate([{"optimizer": {"name": "sgd"}}, set_layer(['optimizer.nesterov="False"'])])
    weight = torch.nn.Parameter(torch.zeros(1))
    made = lookup("optimizer", "sgd")([weight], **recipe.optimizer.settings)
    assert made.defaults["nesterov"] is False


@pytest.mark.parametrize("warmup", [2000, "12 epochs", "10%"])
def test_durations_are_not_refused_by_a_length_that_is_not_known_yet(warmup: object) -> None:
    assert (
        validate([{"schedule": {"name": "cosine", "warmup": warmup}}]).schedule.settings["warmup"] == warmup
    )


def test_a_warmup_longer_than_the_training_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    layer = {"schedule": {"name": "cosine", "warmup": 10**6}, "stop": {"epochs": 2}}
    with pytest.raises(RecipeError, match=r"schedule\.warmup takes 1000000 steps"):
        runs.train("linear", "wine", layer, out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def problems_of(*assignments: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        validate([set_layer(assignments)])
    return sorted(caught.value.problems)


def test_one_wrong_key_does_not_hide_the_others_of_its_section() -> None:
    first, second = problems_of("optimizer.clip_norm=-1", "optimizer.lrr=1")
    assert first.startswith("optimizer.clip_norm = -1")
    assert "optimizer.lrr" in second and "'lr'" in second
    wrong_name = problems_of("optimizer.name=5", "optimizer.momentum=0.9")
    assert len(wrong_name) == 1, "the settings of an optimizer that is not known cannot be wrong"
    both = problems_of("optimizer.lr=-1", "optimizer.lrr=1")
    assert "optimizer.lrr" in both[0] and "learning rate" in both[1]


def test_parts_named_by_settings_and_the_monitor_are_checked_with_the_rest() -> None:
    told = problems_of(
        "model.name=mlp", "model.activation=rleu", "model.normalization=bach", "model.initialization=hee",
        "stop.monitor=validation.acuracy", "seed=-1",
    )  # fmt: skip
    assert len(told) == 5
    text = "\n".join(told)
    for hint in ("'relu'", "'batch'", "'he'", "'validation.accuracy'"):
        assert f"did you mean {hint}" in text


def test_a_setting_that_is_required_and_missing_is_named() -> None:
    assert problems_of("schedule.name=multistep", "schedule.gamma=half") == [
        "schedule.gamma = 'half': input should be a valid number, unable to parse string as a number"
    ]
    for entry in registry.entries("schedule"):
        for key, parameter in settings.parameters("schedule", entry.name).items():
            if parameter.default is parameter.empty:
                assert problems_of(f"schedule.name={entry.name}") == [
                    f"schedule.{key}: {entry.name} needs a value"
                ]


def test_a_section_that_was_given_a_value_says_how_to_write_it() -> None:
    told = problems_of("model=resnet", "optimizer=adam", "schedule=cosine", "stop=3")
    assert told[0].endswith("write model.name=resnet")
    assert told[1].endswith("write optimizer.name=adam")
    assert told[2].endswith("write schedule.name=cosine")
    assert "epochs" in told[3]


@hypothesis.settings(deadline=None)  # the first validation imports every part
@given(st.text())
def test_any_text_comes_back_from_the_recipes_text(text: str) -> None:
    recipe = validate([{"data": {"target": text}, "model": {"name": "own:net", "words": [text, [text]]}}])
    again = tomllib.loads(recipe_text.to_toml(recipe))
    assert again["data"]["target"] == text
    assert again["model"]["words"] == [text, [text]]


@hypothesis.settings(deadline=None)
@given(st.dictionaries(st.text(), st.integers(0, 9) | st.text() | st.floats(allow_nan=False) | st.booleans()))
def test_nested_settings_come_back_from_the_recipes_text(settings: dict) -> None:
    recipe = validate([{"model": {"name": "own:net", "groesse": settings, "größe": 1}}])
    again = tomllib.loads(recipe_text.to_toml(recipe))["model"]
    assert again == {"name": "own:net", "groesse": settings, "größe": 1}


def test_one_name_where_a_list_belongs_is_told_how_to_write_it():
    with pytest.raises(RecipeError, match=r"""augment = 'flip': it is a list: write augment=\["flip"\]"""):
        validate([set_layer(["augment=flip"])])
