"""Ensembles that are trained: independent members, a bag, or snapshots and averages of one run (T15-T17)."""

import itertools
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ... import files
from ...errors import Interrupted, RecipeError, RunError
from ...training import run
from ...training.recipe import Layer, Recipe, set_layer
from ...training.run_folder import RunFolder
from ...training.signals import StopNow
from ..fleet.fleet import Fleet, Tell, Watching, nobody, unwatched
from ..fleet.member import Member
from ..fleet.writing import write_member
from .assembling import assemble, assemble_soup

How = Literal["independent", "bagging", "snapshot", "geometric", "average"]

_OF_ONE_RUN = ("snapshot", "geometric", "average")

SHORT = {"lr": "optimizer.lr", "model": "model.name", "dropout": "regularize.dropout"}
"""Short names of what members often differ in."""

# Fast geometric cycles take so much of one run, or an epoch each.
_CYCLES = 0.5
# An average is of the weights after so many of the last epochs, in parts of all; the rate stays high.
_TAIL, _HIGH = 0.25, {"schedule": {"name": "cosine", "final": 0.3}}


def train_ensemble(
    data: str | Path,
    members: int,
    how: How = "independent",
    *,
    vary: Sequence[str] = (),
    model: str | None = None,
    recipe: run.RecipeLike = None,
    settings: Sequence[Layer] = (),
    out: str | Path | None = None,
    trust: bool = False,
    tell: Tell = nobody,
    watch: Watching = unwatched,
) -> Path:
    """Train the members of an ensemble as a fleet, and put them together.

    While it trains, everything is in OUT.training; after a kill the same call with the same `out` goes on.

    - independent: each from its own seed (Hansen and Salamon 1990; Lakshminarayanan et al. 2017).
    - bagging: each on its own bootstrap sample of the training part too (Breiman 1996).
    - snapshot: one run whose rate falls to nothing and starts again, kept at the end of every fall (Huang et
      al. 2017, arXiv:1704.00109).
    - geometric: one run that goes on in short cycles of its rate, kept at the end of each (Garipov et al.
      2018, arXiv:1802.10026).
    - average: one run at a high rate, the weights after its last epochs averaged into one network, whose
      statistics of batch normalization are taken anew (Polyak and Juditsky 1992; Izmailov et al. 2018,
      arXiv:1803.05407).

    Args:
        data: a path, or the name of an embedded set.
        members: how many, two or more.
        how: where they come from.
        vary: what members differ in besides their seeds, as "KEY=VALUE,VALUE,..."; of several every
            combination. Members take them in turn.
        model: a model's name; None lets the recipe choose.
        recipe: as for `ravine.train`.
        settings: further settings of all members.
        out: the ensemble's folder; by default `runs/DATA-ensemble-DATE-TIME`.
        trust: as for `ravine.train`.
        tell: called with a sentence for each thing that a person should know.
        watch: called after each member's epoch, with how many are done of how many at most.

    Returns:
        the ensemble's folder.

    Raises:
        RecipeError: mistakes in the recipe or in `vary`, all at once.
        RunError: `out` exists or cannot be written; what is in OUT.training is another training; fewer than
            two members were left.
        Interrupted: a signal came; everything is kept.
        RavineError: as `ravine.train`.
    """
    if members < 2:
        raise RecipeError([f"an ensemble has two members or more, not {members}"])
    ways = combinations(vary)
    if how in _OF_ONE_RUN and vary:
        raise RecipeError([f"vary: the members of how = {how!r} are of one run; leave it out"])
    first = run.make_setup(model, data, recipe, settings=settings, trust=trust)
    place = Path(out) if out is not None else run.default_path(f"{first.facts['data']}-ensemble")
    RunFolder.refuse_existing(place)
    plan = _planned(how, members, first.recipe, ways)
    training = place.with_name(f"{place.name}.training")
    told = {"data": str(data), "model": model, "recipe": str(recipe), "how": how, "keep": plan.keep}
    chosen = [*settings, *plan.settings]
    _claim(training, {**told, "settings": chosen, "members": plan.members})
    fleet = Fleet(
        model,
        data,
        plan.members,
        recipe,
        settings=chosen,
        trust=trust,
        folder=training,
        keep=plan.keep,
        tell=tell,
        watch=watch,
    )
    try:
        fleet.run()
    except StopNow:
        raise Interrupted(
            fleet.signum,
            f"stopped; everything is kept in {training}. Go on with the same command and --out {place}",
        ) from None
    made = _assembled(fleet, training, place, how, str(data), trust, tell)
    shutil.rmtree(training, ignore_errors=True)
    return made


