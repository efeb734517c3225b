import json
import re

import made_runs
import pytest
from test_page import Elements

from ravine.errors import RunError
from ravine.show.report import write_report

EVIL = '<script>alert("x")</script>'


def words(text):
    """What a person reads: the page without scripts, styles and tags."""
    import html

    text = re.sub(r"<(script|style).*?</\1>", "", text, flags=re.S)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", text)))


def titles(text):
    return re.findall(r"<h[23]>(.*?)</h[23]>", text)


def test_the_report_of_a_classifier(tmp_path):
    folder = made_runs.classification(tmp_path / "run")
    path = write_report(folder)
    assert path == folder / "report.html"
    text = path.read_text()
    read = words(text)
    for said in (
        "98.1% test accuracy 95% interval 96.4% to 99.2%",
        "always the most frequent class: 10.1%",
        "Trained 40 epochs (720 steps) in 14.3 s on cpu. Best at epoch 39",
        "Stopped: reached 40 epochs.",
        "1,150 training + 287 validation + 360 test items",
        "35k parameters",
        'name = "adamw"',
        "ravine train digits",
    ):
        assert said in read
    assert titles(text) == [
        "What was noticed",
        "How it learned",
        "Loss",
        "Accuracy",
        "Gap",
        "How it stepped",
        "Learning rate",
        "Update ratios",
        "Gradient norm",
        "Where the seconds went",
        "Around the first weights",
        "Around the best weights",
        "How well it predicts",
        "Scores",
        "Confusion, test part",
        "Classes, test part",
        "Calibration, test part",
        "Class balance",
        "Worst mistakes",
        "24 of the test part",
        "To do it again",
    ]
    assert text.count('src="data:image/png') == 24
    assert not re.search(r'(src|href)="(?!data:)', text)


def test_warnings_come_first(tmp_path):
    read = words(write_report(made_runs.classification(tmp_path / "run")).read_text())
    assert read.index("never respond") < read.index("the first loss is 2.31")


def test_the_report_of_a_regression(tmp_path):
    text = write_report(made_runs.regression(tmp_path / "run")).read_text()
    assert {"Predicted against true, test part", "Residuals, test part", "Scores"} <= set(titles(text))
    assert not {"Confusion, test part", "Worst mistakes", "What was noticed"} & set(titles(text))
    assert "53.20 test root mean squared error 95% interval 46.90 to 59.30" in words(text)
    assert "always the mean: 77.00" in words(text)


def test_the_report_of_a_language_model(tmp_path):
    text = write_report(made_runs.language(tmp_path / "run")).read_text()
    assert {"Loss by position, test part", "What it writes", "Bits per character"} <= set(titles(text))
    assert "What say'st thou, <love>?" in words(text)
    assert "1,003,854 training" in words(text)


def test_the_report_of_a_run_that_did_not_finish(tmp_path):
    folder = made_runs.interrupted(tmp_path / "run")
    text = write_report(folder).read_text()
    read = words(text)
    assert "This run has not finished. Drawn from its 12 evaluations so far" in read
    assert f"ravine train --resume {folder}" in read
    assert "79.5% validation accuracy so far" in read
    assert "Loss" in titles(text) and "Scores" not in titles(text)


def test_the_report_of_a_run_that_measured_nothing(tmp_path):
    folder = made_runs.interrupted(tmp_path / "run")
    (folder / "metrics.jsonl").write_text("")
    text = write_report(folder).read_text()
    assert "Nothing was measured yet" in words(text)
    assert titles(text) == ["To do it again"]


@pytest.mark.parametrize("make", [made_runs.classification, made_runs.regression, made_runs.language])
def test_nothing_from_data_or_settings_becomes_markup(tmp_path, make):
    folder = make(tmp_path / "run")
    harmless = Elements(write_report(folder).read_text())
    result = json.loads((folder / "result.json").read_text())
    classes = result.get("classes")
    result |= {"data": EVIL, "model": EVIL, "stopped": EVIL, "sample": EVIL, "kind": EVIL}
    result["noticed"] = [{"level": "warning", "text": EVIL}, {"level": "info", "text": EVIL}]
    result["test"][EVIL] = 1.0
    result["timing"][EVIL] = 3.0
    if classes:
        result["classes"] = [f"{number}{EVIL}" for number in range(len(classes))]
    (folder / "result.json").write_text(json.dumps(result))
    for name in ("environment.json", "preprocessing.json"):
        told = json.loads((folder / name).read_text())
        told |= {EVIL: EVIL, "target_name": EVIL, "nested": {EVIL: [EVIL]}}
        (folder / name).write_text(json.dumps(told))
    (folder / "recipe.toml").write_text(f"# {EVIL}\n")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row["update_ratios"][EVIL] = 1e-3
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    text = write_report(folder).read_text()
    elements = Elements(text)
    assert words(text).count(EVIL) >= 8
    # As many scripts as before, and a language model's or a classifier's other elements all of known kinds.
    assert [tag for tag, _ in elements.found].count("script") == [tag for tag, _ in harmless.found].count(
        "script"
    )
    assert not [script for script in elements.scripts if script.startswith("alert")]
    known = {tag for tag, _ in harmless.found} | {
        "section",
        "ul",
        "li",
        "b",
        "h2",
        "span",
        "div",
        "figure",
        "pre",
    }
    assert {tag for tag, _ in elements.found} <= known
    # Inside figures, too, names are text: plotly reads a subset of HTML in them.
    figures = [json.loads(script) for script in elements.scripts if script.startswith('{"data"')]
    assert figures
    assert "<script" not in json.dumps(figures)


def test_a_second_report_replaces_the_first_and_leaves_nothing_else(tmp_path):
    folder = made_runs.regression(tmp_path / "run")
    first = write_report(folder).read_bytes()
    before = sorted(folder.iterdir())
    assert write_report(folder).read_bytes() == first
    assert sorted(folder.iterdir()) == before


def test_a_folder_that_is_no_run_gets_no_report(tmp_path):
    with pytest.raises(RunError, match="is no run folder"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())


def test_scores_that_were_not_finite_are_left_out(tmp_path):
    folder = made_runs.classification(tmp_path / "run")
    result = json.loads((folder / "result.json").read_text())
    result["test"] = {"loss": None, "accuracy": None, "accuracy_interval": [None, None]}
    result["validation"] = dict(result["test"])
    result["baseline"] = {}
    result["seconds"] = None
    (folder / "result.json").write_text(json.dumps(result))
    assert "validation accuracy so far" in words(write_report(folder).read_text())
