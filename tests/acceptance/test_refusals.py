"""What cannot be done is refused with one clear message, before anything is written."""

import pytest


@pytest.fixture
def refused(ravine, tmp_path, monkeypatch):
    """Run a command that must be refused: exit 2, a message, no traceback, nothing written."""
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)

    def run(*arguments, code=2):
        done = ravine(*arguments)
        assert done.code == code, done
        assert done.err.startswith("error: ") and "Traceback" not in done.err
        assert done.out == ""
        assert list(place.iterdir()) == []
        return done.err

    return run


def test_data_that_are_not_there(refused, tmp_path):
    assert "no data at nowhere" in refused("train", "nowhere")
    assert "did you mean 'digits'" in refused("train", "digit")
    (tmp_path / "empty").mkdir()
    assert "empty folder" in refused("train", tmp_path / "empty")
    assert "no data at nowhere" in refused("inspect", "nowhere")
    assert "no data at nowhere" in refused("lr", "nowhere")


def test_all_mistakes_of_a_recipe_at_once(refused):
    told = refused(
        "train", "digits", "--set", "optimizer.lrr=0.1", "--set", "stop.epochs=none",
        "--set", "data.bach_size=8", "--set", "model.name=cmn", "--set", "schedule.name=cosin",
    )  # fmt: skip
    assert "the recipe has 5 mistakes" in told
    nearest = {
        "optimizer.lrr": "'lr'", "data.bach_size": "'batch_size'", "model.name": "'cnn'",
        "schedule.name": "'cosine'",
    }  # fmt: skip
    for key, hint in nearest.items():
        (line,) = [line for line in told.splitlines() if line.startswith(f"  - {key}")]
        assert f"did you mean {hint}?" in line
    assert "stop.epochs = 'none'" in told


def test_settings_that_are_none(refused):
    assert "'optimizer.lr' is not key=value" in refused("train", "digits", "--set", "optimizer.lr")
    assert "did you mean 'fast'" in refused("train", "digits", "--recipe", "fats")
    assert "valid are auto, cpu, cuda" in refused("train", "digits", "--device", "gpu")


def test_a_recipe_file_that_is_none(refused, tmp_path):
    (tmp_path / "bad.toml").write_text("seed = \n")
    assert "is not TOML" in refused("train", "digits", "--recipe", tmp_path / "bad.toml")


def test_models_that_cannot_be_made(refused, tmp_path):
    assert "no module 'nowhere'" in refused("train", "digits", "--model", "nowhere:make")
    assert "no 'make'" in refused("train", "digits", "--model", "math:make")
    assert "unknown model 'resnett' (did you mean 'resnet'?)" in refused(
        "train", "digits", "--model", "resnett"
    )
    assert "does not fit" in refused("train", "digits", "--model", "torch.nn:Flatten").replace(
        "must", "does not fit"
    )


def test_a_run_folder_that_is_in_the_way(ravine, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    done = ravine("train", "digits", "--out", tmp_path / "mine")
    assert done.code == 2
    assert "exists already" in done.err
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "thesis.tex"]


def test_runs_that_are_none(refused, tmp_path):
    assert "nowhere is no run folder: it does not exist" in refused("train", "--resume", "nowhere")
    assert "holds no recipe.toml" in refused("train", "--resume", tmp_path)
    assert "is a file" in refused("train", "--resume", __file__)
    assert "nowhere is no run folder" in refused("predict", "nowhere", "new.csv")
    assert "nowhere is no run folder" in refused("export", "nowhere", "model.pt2")
    assert "nowhere" in refused("report", "nowhere")


def test_a_resumed_run_takes_no_other_settings(refused, runs):
    assert "leave the other options out" in refused("train", "--resume", runs / "digits", "--seed", 0)
    assert f"ravine report {runs / 'digits'}" in refused("train", "--resume", runs / "digits")
    assert "name the DATA" in refused("train")


def test_new_data_that_do_not_fit_the_run(refused, runs, tmp_path):
    assert "no such file or folder" in refused("predict", runs / "digits", "nowhere.png")
    assert "not recognised as images" in refused("predict", runs / "digits", runs / "prices.csv")
    (tmp_path / "odd.csv").write_text("rooms\n3\n")
    assert "district" in refused("predict", runs / "prices", tmp_path / "odd.csv", "--out", "answers.csv")


def test_exports_of_unknown_formats(refused, runs):
    assert "name it .pt2 (torch.export) or .onnx" in refused("export", runs / "digits", "model.keras")


def test_numbers_that_blow_up_end_with_a_code_of_their_own(ravine, tmp_path):
    out = tmp_path / "run"
    done = ravine(
        "train", "diabetes", "--model", "linear", "--set", "optimizer.name=sgd", "--set", "optimizer.lr=1e20",
        "--set", "stop.epochs=3", "--out", out,
    )  # fmt: skip
    assert done.code == 3, done
    assert "optimizer.lr" in done.err.splitlines()[-1]
    assert not (out / "result.json").exists()


def test_answers_that_cannot_be_written_are_refused_before_the_work(refused, runs, tmp_path, monkeypatch):
    def worked(*arguments, **options):
        raise AssertionError("the work was begun")

    for work in ("training.predict.predict", "training.export.export", "lab.range_test.range_test"):
        monkeypatch.setattr(f"ravine.{work}", worked)
    (tmp_path / "note").write_text("mine")
    out = tmp_path / "note" / "out.html"
    assert "cannot write" in refused("predict", runs / "prices", runs / "prices.csv", "--out", out)
    assert "cannot write" in refused("export", runs / "prices", tmp_path / "note" / "model.pt2")
    assert "cannot write" in refused("lr", "wine", "--out", out)
    assert "is a folder" in refused("lr", "wine", "--out", tmp_path)


def test_settings_that_the_data_cannot_have(refused, runs):
    assert "augment: wine has no images" in refused("train", "wine", "--set", 'augment=["flip"]')
    told = refused(
        "train", "diabetes", "--set", "loss.label_smoothing=.1", "--set", "loss.class_weights=balanced"
    )
    assert "2 mistakes" in told and "loss.label_smoothing" in told and "loss.class_weights" in told


def test_a_section_in_place_of_a_name(refused):
    assert "write model.name=resnet" in refused("train", "digits", "--set", "model=resnet")
