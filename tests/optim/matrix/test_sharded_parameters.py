"""FSDP2 cuts parameters over two processes: the steps are those of one, and checkpoints too."""

import copy

import torch
import torch.distributed
from torch import nn

from ravine.optim.matrix import SOAP, Muon, Shampoo
from two_processes import in_two_processes, needs_processes

MAKE = (
    lambda params: Muon(params, 0.05, algorithm="auto"),
    lambda params: Shampoo(params, 0.05, precondition_frequency=2),
    lambda params: SOAP(params, 0.05, precondition_frequency=2),
)


def network():
    torch.manual_seed(0)
    # Five rows over two processes: the shares differ.
    return nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5)).double()


def train(model, optimizer, steps):
    for step in steps:
        inputs = torch.randn(8, 5, generator=torch.Generator().manual_seed(step)).double()
        optimizer.zero_grad()
        (model(inputs) - inputs.flip(1)).square().mean().backward()
        optimizer.step()


def sharded_and_whole(rank):
    """Each process trains the sharded network, carries its checkpoint over, and compares with one alone."""
    from torch.distributed.checkpoint import state_dict
    from torch.distributed.fsdp import fully_shard

    mesh = torch.distributed.init_device_mesh("cpu", (2,))
    for make in MAKE:
        plain, sharded, resumed = network(), network(), network()
        fully_shard(sharded, mesh=mesh)
        fully_shard(resumed, mesh=mesh)
        one, two, three = (make(model.parameters()) for model in (plain, sharded, resumed))
        train(plain, one, range(6))
        train(sharded, two, range(3))
        saved = copy.deepcopy(state_dict.get_state_dict(sharded, two))
        state_dict.set_state_dict(resumed, three, model_state_dict=saved[0], optim_state_dict=saved[1])
        for model, optimizer in ((sharded, two), (resumed, three)):
            train(model, optimizer, range(3, 6))
            for expected, found in zip(plain.parameters(), model.parameters(), strict=True):
                torch.testing.assert_close(found.full_tensor(), expected.detach(), rtol=1e-7, atol=1e-9)


@needs_processes
def test_two_processes_step_as_one(tmp_path):
    in_two_processes(sharded_and_whole, tmp_path)
