"""Checks of transforms' settings; each says what was wrong and what is valid."""

import math
from typing import Any


def check_share(name: str, value: Any) -> None:
    """Refuse a probability or share outside [0, 1].

    Raises:
        ValueError: it is outside, or not a number.
    """
    if not (isinstance(value, int | float) and 0.0 <= value <= 1.0):
        raise ValueError(f"Invalid {name}: {value!r}; it must be in [0, 1]")


def check_amount(name: str, value: Any, most: float = math.inf) -> None:
    """Refuse a strength below 0 or above `most`.

    Raises:
        ValueError: it is, or is not finite.
    """
    if not (isinstance(value, int | float) and 0.0 <= value <= most and math.isfinite(value)):
        valid = "finite and at least 0" if math.isinf(most) else f"in [0, {most:g}]"
        raise ValueError(f"Invalid {name}: {value!r}; it must be {valid}")


def check_count(name: str, value: Any, least: int) -> None:
    """Refuse what is no whole number from `least` on.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, int | float) or value % 1 != 0 or value < least:
        raise ValueError(f"Invalid {name}: {value!r}; it must be a whole number, at least {least}")


def check_range(name: str, value: Any, most: float = math.inf) -> None:
    """Refuse a range that is not 0 < low <= high <= most.

    Raises:
        ValueError: it is not.
    """
    pair = (
        isinstance(value, tuple | list)
        and len(value) == 2
        and all(isinstance(end, int | float) for end in value)
    )
    if not (pair and 0.0 < value[0] <= value[1] <= most and math.isfinite(value[1])):
        above = "" if math.isinf(most) else f" <= {most:g}"
        raise ValueError(f"Invalid {name}: {value!r}; it must be (low, high) with 0 < low <= high{above}")
