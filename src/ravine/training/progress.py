"""What the training loop tells while it works; whoever shows it implements `Progress`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol


class Progress(Protocol):
    """Someone to tell how a training goes. Calls come from one thread, in this order.

    Every method must return within microseconds: small models evaluate every few milliseconds.
    """

    def begin(self, facts: Mapping[str, object]) -> None:
        """Training starts.

        `facts`: `data`, `kind`, `items` (by part), `model`, `parameters`, `device`, `epochs`,
        `steps_per_epoch`, `monitor` (for example "validation.loss") and `out` (the run folder).
        """

    def notice(self, level: str, text: str) -> None:
        """Something a person should know; `level` is "info" or "warning"."""

    def tick(self, state: Mapping[str, object]) -> None:
        """Where training is, at most about five times a second.

        `state`: `epoch`, `step`, `steps_per_epoch`, `loss`, `lr`, `samples_per_second`, `seconds`
        (since the start) and `seconds_left`.
        """

    def evaluated(self, row: Mapping[str, object], best: bool) -> None:
        """An evaluation: its line of `metrics.jsonl`, and whether it is the best so far."""

    def end(self, result: Mapping[str, object], folder: Path) -> None:
        """Training is over: the content of `result.json` and the run folder."""


class Silent:
    """Tells nobody."""

    def begin(self, facts: Mapping[str, object]) -> None:
        """Nothing."""

    def notice(self, level: str, text: str) -> None:
        """Nothing."""

    def tick(self, state: Mapping[str, object]) -> None:
        """Nothing."""

    def evaluated(self, row: Mapping[str, object], best: bool) -> None:
        """Nothing."""

    def end(self, result: Mapping[str, object], folder: Path) -> None:
        """Nothing."""