class _Plan(NamedTuple):
    """What is trained: settings of all, those of each, and the epochs whose weights are kept."""

    settings: list[Layer]
    members: list[Layer]
    keep: list[int]


def _planned(how: How, members: int, recipe: Recipe, ways: Sequence[Layer]) -> _Plan:
    """The trainings of an ensemble; `recipe` is that of one run, with every value concrete."""
    epochs, seed = int(recipe.stop.epochs), recipe.seed
    settings: list[Layer] = [{"data": {"split": recipe.split_seed}}]
    if how in ("independent", "bagging"):
        drawn: Layer = {"data": {"bootstrap": True}} if how == "bagging" else {}
        turns = zip(range(members), itertools.cycle(ways), strict=False)
        return _Plan(
            settings, [{"seed": seed + number, **_merged([drawn, way])} for number, way in turns], []
        )
    # The weights as they are, not a running mean that lags behind them.
    settings.append({"optimizer": {"average": 0.0}})
    if how == "snapshot":
        period = max(1, round(epochs / members))
        settings.append({"schedule": {"name": "cosine_restarts", "period": f"{period} epochs"}})
        settings.append({"stop": {"epochs": period * members}})
        keep = [period * number for number in range(1, members + 1)]
    elif how == "geometric":
        period = max(1, round(_CYCLES * epochs / (members - 1)))
        start = max(1, epochs - period * (members - 1))
        cycles = {"start": f"{start} epochs", "period": f"{period} epochs"}
        settings.append({"schedule": {"name": "fast_geometric", **cycles}})
        keep = [start + period * number for number in range(members)]
        settings.append({"stop": {"epochs": keep[-1]}})
    else:
        settings.append(_HIGH)
        last = min(epochs, max(members, round(_TAIL * epochs)))
        keep = sorted({epochs - round(number * last / members) for number in range(members)})
    return _Plan(settings, [{"seed": seed}], keep)


def combinations(vary: Sequence[str]) -> list[dict[str, Any]]:
    """The settings of members that differ in what `vary` says."""
    axes: list[list[Layer]] = []
    for text in vary:
        key, equals, values = text.partition("=")
        if key == "seed" and not equals:
            continue  # seeds always differ
        if not equals or not values:
            raise RecipeError([f"vary: {text!r} is not KEY=VALUE,VALUE,... such as lr=0.001,0.01"])
        axes.append([set_layer([f"{SHORT.get(key, key)}={value}"]) for value in values.split(",")])
    return [_merged(chosen) for chosen in itertools.product(*axes)]


def _merged(layers: Sequence[Layer]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, Mapping) and key in merged
            merged[key] = {**merged[key], **value} if both else value
    return merged


def _claim(training: Path, told: Mapping[str, Any]) -> None:
    """Make the place of a training, or find it as it was left."""
    record = training / "fleet.json"
    if record.is_file():
        if RunFolder(training).read_json(record.name) != json.loads(json.dumps(told)):
            raise RunError(
                f"{training} holds another training, begun with other arguments: remove it, or give "
                "another --out"
            )
        return
    try:
        training.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make {training}: {error.strerror or error}") from error
    files.write_json(record, dict(told))


def _assembled(
    fleet: Fleet, training: Path, place: Path, how: How, source: str, trust: bool, tell: Tell
) -> Path:
    """The members as run folders, and the ensemble of them."""
    seconds = sum(sum(member.state.seconds.values()) for member in fleet.members)
    for member in fleet.members:
        if member.failed:
            tell(f"member {member.name} was left out: {member.failed}")
    good = [member for member in fleet.members if not member.failed]
    if how in _OF_ONE_RUN:
        if not good:
            raise RunError(f"the run failed: {fleet.members[0].failed}")
        kept = sorted(good[0].kept.items())
        folders = [training / "snapshots" / f"{epoch:04d}" for epoch, _ in kept]
        for folder, (epoch, weights) in zip(folders, kept, strict=True):
            write_member(good[0], folder, source, weights, epoch)
        names = [f"after epoch {epoch}" for epoch, _ in kept]
        if how == "average":
            return assemble_soup(folders, place, how=how, names=names, seconds=seconds, trust=trust)
        return assemble(folders, place, how=how, names=names, seconds=seconds, trust=trust)
    if len(good) < 2:
        raise RunError(
            f"{len(good)} of {len(fleet.members)} members could be trained: {_reasons(fleet.members)}"
        )
    for member in good:
        write_member(member, member.folder.path, source)
    return assemble([member.folder.path for member in good], place, how=how, seconds=seconds, trust=trust)


def _reasons(members: Sequence[Member]) -> str:
    return "; ".join(f"{member.name}: {member.failed}" for member in members if member.failed)
