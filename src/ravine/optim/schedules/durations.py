"""Lengths of time as people say them: steps, epochs, or a share of the whole."""

import re

from ...errors import RecipeError

Duration = int | str
"""`500`, `"500 steps"`, `"2 epochs"`, `"1.5 epochs"` or `"10%"` (of all steps)."""

_FORM = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(steps?|epochs?|%)\s*")


def parse_duration(duration: Duration, steps_per_epoch: int | None, total_steps: int | None) -> int:
    """The number of steps that a duration means, rounded to the nearest.

    Args:
        duration: a number of steps, or a text as in `Duration`.
        steps_per_epoch: needed for epochs.
        total_steps: needed for per cents.

    Raises:
        RecipeError: the text is none of these forms, is negative, or needs a length that is not known.
    """
    if isinstance(duration, int) and not isinstance(duration, bool):
        if duration < 0:
            raise RecipeError([f"a duration cannot be negative, as {duration} is"])
        return duration
    match = _FORM.fullmatch(duration) if isinstance(duration, str) else None
    if match is None:
        raise RecipeError(
            [f"{duration!r} is no duration; write 500, '500 steps', '2 epochs', '1.5 epochs' or '10%'"]
        )
    amount, unit = float(match[1]), match[2].rstrip("s")
    if unit == "step":
        if amount != int(amount):
            raise RecipeError([f"{duration!r} is no whole number of steps"])
        return int(amount)
    if unit == "epoch":
        if steps_per_epoch is None:
            raise RecipeError(
                [f"{duration!r} counts epochs, and how many steps an epoch has is not known here"]
            )
        return round(amount * steps_per_epoch)
    if total_steps is None:
        raise RecipeError([f"{duration!r} is a share of all steps, and how many there are is not known here"])
    return round(amount / 100 * total_steps)
