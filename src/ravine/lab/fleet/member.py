"""One member of a fleet: a training loop that keeps its records in memory."""

from pathlib import Path
from typing import Any

from ...errors import NotFiniteError
from ...training.evaluate import Outputs
from ...training.loop import Loop
from ...training.progress import Silent
from ...training.run_folder import RunFolder
from ...training.setup import Setup
from ...training.signals import StopRequest


class Member(Loop):
    """A training among others, each epoch of which someone else may have trained.

    Attributes:
        name: what tells it from the others.
        layer: the settings that only this member has.
        rows: its evaluations, as in `metrics.jsonl`.
        failed: why it could not go on: what became not a number, and when; empty where all is well.
        foreseen: its outputs for the validation part, where those of all members were had at once.
    """

    def __init__(
        self, name: str, layer: dict[str, Any], setup: Setup, place: Path, stop: StopRequest
    ) -> None:
        """`place`: the run folder that it is to become."""
        super().__init__(setup, RunFolder(place), Silent(), stop)
        self.name = name
        self.layer = layer
        self.rows: list[dict[str, Any]] = []
        self.failed = ""
        self.foreseen: Outputs | None = None

    @property
    def done(self) -> bool:
        """Whether it trains no more."""
        return bool(self.failed) or self.over()

    def validation_outputs(self) -> Outputs:
        """As the stack gave them, or its own."""
        if self.foreseen is None:
            return super().validation_outputs()
        found, self.foreseen = self.foreseen, None
        return found

    def record(self, row: dict[str, Any]) -> None:
        """Keep the line, and the weights where they are the best so far; go on to the next epoch."""
        self.judge(row)
        self.rows.append(row)
        self.state.end_epoch()

    def finish_epoch(self) -> None:
        """Score the epoch that was trained; a member that went bad fails, and harms no other."""
        try:
            self.record(self.evaluate())
        except NotFiniteError as error:
            self.fail(error)

    def fail(self, error: NotFiniteError) -> None:
        """Train no more; the best weights before stay."""
        self.failed = str(error)

    def save_when_due(self, now: float) -> None:
        """Nothing: the fleet saves all members together."""
