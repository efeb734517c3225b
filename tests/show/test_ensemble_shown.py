"""What an ensemble's report and the terminal tell."""

import json
import re

import made_runs
import numpy
import pytest
from test_report import titles, words

from ravine.show import figures
from ravine.show.ensemble import ensemble, lines
from ravine.show.report import write_report
from ravine.show.run import NothingToDrawError, read_run


def member(name, weight, **scores):
    told = {"model": "mlp", "parameters": 1200, "seconds": 2.0, "run": "/somewhere"}
    return {"name": name, "weight": weight, "scores": scores, **told}


def as_ensemble(folder, metric, how="runs", **more):
    """A made-up run's folder as an ensemble of two leaves it."""
    result = json.loads((folder / "result.json").read_text())
    for key in ("epochs", "steps", "seconds", "best_epoch", "monitor", "stopped", "train", "timing"):
        result.pop(key)
    scores = [{"loss": 0.2, metric: value} for value in (0.96, 0.97)]
    interval = f"{metric}_interval"
    result["ensemble"] = {
        "how": how,
        "part": "test",
        "members": [member("seed = <0>", 0.5, **scores[0]), member("seed = 1", 0.5, **scores[1])],
        "best": 1,
        "gained": {
            "mean": {metric: 0.016, interval: [0.004, 0.028]},
            "best": {metric: 0.011, interval: [-0.002, 0.02]},
        },
        "disagreement": {"pairs": [[0.0, 0.05], [0.05, 0.0]], "mean": 0.05},
        "by_number": {"score": metric, "mean": [0.965, 0.981], "deviation": [0.005, 0.0], "orders": "all"},
        "seconds": {"all": 4.0, "one": 2.0},
        **more,
    }
    (folder / "result.json").write_text(json.dumps(result))
    for name in ("recipe.toml", "metrics.jsonl", "local_model.first.json", "local_model.best.json"):
        (folder / name).unlink(missing_ok=True)
    return folder


CALIBRATION = {
    "temperature": 0.5,
    "before": {"loss": 0.3, "brier": 0.1, "calibration_error": 0.14},
    "after": {"loss": 0.1, "brier": 0.05, "calibration_error": 0.012},
}


@pytest.fixture
def classifiers(tmp_path):
    return as_ensemble(made_runs.classification(tmp_path / "run"), "accuracy", calibration=CALIBRATION)


def test_the_report_tells_of_members_gains_and_calibration(classifiers):
    text = write_report(classifiers).read_text()
    assert "<0>" not in re.sub(r"<script.*?</script>", "", text, flags=re.S)
    read = words(text)
    for said in (
        "Ensemble of 2 runs, trained in 4.0 s in all.",
        "All training took 4.0 s, 2 times that of one member; a prediction costs 2 networks.",
        "seed = <0> mlp, 1,200 parameters 2.0 s 0.200 96.0%",
        "seed = 1 · best on validation mlp, 1,200 parameters 2.0 s 0.200 97.0%",
        "ensemble 35k parameters 4.0 s 0.0700 (0.0400 to 0.100) 98.1% (96.4% to 99.2%)",
        "the mean member +1.6 points (+0.4 to +2.8)",
        "the best on validation +1.1 points (-0.2 to +2.0)",
        "negative log-likelihood (nats) 0.300 0.100",
        "expected calibration error (15 bins) 14.0% 1.2%",
        "temperature 1 0.500",
    ):
        assert said in read, said
    assert titles(text) == [
        "What was noticed",
        "The ensemble",
        "Members",
        "What it gains",
        "Calibration",
        "Accuracy against the number of members",
        "Disagreement, 5.0% on average",
        "Calibration at temperature 0.5, test part",
        "How well it predicts",
        "Scores",
        "Confusion, test part",
        "Classes, test part",
        "Calibration, test part",
        "Class balance",
        "Worst mistakes",
        "24 of the test part",
    ]


def test_the_lines_of_the_terminal(classifiers):
    assert lines(read_run(classifiers)) == [
        "accuracy on the test part",
        "  seed = <0>  96.0%",
        "  seed = 1    97.0%",
        "  ensemble    98.1%  (95% interval 96.4% to 99.2%)",
        "gained on the mean member: +1.6 points (+0.4 to +2.8)",
        "gained on the best on validation (seed = 1): +1.1 points (-0.2 to +2.0)",
        "expected calibration error 14.0%, 1.2% at temperature 0.5",
    ]


