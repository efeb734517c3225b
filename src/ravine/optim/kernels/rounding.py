"""How bfloat16 parameters are stored, so that updates smaller than their spacing are not lost.

A bfloat16 is the upper half of a float32. Rounded to the nearest, an update below 1/256 of a weight changes
nothing, step after step. "stochastic" adds 16 random bits to the lower half before it is cut off, so that
the weight is right on average (Gupta et al., arXiv:1502.02551); "compensated" keeps the lower half in the
state, so that parameter and remainder together are the float32 weight.

The random bits are addressed: hashed from (parameter, step, element), the same in every engine.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

MASK = 0xFFFFFFFF
QUIET_NAN = 0x7FC0


def hashed(counts: Tensor) -> Tensor:
    """32 random bits for each 32-bit number in an int64 tensor (C. Wellons' lowbias32)."""
    bits = counts & MASK
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        bits = ((bits ^ (bits >> shift)) * factor) & MASK
    return bits


def places(numbers: Sequence[int]) -> Tensor:
    """Where parameters stand among random bits, by their places in the optimizer: int64."""
    return hashed(torch.tensor(numbers, dtype=torch.int64) * 0x9E3779B1)


def addressed(of: Tensor, steps: Tensor) -> Tensor:
    """Where the counts of each parameter's elements begin, by its place and its step: int64."""
    return hashed(of + steps.long() * 0x85EBCA6B)


def keys(numbers: Sequence[int], steps: Sequence[float]) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Where the counts of each parameter's elements begin: by its place in the optimizer and its step."""
    return np.asarray(addressed(places(numbers), torch.tensor(steps, dtype=torch.float64)).numpy())


def widen(x: Tensor, remainder: Tensor | None) -> Tensor:
    """A bfloat16 parameter and its remainder as float32."""
    if remainder is None:
        return x.float()
    bits = x.view(torch.int16).int() << 16
    rest = remainder.int()
    # No zero has a negative remainder, unless somebody put it there: subtracted, it would be not-a-number.
    rest = torch.where((bits & 0x7FFFFFFF) == 0, rest.clamp(min=0), rest)
    return (bits + rest).view(torch.float32)


def narrow(wide: Tensor, rounding: str, counts: Tensor) -> tuple[Tensor, Tensor | None]:
    """A float32 tensor as bfloat16, and its remainder where rounding is "compensated".

    Args:
        wide: float32.
        rounding: "stochastic" or "compensated".
        counts: int64, of the same shape: each element's number.
    """
    bits = wide.contiguous().view(torch.int32).long() & MASK
    added = hashed(counts) & 0xFFFF if rounding == "stochastic" else torch.tensor(0x8000)
    high = ((bits + added) & MASK) >> 16
    high = torch.where(wide.isnan(), QUIET_NAN, high)
    narrowed = _int16(high).view(torch.bfloat16)
    remainder = _int16((bits - (high << 16)) & 0xFFFF) if rounding == "compensated" else None
    return narrowed, remainder


def _int16(bits: Tensor) -> Tensor:
    return torch.where(bits >= 1 << 15, bits - (1 << 16), bits).to(torch.int16)
