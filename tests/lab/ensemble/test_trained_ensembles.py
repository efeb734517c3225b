"""Ensembles that are trained: each member is its recipe's, one run gives snapshots, a kill loses nothing."""

import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ravine.errors import Interrupted, RecipeError, RunError
from ravine.lab import Fleet
from ravine.lab.ensemble import train_ensemble
from ravine.lab.ensemble.plan import combinations
from ravine.training import run as runs

SMALL = {
    "model": {"name": "mlp", "width": 8, "dropout": 0.0, "normalization": "none"},
    "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "average": 0.0},
    "stop": {"epochs": 6},
}


def trained(out, *settings, members=3, data="wine", **options):
    return train_ensemble(data, members, settings=[SMALL, *settings], out=out, **options)


def folders(ensemble):
    record = json.loads((ensemble / "ensemble.json").read_text())
    return record, [ensemble / member["folder"] for member in record["members"]]


def assert_close(weights, others):
    for name, tensor in others.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=1e-4)


def test_independent_members_are_the_runs_of_their_recipes(tmp_path):
    ensemble = trained(tmp_path / "out", {"seed": 4}, vary=["lr=0.05,0.02"])
    record, members = folders(ensemble)
    assert record["how"] == "independent"
    assert not (tmp_path / "out.training").exists()
    for number, folder in enumerate(members):
        recipe = (folder / "recipe.toml").read_text()
        assert f"seed = {4 + number} " in recipe and f"lr = {(0.05, 0.02)[number % 2]} " in recipe
        alone = runs.train(None, "wine", folder / "recipe.toml", out=tmp_path / str(number))
        assert_close(load_file(folder / "model.safetensors"), alone.model.state_dict())
        assert (
            json.loads((folder / "result.json").read_text())["test"]["accuracy"]
            == alone.result["test"]["accuracy"]
        )
    names = [member["name"] for member in record["members"]]
    assert names[0] == "seed = 4, optimizer.lr = 0.05"


def test_a_bag_draws_each_member_a_sample_of_its_own(tmp_path):
    ensemble = trained(tmp_path / "out", {"seed": 1}, how="bagging", members=2)
    _, members = folders(ensemble)
    seen = []
    for folder in members:
        assert "bootstrap = true" in (folder / "recipe.toml").read_text()
        setup = runs.make_setup(None, "wine", folder / "recipe.toml")
        numbers = setup.feeds["train"].batches.numbers
        assert len(numbers) == len(setup.splits.train) and set(numbers.tolist()) <= set(
            setup.splits.train.tolist()
        )
        # Of n items a sample of n misses each with probability (1 - 1/n)^n.
        assert len(numbers.unique()) / len(numbers) == pytest.approx(1 - 1 / 2.718, abs=0.1)
        seen.append(sorted(numbers.tolist()))
    assert seen[0] != seen[1]


def test_what_varies_within_a_section_leaves_the_sample_there(tmp_path):
    ensemble = trained(tmp_path / "out", how="bagging", members=2, vary=["data.batch_size=16,32"])
    for folder, size in zip(folders(ensemble)[1], (16, 32), strict=True):
        recipe = (folder / "recipe.toml").read_text()
        assert "bootstrap = true" in recipe and f"batch_size = {size} " in recipe


def test_a_damaged_record_of_a_training_is_named(tmp_path):
    (tmp_path / "out.training").mkdir()
    (tmp_path / "out.training" / "fleet.json").write_text("{")
    with pytest.raises(RunError, match=r"fleet\.json is damaged"):
        trained(tmp_path / "out")


def kept_after(ensemble, epochs):
    """The run of each member until its epoch, whose weights are those that were kept."""
    record, members = folders(ensemble)
    assert [member["name"] for member in record["members"]] == [f"after epoch {epoch}" for epoch in epochs]
    for epoch, folder in zip(epochs, members, strict=True):
        until = Fleet(None, "wine", [{}], folder / "recipe.toml", settings=[{"stop": {"epochs": epoch}}])
        until.run()
        kept, then = load_file(folder / "model.safetensors"), until.members[0].setup.model.state_dict()
        assert all(torch.equal(kept[name], tensor) for name, tensor in then.items())
        yield until.members[0]


