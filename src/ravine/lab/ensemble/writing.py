"""An ensemble's folder: its members, its own predictions and scores, and what is said of it."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ... import files
from ...training import metrics, run
from ...training.data.dataset import PartName
from ...training.evaluate import Outputs
from ...training.preprocessing import Preprocessing
from ...training.run_folder import ENSEMBLE, MEMBERS, RunFolder
from .answers import Answers
from .cooking import Cooked
from .measured import calibration, measured
from .members import Pool
from .plan import OF_ONE_RUN

# What of a member's run the ensemble keeps, as far as it is there: enough to predict and to score again.
_ABOUT = (
    "recipe.toml",
    "environment.json",
    "splits.json",
    "preprocessing.json",
    "preprocessing.safetensors",
)
_TRAINED = ("model.safetensors", "predictions.safetensors", "result.json")
_FACTS = ("data", "kind", "task", "classes", "items", "baseline")


def write(
    pool: Pool,
    out: str | Path | None,
    how: str,
    shares: Tensor,
    found: Mapping[PartName, Answers],
    *,
    made: Cooked | None = None,
    seconds: float | None = None,
) -> Path:
    """Score an ensemble and make its folder, whole or not at all.

    Args:
        pool: the runs that were looked at.
        out: the folder to make; by default `runs/DATA-ensemble-DATE-TIME`.
        how: where the members come from.
        shares: (K,), what each counts, which sum to 1; 0 for what was left out.
        found: what all gave, by part; the pool's part is one.
        made: the network of their mean weights, where that is what is kept in place of the members.
        seconds: how long all the training took; by default as long as the members' own together.

    Returns:
        the folder.

    Raises:
        RunError: `out` exists or cannot be written.
    """
    first = pool.members[0]
    told = {"how": how, **measured(pool, shares, found[pool.part], averages=made is None)}
    if pool.task == "classification":
        told["calibration"] = calibration(found[pool.part], found["validation"] if pool.steering else None)
    took = [member.result["seconds"] for member in pool.members]
    spent = sum(took) if seconds is None else seconds
    told["seconds"] = {"all": spent, "one": spent if how in OF_ONE_RUN else sum(took) / len(took)}
    result = _result(pool, shares, found, told, made)
    predictions = {name: tensor for part in found for name, tensor in _kept(pool, part, found[part].together)}
    chosen = [member for member, share in zip(pool.members, shares, strict=True) if share > 0]
    path = Path(out) if out is not None else run.default_path(f"{first.result['data']}-ensemble")
    with RunFolder.making(path) as folder:
        if made is None:
            places = [
                (_place(number), member.name, float(share))
                for number, (member, share) in enumerate(zip(chosen, shares[shares > 0], strict=True))
            ]
            for (place, _, _), member in zip(places, chosen, strict=True):
                _copy(member.folder, folder.path / place, (*_ABOUT, *_TRAINED))
        else:
            places = [(_place(0), f"the mean of {len(chosen)} networks", 1.0)]
            target = RunFolder(folder.path / places[0][0])
            _write_soup(first.folder, target, made, result, predictions, told["seconds"]["all"])
        Preprocessing(first.predictor.preprocessing.spec, "none", []).save(folder.path)
        folder.write_tensors("predictions.safetensors", predictions)
        members = [{"folder": place, "name": name, "weight": weight} for place, name, weight in places]
        temperature = told.get("calibration", {}).get("temperature")
        folder.write_json(ENSEMBLE, {"how": how, "members": members, "temperature": temperature})
        folder.write_json("result.json", {**result, "ensemble": told})
    return path


def _place(number: int) -> str:
    return f"{MEMBERS}/{number:02d}"


def _copy(source: RunFolder, target: Path, names: Sequence[str]) -> None:
    target.mkdir(parents=True)
    for name in names:
        if (source.path / name).is_file():
            shutil.copyfile(source.path / name, target / name)
            files.sync(target / name)


def _write_soup(
    source: RunFolder,
    folder: RunFolder,
    made: Cooked,
    result: Mapping[str, Any],
    predictions: Mapping[str, Tensor],
    seconds: float,
) -> None:
    _copy(source, folder.path, _ABOUT)
    folder.write_tensors("model.safetensors", made.weights)
    folder.write_tensors("predictions.safetensors", predictions)
    folder.write_json("result.json", {**result, "seconds": seconds})


def _result(
    pool: Pool,
    shares: Tensor,
    found: Mapping[PartName, Answers],
    told: Mapping[str, Any],
    made: Cooked | None,
) -> dict[str, Any]:
    first, count = pool.members[0], int((shares > 0).sum())
    sizes = [member.result["parameters"] for member, share in zip(pool.members, shares, strict=True) if share]
    return {
        **{fact: first.result[fact] for fact in _FACTS if fact in first.result},
        "model": f"{count} network{'' if count == 1 else 's'}"
        + ("" if made is None else " averaged into one"),
        "parameters": sum(sizes) if made is None else sizes[0],
        **{
            part: metrics.with_intervals(
                pool.task,
                answers.together.outputs,
                answers.together.targets,
                pool.seed,
                pool.target_scale,
            )
            for part, answers in found.items()
        },
        "noticed": [{"level": "info", "text": text} for text in _noticed(pool, shares, told)],
    }


def _noticed(pool: Pool, shares: Tensor, told: Mapping[str, Any]) -> list[str]:
    notes = []
    if int((shares > 0).sum()) == 1:
        name = pool.members[int(shares.argmax())].name
        notes.append(f"no other run makes {name} better on the validation part: it was taken alone")
    if "calibration" in told and told["calibration"]["temperature"] is None:
        reason = (
            "on the validation part every answer is right, or they are no better than chance"
            if pool.steering
            else "the runs have no validation part in common besides the scored one"
        )
        notes.append(f"no temperature was fitted: {reason}")
    return notes


def _kept(pool: Pool, part: PartName, outputs: Outputs) -> list[tuple[str, Tensor]]:
    """What the report needs of each prediction, as a run keeps it."""
    if pool.task == "language":
        return [(f"{part}.loss_by_position", outputs.outputs.nanmean(0))]
    values = [("outputs", outputs.outputs), ("targets", outputs.targets)]
    if pool.task == "regression":  # in the target's own units
        mean, deviation = pool.target_scale
        values = [(name, tensor * deviation + mean) for name, tensor in values]
    return [(f"{part}.{name}", tensor) for name, tensor in values]
