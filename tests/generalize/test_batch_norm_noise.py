"""Batch normalization as noise: statistics taken anew, and statistics of single batches drawn."""

import pytest
import torch
from torch import nn

from ravine.errors import ModelError
from ravine.generalize import SampledBatchNorm, average_out, reestimate, remember_batches


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(4 * 36, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)),
    )


def batches(count=6, items=10):
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(items, 3, 8, 8, generator=draw) * (1 + number) for number in range(count)]


def test_statistics_are_the_means_of_the_batches_own():
    """As torch's own cumulative average (momentum None) gives them over one pass in training mode."""
    ours, theirs = network(), network()
    for layer in (theirs[1], theirs[5]):
        layer.reset_running_stats()
        layer.momentum = None
    theirs.train()
    for batch in batches():
        theirs(batch)
    ours.train()
    assert reestimate(ours, batches()) == 2
    for index in (1, 5):
        torch.testing.assert_close(ours[index].running_mean, theirs[index].running_mean)
        torch.testing.assert_close(ours[index].running_var, theirs[index].running_var)


@pytest.mark.parametrize("training", [True, False])
def test_nothing_else_is_changed(training):
    model = network().train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    reestimate(model, batches())
    assert all(module.training is training for module in model.modules())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) or "running" in name
    assert model[1].num_batches_tracked == before["1.num_batches_tracked"]


def test_samples_take_the_statistics_of_one_batch():
    model = nn.Sequential(nn.BatchNorm2d(3)).double()
    given = [batch.double() for batch in batches(4)]
    assert remember_batches(model, given) == 1
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    found = average_out(model, x, "samples", 4000)
    answers = []
    for batch in given:
        mean, variance = batch.mean((0, 2, 3)), batch.var((0, 2, 3), correction=0)
        answers.append((x - mean[:, None, None]) / (variance + 1e-5).sqrt()[:, None, None])
    answers = torch.stack(answers)
    torch.testing.assert_close(found.mean, answers.mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(found.spread, answers.std(0, correction=0), atol=0.05, rtol=0)


def test_the_expectation_and_training_are_the_layer_s_own():
    plain, model = network(), network()
    remember_batches(model, batches())
    x = batches(1)[0]
    torch.testing.assert_close(average_out(model, x).mean, plain.eval()(x))
    torch.testing.assert_close(model.train()(x), plain.train()(x))
    torch.testing.assert_close(model[1].layer.running_mean, plain[1].running_mean)
    assert isinstance(model[1], SampledBatchNorm) and isinstance(model[5], SampledBatchNorm)


def test_without_batches_or_layers_it_says_so():
    assert reestimate(nn.Linear(2, 2), []) == 0
    with pytest.raises(ModelError, match="no batches were given"):
        reestimate(network(), [])
    with pytest.raises(ModelError, match="no batch normalization"):
        remember_batches(nn.Linear(2, 2), batches())


def test_a_second_call_remembers_other_batches():
    model, other = network(), network()
    assert remember_batches(model, batches(6)) == 2
    later = [10 + batch for batch in batches(3)]
    assert remember_batches(model, later) == remember_batches(other, later) == 2
    assert list(model.state_dict()) == list(other.state_dict())
    x = batches(1)[0]
    found, wanted = (average_out(each, x, "samples", 16) for each in (model, other))
    assert torch.equal(found.mean, wanted.mean) and torch.equal(found.spread, wanted.spread)


def test_a_model_in_whose_place_nothing_can_be_put_is_refused():
    with pytest.raises(ModelError, match=r"itself a batch normalization.* within a torch\.nn\.Sequential"):
        remember_batches(nn.BatchNorm1d(3), [torch.randn(9, 3)])
    remembered = nn.Sequential(nn.BatchNorm1d(3))
    remember_batches(remembered, [torch.randn(9, 3)])
    given = [torch.randn(9, 3) for _ in range(2)]
    assert remember_batches(remembered[0], given) == 1
    torch.testing.assert_close(remembered[0].means, torch.stack([batch.mean(0) for batch in given]))
