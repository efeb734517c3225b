"""Stochastic depth: what is skipped, and the rates over depth."""

import pytest
import torch
from torch import nn

from ravine.generalize import StochasticDepth, linear_rates


class Counting(nn.Linear):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


def test_a_dropped_batch_is_not_computed():
    branch = Counting(3, 3)
    part, x = StochasticDepth(0.5, "batch", branch), torch.randn(4, 3)
    torch.manual_seed(0)
    left_out = sum(torch.equal(x + part(x), x) for _ in range(200))
    assert branch.calls == 200 - left_out and 70 < left_out < 130
    part.eval()
    assert torch.equal(part(x), branch(x))


@pytest.mark.parametrize("mode", ["row", "batch"])
def test_a_branch_that_is_kept_is_divided_by_its_chance(mode):
    branch = nn.Linear(3, 3)
    part, x = StochasticDepth(0.2, mode, branch), torch.randn(64, 3)
    torch.manual_seed(0)
    out = torch.stack([part(x).expand(64, 3) for _ in range(50)])
    kept = out.flatten(0, 1).abs().sum(1) > 0
    torch.testing.assert_close(out.flatten(0, 1)[kept], branch(x).repeat(50, 1)[kept] / 0.8)
    assert 0.6 < kept.double().mean() < 0.95


def test_rates_grow_linearly_with_depth():
    assert linear_rates(0.5, 5) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert linear_rates(0.5, 0) == []
    with pytest.raises(ValueError, match=r"Invalid last: 1\.5"):
        linear_rates(1.5, 3)


@pytest.mark.parametrize("branches", [-3, 2.5, "many", True])
def test_a_number_of_branches_that_is_none_is_refused(branches):
    with pytest.raises(ValueError, match=r"Invalid branches: .* a whole number of at least 0"):
        linear_rates(0.5, branches)


def test_a_mode_that_is_none_is_refused():
    with pytest.raises(ValueError, match="Invalid mode: 'column'; valid are 'row' and 'batch'"):
        StochasticDepth(0.1, "column")
