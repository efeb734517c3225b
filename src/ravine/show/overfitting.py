"""Where a run began to overfit (T14)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .run import Run

if TYPE_CHECKING:
    from numpy import ndarray

# So many evaluations must follow the lowest validation loss, and the last third of them tells where it went.
FOLLOWING = 3
# The rise is told from noise at so many standard deviations: of 1,000 losses that only jump about, 20 seem to
# rise where there are 5 evaluations, 10 where there are 20, 2 where there are 100.
CLEAR = 4.5
# Smaller ones, as share of the loss, are nobody's concern.
LEAST_RISE = 0.01
# The last evaluations must keep this share of the rise: a loss on its way back did not rise for good.
KEPT = 0.5
# The training loss went along where it rose by this share of what the validation loss did.
ALONG = 0.5


@dataclass(frozen=True)
class Turn:
    """The validation loss turned up and did not come back.

    Attributes:
        row: the position in `run.rows` of the lowest validation loss.
        validation: the loss there, and where it went: the median of the last evaluations.
        train: the training loss likewise.
    """

    row: int
    validation: tuple[float, float]
    train: tuple[float, float]

    @property
    def overfits(self) -> bool:
        """Whether the training loss did not rise with it: a training that goes astray raises both."""
        rise, along = (end - start for start, end in (self.validation, self.train))
        return along < ALONG * rise


def turn(run: Run) -> Turn | None:
    """Where the validation loss turned up for good, or None where it did not, or not clearly.

    That is at its lowest point, if the last third of the evaluations after that lies higher, by more than
    noise explains, and is not on its way back. The noise is estimated from second differences, which see no
    trend (Gasser, Sroka and Jennen-Steinmetz 1986), by their median, which sees no single spike.
    """
    import numpy

    validation, train = run.series("validation.loss"), run.series("train.loss")
    rows = numpy.flatnonzero(numpy.isfinite(validation) & numpy.isfinite(train))
    if not len(rows):
        return None
    losses = validation[rows]
    lowest = int(losses.argmin())
    following = len(rows) - 1 - lowest
    if following < FOLLOWING:
        return None
    last = max(FOLLOWING, following // 3)
    # Of the lowest point itself noise made at least a part: its neighbours tell how low the curve is there.
    near = losses[max(lowest - 1, 0) : lowest + 2]
    end = float(numpy.median(losses[-last:]))
    rise = end - near.mean()
    settled = losses[min(lowest, len(rows) // 2) :]
    noise = _noise(settled) * (1 / len(near) + 1 / last) ** 0.5
    comes_back = numpy.median(losses[-FOLLOWING:]) - near.mean() < KEPT * rise
    if comes_back or rise <= max(CLEAR * noise, LEAST_RISE * abs(losses[lowest])):
        return None
    return Turn(
        row=int(rows[lowest]),
        validation=(float(losses[lowest]), end),
        train=(float(train[rows[lowest]]), float(numpy.median(train[rows[-last:]]))),
    )


def _noise(values: "ndarray[Any, Any]") -> float:
    """The standard deviation of the values around a smooth curve."""
    import numpy

    differences = values[1:-1] - (values[:-2] + values[2:]) / 2
    # A normal variable's standard deviation is 1.4826 times the median of its size; three values add up.
    return float(1.4826 * numpy.median(numpy.abs(differences)) / 1.5**0.5)
