"""TensorBoard events beside the run folder's own files; an extra."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from ..errors import RavineError


def require() -> None:
    """Refuse before anything is trained where TensorBoard is not installed.

    Raises:
        RavineError: it is not; the message says how to install it.
    """
    if find_spec("tensorboard") is None:
        raise RavineError("log.tensorboard = true needs TensorBoard: pip install 'ravine[tensorboard]'")


class Board:
    """Writes every number of an evaluation to `tensorboard/` in the run folder, by step."""

    def __init__(self, folder: Path, step: int) -> None:
        """`step`: where the run goes on; events after it, of a run that was killed, are hidden."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step)

    def evaluated(self, row: Mapping[str, object]) -> None:
        """An evaluation's line of `metrics.jsonl`."""
        step = row["step"]
        for name, value in row.items():
            if isinstance(value, int | float) and name not in ("step", "epoch"):
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Bring the events to the disk."""
        self._writer.close()
