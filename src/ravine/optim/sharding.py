"""Parameters cut into shards over several processes, as FSDP2 and tensor parallelism do: `DTensor`.

Elementwise rules step each process's own part. A matrix cannot be turned piece by piece: each process
gathers the gradient, finds the same direction, and takes its own part of it. The states that span a
parameter are whole in every process.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


def whole(tensor: Tensor) -> Tensor:
    """The tensor with all shards together."""
    if not is_sharded(tensor):
        return tensor
    gathered: Tensor = tensor.full_tensor()  # type: ignore[attr-defined]
    return gathered


def as_sharded(tensor: Tensor, like: Tensor) -> Tensor:
    """The part of a tensor, equal in all processes, that is this process's by the way `like` is sharded."""
    if not is_sharded(like):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    return distribute_tensor(tensor, mesh, placements, src_data_rank=None)


def own_parts(tensors: Sequence[Tensor]) -> list[Tensor]:
    """This process's part of each tensor, in the same memory; all are cut as the first is."""
    first = tensors[0]
    if not is_sharded(first):
        return list(tensors)
    parts = []
    for tensor in tensors:
        if tensor.placements != first.placements:  # type: ignore[attr-defined]
            tensor = tensor.redistribute(placements=first.placements)  # type: ignore[attr-defined]
        parts.append(tensor.to_local())  # type: ignore[attr-defined]
    return parts


def sums_of_squares(tensors: Iterable[Tensor]) -> list[Tensor]:
    """The sums of the squares of sharded tensors, over all processes: one a way of sharding, float64."""
    sums: defaultdict[Any, Any] = defaultdict(int)
    for tensor in tensors:
        way = tensor.device_mesh, tensor.placements  # type: ignore[attr-defined]
        sums[way] = sums[way] + tensor.abs().double().square().sum()
    return [whole(each) for each in sums.values()]  # they meet once, not once a parameter


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor may be cut over several processes."""
    if type(tensor) in (Tensor, torch.nn.Parameter) or not torch.distributed.is_available():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)
