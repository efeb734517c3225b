import json

import made_runs
import numpy
import pytest

from ravine.show import figures
from ravine.show.overfitting import turn
from ravine.show.overfitting_text import overfitting
from ravine.show.report import write_report
from ravine.show.run import read_run


def trained(folder, validation, train=None, finished=True, make=made_runs.classification, **more):
    """A made run with these losses and further columns; the best by its monitor was kept."""
    make(folder)
    train = numpy.linspace(0.1, 0.05, len(validation)) if train is None else train
    columns = {"train.loss": train, "validation.loss": validation} | more
    lines = [{"epoch": at + 1, "step": 10 * (at + 1)} for at in range(len(validation))]
    for name, values in columns.items():
        for line, value in zip(lines, values, strict=True):
            line[name] = None if value != value else float(value)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").unlink()
    if finished:
        best = int(numpy.nanargmin(validation)) + 1
        (folder / "result.json").write_text(json.dumps(result | {"best_epoch": best}))
    return read_run(folder)


def monitored(run, monitor, best_epoch):
    result = json.loads((run.folder / "result.json").read_text())
    result |= {"monitor": monitor, "best_epoch": best_epoch}
    (run.folder / "result.json").write_text(json.dumps(result))
    return read_run(run.folder)


def bowl(lowest, last, low=0.1, high=0.15, first=1.0):
    """Falls to `low` at epoch `lowest`, then rises to `high` at epoch `last`."""
    down = low + (first - low) * (1 - numpy.arange(1, lowest + 1) / lowest) ** 3
    up = low + (high - low) * numpy.arange(1, last - lowest + 1) / (last - lowest)
    return numpy.concatenate([down, up])


def noise(count, size, seed=0):
    return numpy.random.default_rng(seed).normal(0, size, count)


# Where it began.


