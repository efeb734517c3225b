import math

import pytest
import torch
from scipy import stats

from ravine.training import resampling
from ravine.training.resampling import bootstrap_means, percentile_interval, random_groups, wilson_interval


@pytest.mark.parametrize(
    ("successes", "count", "wanted"),
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
    [
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_wilson_agrees_with_published_values(successes: int, count: int, wanted: tuple[float, float]) -> None:
    assert wilson_interval(successes, count) == pytest.approx(wanted, abs=5e-5)


@pytest.mark.parametrize(("successes", "count"), [(0, 1), (1, 1), (5, 9), (353, 360), (10_000, 10_000)])
def test_wilson_agrees_with_scipy(successes: int, count: int) -> None:
    peer = stats.binomtest(successes, count).proportion_ci(method="wilson")
    assert wilson_interval(successes, count) == pytest.approx((peer.low, peer.high), abs=1e-12)


def test_wilson_covers_the_truth_as_often_as_it_says() -> None:
    """Exactly, by summing the binomial distribution: 95 % on average over the true shares."""
    count, covered = 100, []
    for percent in range(2, 99):
        truth = percent / 100
        inside = [k for k in range(count + 1) if (i := wilson_interval(k, count))[0] <= truth <= i[1]]
        covered.append(stats.binom.pmf(inside, count, truth).sum())
    assert sum(covered) / len(covered) == pytest.approx(0.95, abs=0.01)
    assert min(covered) > 0.90


def test_wilson_of_nothing_is_no_number() -> None:
    assert all(math.isnan(end) for end in wilson_interval(0, 0))


def test_resampled_means_have_the_moments_of_the_theory() -> None:
    """Mean over draws: the sample's mean; variance: the sample's variance over N."""
    values = torch.randn(400, 2, generator=torch.Generator().manual_seed(0)).double() * torch.tensor(
        [1.0, 5.0]
    )
    draws = bootstrap_means(values, torch.ones(400), seed=0)
    assert draws.shape == (resampling.RESAMPLES, 2)
    spread = values.std(0, correction=0) / 20
    assert ((draws.mean(0) - values.mean(0)).abs() < 4 * spread / 1000**0.5).all()
    torch.testing.assert_close(draws.std(0), spread, rtol=0.1, atol=0)


def test_blocks_weigh_by_their_items() -> None:
    draws = bootstrap_means(torch.tensor([[6.0], [3.0]]).double(), torch.tensor([2, 1]), seed=0)
    assert torch.equal(draws, torch.full_like(draws, 3.0))  # three an item, however the blocks fall


def test_groups_hold_every_item_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "MOST_GROUPS", 7)
    values = torch.eye(23).double()
    sums, counts = random_groups(values, seed=0)
    assert len(sums) == 7
    assert torch.equal(sums.sum(0), torch.ones(23).double())
    assert torch.equal(sums.sum(1), counts.double())
    assert counts.max() - counts.min() <= 1
    assert not torch.equal(sums, random_groups(values, seed=1)[0])


def test_the_percentile_interval_leaves_out_what_is_no_number() -> None:
    draws = torch.cat((torch.arange(101.0), torch.tensor([float("nan")])))
    assert percentile_interval(draws) == pytest.approx((2.5, 97.5))
