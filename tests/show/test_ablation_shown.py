"""What each regularizer is worth, as the report and the terminal tell it."""

import json
import re

import made_runs
import pytest
from test_report import words

from ravine.show import figures
from ravine.show.ablation import ablation, lines
from ravine.show.report import write_report
from ravine.show.run import NothingToDrawError, read_run


def scores(train, validation, **test):
    return {"train": {"loss": train}, "validation": {"loss": validation}, "test": test}


@pytest.fixture
def run(tmp_path):
    folder = made_runs.classification(tmp_path / "run")
    told = {
        "run": scores(0.1, 0.3, accuracy=0.98),
        "without": [
            {
                "key": "augment.flip",
                "name": "augment <flip>",
                **scores(0.05, 0.5, accuracy=0.96),
                "part": "test",
                "gained": {"accuracy": 0.02, "accuracy_interval": [0.01, 0.03]},
            }
        ],
    }
    (folder / "ablation.json").write_text(json.dumps(told))
    return folder


def test_the_table_and_the_picture(run):
    text = write_report(run).read_text()
    section = re.search(r"<section><h2>What each regularizer is worth.*?</section>", text, re.S).group()
    assert "<flip>" not in section
    for told in (
        "as trained 0.100 0.300 0.200 98.0%",
        "without augment <flip> 0.0500 0.500 0.450 96.0% +2.0 points (+1.0 to +3.0)",
    ):
        assert told in words(section)
    figure = figures.gaps(read_run(run))
    dots = {trace.name: list(trace.x) for trace in figure.data if trace.name}
    assert dots == {"training": [0.1, 0.05], "validation": [0.3, 0.5]}


def test_a_training_that_went_bad_is_told(run):
    path = run / "ablation.json"
    told = json.loads(path.read_text())
    told["without"].append({"key": "k", "name": "max", "part": "test", "failed": "the loss became nan"})
    path.write_text(json.dumps(told))
    text = write_report(run).read_text()
    assert "without max – – – – without it the loss became nan" in words(text)
    assert lines(read_run(run))[1] == "max: without it the loss became nan"
    assert all(len(trace.x) == 2 for trace in figures.gaps(read_run(run)).data if trace.name)


def test_the_lines_of_the_terminal(run):
    assert lines(read_run(run)) == [
        "augment <flip>: +2.0 points (+1.0 to +3.0) on the test part; gap 0.200, without 0.450"
    ]


def test_a_lower_error_is_a_gain(tmp_path):
    folder = made_runs.regression(tmp_path / "run")
    gained = {"rmse": -1.5, "rmse_interval": [-2.0, 0.25]}
    row = {"key": "k", "name": "k", **scores(1, 2, rmse=50), "part": "test", "gained": gained}
    (folder / "ablation.json").write_text(json.dumps({"run": scores(1, 2, rmse=48.5), "without": [row]}))
    assert lines(read_run(folder))[0].startswith("k: +1.5 root mean squared error (-0.25 to +2) on the test")


def test_a_run_that_was_not_ablated_has_no_such_section(tmp_path):
    run = read_run(made_runs.classification(tmp_path / "run"))
    assert ablation(run) == ""
    with pytest.raises(NothingToDrawError, match="not ablated"):
        figures.gaps(run)
