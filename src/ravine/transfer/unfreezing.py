"""Gradual unfreezing (Howard and Ruder 2018, section 3.3): from the head down, stretch by stretch."""

from typing import Any

from torch import Tensor, nn

from ..errors import ModelError
from .depths import levels
from .freezing import freeze, unfreeze


class GradualUnfreezing:
    """Trains the head alone at first, and one stretch of the network more each time.

        unfreezing = GradualUnfreezing(model)
        optimizer = AdamW(model.parameters(), lr=1e-3)
        for epoch in range(10):
            unfreezing.step(epoch)
            ...

    The optimizer has all parameters from the start: one without a gradient is passed over, and has no state
    until it is thawed.

    Attributes:
        names: of the stretches (`depths.levels`), in the order in which they thaw; the head's first.
        thawed: how many train.
    """

    def __init__(self, model: nn.Module, *, every: int = 1, sample: Tensor | None = None) -> None:
        """Freeze all but the last stretch.

        Args:
            model: changed in place.
            every: epochs between two thaws, at least 1.
            sample: prepared items (N, ...) to find the depths by; without one the network is traced.

        Raises:
            ModelError: `every` is below 1, or the depths cannot be found.
        """
        if every < 1:
            raise ModelError(f"gradual unfreezing: every must be at least 1, not {every}")
        self._model, self._every = model, every
        found = levels(model, sample)
        self._levels = found[::-1]
        self.names = [level.name for level in self._levels]
        self.thawed = 1
        freeze(model, until=found[-1].first, sample=sample)

    def step(self, epoch: int) -> None:
        """At the beginning of an epoch, counted from 0: thaw what is due."""
        due = min(len(self._levels), 1 + epoch // self._every)
        while self.thawed < due:
            unfreeze(self._model, sorted(self._levels[self.thawed].modules))
            self.thawed += 1
        if self.thawed == len(self._levels):  # what belongs to no stretch
            unfreeze(self._model)

    def state_dict(self) -> dict[str, Any]:
        """How far it is."""
        return {"thawed": self.thawed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Thaw as much as when `state_dict` was called."""
        self.step((state["thawed"] - 1) * self._every)