def test_snapshots_are_the_weights_at_the_end_of_each_fall(tmp_path):
    for member in kept_after(trained(tmp_path / "out", how="snapshot"), (2, 4, 6)):
        schedule, step = member.setup.schedule, member.state.step
        assert schedule.factor(step - 1) < 0.1 and schedule.factor(step) == 1.0


def test_fast_geometric_snapshots_are_where_the_rate_is_low(tmp_path):
    """Six epochs, three members: two epochs, and a cycle of two for each other member."""
    for member in kept_after(trained(tmp_path / "out", how="geometric"), (2, 4, 6)):
        schedule, step = member.setup.schedule, member.state.step
        assert schedule.factor(step) == pytest.approx(0.005)
        assert schedule.factor(step - member.setup.steps_per_epoch) == pytest.approx(0.5, abs=0.1)


def test_an_average_is_the_mean_of_the_last_weights_of_one_run(tmp_path):
    ensemble = trained(tmp_path / "out", how="average", members=2)
    _, (folder,) = folders(ensemble)
    fleet = Fleet(None, "wine", [{}], folder / "recipe.toml", keep=[5, 6])
    fleet.run()
    one, other = fleet.members[0].kept.values()
    for name, tensor in load_file(folder / "model.safetensors").items():
        torch.testing.assert_close(tensor, (one[name] + other[name]) / 2, rtol=1e-6, atol=1e-7)
    assert json.loads((ensemble / "result.json").read_text())["model"] == "2 networks averaged into one"


def test_an_average_needs_no_validation_part(tmp_path):
    settings = {"data": {"validation": 0.0}, "stop": {"epochs": 6, "monitor": "train.loss"}}
    ensemble = trained(tmp_path / "out", settings, how="average", members=2)
    found = load_file(ensemble / "predictions.safetensors")
    assert {name.partition(".")[0] for name in found} == {"test"}


def test_an_averages_statistics_are_taken_anew(tmp_path):
    normalized = {"model": {"normalization": "batch"}, "data": {"batch_size": 32}}
    ensemble = trained(tmp_path / "out", normalized, how="average", members=2)
    _, (folder,) = folders(ensemble)
    weights = load_file(folder / "model.safetensors")
    setup = runs.make_setup(None, "wine", folder / "recipe.toml")
    setup.model.load_state_dict(weights)
    first = next(module for module in setup.model.modules() if isinstance(module, nn.BatchNorm1d))
    seen = []
    setup.model.eval()
    before = first.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        for inputs, _ in setup.feeds["train"].epoch(0):
            setup.model(inputs)
    before.remove()
    # The first layer's statistics depend on nothing but its weights and the training part.
    torch.testing.assert_close(first.running_mean, torch.cat(seen).mean(0), rtol=0.05, atol=0.05)


def test_every_combination_of_what_varies():
    assert combinations(["seed"]) == [{}]
    assert combinations(["lr=0.1,0.2", "model=mlp,cnn", "optimizer.momentum=0.5"]) == [
        {"optimizer": {"lr": rate, "momentum": 0.5}, "model": {"name": model}}
        for rate in (0.1, 0.2)
        for model in ("mlp", "cnn")
    ]
    assert combinations(["optimizer.betas=[0.9, 0.99],[0.8,0.9]"]) == [
        {"optimizer": {"betas": betas}} for betas in ([0.9, 0.99], [0.8, 0.9])
    ]
    for wrong in ("lr", "lr=", "=1"):
        with pytest.raises(RecipeError):
            combinations([wrong])


