"""What each regularizer of a run is worth: the same training once more without it (C30, C38).

One thing is left out at a time; the seed, and so the initial weights, the order of the items and the parts of
the data, stay. The other trainings are run folders of their own inside the run's `without/`.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Interrupted, NotFiniteError, RunError
from ..training import metrics, run
from ..training.data.dataset import PartName
from ..training.preprocessing import Preprocessing
from ..training.progress import Progress
from ..training.recipe import Layer, Recipe, file_layer, validate
from ..training.run_folder import RunFolder
from ..training.settings import GIVEN
from ..training.trust import refuse_code

PLACE, RESULT = "without", "ablation.json"
_PARTS: tuple[PartName, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Regularizer:
    """One thing that a recipe does against overfitting.

    Attributes:
        key: its place in the recipe, such as "regularize.dropout" or "augment.flip".
        name: the same with its strength, as people read it.
        without: the settings that turn it off.
    """

    key: str
    name: str
    without: Layer


def regularizers(recipe: Recipe) -> list[Regularizer]:
    """Every regularizer that a recipe, with every value concrete, turns on."""
    return list(_found(recipe))


def _found(recipe: Recipe) -> Iterator[Regularizer]:
    for name in dict.fromkeys(recipe.augment):
        others = [other for other in recipe.augment if other != name]
        yield Regularizer(f"augment.{name}", f"augment {name}", {"augment": others})
    noise = [*recipe.regularize.noise.values(), recipe.model.settings.get("dropout", 0.0)]
    only = sum(map(bool, noise)) == 1
    for section, settings, keys in (
        ("regularize", recipe.regularize.model_dump(), tuple(recipe.regularize.model_dump())),
        # A pretrained network is as it is.
        ("model", {} if recipe.transfer.source else recipe.model.settings, ("dropout",)),
        ("optimizer", recipe.optimizer.settings, ("weight_decay", "l1")),
        ("loss", recipe.loss.model_dump(), ("label_smoothing",)),
    ):
        for key in keys:
            strength = settings.get(key)
            if isinstance(strength, int | float) and strength:  # a user's own model may call other things so
                off: dict[str, Any] = {section: {key: 0.0}}
                if only and recipe.predict.average == "samples" and (section, key) in _noise_keys(recipe):
                    off["predict"] = {"average": "expectation"}  # nothing is left to be sampled
                yield Regularizer(f"{section}.{key}", f"{section}.{key} = {strength:g}", off)


def _noise_keys(recipe: Recipe) -> list[tuple[str, str]]:
    return [("model", "dropout"), *(("regularize", key) for key in recipe.regularize.noise)]


Watching = Callable[[str], AbstractContextManager[Progress]]
"""Who is told how a training goes, given a heading for it."""


def silently(heading: str) -> AbstractContextManager[Progress]:
    """Nobody is told."""
    return nullcontext(run.SILENT)


def ablate(folder: str | Path, *, trust: bool = False, watching: Watching = silently) -> dict[str, Any]:
    """Train a finished run again without each of its regularizers; compare; leave `ablation.json` in it.

    What was trained before is not trained again, and what was interrupted goes on: after a kill the same call
    finishes the work.

    Args:
        folder: of the run.
        trust: the run's recipe may name the network or the optimizer by `module:name`, which runs that code.
        watching: told of each training.

    Returns:
        `run`: the run's scores by part, and `without`: for each regularizer its `key`, `name`, the scores by
        part without it, and `gained` with it, of every metric with its interval (`metrics.differences`), on
        `part`: the test part, or where there is none the validation part, which chose both sets of weights.
        A language model's `gained` has no intervals. Where a training without it went bad, `failed` says how,
        in place of scores and gains.

    Raises:
        RunError: it is no finished run; it was trained on batches or a network from Python; there is no
            regularizer; the data have changed; another process is at it; what is in `without/` is of another
            recipe.
        RavineError: as `training.run.train`; what was trained is kept.
    """
    own = RunFolder.open(Path(folder))
    if not own.finished:
        raise RunError(
            f"{own.path} is not finished: go on with it first, by ravine train --resume {own.path}"
        )
    source, layer = own.read_json("environment.json")["data"], file_layer(own.path / "recipe.toml")
    if not trust:
        refuse_code(layer, own.path / "recipe.toml")
    recipe = validate([layer], code=True)
    if source is None or recipe.model.name == GIVEN:
        raise RunError(f"{own.path} was trained on what a program gave it, and cannot be trained again here")
    found = regularizers(recipe)
    if not found:
        raise RunError(f"{own.path} has no regularizer to leave out: see the recipe's augment and regularize")
    run.read_again(own)  # refuses changed data before anything is trained
    part: PartName = "test" if "test" in _scores(own) else "validation"
    rows = []
    with own.locked():
        for number, regularizer in enumerate(found, 1):
            heading = f"without {regularizer.name} ({number} of {len(found)})"
            other = RunFolder(own.path / PLACE / regularizer.key)
            row: dict[str, Any] = {"key": regularizer.key, "name": regularizer.name, "part": part}
            _refuse_another(own, other, regularizer)
            try:
                if not other.finished:
                    with watching(heading) as progress:
                        _train(own, other, regularizer, source, trust, progress)
            except NotFiniteError as error:  # without it the training is worth nothing: that is its worth
                rows.append({**row, "failed": str(error).partition("\n")[0]})
                continue
            rows.append({**row, **_scores(other), "gained": _gained(own, other, part, recipe.seed)})
        told = {"run": _scores(own), "without": rows}
        own.write_json(RESULT, told)
    return told


def _refuse_another(own: RunFolder, other: RunFolder, left_out: Regularizer) -> None:
    """Refuse what was trained before the run's recipe, or what it leaves out, was changed."""
    if other.path.exists():
        wanted = validate([file_layer(own.path / "recipe.toml"), left_out.without], code=True)
        if validate([file_layer(other.path / "recipe.toml")], code=True) != wanted:
            raise RunError(f"{other.path} is a training of another recipe: remove it, to train it again")


