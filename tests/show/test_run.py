import json

import made_runs
import numpy
import pytest

from ravine.errors import RunError
from ravine.show.run import NothingToDrawError, read_run


def test_a_finished_run_is_read_whole(tmp_path):
    run = read_run(made_runs.classification(tmp_path / "run"))
    assert run.finished
    assert (run.name, run.task, run.monitor) == ("digits", "classification", "validation.loss")
    assert run.recipe["optimizer"]["lr"] == 0.002
    assert run.series("epoch").tolist() == list(range(1, 41))
    assert run.rows[run.best_row]["epoch"] == run.result["best_epoch"]
    part, outputs, targets = run.predicted("classification")
    assert (part, outputs.shape, targets.shape) == ("test", (360, 10), (360,))


def test_a_run_that_was_killed_while_writing_keeps_its_whole_lines(tmp_path):
    run = read_run(made_runs.interrupted(tmp_path / "run"))
    assert not run.finished
    assert len(run.rows) == 12
    assert run.name == "set-a"  # the data as given, without its folders
    assert run.task == "classification"
    assert run.rows[run.best_row]["validation.loss"] == min(run.series("validation.loss"))


def test_the_task_is_guessed_from_the_metrics_where_no_file_tells(tmp_path):
    for name, make in (("regression", made_runs.regression), ("language", made_runs.language)):
        folder = make(tmp_path / name)
        (folder / "result.json").unlink()
        (folder / "preprocessing.json").unlink()
        assert read_run(folder).task == name


def test_the_best_row_follows_a_metric_that_should_rise(tmp_path):
    folder = made_runs.interrupted(tmp_path / "run")
    (folder / "recipe.toml").write_text('[stop]\nmonitor = "validation.accuracy"\n')
    run = read_run(folder)
    assert run.best_row == numpy.argmax(run.series("validation.accuracy"))


def test_values_that_were_not_finite_are_not_a_number(tmp_path):
    folder = made_runs.interrupted(tmp_path / "run")
    (folder / "metrics.jsonl").write_text('{"epoch": 1, "train.loss": null}\n{"epoch": 2, "train.loss": 3}\n')
    run = read_run(folder)
    numpy.testing.assert_array_equal(run.series("train.loss"), [numpy.nan, 3.0])
    assert run.best_row is None


def test_predictions_of_the_validation_part_stand_in_for_a_missing_test_part(tmp_path):
    from safetensors.numpy import save_file

    folder = made_runs.classification(tmp_path / "run")
    kept = {
        name: value for name, value in read_run(folder).predictions.items() if name.startswith("validation")
    }
    save_file(kept, folder / "predictions.safetensors")
    assert read_run(folder).predicted("classification")[0] == "validation"


def test_what_a_run_does_not_have_is_said(tmp_path):
    run = read_run(made_runs.regression(tmp_path / "run"))
    with pytest.raises(NothingToDrawError, match="is a regression run, not classification"):
        run.predicted("classification")
    with pytest.raises(NothingToDrawError, match=r"has no measured train\.accuracy"):
        run.require_rows("train.accuracy")


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="there is no run folder"):
        read_run(tmp_path / "missing")
    with pytest.raises(RunError, match="is no run folder"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("result.json", b"{", r"result\.json is no JSON"),
        ("result.json", b"[1]", r"result\.json should hold a JSON object"),
        ("environment.json", b"\xff\xfe", r"environment\.json cannot be read"),
        ("metrics.jsonl", b'{"epoch": 1}\n{"epo\n{"epoch": 3}\n', r"metrics\.jsonl, line 2"),
        ("metrics.jsonl", b"3\n", r"metrics\.jsonl, line 1: should be a JSON object"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content, message):
    folder = made_runs.classification(tmp_path / "run")
    (folder / name).write_bytes(content)
    with pytest.raises(RunError, match=message):
        read_run(folder)


def test_damaged_predictions_and_recipes_are_named_when_they_are_needed(tmp_path):
    folder = made_runs.classification(tmp_path / "run")
    (folder / "predictions.safetensors").write_bytes(b"not tensors")
    (folder / "recipe.toml").write_text("= =")
    run = read_run(folder)
    with pytest.raises(RunError, match=r"predictions\.safetensors cannot be read"):
        run.predicted("classification")
    with pytest.raises(RunError, match=r"recipe\.toml is no TOML"):
        _ = run.recipe


def test_nothing_of_torch_is_needed_to_look_at_a_run(tmp_path):
    import subprocess
    import sys

    folder = made_runs.classification(tmp_path / "run")
    code = (
        "import sys; from pathlib import Path; from ravine.show.report import write_report; "
        "write_report(Path(sys.argv[1])); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
    assert json.loads((folder / "result.json").read_text())["data"] == "digits"
