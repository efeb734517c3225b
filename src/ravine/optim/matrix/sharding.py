"""Parameters cut into shards over several processes, as FSDP2 and tensor parallelism do: `DTensor`.

A matrix cannot be turned piece by piece: each process gathers the gradient, finds the same direction, and
takes its own part of it. The states that span a parameter are whole in every process.
"""

import torch
from torch import Tensor


def whole(tensor: Tensor) -> Tensor:
    """The tensor with all shards together."""
    if not _is_sharded(tensor):
        return tensor
    gathered: Tensor = tensor.full_tensor()  # type: ignore[attr-defined]
    return gathered


def as_sharded(tensor: Tensor, like: Tensor) -> Tensor:
    """The part of a tensor, equal in all processes, that is this process's by the way `like` is sharded."""
    if not _is_sharded(like):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    return distribute_tensor(tensor, mesh, placements, src_data_rank=None)


def _is_sharded(tensor: Tensor) -> bool:
    if type(tensor) in (Tensor, torch.nn.Parameter) or not torch.distributed.is_available():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)
