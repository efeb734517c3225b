"""Rules and optimizer classes of a user's own module, in recipes and runs."""

import tomllib

import pytest
import torch

import ravine as library
from ravine.cli import main
from ravine.errors import RavineError, RecipeError
from ravine.training import recipe_text, settings
from ravine.training.own_optimizers import own_optimizer
from ravine.training.recipe import merge, set_layer, validate

SOURCE = '''
from __future__ import annotations
from typing import TYPE_CHECKING, Any
import torch
from ravine.optim import Adam, rule, sign
if TYPE_CHECKING:
    from nowhere import Parameters

@rule(state=("m",))
def sign_momentum(x, dx, m, t, lr=1e-4, beta=0.9):
    """The sign of the gradient's average.

    Args:
        beta: the leak of the average.
    """
    m = beta * m + (1 - beta) * dx
    return x - lr * sign(m), m

@rule()
def clashing(x, dx, t, lr, engine=1.0):
    return (x,)

@rule()
def needy(x, dx, t, lr, power):
    return (x - lr * power * dx,)

class Calm(Adam):
    """Adam that takes its time."""

    def __init__(self, params: Parameters, lr: float = 0.5, **kwargs: Any) -> None:
        super().__init__(params, lr / 10, **kwargs)

class Broken(torch.optim.SGD):
    def __init__(self, params, depth: int = 1):
        raise KeyError("depth")

number = 3
'''


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "own_optimizers_module.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    return "own_optimizers_module"


def problems_of(module, name, **given):
    with pytest.raises(RecipeError) as caught:
        validate([{"optimizer": {"name": f"{module}:{name}", **given}}], code=True)
    return caught.value.problems


def test_a_rule_stands_for_its_class_and_a_class_for_itself(module):
    made = own_optimizer(f"{module}:sign_momentum")
    assert made.__name__ == "SignMomentum"
    assert own_optimizer(f"{module}:Calm").__doc__ == "Adam that takes its time."
    assert own_optimizer("torch.optim:SGD") is torch.optim.SGD


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("no_such_module:rule", "there is no module 'no_such_module'"),
        ("own_optimizers_module:sign_momentun", r"has no 'sign_momentun' \(did you mean 'sign_momentum'\?\)"),
        ("own_optimizers_module:", "write package.module:name"),
        (
            "own_optimizers_module:number",
            "it is of type int; a rule or a torch.optim.Optimizer class is needed",
        ),
        ("torch.nn:Linear", "it is Linear; a rule or a torch.optim.Optimizer class is needed"),
        ("torch.optim:LBFGS", "works out the loss several times"),
        ("own_optimizers_module:clashing", "has a hyperparameter 'engine', as every optimizer has"),
    ],
)
def test_what_is_no_optimizer_is_refused(address, told):
    with pytest.raises(RavineError, match=told):
        own_optimizer(address)
    with pytest.raises(RecipeError, match=told):
        validate([{"optimizer": {"name": address}}], code=True)


def test_settings_are_checked_by_the_signature(module):
    assert problems_of(module, "sign_momentum", bata=0.5) == (
        f"optimizer.bata: {module}:sign_momentum has no such setting (did you mean 'beta'?)",
    )
    (told,) = problems_of(module, "sign_momentum", lr="fast")
    assert told.startswith("optimizer.lr = 'fast'")
    (told,) = problems_of(module, "sign_momentum", lr=-1)
    assert "Invalid learning rate" in told
    assert len(problems_of(module, "needy")) == 2
    (told,) = problems_of(module, "Broken")
    assert told == f"optimizer: {module}:Broken: KeyError: 'depth'"
    recipe = validate([{"optimizer": {"name": f"{module}:sign_momentum", "beta": "0.5", "lr": 1}}], code=True)
    assert recipe.optimizer.settings == {"beta": 0.5, "lr": 1.0}