@pytest.mark.parametrize("how", ["independent", "geometric"])
def test_a_killed_ensemble_goes_on(tmp_path, how):
    whole = trained(tmp_path / "whole", how=how)
    calls = []

    def watch(done, planned):
        calls.append((done, planned))
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match=r"Go on with the same command and --out .*out$") as stopped:
        trained(tmp_path / "out", how=how, watch=watch)
    assert stopped.value.exit_code == 130
    assert not (tmp_path / "out").exists() and (tmp_path / "out.training" / "checkpoints").is_dir()
    with pytest.raises(RunError, match="another training"):
        trained(tmp_path / "out", {"seed": 9}, how=how)
    trained(tmp_path / "out", how=how)
    for mine, other in zip(folders(tmp_path / "out")[1], folders(whole)[1], strict=True):
        weights = load_file(mine / "model.safetensors")
        assert_close(weights, load_file(other / "model.safetensors"))
        one, two = ((each / "result.json").read_text() for each in (mine, other))
        assert json.loads(one)["best_epoch"] == json.loads(two)["best_epoch"]


def test_members_that_went_bad_are_left_out_and_told(tmp_path):
    told = []
    ensemble = trained(tmp_path / "out", vary=["lr=0.05,1e30,0.02"], tell=told.append)
    assert len(folders(ensemble)[1]) == 2
    assert any(text.startswith("member 01 was left out: the ") for text in told)
    with pytest.raises(RunError, match=r"1 of 3 members could be trained: 01: the .*; 02: the "):
        trained(tmp_path / "bad", vary=["lr=0.05,1e30,1e30"])


MISTAKES = (
    ({"members": 1}, "two members or more"),
    ({"members": 0}, "two members or more"),
    ({"members": 2, "vary": ["lr=1,2,3"]}, "3 combinations: ask for as many members, not 2"),
    ({"vary": ["lrr=1,2,3"]}, "lrr"),
    ({"vary": ["lr=0.1,0.2", "optimizer.lr=0.3,0.4"]}, "optimizer.lr is there twice"),
    (
        {"how": "bagging", "vary": ["data.bootstrap=true,false"]},
        "data.bootstrap: how = 'bagging' has its own",
    ),
    ({"vary": ["seed=3,3"]}, "members 00 and 02 are the same training|members 00 and 01 are the same"),
    ({"vary": ["data.split=0,1"]}, "member 01 was trained on .* of the test items of member 00"),
    ({"vary": ["data.test=0.1,0.3"]}, "of the test items of member|have different test parts"),
    ({"how": "snapshot", "vary": ["lr=1,2"]}, "of one run"),
    ({"how": "snapshot", "members": 7}, "stop.epochs = 6: .*weights after 7 epochs"),
    ({"how": "geometric", "members": 7}, "stop.epochs = 6: .*weights after 7 epochs"),
    ({"how": "average", "members": 7}, "stop.epochs = 6: .*weights after 7 epochs"),
)


@pytest.mark.parametrize(("options", "told"), MISTAKES)
def test_mistakes_are_refused_before_anything_is_written(tmp_path, options, told):
    with pytest.raises((RecipeError, RunError), match=told):
        trained(tmp_path / "out", **options)
    assert not any(tmp_path.iterdir())


def test_members_that_answer_different_questions_are_refused_before_the_training(tmp_path):
    rows = "\n".join(f"{number},{number % 7},{number % 2}" for number in range(60))
    (tmp_path / "table.csv").write_text(f"one,two,target\n{rows}\n")
    with pytest.raises(RunError, match="member 00 and member 01 differ in their task"):
        trained(tmp_path / "out", data=tmp_path / "table.csv", vary=["data.task=classification,regression"])
    assert not (tmp_path / "out.training").exists()


def test_parts_that_are_needed_are_asked_for_before_the_training(tmp_path):
    nothing = {"data": {"validation": 0.0, "test": 0.0}, "stop": {"epochs": 6, "monitor": "train.loss"}}
    with pytest.raises(RunError, match="member 00 has neither a test nor a validation part"):
        trained(tmp_path / "out", nothing)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("how", ["snapshot", "geometric", "average"])
