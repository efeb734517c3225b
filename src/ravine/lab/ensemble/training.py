"""Ensembles that are trained: independent members, a bag, or snapshots and averages of one run (T15-T17)."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ... import files
from ...errors import Interrupted, RecipeError, RunError
from ...training import run
from ...training.recipe import Layer
from ...training.recipe_text import to_toml
from ...training.run_folder import RunFolder
from ...training.signals import StopNow
from ..fleet.fleet import Fleet, Tell, Watching, nobody, unwatched
from ..fleet.member import Member
from ..fleet.writing import write_member
from .assembling import assemble, assemble_soup
from .fitting import Candidate, scored_part
from .members import differences
from .plan import OF_ONE_RUN, How, Plan, plan


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
        members: how many, two or more; at least one for each combination of `vary`, and of one run at most as
            many as it has epochs.
        how: where they come from.
        vary: what members differ in besides their seeds, as "KEY=VALUE,VALUE,..."; of several every
            combination. Members take them in turn. Values are as of `--set`; one may be a list.
        model: a model's name; None lets the recipe choose.
        recipe: as for `ravine.train`.
        settings: further settings of all members; of one run, not those that `how` has its own of: schedule,
            stop.patience, optimizer.average.
        out: the ensemble's folder; by default `runs/DATA-ensemble-DATE-TIME`.
        trust: as for `ravine.train`.
        tell: called with a sentence for each thing that a person should know.
        watch: called after each member's epoch, with how many are done of how many at most.

    Returns:
        the ensemble's folder.

    Raises:
        RecipeError: mistakes in the recipe, in `vary` or in `members`, before anything is written.
        RunError: `out` exists or cannot be written; what is in OUT.training is another training; the members
            would not be scored on the same items; fewer than two members were left.
        Interrupted: a signal came; everything is kept.
        RavineError: as `ravine.train`.
    """
    first = run.make_setup(model, data, recipe, settings=settings, trust=trust)
    place = Path(out) if out is not None else run.default_path(f"{first.facts['data']}-ensemble")
    RunFolder.refuse_existing(place)
    planned = plan(how, members, first.recipe, vary, settings)
    training = place.with_name(f"{place.name}.training")
    told = {"data": str(data), "recipe": to_toml(first.recipe), "how": how, "keep": planned.keep}
    chosen = [*settings, *planned.settings]
    fleet = Fleet(
        model,
        data,
        planned.members,
        recipe,
        settings=chosen,
        trust=trust,
        folder=training,
        keep=planned.keep,
        tell=tell,
        watch=watch,
    )
    _refuse_misfits(fleet.members)
    _claim(training, {**told, "settings": chosen, "members": planned.members})
    if planned.told:
        tell(planned.told)
    try:
        fleet.run()
    except StopNow:
        raise Interrupted(
            fleet.signum,
            f"stopped; everything is kept in {training}. Go on with the same command and --out {place}",
        ) from None
    made = _assembled(fleet, planned, training, place, how, str(data), trust, tell)
    shutil.rmtree(training, ignore_errors=True)
    return made


def _refuse_misfits(members: Sequence[Member]) -> None:
    """Refuse before the training what could not go together after it."""
    for number, member in enumerate(members):
        for other in members[:number]:
            if other.setup.recipe == member.setup.recipe:
                raise RecipeError(
                    [f"members {other.name} and {member.name} are the same training, seed and all"]
                )
    candidates = []
    for member in members:
        assert member.setup.preprocessing is not None  # data from a path or by a name have one
        spec, splits = member.setup.preprocessing.spec, run.splits_of(member.setup)
        candidates.append(Candidate(f"member {member.name}", member.setup.recipe, spec, splits))
    scored_part(candidates)


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
    files.make_folder(training)
    files.write_json(record, dict(told))


def _assembled(
    fleet: Fleet, planned: Plan, training: Path, place: Path, how: How, source: str, trust: bool, tell: Tell
) -> Path:
    """The members as run folders, and the ensemble of them."""
    seconds = sum(sum(member.state.seconds.values()) for member in fleet.members)
    for member in fleet.members:
        if member.failed:
            tell(f"member {member.name} was left out: {member.failed}")
    good = [member for member in fleet.members if not member.failed]
    if how in OF_ONE_RUN:
        if not good:
            raise RunError(f"the run failed: {fleet.members[0].failed}")
        kept = sorted(good[0].kept.items())
        if len(kept) < len(planned.keep):
            fewer = f"{len(kept)} of {len(planned.keep)} were kept: {good[0].why()}"
            if len(kept) < 2:
                raise RunError(f"an ensemble takes two networks or more, and {fewer}")
            tell(fewer)
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
    folders = [member.folder.path for member in good]
    names = differences([member.layer for member in good], folders)
    return assemble(folders, place, how=how, names=names, seconds=seconds, trust=trust)


def _reasons(members: Sequence[Member]) -> str:
    return "; ".join(f"{member.name}: {member.failed}" for member in members if member.failed)