def test_further_keywords_are_passed_on(module):
    """A class with `**kwargs` may take more than its signature says; it is tried."""
    recipe = validate([{"optimizer": {"name": f"{module}:Calm", "eps": 1e-6}}], code=True)
    assert recipe.optimizer.settings == {"eps": 1e-6}
    assert "there is no argument 'epps'" in problems_of(module, "Calm", epps=1e-6)[0]


def test_reading_alone_imports_nothing():
    recipe = validate([{"optimizer": {"name": "no_such_module:rule", "anything": 1}}])
    assert recipe.optimizer.settings == {"anything": 1}


@pytest.mark.parametrize("name", ["adam", "sgd", "lion"])
def test_options_are_settings_of_every_optimizer(name):
    shown = settings.parameters("optimizer", name)
    assert {"engine", "clip_value", "l1", "proximal", "rounding"} <= shown.keys()
    assert not {"clip_norm", "average", "accumulate", "options"} & shown.keys(), "these are the section's own"
    assert settings.descriptions("optimizer", name)["l1"].startswith("penalty")
    assert settings.defaults("optimizer", name)["engine"] == "auto"
    recipe = validate(
        [{"optimizer": {"name": name}}, set_layer(["optimizer.l1=1e-4", "optimizer.proximal=true"])]
    )
    assert recipe.optimizer.settings["l1"] == 1e-4 and recipe.optimizer.settings["proximal"] is True


@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        ("engine=fast", "optimizer.engine = 'fast': input should be 'auto', 'eager', 'cpu' or 'gpu'"),
        ("l1=-1", "Invalid l1: -1.0; it must be at least 0"),
        ("roundin=nearest", "did you mean 'rounding'"),
        ("clip_value=0", "Invalid clip_value: 0.0; it must be above 0"),
    ],
)
def test_options_are_checked_like_other_settings(assignment, told):
    with pytest.raises(RecipeError) as caught:
        validate([merge([{"optimizer": {"name": "adam"}}, set_layer([f"optimizer.{assignment}"])])])
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("name", "given", "key"),
    [
        ("own_optimizers_module:sign_momentum", {"beta": 0.8}, "m"),
        ("torch.optim:SGD", {"momentum": 0.9}, None),
    ],
)
def test_a_run_trains_with_it_and_its_recipe_says_so(tmp_path, name, given, key):
    layer = {"optimizer": {"name": name, "lr": 0.01, **given}, "stop": {"epochs": 2}}
    run = library.train("linear", "wine", layer, out=tmp_path / "run")
    text = (run.folder / "recipe.toml").read_text()
    written = tomllib.loads(text)["optimizer"]
    assert written["name"] == name
    assert given.items() <= written.items()
    if key:
        assert "# the leak of the average." in text
        assert written["rounding"] == "auto" and written["l1"] == 0.0
    again = validate([tomllib.loads(text)], code=True)
    assert recipe_text.to_toml(again) == text
    assert name in (run.folder / "report.html").read_text()


def test_an_interrupted_run_goes_on_with_it(tmp_path):
    layer = {"optimizer": {"name": "own_optimizers_module:sign_momentum", "lr": 0.01}, "stop": {"epochs": 2}}
    run = library.train("linear", "wine", layer, out=tmp_path / "run")
    weights = (run.folder / "model.safetensors").read_bytes()
    (run.folder / "result.json").unlink()
    library.resume(run.folder, trust=True)
    assert (run.folder / "model.safetensors").read_bytes() == weights


def test_the_command_tells_of_it_as_of_any_part(capsys, module):
    assert main(["recipe", f"{module}:sign_momentum"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"{module}:sign_momentum · optimizer\nThe sign of the gradient's average.\n")
    assert f'optimizer.name = "{module}:sign_momentum"' in shown
    rows = {line.split()[0]: line.split()[1] for line in shown.splitlines() if line.startswith("  ")}
    assert float(rows["lr"]) == 1e-4 and float(rows["beta"]) == 0.9 and rows["engine"] == "auto"
    assert main(["recipe", f"{module}:number"]) == 2
    assert "a rule or a torch.optim.Optimizer class is needed" in capsys.readouterr().err
