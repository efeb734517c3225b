"""Stochastic depth (T26): whole residual branches are left out in training."""

from typing import Literal

import torch
from torch import Tensor, nn

from .part import Bits, NoisyPart, check_rate, scaled_mask

Mode = Literal["row", "batch"]


class StochasticDepth(NoisyPart):
    """A residual branch is left out with probability p, and divided by 1 − p otherwise (Huang et al. 2016).

    Of x + branch(x) it is the second term: `x + StochasticDepth(0.2)(branch(x))`, or, with the branch in its
    hands, `x + StochasticDepth(0.2, branch=branch)(x)`.

    Args:
        p: the probability of leaving out, in [0, 1]. Usually it grows linearly with depth (`linear_rates`).
        mode: "row" draws for each item; "batch" once for all of them.
        branch: the branch. With "batch" it is not computed where it is left out, and what is returned then is
            a zero without axes, which a sum with the shortcut takes as well.

    Raises:
        ValueError: p is not in [0, 1], or there is no such mode.
    """

    def __init__(self, p: float = 0.1, mode: Mode = "row", branch: nn.Module | None = None) -> None:
        super().__init__()
        self.p = check_rate("p", p)
        if mode not in ("row", "batch"):
            raise ValueError(f"Invalid mode: {mode!r}; valid are 'row' and 'batch'")
        self.mode = mode
        self.by_item = mode == "row"
        self.branch = nn.Identity() if branch is None else branch

    def noisy(self, x: Tensor) -> Tensor:
        """The branch, left out of some or all items."""
        if self.mode == "row":
            return self._kept(x, torch.rand(self._rows(x), device=x.device) >= self.p)
        kept = torch.rand((), device=x.device) >= self.p
        if torch._C._functorch.is_batchedtensor(kept) or torch.compiler.is_compiling():
            return self._kept(x, kept)  # samples side by side: some of them keep it
        if not kept:
            return x.new_zeros(()) if not isinstance(self.branch, nn.Identity) else torch.zeros_like(x)
        return self.expected(x) / (1.0 - self.p)

    def expected(self, x: Tensor) -> Tensor:
        """The branch."""
        out: Tensor = self.branch(x)
        return out

    def bits(self, x: Tensor) -> Bits:
        """A coin an item, or one."""
        return Bits(self._rows(x) if self.mode == "row" else (), 1.0 - self.p)

    def decided(self, x: Tensor, coins: Tensor) -> Tensor:
        """The branch, or zero where the coin is 0."""
        return self._kept(x, coins)

    def _rows(self, x: Tensor) -> tuple[int, ...]:
        return (len(x), *(1 for _ in x.shape[1:]))

    def _kept(self, x: Tensor, mask: Tensor) -> Tensor:
        out = self.expected(x)
        return out * scaled_mask(mask, 1.0 - self.p, out.dtype)

    def extra_repr(self) -> str:
        """The settings, as in torch."""
        return f"p={self.p}, mode={self.mode!r}"


def linear_rates(last: float, branches: int) -> list[float]:
    """The rate of each of `branches` residual branches: p·l/L for the l-th of L (Huang et al. 2016, eq. 4).

    Args:
        last: the rate of the last branch, in [0, 1].
        branches: how many there are.

    Raises:
        ValueError: last is not in [0, 1], or branches is no whole number of at least 0.
    """
    last = check_rate("last", last)
    if isinstance(branches, bool) or not isinstance(branches, int) or branches < 0:
        raise ValueError(f"Invalid branches: {branches!r}; it must be a whole number of at least 0")
    return [last * number / branches for number in range(1, branches + 1)]
