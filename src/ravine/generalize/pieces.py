"""Batches cut into pieces that memory is to hold."""

import math

from torch import Tensor

# Numbers of the input that a pass takes at once, all copies together: more take memory and gain nothing.
TOGETHER = 2**22


def at_once(x: Tensor) -> int:
    """How many items like those of x, (N, ...), a pass takes."""
    return max(1, TOGETHER // max(1, math.prod(x.shape[1:])))


def cut(x: Tensor, copies: int) -> tuple[Tensor, ...]:
    """x, (N, ...), in pieces of as many items as a pass takes if each comes in so many copies."""
    pieces: tuple[Tensor, ...] = x.split(max(1, at_once(x) // copies))
    return pieces