def test_without_a_temperature_nothing_is_said_of_one(tmp_path):
    before = {key: value for key, value in CALIBRATION.items() if key != "after"} | {"temperature": None}
    folder = as_ensemble(made_runs.classification(tmp_path / "run"), "accuracy", calibration=before)
    read = words(ensemble(read_run(folder)))
    assert "expected calibration error (15 bins) 14.0%" in read and "with temperature" not in read
    assert lines(read_run(folder))[-1] == "expected calibration error 14.0%"
    with pytest.raises(NothingToDrawError, match="no temperature"):
        figures.scaled_calibration(read_run(folder))


def test_a_soup_and_what_was_left_out(tmp_path):
    members = [member("a", 0.0, loss=0.3, accuracy=0.9), member("b", 1.0, loss=0.2, accuracy=0.97)]
    folder = as_ensemble(
        made_runs.classification(tmp_path / "run"), "accuracy", "soup", members=members, by_number=None
    )
    read = words(write_report(folder).read_text())
    assert "Soup of 1 of 2 runs" in read and "a prediction costs 1 network." in read
    assert "a mlp, 1,200 parameters left out 2.0 s" in read and "b · best on validation" in read
    assert lines(read_run(folder))[1:4] == [
        "  a (left out)  90.0%",
        "  b             97.0%",
        "  soup          98.1%  (95% interval 96.4% to 99.2%)",
    ]
    with pytest.raises(NothingToDrawError, match="does not average"):
        figures.score_by_number(read_run(folder))


@pytest.mark.parametrize(
    ("how", "story", "row"),
    [
        ("snapshot", "Ensemble of 2 snapshots of one run, trained in", "a prediction costs 2 networks."),
        (
            "average",
            "Average of one run's weights after 2 epochs, trained in",
            "a prediction costs 1 network.",
        ),
    ],
)
def test_members_of_one_run_are_told_as_such(tmp_path, how, story, row):
    members = [member(name, 0.5, loss=0.3, accuracy=0.9) for name in ("after epoch 1", "after epoch 2")]
    folder = as_ensemble(made_runs.classification(tmp_path / "run"), "accuracy", how, members=members)
    read = words(write_report(folder).read_text())
    assert story in read and row in read and "times that of one member" not in read


def test_a_regression_gains_by_a_lower_error(tmp_path):
    gained = {"mean": {"rmse": -1.5, "rmse_interval": [-2.0, 0.25]}}
    folder = as_ensemble(made_runs.regression(tmp_path / "run"), "rmse", gained=gained, best=None)
    assert "gained on the mean member: +1.5 root mean squared error (-0.25 to +2)" in lines(read_run(folder))
    read = words(write_report(folder).read_text())
    assert (
        "Distance between predictions, 0.05 on average" in read
        and "Root mean squared error against the number" in read
    )


def test_no_gain_has_no_sign_of_a_loss(tmp_path):
    gained = {"mean": {"rmse": 0.0, "rmse_interval": [0.0, 0.0]}}
    folder = as_ensemble(made_runs.regression(tmp_path / "run"), "rmse", gained=gained, best=None)
    assert lines(read_run(folder))[-1].endswith("+0 root mean squared error (+0 to +0)")


def test_the_figures_hold_what_was_measured(classifiers):
    run = read_run(classifiers)
    band, mean = figures.score_by_number(run).data
    assert list(mean.x) == [1, 2] and list(mean.y) == [0.965, 0.981]
    assert numpy.allclose(band.y, [0.97, 0.981, 0.981, 0.96])
    heat = figures.disagreement(run).data[0]
    assert heat.z[0][1] == 0.05 and numpy.isnan(heat.z[0][0])
    assert [trace.name.partition(":")[0] for trace in figures.scaled_calibration(run).data] == [
        "perfect",
        "as it is",
        "with temperature",
    ]


def test_a_single_run_has_no_such_section(tmp_path):
    run = read_run(made_runs.classification(tmp_path / "run"))
    assert ensemble(run) == ""
    for draw in (figures.score_by_number, figures.disagreement, figures.scaled_calibration):
        with pytest.raises(NothingToDrawError, match="no ensemble"):
            draw(run)
