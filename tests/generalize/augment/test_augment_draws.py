import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ravine.generalize.augment.draws import Draws

MANY = 20_000
# Each statistic is of fixed seeds: a test that passes once passes always.
LEVEL = 0.001


def draws(count: int = MANY, seed: int = 0, epoch: int = 0) -> Draws:
    return Draws(seed, epoch, torch.arange(count))


KINDS = {
    "uniform": lambda draws: draws.uniform("a", 3),
    "normal": lambda draws: draws.normal("a", 3),
    "chance": lambda draws: draws.chance("a", 0.3),
    "integers": lambda draws: draws.integers("a", -3, 9, 2),
    "beta": lambda draws: draws.beta("a", 0.4),
}


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=30)
@given(items=st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=40), data=st.data())
def test_a_samples_numbers_do_not_depend_on_the_batch(kind, items, data):
    whole = KINDS[kind](Draws(1, 2, torch.tensor(items)))
    order = data.draw(st.permutations(range(len(items))))
    cut = data.draw(st.integers(1, len(items)))
    part = KINDS[kind](Draws(1, 2, torch.tensor([items[place] for place in order[:cut]])))
    assert torch.equal(part, whole[list(order[:cut])])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 7, 333])
def test_numbers_round_alike_at_the_end_of_a_batch_and_within(kind, size):
    whole = KINDS[kind](draws(3000))
    parts = [KINDS[kind](Draws(0, 0, items)) for items in torch.arange(3000).split(size)]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize(
    "found", [draws().uniform("a"), draws(1).uniform("a", 5, MANY // 5)], ids=["items", "positions"]
)
def test_uniform_numbers_are_uniform_over_items_and_over_positions(found):
    found = found.flatten()
    assert found.min() >= 0 and found.max() < 1
    assert stats.kstest(found.numpy(), "uniform").pvalue > LEVEL
    # The low digits too, which a weak hash leaves alike.
    assert stats.kstest((found.double() * 2**14 % 1).numpy(), stats.uniform(0, 1).cdf).pvalue > LEVEL


def test_every_bit_is_as_often_1_as_0_and_moves_alone():
    bits = draws()._bits("a")
    columns = torch.stack([(bits >> place) & 1 for place in range(64)]).double()
    # 64 frequencies and 2016 correlations, each normal: the largest of them in 1 of 1000 seeds.
    most = stats.norm.isf(LEVEL / 2 / 2100) / math.sqrt(MANY)
    assert (columns.mean(1) - 0.5).abs().max() < most / 2
    between = torch.corrcoef(columns) - torch.eye(64)
    assert between.abs().max() < most


def test_neighbouring_items_epochs_seeds_names_and_positions_are_independent():
    first = draws()
    numbers = torch.stack(
        [
            first.uniform("a"),
            first.uniform("a").roll(1),
            first.uniform("b"),
            first.under(1).uniform("a"),
            draws(epoch=1).uniform("a"),
            draws(seed=1).uniform("a"),
            Draws(0, 0, torch.arange(1, MANY + 1) * 2).uniform("a"),
            *first.uniform("c", 4).unbind(1),
        ]
    )
    between = torch.corrcoef(numbers) - torch.eye(len(numbers))
    assert between.abs().max() < stats.norm.isf(LEVEL / 2 / 55) / math.sqrt(MANY)
    # Correlation sees lines only: pairs in 8 × 8 cells.
    for other in numbers[1:]:
        cells = (numbers[0] * 8).long() * 8 + (other * 8).long()
        assert stats.chisquare(torch.bincount(cells, minlength=64).numpy()).pvalue > LEVEL / 10


def test_normal_numbers_are_normal():
    found = draws().normal("a", 2)
    assert stats.kstest(found.flatten().numpy(), "norm").pvalue > LEVEL
    assert abs(float(torch.corrcoef(found.T)[0, 1])) < 3.3 / math.sqrt(MANY)


@pytest.mark.parametrize("alpha", [0.1, 0.2, 1.0, 8.0])
def test_beta_shares_have_their_distribution(alpha):
    found = draws().beta("a", alpha)
    assert found.isfinite().all()
    # Cells that float32 can tell apart: for small alpha many shares are nearer to 1 than it has numbers.
    distribution = stats.beta(alpha, alpha)
    edges = torch.tensor(
        [edge for edge in distribution.ppf([step / 20 for step in range(1, 20)]) if edge < 0.99]
    )
    counts = torch.bincount(torch.bucketize(found.double(), edges), minlength=len(edges) + 1)
    shares = [MANY / 20] * len(edges) + [MANY * (20 - len(edges)) / 20]
    assert stats.chisquare(counts.numpy(), shares).pvalue > LEVEL


def test_integers_are_all_as_frequent_and_within_their_bounds():
    found = draws().integers("a", -2, 5)
    assert found.dtype == torch.int64
    assert stats.chisquare(torch.bincount(found + 2, minlength=7).numpy()).pvalue > LEVEL
    assert (found.min(), found.max()) == (-2, 4)


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_chance_is_as_frequent_as_asked_never_at_0_and_always_at_1(p):
    hits = int(draws().chance("a", p).sum())
    assert abs(hits - p * MANY) <= 3.3 * math.sqrt(MANY * p * (1 - p))


def test_between_has_its_bounds():
    found = draws().between("a", -3.0, 1.0)
    assert -3 <= found.min() < -2.99 and 0.99 < found.max() <= 1


def test_a_part_of_the_draws_is_that_of_the_samples():
    chosen = torch.tensor([5, 2, 2])
    assert torch.equal(draws().of(chosen).uniform("a"), draws().uniform("a")[chosen])


def test_no_samples_have_no_numbers():
    assert draws(0).uniform("a", 3).shape == (0, 3)
    assert draws(0).beta("a", 0.5).shape == (0,)


@pytest.mark.parametrize("items", [torch.zeros(3), torch.zeros(3, 1, dtype=torch.int64)])
def test_items_are_whole_numbers_one_a_sample(items):
    with pytest.raises(ValueError, match=r"they must be int64 \(N,\)"):
        Draws(0, 0, items)
