"""What a network makes of items at some depth, and what that is worth: probes and similarity."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ModelError
from ..modes import evaluating
from ..optim.full_batch.minimize import minimize
from .depths import first_tensor

# Strengths of the penalty that a probe chooses from, as shares of the mean loss: Σw²·strength/2.
STRENGTHS = tuple(10 ** (half / 2) for half in range(-9, -1))


class _ReachedError(Exception):
    """All that was asked for has run."""


def features(
    model: nn.Module, batches: Iterable[Tensor], at: str | Sequence[str], *, pool: bool = True
) -> list[Tensor]:
    """What modules give for all items, in evaluation mode and without gradients.

    Of a module that gives several tensors the first counts. The forward pass ends with the last of the
    modules, so that low depths cost little.

    Args:
        model: left as it was.
        batches: prepared items (N, ...), on the network's device.
        at: the names of the modules, or one name.
        pool: maps (N, C, H, W) and sequences (N, T, C) become their means (N, C); else they stay.

    Returns:
        float32 on the CPU, (N, features) if pooled, for each name.

    Raises:
        ModelError: the network has or calls no such module, or fails; or there are no items.
        TypeError: a batch is no tensor.
    """
    wanted = [at] if isinstance(at, str) else list(at)
    if isinstance(batches, Tensor):
        raise TypeError("batches is one tensor: give a list of them")
    known = dict(model.named_modules())
    if missing := [name for name in wanted if name not in known]:
        raise ModelError(f"the network has no module {missing[0]!r}")
    found: dict[str, list[Tensor]] = {name: [] for name in wanted}
    seen: set[str] = set()

    def hook(name: str) -> object:
        def see(module: nn.Module, inputs: object, output: object) -> None:
            if name in seen:  # of a module that is called again the first call counts
                return
            if (given := first_tensor(output)) is None:
                raise ModelError(f"{name} gives no tensor")
            seen.add(name)
            # A copy: what follows may change it in place.
            found[name].append((pooled(given) if pool else given).to("cpu", torch.float32, copy=True))
            if len(seen) == len(found):
                raise _ReachedError

        return see

    handles = [known[name].register_forward_hook(hook(name)) for name in found]
    try:
        with evaluating(model), torch.no_grad():
            for batch in batches:
                if not isinstance(batch, Tensor):
                    raise TypeError(f"a batch is a {type(batch).__name__}: give the items alone, as a tensor")
                seen.clear()
                try:
                    model(batch)
                except _ReachedError:
                    continue
                except (RuntimeError, ValueError, TypeError, IndexError) as error:
                    told = str(error).strip().splitlines()[0]
                    raise ModelError(
                        f"the network failed for items of shape {tuple(batch.shape)}: {told}"
                    ) from error
                raise ModelError(f"the network does not call {', '.join(sorted(found.keys() - seen))}")
    finally:
        for handle in handles:
            handle.remove()
    if not all(found.values()):
        raise ModelError("there are no items to have features of")
    return [torch.cat(found[name]) for name in wanted]


def inputs_of(model: nn.Module, batches: Iterable[Tensor], at: str) -> Tensor:
    """What a module is given for all items, as `features` has what it gives: float32, on their device.

    Raises:
        ModelError: the network does not call it.
    """
    found: list[Tensor] = []

    def see(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(inputs[0].float())
        raise _ReachedError

    handle = model.get_submodule(at).register_forward_pre_hook(see)
    try:
        with evaluating(model), torch.no_grad():
            for batch in batches:
                with suppress(_ReachedError):
                    model(batch)
                    raise ModelError(f"the network does not call {at}")
    finally:
        handle.remove()
    return torch.cat(found)


def pooled(output: Tensor) -> Tensor:
    """(N, C, H, W) and (N, T, C) to (N, C); (N, C) as it is."""
    if output.dim() == 4:
        return output.mean((2, 3))
    return output.mean(1) if output.dim() == 3 else output.flatten(1)


class Probe(NamedTuple):
    """What a linear classifier on features reaches.

    Attributes:
        accuracy: on the items that it was not fitted to.
        loss: its mean cross-entropy there.
        strength: of its penalty.
    """

    accuracy: float
    loss: float
    strength: float


def linear_probe(
    train: Tensor, targets: Tensor, judged: Tensor, answers: Tensor, strengths: Sequence[float] = STRENGTHS
) -> Probe:
    """Fit multinomial logistic regressions to features, and judge them on others (Alain and Bengio 2016).

    Features are centred and divided by one number, `feature_scale` of the training part: as a head that is
    trained on them does, a probe hears more of those that vary more. Of the strengths of an L2 penalty the
    one with the least loss there counts: of a few items that says more than how many are right.

    Args:
        train: features (N, D).
        targets: their classes, int64 (N,).
        judged: features (M, D).
        answers: their classes.
        strengths: what Σw²/2 is multiplied by and added to the mean loss.

    Raises:
        ModelError: there is no item to fit to, or none to judge.
    """
    return min(linear_probes(train, targets, judged, answers, strengths), key=lambda probe: probe.loss)


def linear_probes(
    train: Tensor, targets: Tensor, judged: Tensor, answers: Tensor, strengths: Sequence[float] = STRENGTHS
) -> list[Probe]:
    """As `linear_probe`, a probe for each strength, in their order."""
    if not len(targets) or not len(answers):
        raise ModelError("a probe needs an item to fit to, and another to judge")
    mean, scale = train.mean(0), feature_scale(train)
    inputs, others = (train - mean) / scale, (judged - mean) / scale
    weight = torch.zeros(int(max(targets.max(), answers.max())) + 1, inputs.shape[1])
    bias = torch.zeros(len(weight))
    found = {}
    # From the strongest on: each solution is where the next search begins.
    for strength in sorted(strengths, reverse=True):
        weight, bias = logistic_regression(inputs, targets, strength, (weight, bias))
        logits = F.linear(others, weight, bias)
        right = (logits.argmax(1) == answers).float().mean()
        found[strength] = Probe(float(right), float(F.cross_entropy(logits, answers)), strength)
    return [found[strength] for strength in strengths]


def feature_scale(features: Tensor) -> float:
    """The deviation of features (N, D), in the root mean square of all D; 1 where none varies."""
    return float(features.var(0, correction=0).mean().sqrt()) or 1.0


def logistic_regression(
    inputs: Tensor, targets: Tensor, strength: float, start: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Weights (classes, D) and biases of the least mean cross-entropy plus strength·Σw²/2, by L-BFGS."""

    def loss(parts: tuple[Tensor, Tensor]) -> Tensor:
        weight, bias = parts
        penalty = 0.5 * strength * weight.square().sum()
        return F.cross_entropy(F.linear(inputs, weight, bias), targets) + penalty

    options = {"gtol": 1e-4, "maxiter": 200}
    weight, bias = minimize(lambda w, b: loss((w, b)), start, options=options, dtype=torch.float32).x
    return weight.detach(), bias.detach()


def feature_similarity(one: Tensor, other: Tensor) -> float:
    """Linear centred kernel alignment of two sets of features of the same items, from 0 to 1.

    ‖Yᵀ X‖² / (‖Xᵀ X‖ ‖Yᵀ Y‖) of centred features, Frobenius norms (Kornblith et al. 2019, equation 3 in the
    space of features, whose memory is that of D² numbers).

    Args:
        one: (N, D).
        other: (N, E), of the same items in the same order.
    """
    x, y = (each.double() - each.double().mean(0) for each in (one, other))
    across = torch.linalg.matrix_norm(y.T @ x).square()
    within = torch.linalg.matrix_norm(x.T @ x) * torch.linalg.matrix_norm(y.T @ y)
    return float(across / within) if within else 0.0
