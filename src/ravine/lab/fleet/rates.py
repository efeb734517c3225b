"""Dropout with a rate for each member of a stack."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...generalize.noise import Dropout

_DROPOUTS = (nn.Dropout, Dropout)


class DropoutByMember(nn.Module):
    """Inverted dropout whose rate is a tensor, one value a member under `vmap`."""

    p: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("p", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Each element 0 with probability p, else x/(1 − p); all 0 where p is 1. In evaluation x itself."""
        return x * self.mask(x, self.p) if self.training else x

    @staticmethod
    def mask(x: Tensor, p: Tensor) -> Tensor:
        """What x is multiplied by: 0 with probability p, which goes with x in shape, else 1/(1 − p)."""
        keep = 1.0 - p
        return (torch.rand_like(x) >= p) * torch.where(keep > 0.0, 1.0 / keep, 0.0)


def rates_of(network: nn.Module) -> dict[str, float]:
    """The rate of each dropout layer that may differ between the members of a stack, by name."""
    return {
        name: float(module.p)
        for name, module in network.named_modules(remove_duplicate=False)  # one may stand in two places
        if type(module) in _DROPOUTS and getattr(module, "inverted", True)
    }


def by_member(networks: Sequence[nn.Module]) -> tuple[nn.Module, dict[str, Tensor]]:
    """A copy of the first network, and the rates that it takes as buffers where members differ in them.

    Returns:
        the copy, and float32 (K,) rates by the buffers' names; none where all members have the same.
    """
    template = copy.deepcopy(networks[0])
    found: dict[str, Tensor] = {}
    rates = [rates_of(network) for network in networks]
    for name in rates[0]:
        values = [own[name] for own in rates]
        if len(set(values)) > 1:
            template.set_submodule(name, DropoutByMember())
            found[f"{name}.p"] = torch.tensor(values)
    return template, found
