"""Random numbers that belong to a sample, not to the batch it comes in.

Each number is a hash of where it is used: (seed, epoch, the sample's own number, what for, position). No
generator is advanced, so a picture is the same whatever the batch size, the order, the number of workers, or
which other transforms are there; and a batch's numbers are one vectorised expression on its own device.

The hash is splitmix64 (Steele, Lea and Flood 2014): a state moves by a constant of large odd bits and is
mixed. A sample's state starts at a mix of its own number, its positions move on from there.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...randomness import Address, address_seed


def _signed(word: int) -> int:
    """A 64-bit word as torch's int64 holds it."""
    return word - (1 << 64) if word >> 63 else word


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)

# Marsaglia and Tsang's trial fails at most 5 times in 100: that 16 in a row fail happens once in 10²⁰.
_TRIALS = 16


@dataclass(frozen=True, eq=False)
class Draws:
    """The random numbers of a batch's samples in one epoch.

    `what` names the use: numbers of different names are independent, the same name gives the same numbers
    again.

    Attributes:
        seed: of the run.
        epoch: from 0.
        items: int64 (N,), each sample's own number in the data set; on the device of the images.
        within: what all names here are part of; see `under`.

    Raises:
        ValueError: `items` is not int64 (N,).
    """

    seed: int
    epoch: int
    items: Tensor
    within: tuple[Address, ...] = ()

    def __post_init__(self) -> None:
        if self.items.dtype != torch.int64 or self.items.ndim != 1:
            raise ValueError(
                f"Invalid items: {self.items.dtype} {tuple(self.items.shape)}; they must be int64 (N,)"
            )

    def __len__(self) -> int:
        return len(self.items)

    def under(self, *address: Address) -> "Draws":
        """The same samples' numbers under names of their own, as for a second use of one transform."""
        return replace(self, within=(*self.within, *address))

    def of(self, chosen: Tensor) -> "Draws":
        """The numbers of some of the samples; `chosen` is int64 (M,), positions in the batch."""
        return replace(self, items=self.items[chosen])

    def uniform(self, what: str, *shape: int) -> Tensor:
        """Float32 (N, *shape) in [0, 1), multiples of 2⁻²⁴."""
        return (self._bits(what, *shape) >> 40).bitwise_and_((1 << 24) - 1).float().mul_(2.0**-24)

    def between(self, what: str, low: float, high: float, *shape: int) -> Tensor:
        """Float32 (N, *shape), uniform between `low` and `high`."""
        return self.uniform(what, *shape).mul_(high - low).add_(low)

    def chance(self, what: str, p: float) -> Tensor:
        """Bool (N,), True with probability `p`; never at 0, always at 1."""
        return self.uniform(what) < p

    def integers(self, what: str, low: int, high: int, *shape: int) -> Tensor:
        """Int64 (N, *shape) from `low` up to and without `high`; they differ by less than 2³¹."""
        return ((self._bits(what, *shape) >> 32).bitwise_and_((1 << 32) - 1).mul_(high - low) >> 32).add_(low)

    def normal(self, what: str, *shape: int) -> Tensor:
        """Float32 (N, *shape), standard normal, by Box and Muller's transform."""
        u, v = self.uniform(what, *shape, 2).unbind(-1)
        radius = (1.0 - u).log_().mul_(-2.0).sqrt_()
        return radius.mul_((v * (2.0 * math.pi)).cos_())

    def beta(self, what: str, alpha: float) -> Tensor:
        """Float32 (N,) of Beta(alpha, alpha), alpha above 0.

        Of two gamma variates g and h the share g/(g + h). Their logarithms are taken, because for small
        alpha both may be 0 in float32.
        """
        first, second = (self._log_gamma(f"{what}.{side}", alpha) for side in ("first", "second"))
        # Not torch's sigmoid: it rounds otherwise at the end of a batch than within.
        return (second - first).exp_().add_(1.0).reciprocal_()

    def _log_gamma(self, what: str, alpha: float) -> Tensor:
        """Logarithms (N,) of Gamma(alpha) variates by Marsaglia and Tsang (2000).

        A fixed number of trials is made for all, so no sample waits for another and nothing is read back.
        For alpha + 1, then raised to alpha as in their section 6.
        """
        d = alpha + 1.0 - 1.0 / 3.0
        normal = self.normal(f"{what}.normal", _TRIALS)
        cube = (1.0 + normal / math.sqrt(9.0 * d)).pow_(3)
        log_cube = cube.clamp(min=torch.finfo(cube.dtype).tiny).log_()
        log_uniform = (1.0 - self.uniform(f"{what}.trial", _TRIALS)).log_()
        accepted = (cube > 0) & (log_uniform < 0.5 * normal.square() + d * (1.0 - cube + log_cube))
        first = accepted.to(torch.uint8).argmax(1, keepdim=True)
        boost = (1.0 - self.uniform(f"{what}.boost")).log_().div_(alpha)
        return log_cube.gather(1, first).squeeze(1).add_(math.log(d)).add_(boost)

    def _bits(self, what: str, *shape: int) -> Tensor:
        """64 random bits for each of (N, *shape), as int64."""
        key = address_seed(self.seed, "augment", self.epoch, *self.within, what)
        start = _mix(self.items * _GOLDEN + key)
        count = math.prod(shape)
        positions = torch.arange(1, count + 1, device=start.device).mul_(_GOLDEN)
        return _mix(start.unsqueeze(1) + positions).view(len(start), *shape)


def _mix(state: Tensor) -> Tensor:
    """Splitmix64's finalizer, in place."""
    state.bitwise_xor_(_shifted(state, 30)).mul_(_FIRST)
    state.bitwise_xor_(_shifted(state, 27)).mul_(_SECOND)
    return state.bitwise_xor_(_shifted(state, 31))


def _shifted(word: Tensor, bits: int) -> Tensor:
    """Shifted right with zeros moving in; torch's own shift repeats the sign."""
    return (word >> bits).bitwise_and_((1 << (64 - bits)) - 1)
