"""A head on the features of a lower depth (T29): what follows them is left out."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..modes import evaluating
from .depths import order_of_calls, run, within
from .features import features, inputs_of, pooled
from .surgery import Head, find_head, new_head, require_outputs


class LeftOut(nn.Module):
    """In the place of a layer that is left out: of all that it is given, the first is handed on."""

    def forward(self, inputs: Tensor, *others: Any, **options: Any) -> Tensor:
        """The inputs, of any shape; the others are a layer's masks and the like."""
        return inputs


class Mean(nn.Module):
    """The mean over positions, which stay as dimensions of one: global pooling then finds nothing to change.

    Args:
        dims: of the positions: (2, 3) for maps (N, C, H, W), (1,) for sequences (N, T, C).
    """

    def __init__(self, dims: Sequence[int]) -> None:
        super().__init__()
        self.dims = tuple(dims)

    def forward(self, inputs: Tensor, *others: Any, **options: Any) -> Tensor:
        """Inputs of any number of positions to one; the others as of `LeftOut`."""
        return inputs.mean(self.dims, keepdim=True)

    def extra_repr(self) -> str:
        """The positions."""
        return f"dims={self.dims}"


def truncate(model: nn.Module, depth: str, classes: int, *, sample: Tensor) -> str:
    """Leave out what follows a depth, and put a new head on the means of its features (T29).

    Where a network was trained for something quite different, its lower features tell other classes apart
    better than the last. Layers that follow the depth become `LeftOut`, so that all that calls, copies and
    exports the network goes on working; what only hands features on, such as global pooling, stays. The new
    head is drawn as by `replace_head`.

    Args:
        model: changed in place.
        depth: the name of the module that gives the features, of `depths`.
        classes: outputs of the new head, at least 1.
        sample: prepared items (N, ...) to run.

    Returns:
        the head's name.

    Raises:
        ModelError: as `find_head`; the network calls no such module before its head; or, tried on the sample,
            the head would be given something else than the features. The network is then as it was.
    """
    require_outputs(classes)
    head = find_head(model, sample)
    following = _following(model, depth, head, sample)
    (given,) = features(model, [sample], depth, pool=False)
    wanted = pooled(given)
    old = model.get_submodule(head)
    assert isinstance(old, Head)
    before = {name: model.get_submodule(name) for name in following}
    dims = {4: (2, 3), 3: (1,)}.get(given.dim(), ())
    # Features of both signs, which an activation would change whatever those of the sample are.
    handed = torch.randn(len(wanted), wanted.shape[1], generator=torch.Generator().manual_seed(0))
    handed = handed.view([1 if at in dims else size for at, size in enumerate(given.shape)]).to(old.weight)
    try:
        for name, module in before.items():
            after = _tried(module, handed)
            hands_on: nn.Module = LeftOut() if after is None else module
            if dims and name == following[0]:
                hands_on = Mean(dims) if after is None else nn.Sequential(Mean(dims), module)
            model.set_submodule(name, hands_on)
            handed = handed if after is None else after
        model.set_submodule(head, new_head(old, classes, wanted.shape[1]))
        run(model, sample)
        found = inputs_of(model, [sample], head).flatten(1).cpu()
        rounding = max(1e-4, torch.finfo(old.weight.dtype).eps ** 0.5)
        if found.shape != wanted.shape or not torch.allclose(
            found, wanted, rtol=rounding, atol=rounding / 10
        ):
            raise ModelError("what lies between changes them")
    except Exception as error:  # what looks into a module that is not there any more may fail in any way
        for name, module in {**before, head: old}.items():
            model.set_submodule(name, module)
        raise ModelError(f"no head can be put on the features of {depth}: {error}") from error
    return head


def _following(model: nn.Module, depth: str, head: str, sample: Tensor) -> list[str]:
    """The outermost modules that run between a depth and the head, in their order."""
    order = order_of_calls(model, sample)
    below = order[: order.index(head)]
    if depth not in below or within(head, [depth]):
        raise ModelError(f"the network calls no module {depth!r} below its head {head}")
    found: list[str] = []
    for name in below[below.index(depth) + 1 :]:
        if not within(name, [depth, *found]) and not within(head, [name]):
            found.append(name)
    return found


def _tried(module: nn.Module, handed: Tensor) -> Tensor | None:
    """Features as a module hands them on; None where it changes more than their shape, or fails."""
    with evaluating(module), torch.no_grad():
        try:
            given = module(handed)
        except Exception:  # noqa: BLE001 - it was not made for features such as these
            return None
    alike = isinstance(given, Tensor) and given.numel() == handed.numel()
    return given if alike and torch.equal(given.flatten(), handed.flatten()) else None