def _train(
    own: RunFolder, other: RunFolder, left_out: Regularizer, source: str, trust: bool, progress: Progress
) -> None:
    try:
        if other.path.exists():
            run.resume(other.path, trust=trust, progress=progress)
        else:
            recipe, changed = own.path / "recipe.toml", [left_out.without]
            # Trusted, or free of code: it was looked at.
            run.train(None, source, recipe, settings=changed, out=other.path, trust=True, progress=progress)
    except Interrupted as stop:
        more = " --trust" if trust else ""
        raise Interrupted(
            stop.exit_code - 128, f"stopped; everything is kept. Go on with: ravine ablate {own.path}{more}"
        ) from None


def _scores(folder: RunFolder) -> dict[str, Any]:
    result = folder.read_json("result.json")
    return {part: result[part] for part in _PARTS if part in result}


def _gained(own: RunFolder, other: RunFolder, part: PartName, seed: int) -> dict[str, Any]:
    """What the run gained on the other, by metric."""
    task = own.read_json("result.json")["task"]
    if task == "language":
        mine, scores = _scores(own)[part], _scores(other)[part]
        return {name: mine[name] - scores[name] for name in metrics.metrics_of(task)}
    mean, deviation = Preprocessing.load(own.path).target_scale
    kept = own.read_tensors("predictions.safetensors")
    outputs, others = (
        predictions[f"{part}.outputs"]
        for predictions in (kept, other.read_tensors("predictions.safetensors"))
    )
    targets = kept[f"{part}.targets"]
    if task == "regression":  # they were kept in the target's own units
        outputs, others, targets = ((values - mean) / deviation for values in (outputs, others, targets))
    return dict(metrics.differences(task, outputs, others, targets, seed, (mean, deviation)))
