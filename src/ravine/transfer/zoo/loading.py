"""Weights into a network, all of them or none."""

from collections.abc import Mapping

from torch import Tensor, nn

from ...errors import ModelError

_TOLD = 8


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Put weights into a network in place.

    Args:
        module: of the same names and shapes.
        weights: by name.
        where: what messages call them.

    Raises:
        ModelError: names are missing or unexpected, shapes differ, or whole numbers stand where there must be
            others: each is told, and nothing is changed.
    """
    own = module.state_dict()
    # A count of batches that older programs did not keep starts at nothing.
    optional = {name for name in own if name.endswith("num_batches_tracked")}
    problems = _listed("missing", sorted(own.keys() - weights.keys() - optional))
    problems += _listed("unexpected", sorted(weights.keys() - own.keys()))
    shapes = [
        f"{name} is {tuple(weights[name].shape)} and must be {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    problems += _listed("of another shape", shapes)
    # Rounded weights would load without a word; counts, such as those of batches, are whole numbers.
    rounded = [
        f"{name} is {weights[name].dtype}"
        for name in own
        if name in weights and own[name].is_floating_point() and not weights[name].is_floating_point()
    ]
    problems += _listed("not of floating point", rounded)
    if problems:
        raise ModelError(f"{where} does not fit the network: {'; '.join(problems)}")
    module.load_state_dict(dict(weights), strict=False)


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    return [f"{what}: {', '.join(names[:_TOLD])}{more}"]