@pytest.mark.parametrize("jitter", [0.0, 0.002])
def test_a_loss_that_turns_up_for_good(tmp_path, jitter):
    losses = bowl(12, 40) + noise(40, jitter)
    run = trained(tmp_path / "run", losses)
    found = turn(run)
    assert found.row == numpy.argmin(losses)
    assert abs(found.row - 11) <= 2
    assert found.overfits
    assert found.validation == (losses.min(), numpy.median(losses[-((39 - found.row) // 3) :]))


def test_noise_alone_is_no_turn(tmp_path):
    """Of 200 losses that level off and jump about, none or next to none is told to have turned."""
    run = trained(tmp_path / "run", numpy.ones(60))
    fall = 1 + numpy.exp(-numpy.arange(60) / 6)
    turned = 0
    for seed in range(200):
        for row, value in zip(run.rows, fall + noise(60, 0.05, seed), strict=True):
            row["validation.loss"] = value
        turned += turn(run) is not None
    assert turned <= 3


def test_a_rise_is_found_in_noise_of_its_size(tmp_path):
    run = trained(tmp_path / "run", numpy.ones(100))
    rise = numpy.exp(-numpy.arange(100) / 6) + numpy.linspace(-0.1, 0.3, 100).clip(0)
    found = 0
    for seed in range(100):
        for row, value in zip(run.rows, 1 + rise + noise(100, 0.05, seed), strict=True):
            row["validation.loss"] = value
        found += turn(run) is not None
    assert found >= 95


@pytest.mark.parametrize(
    "losses",
    [
        bowl(39, 40),  # too little follows
        numpy.linspace(1, 0.1, 40),  # still falling
        numpy.full(40, 0.1),
        bowl(12, 40, high=0.1005),  # by half a percent
        numpy.concatenate([bowl(12, 26), bowl(12, 26)[:11:-1]]),  # up, and down again
        numpy.where(numpy.arange(40) == 25, 0.5, bowl(12, 40, high=0.1)),  # a spike
        [0.1],
        [0.1, 0.2],
        [0.1, 0.2, 0.3],
    ],
)
def test_losses_that_do_not_turn_up_for_good(tmp_path, losses):
    assert turn(trained(tmp_path / "run", losses)) is None


def test_four_evaluations_can_tell(tmp_path):
    assert turn(trained(tmp_path / "run", [0.1, 0.2, 0.3, 0.4])).row == 0
    assert turn(trained(tmp_path / "other", [0.1, 0.2, 0.1, 0.2])) is None


def test_values_that_are_not_finite_are_passed_over(tmp_path):
    losses = bowl(12, 40)
    losses[[3, 10, 11, 30, 39]] = numpy.nan
    found = turn(trained(tmp_path / "run", losses))
    assert found.row == 12 and found.overfits


def test_a_training_that_goes_astray_does_not_overfit(tmp_path):
    astray = bowl(12, 40, high=0.5)
    found = turn(trained(tmp_path / "run", astray, train=astray - 0.02))
    assert found.row == 11
    assert not found.overfits
    # A training loss that has come to its end jumps about a little.
    flat = numpy.full(40, 0.001) + numpy.abs(noise(40, 1e-4))
    assert turn(trained(tmp_path / "flat", bowl(12, 40), train=flat)).overfits


# In words.


def test_the_story_of_a_classifier(tmp_path):
    accuracy = numpy.concatenate([numpy.linspace(0.5, 0.98, 12), numpy.linspace(0.98, 0.977, 29)[1:]])
    run = trained(
        tmp_path / "run",
        bowl(12, 40, high=0.125),
        train=numpy.geomspace(1.0, 0.01, 40),
        **{"validation.accuracy": accuracy},
    )
    assert overfitting(run) == (
        "Overfitting began at epoch 12: since then the validation loss rose from 0.100 to about 0.121 while "
        "the training loss fell on from 0.273 to 0.0160. Keeping the weights of epoch 12 gained 0.0250 of "
        "loss (20%) and 0.3 points of accuracy against the last epoch's, on the validation part, which chose "
        "them."
    )


def test_the_story_of_a_regression_and_of_a_language_model(tmp_path):
    rmse = bowl(12, 40, low=50, high=52, first=90)
    run = trained(tmp_path / "one", bowl(12, 40), make=made_runs.regression, **{"validation.rmse": rmse})
    assert "gained 0.0500 of loss (33%) and 2.000 of root mean squared error (4%) against" in overfitting(run)
    losses = bowl(12, 40, low=1.5, high=1.52, first=4.0)
    bits = losses / numpy.log(2)
    run = trained(tmp_path / "two", losses, make=made_runs.language, **{"validation.bits": bits})
    assert "0.0200 of loss (1%) and 0.0289 bits per character (1%) against the last" in overfitting(run)


def test_a_run_that_does_not_overfit(tmp_path):
    run = trained(tmp_path / "one", numpy.linspace(1, 0.1, 20))
    assert overfitting(run) == "No overfitting was seen: the validation loss was lowest at epoch 20 of 20."
    run = trained(tmp_path / "two", bowl(12, 40, high=0.1002))
    told = overfitting(run)
    assert told.startswith("No overfitting was seen: the validation loss was lowest at epoch 12 and did not ")
    assert "Keeping the weights of epoch 12 gained 0.000200 of loss (0.2%) against the last epoch's" in told


def test_a_run_that_went_astray(tmp_path):
    astray = bowl(12, 40, high=0.5)
    told = overfitting(trained(tmp_path / "run", astray, train=astray - 0.02))
    assert (
        "rose from 0.100 to about 0.443 since, but the training loss rose too, from 0.0800 to 0.423" in told
    )
    assert "no overfitting" in told and "began" not in told


def test_a_run_that_was_interrupted(tmp_path):
    told = overfitting(trained(tmp_path / "run", bowl(12, 40), finished=False))
    assert "Overfitting began at epoch 12" in told
    assert (
        "Keeping the weights of epoch 12 gains 0.0500 of loss (33%) against the last epoch's so far" in told
    )
    told = overfitting(read_run(made_runs.interrupted(tmp_path / "killed")))
    assert told == "No overfitting was seen so far: the validation loss was lowest at epoch 12 of 12."


def test_a_run_that_ended_in_numbers_that_are_not_finite(tmp_path):
    losses = bowl(12, 40)
    losses[39] = numpy.nan
    assert "against those of epoch 39, on the" in overfitting(trained(tmp_path / "run", losses))


def test_another_value_was_watched(tmp_path):
    accuracy = numpy.full(40, 0.9)
    accuracy[19] = 0.95
    run = trained(tmp_path / "run", bowl(12, 40), **{"validation.accuracy": accuracy})
    told = overfitting(monitored(run, "validation.accuracy", 20))
    assert "Overfitting began at epoch 12: " in told
    assert (
        "Keeping the weights of epoch 20, the best by validation accuracy, gained 0.0357 of loss (24%) and "
        "5.0 points of accuracy against the last epoch's, on the validation part, which chose them."
    ) in told
    told = overfitting(monitored(run, "train.loss", 5))
    assert (
        "epoch 5, the best by training loss, cost 0.129 of loss (86%) against the last epoch's, on the "
        in told
    )
    assert told.endswith("on the validation part.")


def test_a_metric_of_ones_own_was_watched(tmp_path):
    recall = numpy.linspace(0.5, 0.2, 40)
    run = trained(tmp_path / "run", bowl(12, 40), **{"validation.miss_rate": recall})
    told = overfitting(monitored(run, "validation.miss_rate", 12))
    assert "the best by validation miss rate, gained 0.0500 of loss (33%) and cost 0.215 of miss rate" in told


@pytest.mark.parametrize("losses", [[0.3], numpy.full(9, numpy.nan)])
def test_nothing_is_told_where_nothing_can_be_known(tmp_path, losses):
    run = trained(tmp_path / "run", losses, finished=False)
    assert overfitting(run) == ""
    assert turn(run) is None


# In the report.


def shades(figure):
    return [shape for shape in figure.layout.shapes if shape.type == "rect"]


def test_overfitting_is_shaded_and_named(tmp_path):
    run = trained(tmp_path / "run", bowl(12, 40))
    for figure in (figures.loss_curves(run), figures.gap(run)):
        (shade,) = shades(figure)
        assert (shade.x0, shade.x1, shade.name, shade.showlegend) == (12, 40, "overfitting", True)
        assert figure.layout.showlegend
    calm = trained(tmp_path / "calm", numpy.linspace(1, 0.1, 40))
    assert not shades(figures.loss_curves(calm)) and not shades(figures.gap(calm))


def test_the_report_tells_it(tmp_path):
    run = trained(tmp_path / "run", bowl(12, 40))
    text = write_report(run.folder).read_text()
    assert f"<span class='finding'>{overfitting(run).replace(chr(39), '&#x27;')}</span> Both should" in text


def test_a_run_without_a_validation_part_has_no_such_story(tmp_path):
    run = trained(tmp_path / "run", numpy.full(9, numpy.nan), finished=False)
    text = write_report(run.folder).read_text()
    assert "finding'" not in text and "<h3>Loss</h3>" in text and "<h3>Gap</h3>" not in text


@pytest.mark.parametrize(
    ("best", "side", "legend"), [(1, "left", 1), (19, "right", 1), (22, "left", None), (40, "right", None)]
)
def test_the_mark_of_the_best_stands_clear_of_the_legend_and_the_edges(tmp_path, best, side, legend):
    losses = numpy.full(40, 0.2)
    losses[best - 1] = 0.1
    figure = figures.loss_curves(trained(tmp_path / "run", losses))
    assert figure.layout.annotations[0].xanchor == side
    assert figure.layout.legend.x == legend
