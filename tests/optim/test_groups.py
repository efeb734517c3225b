"""Which parameters are decayed."""

import pytest
import torch
from torch import nn

from ravine.optim import AdamW, param_groups


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.conv = nn.Conv2d(3, 4, 3)
        self.batch = nn.BatchNorm2d(4)
        self.group = nn.GroupNorm(2, 4)
        self.layer = nn.LayerNorm((4, 6))  # its gains are a matrix
        self.rms = nn.RMSNorm((4, 6))
        self.attention = nn.MultiheadAttention(4, 2, add_bias_kv=True)  # biases of three dimensions
        self.rnn = nn.LSTM(4, 3)
        self.head = nn.Linear(4, 10)
        self.head.weight = self.embedding.weight
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, 4))
        self.temperature = nn.Parameter(torch.tensor(1.0))


DECAYED = {
    "pos_embed",
    "embedding.weight",
    "conv.weight",
    "attention.in_proj_weight",
    "attention.out_proj.weight",
    "rnn.weight_ih_l0",
    "rnn.weight_hh_l0",
}


def names(group):
    return {name for name, _ in group["params"]}


def test_biases_gains_and_normalizations_are_not_decayed():
    model = Net()
    decayed, spared = param_groups(model, 0.1)
    assert names(decayed) == DECAYED
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    everything = dict(model.named_parameters())
    assert names(decayed) | names(spared) == everything.keys()  # a shared one once, by its first name
    for name, parameter in decayed["params"] + spared["params"]:
        assert everything[name] is parameter


def test_further_names_and_patterns_are_spared():
    decayed, _ = param_groups(Net(), 0.1, no_decay=["pos_embed", "rnn.*"])
    assert names(decayed) == DECAYED - {"pos_embed", "rnn.weight_ih_l0", "rnn.weight_hh_l0"}
    assert names(param_groups(Net(), 0.1, no_decay="pos_embed")[0]) == DECAYED - {"pos_embed"}
    with pytest.raises(ValueError, match=r"no parameter 'pos_embd' \(did you mean 'pos_embed'\?\)"):
        param_groups(Net(), 0.1, no_decay=["pos_embd"])


def test_frozen_parameters_are_there_and_stay_as_they_are():
    model = nn.Linear(2, 2)
    model.weight.requires_grad_(False)
    optimizer = AdamW(param_groups(model, 0.1), lr=0.1)
    before = model.weight.clone()
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert torch.equal(model.weight, before)
    model.weight.requires_grad_(True)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert not torch.equal(model.weight, before)


def test_empty_groups_are_left_out_and_options_are_in_both():
    (only,) = param_groups(nn.Linear(2, 2, bias=False), 0.1, lr=0.5)
    assert only["lr"] == 0.5
    assert [group["lr"] for group in param_groups(nn.Linear(2, 2), 0.1, lr=0.5)] == [0.5, 0.5]
    assert param_groups(nn.ReLU(), 0.1) == []


@pytest.mark.parametrize("library", [AdamW, torch.optim.AdamW])
def test_names_are_kept_in_the_optimizer_and_its_checkpoint(library):
    optimizer = library(param_groups(Net(), 0.1), lr=0.1)
    assert set(optimizer.param_groups[0]["param_names"]) == DECAYED
    assert set(optimizer.state_dict()["param_groups"][0]["param_names"]) == DECAYED


def test_only_decayed_parameters_shrink():
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    nn.init.ones_(model[0].bias)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = AdamW(param_groups(model, weight_decay=0.5), lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] * (0.95 if name == "0.weight" else 1.0))
