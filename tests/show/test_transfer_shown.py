"""What a pretrained network was worth, as the report and the terminal tell it."""

import json
import re

import made_runs
import pytest
from test_report import words

from ravine.show import figures
from ravine.show.report import write_report
from ravine.show.run import NothingToDrawError, read_run
from ravine.show.transfer import lines, transfer

RECORD = {
    "card": {
        "name": "their <net>",
        "architecture": "resnet",
        "data": "photographs & drawings",
        "score": "63% of ImageNet",
        "licence": "MIT <licence>",
    },
    "asked": "auto",
    "train": "stages.stage3",
    "body": 0.3,
    "items": 1150,
    "classes": 10,
    "depths": [
        {"name": "stem", "accuracy": 0.4, "similarity": 0.1},
        {"name": "stages.stage2", "accuracy": 0.9, "similarity": 0.45},
        {"name": "pool", "accuracy": 0.75, "similarity": 0.5},
    ],
    "tried": [
        {"how": "head", "train": "head", "accuracy": 0.71, "loss": 0.9},
        {"how": "top", "train": "stages.stage3", "accuracy": 0.934, "loss": 0.2},
        {"how": "all", "train": "all", "accuracy": 0.9, "loss": 0.3},
    ],
    "measuring": 3.2,
    "scratch": {"accuracy": 0.645, "loss": 1.2, "epochs": 31, "seconds": 9.4, "model": "resnet"},
}


def written(folder, **changes):
    record = {**RECORD, **changes}
    (folder / "transfer.json").write_text(
        json.dumps({key: value for key, value in record.items() if value is not None})
    )
    return folder


AGAINST = (
    "accuracy 64.5% on the test part after 31 epochs in 9.4 s; from the pretrained network 98.1% in 9.1 s"
)


@pytest.fixture
def run(tmp_path):
    return written(made_runs.classification(tmp_path / "run"))


def section_of(folder):
    text = write_report(folder).read_text()
    return re.search(r"<section><h2>What it started from.*?</section>", text, re.S).group()


def test_the_section(run):
    section = section_of(run)
    assert "their <net>" not in section and "<licence>" not in section
    text = words(section)
    for told in (
        "pretrained network their <net> (resnet, photographs & drawings, 63% of ImageNet)",
        "its licence MIT <licence>",
        "training items 1,150, 115 a class",
        "tried: the new head alone 71.0% of the held-out items",
        "tried: the layers above the best depth 93.4% of the held-out items",
        "tried: all layers 90.0% of the held-out items",
        "trained stages.stage3 and what follows it, as measured",
        "rate of the pretrained layers 0.3 of the head's",
        f"from scratch {AGAINST}",
        "The table of advice",
        "linear CKA",
    ):
        assert told in text, told


def test_the_picture(run):
    figure = figures.probes(read_run(run))
    drawn = {trace.name: (list(trace.x), list(trace.y)) for trace in figure.data}
    names = ["stem", "stages.stage2", "pool"]
    assert drawn["accuracy of a linear classifier"] == (names, [0.4, 0.9, 0.75])
    assert drawn["similarity with the classes"] == (names, [0.1, 0.45, 0.5])
    (scratch,) = figure.layout.shapes
    assert scratch.y0 == scratch.y1 == 0.645
    assert [note.text for note in figure.layout.annotations] == ["trained from scratch"]
    assert figure.layout.xaxis.title.text == "depth, from the input to the head"
    assert figure.layout.yaxis.range == (0, 1.02)


def test_the_lines_of_the_terminal(run):
    assert lines(read_run(run)) == [
        "training items: 1,150, 115 a class",
        "trained: stages.stage3 and what follows it, as measured",
        "rate of the pretrained layers: 0.3 of the head's",
        f"from scratch: {AGAINST}",
    ]


@pytest.mark.parametrize(
    ("train", "told"),
    [("head", "the new head alone"), ("all", "all layers"), ("pool", "pool and what follows it")],
)
def test_a_way_that_was_asked_for_was_not_measured(run, train, told):
    text = words(section_of(written(run, train=train, tried=[])))
    rate = "" if train == "head" else "rate of the pretrained layers 0.3 of the head's "
    assert f"trained {told} {rate}from scratch" in text
    assert "tried" not in text and "as measured" not in text and "table of advice" not in text


def test_a_run_that_was_not_compared_has_a_report(run):
    """As older ones were that could not be trained from scratch."""
    assert "from scratch" not in words(section_of(written(run, scratch={"not_compared": "optimizer.name"})))


def test_before_the_run_from_scratch_is_done(run):
    section = section_of(written(run, scratch=None))
    assert "from scratch" not in words(section)
    assert not figures.probes(read_run(run)).layout.shapes


def test_text_and_values_are_not_probed(tmp_path):
    """Nor have they items of a class."""
    scratch = {"bits": 2.5, "loss": 1.7, "epochs": 4, "seconds": 30.2, "model": "transformer"}
    folder = written(
        made_runs.language(tmp_path / "text"),
        train="all", depths=[], tried=[], items=1_003_854, classes=65, scratch=scratch,
    )  # fmt: skip
    text = words(section_of(folder))
    assert "training items 1,003,854 trained all layers" in text
    assert "from scratch bits per character 2.500 on the test part after 4 epochs in 30.2 s" in text
    assert "What each depth knows" not in text
    values = written(
        made_runs.regression(tmp_path / "values"),
        train="all", depths=[], tried=[], items=282, classes=0, scratch={**scratch, "rmse": 61.0},
    )  # fmt: skip
    text = words(section_of(values))
    rate = "rate of the pretrained layers 0.3 of the head's"
    assert (
        f"training items 282 trained all layers {rate} from scratch root mean squared error 61.00 on" in text
    )
    with pytest.raises(NothingToDrawError, match="was not probed"):
        figures.probes(read_run(values))


def test_a_run_that_began_anew_has_no_such_section(tmp_path):
    run = read_run(made_runs.classification(tmp_path / "run"))
    assert transfer(run) == ""
    assert "What it started from" not in write_report(run.folder).read_text()
