"""Randomness is addressed, not consumed.

Each random choice comes from a generator seeded by (seed, what for, epoch, step, member, ...), never
from the current state of a global stream. So a resumed run equals an uninterrupted one bit for bit,
and a random choice added in one place moves nothing elsewhere.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

Address = int | str


def address_seed(seed: int, *address: Address) -> int:
    """A 63-bit seed for one random choice: a hash of `seed` and where the choice is made."""
    text = repr((seed, *address)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def generator(seed: int, *address: Address, device: str | torch.device = "cpu") -> torch.Generator:
    """A fresh generator for one random choice, for example `generator(seed, "order", epoch)`."""
    return torch.Generator(device).manual_seed(address_seed(seed, *address))


def seed_noise(seed: int, *address: Address, device: torch.device) -> None:
    """Address the global streams that layers such as `torch.nn.Dropout` draw from.

    Only the streams of the CPU and of `device` are set: seeding devices that are not in use costs
    time at every step.
    """
    value = address_seed(seed, *address)
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.manual_seed(value)
    elif device.type == "mps":
        torch.mps.manual_seed(value)


@contextmanager
def addressed(seed: int, *address: Address) -> Iterator[None]:
    """Run a block, such as the making of a model, under addressed global streams.

    The caller's own global streams are as they were afterwards.
    """
    value = address_seed(seed, *address)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        # What torch.manual_seed does, without noting the call for each kind of device that is not there.
        torch.default_generator.manual_seed(value)
        if torch.cuda.is_available():
            torch.cuda.manual_seed_all(value)
        if torch.backends.mps.is_available():
            torch.mps.manual_seed(value)
        yield
