"""State takes its parameter's order in memory, so that a loaded one steps to the same bits."""

import pytest
import torch

from ravine.optim import Adam


def channels_last(seed: int) -> torch.nn.Parameter:
    values = torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    return torch.nn.Parameter(values.to(memory_format=torch.channels_last))


def step(optimizer: Adam, parameter: torch.nn.Parameter, seed: int) -> None:
    parameter.grad = channels_last(seed).detach()
    optimizer.step()


@pytest.mark.parametrize("rounding", ["nearest", "compensated"])
def test_a_state_loaded_in_another_layout_steps_to_the_same_bits(rounding):
    kind = torch.bfloat16 if rounding == "compensated" else torch.float32
    whole, half = (torch.nn.Parameter(channels_last(0).detach().to(kind)) for _ in range(2))
    first, second = (Adam([each], average=0.9, rounding=rounding) for each in (whole, half))
    for number in range(3):
        for optimizer, parameter in ((first, whole), (second, half)):
            parameter.grad = channels_last(number).detach().to(kind)
            optimizer.step()
    saved = second.state_dict()
    for key, value in saved["state"][0].items():
        if value.dim():  # as a file would give it
            saved["state"][0][key] = value.clone(memory_format=torch.contiguous_format)
    resumed = Adam([half], average=0.9, rounding=rounding)
    resumed.load_state_dict(saved)
    for number in range(3, 6):
        for optimizer, parameter in ((first, whole), (resumed, half)):
            parameter.grad = channels_last(number).detach().to(kind)
            optimizer.step()
    assert torch.equal(whole, half)
    assert torch.equal(first.state[whole]["average"], resumed.state[half]["average"])


def test_a_parameter_may_change_its_layout_between_steps():
    moved, kept = channels_last(0), channels_last(0)
    first, second = Adam([moved]), Adam([kept])
    step(first, moved, 1)
    step(second, kept, 1)
    moved.data = moved.data.contiguous()
    moved.grad = None
    for number in (2, 3):
        moved.grad = channels_last(number).detach().contiguous()
        first.step()
        step(second, kept, number)
    assert torch.equal(moved, kept)
    assert first.state[moved]["exp_avg"].is_contiguous()
