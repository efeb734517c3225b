"""Addresses: distinct, stable, and apart from the global streams."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from ravine.randomness import address_seed, addressed, generator, seed_noise

address = st.lists(st.one_of(st.integers(0, 10**6), st.text(max_size=8)), max_size=4)


@given(st.integers(0, 2**63 - 1), address, address)
def test_different_addresses_have_different_seeds(seed: int, left: list, right: list) -> None:
    same = [type(item) for item in left] == [type(item) for item in right] and left == right
    assert (address_seed(seed, *left) == address_seed(seed, *right)) == same


def test_an_address_gives_the_same_numbers_for_ever() -> None:
    # Written down once: a change of the hash would change every run that users resume.
    assert address_seed(0, "order", 3) == 8244215730568551301
    assert torch.randint(1000, (3,), generator=generator(0, "order", 3)).tolist() == [403, 95, 113]


def test_a_block_leaves_the_callers_streams_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    with addressed(1, "model"):
        first = torch.rand(1)
    assert torch.equal(torch.rand(2), expected)
    with addressed(1, "model"):
        assert torch.equal(torch.rand(1), first)


def test_noise_depends_on_the_address_alone() -> None:
    device = torch.device("cpu")
    with torch.random.fork_rng():
        seed_noise(0, "noise", 1, 2, device=device)
        first = torch.rand(3)
        torch.rand(7)
        seed_noise(0, "noise", 1, 2, device=device)
        assert torch.equal(torch.rand(3), first)
        seed_noise(0, "noise", 1, 3, device=device)
        assert not torch.equal(torch.rand(3), first)
