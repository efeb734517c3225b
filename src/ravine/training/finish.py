"""After training: the best weights, the final scores with their intervals, `result.json`."""

from typing import Any

from torch import Tensor

from . import averaged, feeds, metrics, watch
from .data.dataset import PartName
from .evaluate import Outputs, outputs_over
from .loop import Loop
from .predict import Predictor
from .text_model import generate

SAMPLE_LENGTH = 400
# Pictures of mistakes that a report shows, at most.
WORST = 24


def finish(loop: Loop, why: str) -> dict[str, Any]:
    """Put the best weights into the model, score every part once, write what the run leaves.

    The test part is touched here for the first time. Scores are taken in float32 whatever the precision
    of training was, so that `predict` gives the same.

    Args:
        loop: after its `run`.
        why: the reason why training ended.

    Returns:
        the content of `result.json`.

    Raises:
        Interrupted: a signal came; the run can be resumed and finished.
        RunError: the disk is full.
    """
    setup, state, folder = loop.setup, loop.state, loop.folder
    setup.model.load_state_dict(loop.best)
    setup.model.eval()
    judge = averaged.for_prediction(setup.model, setup.recipe, setup.task)
    found = {part: outputs_over(judge, feed, setup.task, loop.poll) for part, feed in _judged(loop).items()}
    result: dict[str, Any] = {
        **setup.facts,
        "parameters": sum(parameter.numel() for parameter in setup.network.parameters()),
        "epochs": state.epoch,
        "steps": state.step,
        "seconds": round(sum(state.seconds.values()), 3),
        "best_epoch": state.best_epoch,
        "monitor": setup.recipe.stop.monitor,
        "stopped": why,
    }
    if "test" in found or "validation" in found:
        result["baseline"] = _baseline(loop, found)
    for part, outputs in found.items():
        result[part] = metrics.with_intervals(
            setup.task, outputs.outputs, outputs.targets, setup.recipe.seed, setup.target_scale
        )
    if setup.task == "language" and setup.preprocessing is not None:
        result["sample"] = _sample(loop)
    inputs, targets = next(iter(setup.feeds["train"].epoch(0)))
    for notice in _looking_back(loop, inputs):
        loop.notice(notice)
    loop.look_around("best", inputs, targets)
    result["timing"] = {name: round(seconds, 3) for name, seconds in state.seconds.items()}
    result["noticed"] = loop.notices
    folder.write_tensors("model.safetensors", setup.weights(loop.best))
    folder.write_tensors("predictions.safetensors", _predictions(loop, found))
    folder.write_json("result.json", result)
    return result


def _looking_back(loop: Loop, inputs: Tensor) -> list[watch.Notice]:
    """Whether the training loss fell, and how many units are dead at the end."""
    setup = loop.setup
    trend = watch.loss_trend([row["train.loss"] for row in loop.folder.read_rows()])
    dead = watch.dead_notices(setup.model, watch.dead_units(setup.model, inputs))
    return ([trend] if trend else []) + dead


def _baseline(loop: Loop, found: dict[PartName, Outputs]) -> dict[str, float]:
    """What knowing only the training targets' frequencies, or their mean, would score."""
    setup = loop.setup
    part: PartName = "test" if "test" in found else "validation"
    train, judged = found["train"].targets, found[part].targets
    if setup.dataset is not None and setup.splits is not None:  # all of them, not the sample that is scored
        source = setup.dataset.inputs if setup.task == "language" else setup.dataset.targets
        assert isinstance(source, Tensor)
        train = source[setup.splits.train]
        if setup.task == "language":
            judged = source[setup.splits.of(part)]
        if setup.task == "regression" and setup.preprocessing is not None:
            train = setup.preprocessing.scale_targets(train)
    elif setup.task == "language":
        return {}
    return metrics.baseline(setup.task, train, judged, setup.target_scale)


def _sample(loop: Loop) -> str:
    """What the model writes after the first character of the training text."""
    setup = loop.setup
    assert setup.dataset is not None and setup.splits is not None and setup.preprocessing is not None
    predictor = Predictor(setup.preprocessing, setup.model, setup.task)
    prompt = setup.dataset.fetch(setup.splits.train[:1])
    tokens = generate(predictor, prompt, SAMPLE_LENGTH, feeds.context_of(setup.recipe), setup.recipe.seed)
    return "".join(setup.dataset.classes[token] for token in tokens.tolist())


def _judged(loop: Loop) -> dict[PartName, Any]:
    """The feeds of all parts, the training part's without augmentation."""
    setup = loop.setup
    judged = dict(setup.feeds)
    if setup.clean is not None:
        judged["train"] = setup.clean
    elif setup.dataset is not None and setup.splits is not None and setup.preprocessing is not None:
        judged["train"] = feeds.clean_train(
            setup.recipe, setup.dataset, setup.splits, setup.preprocessing, setup.device
        )
    return judged


def _predictions(loop: Loop, found: dict[PartName, Outputs]) -> dict[str, Tensor]:
    """What the report needs of each prediction."""
    setup = loop.setup
    kept: dict[str, Tensor] = {}
    for part, outputs in found.items():
        if part == "train":
            continue
        if setup.task == "language":
            kept[f"{part}.loss_by_position"] = outputs.outputs.nanmean(0)
        else:
            kept |= {f"{part}.outputs": outputs.outputs, f"{part}.targets": outputs.targets}
            if setup.task == "regression":  # in the target's own units
                mean, deviation = setup.target_scale
                kept |= {
                    f"{part}.{name}": kept[f"{part}.{name}"] * deviation + mean
                    for name in ("outputs", "targets")
                }
    if setup.task == "classification" and setup.dataset is not None and setup.dataset.kind == "image":
        kept |= _worst(loop, found)
    return kept


def _worst(loop: Loop, found: dict[PartName, Outputs]) -> dict[str, Tensor]:
    """The mistakes of the test part that the model was surest of, as raw pictures."""
    dataset, splits = loop.setup.dataset, loop.setup.splits
    if "test" not in found or dataset is None or splits is None:
        return {}
    probabilities, predictions = found["test"].outputs.softmax(1).max(1)
    wrong = (predictions != found["test"].targets).nonzero().flatten()
    worst = wrong[probabilities[wrong].argsort(descending=True, stable=True)[:WORST]]
    return {
        "worst.images": dataset.fetch(splits.test[worst]),
        "worst.targets": found["test"].targets[worst],
        "worst.predictions": predictions[worst],
        "worst.probabilities": probabilities[worst],
    }
