"""A learning rate for each depth (C41): lower layers know more that is of use, and move less."""

import math
from typing import Any

from torch import Tensor, nn

from ..errors import ModelError
from ..optim.groups import param_groups
from .depths import levels


def layer_rates(
    model: nn.Module,
    lr: float,
    *,
    decay: float,
    body: float = 1.0,
    weight_decay: float | None = None,
    sample: Tensor | None = None,
) -> list[dict[str, Any]]:
    """Parameter groups with discriminative rates (Howard and Ruder 2018, section 3.2), the head's first.

        optimizer = AdamW(layer_rates(model, 1e-3, decay=0.4, weight_decay=0.05))

    The head has the rate lr, the stretch below it lr·body, and each further one `decay` times that of the one
    above. Frozen parameters are left out.

    Args:
        model: the network.
        lr: rate of the head, above 0.
        decay: factor from one stretch (`depths.levels`) to the one below, in (0, 1].
        body: factor from the head to all that is below it, in (0, 1].
        weight_decay: of matrices alone (`optim.param_groups`); None leaves decay to the optimizer.
        sample: prepared items (N, ...) to find the depths by; without one the network is traced.

    Returns:
        groups with "name", "params" and "lr", and "weight_decay" where it was given.

    Raises:
        ModelError: the rate or a factor is out of its range, or the depths cannot be found.
    """
    if not 0 < lr < math.inf:
        raise ModelError(f"layer_rates: lr must be above 0, not {lr}")
    for told, factor in (("decay", decay), ("body", body)):
        if not 0 < factor <= 1:
            raise ModelError(f"layer_rates: {told} must be above 0 and at most 1, not {factor}")
    found = levels(model, sample)
    height = {name: at for at, level in enumerate(found) for name in level.modules}
    split: list[dict[str, Any]] = (
        [{"params": list(model.named_parameters())}]
        if weight_decay is None
        else list(param_groups(model, weight_decay))
    )
    groups: dict[tuple[int, int], dict[str, Any]] = {}
    for kind, own in enumerate(split):
        options = {key: value for key, value in own.items() if key != "params"}
        for name, parameter in own["params"]:
            if not parameter.requires_grad:
                continue
            # What no stretch holds, such as a position embedding, moves as little as the first.
            at = height.get(name.rpartition(".")[0], 0)
            below = len(found) - 1 - at
            rate = lr if not below else lr * body * decay ** (below - 1)
            group = groups.setdefault(
                (-at, kind), {"name": found[at].name, "params": [], "lr": rate, **options}
            )
            group["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]
