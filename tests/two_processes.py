"""A function in two processes that talk to each other by gloo."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed

needs_processes = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this torch has no distributed part"
)


def in_two_processes(check: Callable[[int], None], place: Path) -> None:
    """Run `check` with rank 0 and with rank 1; what either raises is raised here."""
    torch.multiprocessing.spawn(_one, (check, str(place / "store")), nprocs=2)


def _one(rank: int, check: Callable[[int], None], store: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    check(rank)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    # Gloo's threads may still hold tensors of Python's, and abort a process whose interpreter is being
    # taken down (pytorch/pytorch#179291): all was compared, so leave without taking it down.
    os._exit(0)
