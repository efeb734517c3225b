"""Whether there is room for a method's matrices, asked before any work is lost."""

import torch

from ...errors import MemoryLimitError
from ...memory import free_bytes

GIB = 2**30
MATRICES = {"bfgs": 1, "newton": 4, "trust-exact": 4, "saddle-free-newton": 5}
"""(n, n) matrices at once: BFGS' own; a Hessian, the rows it is made of, its shifted sum and the factor of
that, or its eigenvectors and what they are worked out in."""


def refuse_matrices(name: str, n: int, like: torch.Tensor, matrices: int) -> None:
    """Refuse what would take more than half of the memory that is free.

    Args:
        name: of the method, for the message.
        n: how many numbers x has.
        like: what x is like.
        matrices: how many (n, n) matrices the method needs at once.

    Raises:
        MemoryLimitError: with how much it would take.
    """
    needed = matrices * n**2 * like.element_size()
    free = free_bytes(like.device)
    if free is not None and needed > free / 2:
        raise MemoryLimitError(
            f"{name} keeps a matrix of {n:,} x {n:,} numbers: at work it takes {needed / GIB:,.1f} GiB, more "
            f"than half of the {free / GIB:,.1f} GiB that are free. Use L-BFGS, which keeps no matrix, or "
            "fewer variables."
        )
