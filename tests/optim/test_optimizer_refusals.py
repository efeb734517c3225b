"""What is refused around averages, groups and rules, and that a refused step leaves no trace."""

import copy

import pytest
import torch

from ravine.optim import SGD, Adam, Muon, ScheduleFreeSGD, rule


def parameter(*shape: int) -> torch.nn.Parameter:
    made = torch.nn.Parameter(torch.ones(shape or (3,)))
    made.grad = torch.ones_like(made)
    return made


def test_nothing_that_loses_the_weights_happens_while_they_are_averaged():
    weights = parameter()
    optimizer = Adam([weights], average=0.9)
    optimizer.step()
    saved = optimizer.state_dict()
    with optimizer.averaged():
        for action in (
            optimizer.step,
            lambda: optimizer.load_state_dict(saved),
            lambda: copy.deepcopy(optimizer),
        ):
            with pytest.raises(RuntimeError, match="averaged"):
                action()
    optimizer.load_state_dict(saved)


def test_schedule_free_does_not_change_sequences_while_averaged():
    weights = parameter()
    optimizer = ScheduleFreeSGD([weights], lr=0.1, average=0.9)
    optimizer.step()
    trained = weights.detach().clone()
    with optimizer.averaged():
        for turn in (optimizer.eval, optimizer.train):
            with pytest.raises(RuntimeError, match="averaged"):
                turn()
    assert torch.equal(weights, trained)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"average": 1.5}, "Invalid average"),
        ({"l1": -1.0}, "Invalid l1"),
        ({"clip_value": -1.0}, "Invalid clip_value"),
        ({"clip_norm": 1.0}, "whole optimizer's"),
        ({"engine": "x"}, "whole optimizer's"),
        ({"rounding": "nearest"}, "whole optimizer's"),
    ],
)
def test_a_groups_options_are_checked(option, message):
    with pytest.raises(ValueError, match=message):
        SGD([{"params": [parameter()], **option}], lr=0.1)


def test_a_group_may_hold_tensors_that_are_no_hyperparameters():
    optimizer = Adam([{"params": [parameter()], "mask": torch.ones(7)}])
    optimizer.step()
    assert optimizer.param_groups[0]["mask"].numel() == 7


def test_a_refused_step_leaves_no_trace():
    whole, twin, bad = parameter(), parameter(), parameter(4)
    options = {"momentum": 0.9, "dampening": 0.5, "average": 0.9}
    refused, clean = SGD([whole, bad], 0.1, **options), SGD([twin], 0.1, **options)
    bad.data = torch.ones(2)
    with pytest.raises(RuntimeError, match="a gradient has shape"):
        refused.step()
    bad.grad = None
    refused.step()
    clean.step()
    assert torch.equal(whole, twin)
    assert torch.equal(refused.state[whole]["average"], clean.state[twin]["average"])


def test_schedulers_cycle_muons_momentum():
    weights = parameter(4, 4)
    optimizer = Muon([weights])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10)
    optimizer.step()
    schedule.step()
    assert optimizer.param_groups[0]["momentum"] != 0.95
    assert optimizer.param_groups[0]["adam_betas"] == (0.9, 0.95)


def test_a_comparison_as_a_number_runs_by_torchs_operators():
    @rule()
    def where_positive(x, dx, t, lr=0.1):
        return (x - lr * dx * (dx > 0),)

    weights = parameter()
    weights.grad = torch.tensor([1.0, -1.0, 2.0])
    where_positive.optimizer([weights]).step()
    torch.testing.assert_close(weights.detach(), torch.tensor([0.9, 1.0, 0.8]))
    with pytest.raises(RuntimeError, match="comparison is no number"):
        where_positive.optimizer([weights], engine="cpu").step()
