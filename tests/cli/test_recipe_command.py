import tomllib

import pytest

from ravine import registry
from ravine.cli import main
from ravine.cli.recipe import KINDS


@pytest.fixture
def told(capsys):
    def run(*arguments, code=0):
        assert main(["recipe", *arguments]) == code
        captured = capsys.readouterr()
        return captured.err if code else captured.out

    return run


def test_the_list_holds_every_part_of_the_registry_with_its_description(told):
    lines = {tuple(line.split(maxsplit=1)) for line in told().splitlines()}
    for kind in KINDS:
        assert registry.entries(kind), kind
        for entry in registry.entries(kind):
            assert (entry.name, entry.description) in {
                tuple(part.rstrip() for part in line) for line in lines
            }
    assert set(registry._entries) == set(KINDS)  # a kind that is new must be listed too


def test_a_recipe_is_toml_with_comments_for_each_kind_of_data(told):
    assert "# decides every random choice" in told("default")
    recipes = {kind: tomllib.loads(told("default", "--kind", kind)) for kind in ("image", "table", "text")}
    assert recipes["image"] == tomllib.loads(told("default"))
    assert recipes["image"]["augment"] and not recipes["table"]["augment"]
    assert recipes["text"]["optimizer"]["lr"] > 0


def test_a_printed_recipe_is_a_valid_recipe_file(told, tmp_path):
    from ravine.training.recipe import file_layer, named_layer, validate

    for name in ("default", "fast"):
        for kind in ("image", "table", "text"):
            (tmp_path / "printed.toml").write_text(told(name, "--kind", kind))
            read = validate([file_layer(tmp_path / "printed.toml")])
            wanted = validate([named_layer(name, kind)])
            assert read.data == wanted.data and read.stop == wanted.stop and read.augment == wanted.augment
            assert wanted.optimizer.settings.items() <= read.optimizer.settings.items()


def test_a_part_tells_its_source_and_its_settings(told):
    text = told("sgd")
    assert text.startswith("sgd · optimizer\n")
    assert 'in a recipe: optimizer.name = "sgd"' in text
    rows = {line.split()[0]: line.split()[1] for line in text.splitlines() if line.startswith("  ")}
    assert (
        float(rows["lr"]) == 0.05 and rows["nesterov"] == "True"
    )  # what a recipe takes, not torch's default
    assert "params" not in rows and "foreach" not in rows


def test_a_setting_tells_what_it_means(told):
    (line,) = [line for line in told("mlp").splitlines() if line.startswith("  dropout")]
    assert "hidden units" in line


def test_a_name_of_several_kinds_tells_them_all(told):
    text = told("none")
    for kind in ("schedule", "normalization", "preprocessing"):
        assert f"none · {kind}\n" in text


def test_an_unknown_name_ends_with_2_and_the_nearest(told):
    assert "did you mean 'adamw'?" in told("adamww", code=2)
    assert "`ravine recipe` lists them all" in told("qqqqqq", code=2)
