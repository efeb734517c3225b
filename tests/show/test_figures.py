import json

import made_runs
import numpy
import pytest
from scipy import special, stats
from sklearn import metrics

from ravine.errors import RunError
from ravine.show import figures
from ravine.show.figures import classes, pictures, reliability
from ravine.show.figures.theme import label, log_axis
from ravine.show.run import NothingToDrawError, read_run

EVERY_RUN = ("gap", "gradient_norm", "loss_curves", "metric_curves", "schedule", "timing", "update_ratios")
OF_TASK = {
    "classification": (
        "best_weights",
        "calibration",
        "class_balance",
        "class_scores",
        "confusion_matrix",
        "first_weights",
        "worst_mistakes",
    ),
    "regression": ("predicted_against_true", "residuals"),
    "language": ("loss_by_position",),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return {task: read_run(getattr(made_runs, task)(root / task)) for task in OF_TASK}


@pytest.mark.parametrize("task", OF_TASK)
def test_every_figure_draws_its_runs_and_refuses_others(runs, task):
    for name in set(figures.__all__) - {"range_test", "local_model"}:
        draw = getattr(figures, name)
        if name in EVERY_RUN + OF_TASK[task]:
            assert len(draw(runs[task]).data), name
        else:
            with pytest.raises(NothingToDrawError):
                draw(runs[task])


def test_every_axis_says_what_it_shows(runs):
    for task, names in OF_TASK.items():
        for name in set(EVERY_RUN + names) - {"worst_mistakes"}:
            layout = json.loads(getattr(figures, name)(runs[task]).to_json())["layout"]
            axes = {key: value for key, value in layout.items() if key.startswith(("xaxis", "yaxis"))}
            assert all("text" in axis.get("title", {}) for axis in axes.values()), (name, axes)


def test_figures_of_an_interrupted_run(tmp_path):
    run = read_run(made_runs.interrupted(tmp_path / "run"))
    for name in EVERY_RUN:
        if name != "timing":
            assert len(getattr(figures, name)(run).data)
    with pytest.raises(NothingToDrawError, match="not come to its end"):
        figures.timing(run)


def test_losses_are_logarithmic_where_they_span_much(runs):
    assert figures.loss_curves(runs["classification"]).layout.yaxis.type == "log"  # 2.1 to 0.03
    assert figures.loss_curves(runs["language"]).layout.yaxis.type is None  # 3.9 to 0.6


def test_losses_and_the_best_epoch(runs):
    run = runs["classification"]
    figure = figures.loss_curves(run)
    assert [trace.name for trace in figure.data] == ["training", "validation"]
    numpy.testing.assert_array_equal(figure.data[1].y, run.series("validation.loss"))
    assert figure.layout.shapes[0].x0 == run.result["best_epoch"]
    assert figure.layout.annotations[0].text == f"best {run.result['best_epoch']}"


def test_evaluations_within_an_epoch_are_drawn_by_step(tmp_path):
    folder = made_runs.interrupted(tmp_path / "run")
    lines = [
        {"epoch": 1, "step": step, "train.loss": 1 / step, "validation.loss": 2 / step}
        for step in (10, 20, 30)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    figure = figures.loss_curves(read_run(folder))
    assert figure.layout.xaxis.title.text == "step"
    assert list(figure.data[0].x) == [10, 20, 30]


def test_the_gap_is_validation_minus_training(runs):
    run = runs["classification"]
    expected = [row["validation.loss"] - row["train.loss"] for row in run.rows]
    numpy.testing.assert_allclose(figures.gap(run).data[0].y, expected)


def test_a_chosen_metric_is_drawn(runs):
    figure = figures.metric_curves(runs["regression"], "r2")
    numpy.testing.assert_array_equal(figure.data[1].y, runs["regression"].series("validation.r2"))
    with pytest.raises(NothingToDrawError, match="accuracy"):
        figures.metric_curves(runs["regression"], "accuracy")


def test_frozen_tensors_leave_gaps_in_the_update_ratios(tmp_path):
    folder = made_runs.interrupted(tmp_path / "run")
    line = '{"epoch": %d, "step": %d, "update_ratio": %s, "update_ratios": {"a": 0.0, "b": 0.01}}\n'
    (folder / "metrics.jsonl").write_text(line % (1, 1, 0.001) + line % (2, 2, 0.0))
    figure = figures.update_ratios(read_run(folder))
    frozen, trained, median = (trace.y for trace in figure.data)
    assert numpy.isnan(frozen).all()
    assert list(trained) == [0.01, 0.01]
    numpy.testing.assert_array_equal(median, [0.001, numpy.nan])
    low, high = figure.layout.yaxis.range
    assert low < -3.5 and high > -2.0  # the usual range is in the picture, and so is the tensor at 0.01


def test_seconds_that_no_activity_accounts_for_are_shown(runs):
    run = runs["classification"]
    bars = dict(
        zip((name for name in figures.timing(run).data[0].y), figures.timing(run).data[0].x, strict=True)
    )
    assert sum(bars.values()) == pytest.approx(run.result["seconds"])
    assert bars["other"] == pytest.approx(run.result["seconds"] - sum(run.result["timing"].values()))


def test_confusion_against_scikit_learn(runs):
    run = runs["classification"]
    _, counts, names = classes.confusion(run)
    targets, guesses = run.predictions["test.targets"], run.predictions["test.outputs"].argmax(1)
    numpy.testing.assert_array_equal(counts, metrics.confusion_matrix(targets, guesses))
    assert names == [str(digit) for digit in range(10)]
    right, wrong = figures.confusion_matrix(run).data
    assert numpy.isnan(numpy.asarray(right.z)[~numpy.eye(10, dtype=bool)]).all()
    mistakes = counts - numpy.diag(counts.diagonal())
    numpy.testing.assert_array_equal(numpy.isfinite(wrong.z), mistakes > 0)


def test_class_scores_against_scikit_learn(runs):
    run = runs["classification"]
    targets, guesses = run.predictions["test.targets"], run.predictions["test.outputs"].argmax(1)
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(targets, guesses)
    _, drawn_precision, drawn_recall = figures.class_scores(run).data
    shown = [int(name) for name in drawn_precision.customdata]
    numpy.testing.assert_allclose(drawn_precision.x, precision[shown])
    numpy.testing.assert_allclose(drawn_recall.x, recall[shown])
    assert f1[shown[-1]] == f1.min()  # the weakest on top


def test_a_hundred_classes_stay_readable(tmp_path):
    names = [f"a rather long name of class {number}" for number in range(100)]
    run = read_run(made_runs.classification(tmp_path / "run", names, items=3000))
    matrix = figures.confusion_matrix(run)
    assert len(matrix.layout.xaxis.ticktext) <= 25
    assert max(map(len, matrix.layout.xaxis.ticktext)) <= 14
    assert matrix.layout.height <= 760
    assert matrix.data[0].text is None
    assert len(figures.class_scores(run).data[1].x) == 20
    assert "20 weakest of 100" in figures.class_scores(run).layout.title.text


def test_calibration_of_a_case_by_hand():
    confidence = numpy.array([0.95, 0.95, 0.55, 0.6, 1.0])
    right = numpy.array([True, False, True, False, True])
    items, sure, share, error = reliability.reliability(confidence, right)
    assert items.tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 0, 3]
    assert sure[5] == pytest.approx(0.575) and sure[9] == pytest.approx((0.95 + 0.95 + 1) / 3)
    assert share[5] == pytest.approx(0.5) and share[9] == pytest.approx(2 / 3)
    assert error == pytest.approx(2 / 5 * 0.075 + 3 / 5 * (2.9 / 3 - 2 / 3))


def test_a_calibrated_classifier_has_a_small_error():
    noise = numpy.random.default_rng(0)
    confidence = noise.uniform(0.1, 1.0, 200_000)
    right = noise.random(200_000) < confidence
    assert reliability.reliability(confidence, right)[3] < 0.005


def test_calibration_intervals_against_scipy(runs):
    figure = figures.calibration(runs["classification"])
    points = figure.data[1]
    for share, items, above, below in zip(
        points.y, points.customdata, points.error_y.array, points.error_y.arrayminus, strict=True
    ):
        if items:
            ends = stats.binomtest(round(share * items), int(items)).proportion_ci(method="wilson")
            assert (share - below, share + above) == pytest.approx((ends.low, ends.high), abs=1e-6)


def test_probabilities_against_scipy():
    logits = numpy.array([[1000.0, 999.0], [-3.0, 2.0]], dtype=numpy.float32)
    numpy.testing.assert_allclose(reliability.softmax(logits), special.softmax(logits.astype(float), axis=1))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pictures_survive_as_png(channels):
    import base64
    import io

    from PIL import Image

    image = numpy.random.default_rng(0).integers(0, 255, (channels, 6, 5), dtype=numpy.uint8)
    head, _, content = pictures.png(image).partition(",")
    assert head == "data:image/png;base64"
    read = numpy.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
    expected = image.transpose(1, 2, 0) if channels > 2 else image[0]
    numpy.testing.assert_array_equal(read, expected)


def test_large_pictures_are_made_small():
    import base64
    import io

    from PIL import Image

    content = pictures.png(numpy.zeros((3, 400, 800), dtype=numpy.uint8)).partition(",")[2]
    assert Image.open(io.BytesIO(base64.b64decode(content))).size == (160, 80)


def test_mistakes_come_with_their_names(runs):
    first = pictures.mistakes(runs["classification"])[0]
    assert (first.truth, first.prediction, first.size) == ("0", "3", 8)
    assert first.probability == pytest.approx(0.99)
    assert len(figures.worst_mistakes(runs["classification"]).layout.images) == 24


def test_regression_figures_show_each_item(runs):
    run = runs["regression"]
    truths = run.predictions["test.targets"].astype(float)
    guesses = run.predictions["test.outputs"].astype(float)
    numpy.testing.assert_allclose(figures.predicted_against_true(run).data[1].y, guesses)
    numpy.testing.assert_allclose(figures.residuals(run).data[0].y, guesses - truths)
    assert figures.residuals(run).layout.yaxis.title.text == "predicted − true disease progression"


def range_rows(losses):
    rates = numpy.logspace(-6, 1, len(losses))
    return [{"lr": float(lr), "loss": loss, "smoothed": loss} for lr, loss in zip(rates, losses, strict=True)]


def test_the_range_test_marks_suggestion_and_divergence():
    losses = [2.3, 2.3, 2.0, 1.0, 0.5, 0.4, 1.0, 9.0, None]
    figure = figures.range_test(range_rows(losses), 1e-3, 4.0)
    shade = next(shape for shape in figure.layout.shapes if shape.type == "rect")
    rates = numpy.logspace(-6, 1, len(losses))
    assert (shade.x0, shade.x1) == pytest.approx((rates[7], rates[8]))
    mark = next(shape for shape in figure.layout.shapes if shape.type == "line")
    assert mark.x0 == 1e-3
    texts = {note.text: note.x for note in figure.layout.annotations}
    assert texts["<b>suggested: 0.001</b>"] == pytest.approx(-3)


def test_the_range_test_without_suggestion_or_divergence():
    figure = figures.range_test(range_rows([2.3, 2.0, 1.0]), None, 4.0)
    assert not figure.layout.shapes and not figure.layout.annotations
    assert len(figures.range_test(range_rows([None, None]), None, 4.0).data) == 2
    with pytest.raises(RunError, match="no steps to draw"):
        figures.range_test([], None, 4.0)


def test_names_are_shown_as_written_and_cut_in_the_middle():
    assert label("<b>") == "&lt;b&gt;"
    assert label("class number 123", 12) == "class …r 123"
    assert len(label("x" * 100, 12)) == 12


@pytest.mark.parametrize(("low", "high", "first"), [(0.6, 1.9, 0.7), (0.04, 2.0, 0.05), (1e-5, 1.0, 1e-5)])
def test_logarithmic_axes_are_labelled_within_the_data(low, high, first):
    import plotly.graph_objects as go

    figure = go.Figure()
    log_axis(figure, [low, high, float("nan"), 0.0])
    within = [tick for tick in figure.layout.yaxis.tickvals if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
    assert within[0] == pytest.approx(first)
    assert 3 <= len(within) <= 8


def test_hundreds_of_classes_carry_no_text_for_each_cell(tmp_path):
    def matrix(size):
        names = [f"class {number}" for number in range(size)]
        return figures.confusion_matrix(
            read_run(made_runs.classification(tmp_path / str(size), names, items=600))
        )

    told = matrix(200).data[0].customdata
    assert told[0][1].startswith("true class 0<br>predicted class 1")
    many = matrix(201)
    assert [trace.customdata for trace in many.data] == [None, None]
    assert "%{y}" in many.data[0].hovertemplate


@pytest.mark.parametrize("diverged", [4.0, 10.0])
def test_the_range_test_is_drawn_up_to_where_it_diverged(diverged):
    figure = figures.range_test(range_rows([1.0, 0.5, 0.4, 1.7, 9.0]), None, diverged)
    assert figure.layout.yaxis.range[1] == pytest.approx(0.4 * diverged)