def test_what_a_plan_of_one_run_overrules_is_refused_where_it_was_asked_for(tmp_path, how):
    settings = {"schedule": {"name": "step"}, "stop": {"patience": 2}, "optimizer": {"average": 0.9}}
    with pytest.raises(RecipeError) as refused:
        trained(tmp_path / "out", settings, how=how)
    assert {problem.partition(":")[0] for problem in refused.value.problems} == {
        "schedule.name",
        "stop.patience",
        "optimizer.average",
    }


@pytest.mark.parametrize("how", ["independent", "bagging"])
def test_members_of_their_own_take_whatever_a_run_takes(tmp_path, how):
    settings = {"schedule": {"name": "linear"}, "stop": {"epochs": 2, "patience": 2}}
    ensemble = trained(tmp_path / "out", settings, {"optimizer": {"average": 0.9}}, how=how, members=2)
    for folder in folders(ensemble)[1]:
        recipe = (folder / "recipe.toml").read_text()
        assert all(text in recipe for text in ('name = "linear" ', "patience = 2 ", "average = 0.9 "))


@pytest.mark.parametrize("how", ["snapshot", "geometric", "average"])
def test_a_recipes_patience_ends_no_run_whose_weights_are_kept(tmp_path, how):
    """At next to no rate no epoch is better than the first."""
    recipe = {**SMALL, "stop": {"epochs": 6, "patience": 1}, "optimizer": {"lr": 1e-30}}
    ensemble = train_ensemble("wine", 3, how, recipe=recipe, out=tmp_path / "out")
    assert json.loads((ensemble / "result.json").read_text())["model"].startswith("3 networks")


def test_epochs_that_no_cycle_takes_are_told(tmp_path):
    told = []
    trained(tmp_path / "out", {"stop": {"epochs": 7}}, how="snapshot", tell=told.append)
    assert told[0] == (
        "one run of 6 epochs, 1 fewer than asked for, whose rate falls to nothing every 2 epochs; its "
        "weights are kept after the epochs 2, 4, 6; without the recipe's stop.patience = 30"
    )


def test_a_snapshot_took_the_time_until_then(tmp_path):
    ensemble = trained(tmp_path / "out", how="snapshot")
    told = json.loads((ensemble / "result.json").read_text())["ensemble"]
    took = [member["seconds"] for member in told["members"]]
    assert took == sorted(took) and took[0] < took[-1]
    assert took[-1] == pytest.approx(told["seconds"]["all"], abs=1e-3)
    assert told["seconds"]["all"] == told["seconds"]["one"]


def test_members_of_several_kinds_are_named_by_what_was_varied(tmp_path):
    settings = {"model": {"name": "mlp"}}
    ensemble = train_ensemble(
        "digits",
        2,
        vary=["model=mlp,linear"],
        settings=[settings, {"stop": {"epochs": 1}}],
        out=tmp_path / "out",
    )
    names = [member["name"] for member in folders(ensemble)[0]["members"]]
    assert names == ["seed = 0, model.name = mlp", "seed = 1, model.name = linear"]


def test_other_data_do_not_go_on_with_an_ensemble(tmp_path):
    def written(sign):
        rows = "\n".join(f"{number},{sign * number % 7},{number % 2}" for number in range(60))
        (tmp_path / "table.csv").write_text(f"one,two,target\n{rows}\n")

    def watch(done, planned):
        if 0 < done < planned:
            os.kill(os.getpid(), signal.SIGINT)

    written(1)
    with pytest.raises(Interrupted):
        trained(tmp_path / "out", data=tmp_path / "table.csv", watch=watch)
    written(3)
    with pytest.raises(RunError, match=r"the data have changed since the fleet in .* was begun"):
        trained(tmp_path / "out", data=tmp_path / "table.csv")
    written(1)
    trained(tmp_path / "out", data=tmp_path / "table.csv")


def test_a_folder_that_is_there_stays(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(RunError, match="exists already"):
        trained(tmp_path / "out")
