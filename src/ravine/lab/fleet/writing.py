"""Run folders out of members that were trained in a fleet."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from ...training import run
from ...training.finish import finish
from ...training.loop import Loop
from ...training.progress import Silent
from .member import Member


def write_member(
    member: Member,
    path: Path,
    source: str | None,
    weights: Mapping[str, Tensor] | None = None,
    epoch: int = 0,
) -> None:
    """Score a member and leave the run folder that its recipe would have left alone.

    What is there unfinished, from a kill, is replaced; what is finished stays.

    Args:
        member: trained.
        path: of the folder.
        source: the data, for `resume` and `ablate`.
        weights: those to keep, in place of the best by the monitored value.
        epoch: after which they were, counted from 1.

    Raises:
        RunError: it cannot be written.
    """
    if (path / "result.json").is_file():
        return
    shutil.rmtree(path, ignore_errors=True)
    folder = run.new_folder(path, member.setup, source)
    loop = Loop(member.setup, folder, Silent(), member.stop)
    loop.state, loop.best = member.state, dict(member.best)
    if weights is not None:
        # It took the time until then, as good as told by the rows.
        part = member.rows[epoch - 1]["seconds"] / member.rows[-1]["seconds"]
        seconds = {name: took * part for name, took in member.state.seconds.items()}
        loop.state = replace(member.state, best_epoch=epoch, seconds=seconds)
        loop.best = dict(weights)
    for row in member.rows:
        folder.append_row(row)
    finish(loop, member.why())
    folder.close()
