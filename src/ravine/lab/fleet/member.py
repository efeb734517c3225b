"""One member of a fleet: a training loop that keeps its records in memory."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from torch import Tensor

from ...errors import NotFiniteError
from ...training import checkpoint, full_batch
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
        kept: its weights after some epochs, by the epoch; those of the averaged network, where there is one.
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
        self.kept: dict[int, dict[str, Tensor]] = {}
        self.foreseen: Outputs | None = None

    @property
    def done(self) -> bool:
        """Whether it trains no more."""
        return bool(self.failed) or self.over()

    def train_epoch(self) -> None:
        """Train to the end of the epoch by itself."""
        if self.setup.full_batch:
            full_batch.train_epoch(self)
        else:
            super().train_epoch()

    def foresee(self) -> None:
        """Have the outputs for the validation part, where the stack did not give them.

        Raises:
            StopNow: a signal came; nothing of the epoch's end is recorded.
        """
        if self.foreseen is None and "validation" in self.setup.feeds:
            self.foreseen = super().validation_outputs()

    def validation_outputs(self) -> Outputs:
        """As they were foreseen, or its own."""
        if self.foreseen is None:
            return super().validation_outputs()
        found, self.foreseen = self.foreseen, None
        return found

    def record(self, row: dict[str, Any]) -> None:
        """Keep the line, and the weights where they are the best so far; go on to the next epoch."""
        self.judge(row)
        self.rows.append(row)
        self.state.end_epoch()

    def finish_epoch(self, keep: Collection[int] = ()) -> None:
        """Score the epoch that was trained; a member that went bad fails, and harms no other.

        Args:
            keep: epochs, counted from 1, after which the weights are kept.
        """
        try:
            self.record(self.evaluate())
            if self.state.epoch in keep:
                self.kept[self.state.epoch] = checkpoint.clone(self.setup.judged.state_dict())
        except NotFiniteError as error:
            self.fail(error)

    def fail(self, error: NotFiniteError) -> None:
        """Train no more; the best weights before stay."""
        self.failed = str(error)

    def save_when_due(self, now: float) -> None:
        """Nothing: the fleet saves all members together."""
