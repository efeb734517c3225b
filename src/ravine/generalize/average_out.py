"""Test-time prediction: the noise of training, averaged out (T27)."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import vmap

from ..errors import ModelError
from ..modes import evaluating
from ..randomness import addressed
from .noise import Bits, NoisyPart
from .noise.foreign import FunctionalDropout, drawing_foreign, foreign_parts, torch_dropout_as_ours
from .views import same

How = Literal["expectation", "samples", "exact", "views"]
Over = Literal["outputs", "probabilities"]
View = Callable[[Tensor], Tensor | Sequence[Tensor]]
"""From a batch to another of as many items, or to several."""

MOST_MASKS = 2**16
# Numbers of the input that a pass takes at once, all draws together: more take memory and gain nothing.
_TOGETHER = 2**22


class Average(NamedTuple):
    """What the model says on average.

    Attributes:
        mean: (N, ...).
        spread: the standard deviation over what was averaged, in the shape of the mean: how much the answers
            disagree (Gal and Ghahramani 2016). Zero for "expectation", which is one answer.
        answers: how many were averaged.
    """

    mean: Tensor
    spread: Tensor
    answers: int


@torch.no_grad()
def average_out(
    model: nn.Module,
    x: Tensor,
    how: How = "expectation",
    n: int = 16,
    *,
    over: Over = "outputs",
    axis: int = 1,
    views: Sequence[View] = (),
    seed: int = 0,
) -> Average:
    """A model's prediction, its noise averaged out.

    Noise is every `NoisyPart`, torch's own dropout layers, those within its attention and recurrent layers,
    the layers that others call DropPath or StochasticDepth, and `functional.dropout` and its kind in a
    network's own code, where it calls them with `training=self.training`: what is behind an
    `if self.training:` is not seen. The model may be in any mode, and is left in it. A draw of the noise is
    one for all items, so that no answer depends on who else is in the batch; layers of other libraries draw
    for each item.

    - "expectation": each part's closed form, one pass. Exact for what is linear in the noise (C32).
    - "samples": the mean over n draws of all the noise. They run side by side, so that what comes before the
      first noise is computed once; where an operation cannot be batched so, one after another. With views,
      the mean over every draw of every view, n times as many answers as views.
    - "exact": the mean over all masks, each by its probability: for noise of coins alone, at most 16 of them.
    - "views": the mean over changed inputs, such as mirror images and crops, as one batch.

    Args:
        model: any module of one input.
        x: (N, ...), where the model is.
        how: what is averaged.
        n: samples.
        over: "outputs" averages what the model gives, such as logits; "probabilities" its softmax.
        axis: of the classes, for "probabilities".
        views: for "views" and "samples"; each gives one changed batch or several.
        seed: addresses the samples' noise.

    Raises:
        ValueError: there is no such `how` or `over`; n below 1; no views, views where they are not averaged,
            or views that are not N items.
        ModelError: "exact" or "samples" without any noise; "exact" with noise that is no coins, or with too
            many; the model gives something else than one tensor.
    """
    if how not in ("expectation", "samples", "exact", "views") or over not in ("outputs", "probabilities"):
        raise ValueError(
            f"Invalid how or over: {how!r}, {over!r}; valid are expectation, samples, exact and views, over "
            "outputs or probabilities"
        )

    if views and how not in ("views", "samples"):
        raise ValueError(f"views are averaged by how='views' and how='samples', not by {how!r}")
    functions = FunctionalDropout(drawing=how == "samples")

    def call(batch: Tensor) -> Tensor:
        with functions:
            outputs = model(batch)
        if not isinstance(outputs, Tensor):
            raise ModelError(
                f"the model gives a {type(outputs).__name__}, and what is averaged is one tensor: wrap the "
                "model in a module that gives the one that counts"
            )
        return outputs.softmax(axis) if over == "probabilities" else outputs

    def sampled(batch: Tensor, together: int) -> Tensor:
        with addressed(seed, "average_out"):
            if any(isinstance(other, nn.RNNBase) for other in others):
                # Their noise is drawn out of vmap's sight, once for all samples.
                return torch.stack([call(batch) for _ in range(n)])
            return _side_by_side(lambda _: call(batch), torch.arange(n), together)

    with evaluating(model), torch_dropout_as_ours(model), _every_module_called():
        if how == "expectation":
            mean = call(x)
            return Average(mean, torch.zeros_like(mean), 1)
        if how == "views":
            return _average(_over_views(lambda batch: call(batch)[None], x, views), None)
        parts = [module for module in model.modules() if isinstance(module, NoisyPart)]
        others = foreign_parts(model)
        if how == "exact" or not (parts or others):
            call(x[:1])  # only a pass shows what the network's own code calls
        if not (parts or others or functions.seen):
            raise ModelError("the model has no noise to average out: use how='expectation'")
        if how == "exact":
            if others or functions.seen:
                name = type(others[0]).__name__ if others else f"{functions.seen} in the network's own code"
                raise ModelError(
                    f"the noise of {name} cannot be enumerated: use layers such as torch.nn.Dropout"
                )
            return _over_masks(call, x, parts)
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ValueError(f"Invalid n: {n!r}; it must be a whole number of at least 1")
        with _drawing(parts), drawing_foreign(others):
            return _average(
                _over_views(lambda batch: _in_pieces(sampled, batch, n), x, views or (same,)), None
            )


def _over_views(answers: Callable[[Tensor], Tensor], x: Tensor, views: Sequence[View]) -> Tensor:
    """What the views are answered: (K·len(views), N, ...), where `answers` gives K answers of a batch."""
    seen: list[Tensor] = []
    for view in views:
        given = view(x)
        seen += [given] if isinstance(given, Tensor) else list(given)
    if not seen:
        raise ValueError("how='views' needs views, such as mirror images and crops")
    for batch in seen:
        if len(batch) != len(x):
            raise ValueError(f"a view gave {len(batch)} items for {len(x)}")
    if all(batch.shape == seen[0].shape for batch in seen):
        together: Tensor = answers(torch.cat(seen)).unflatten(1, (len(seen), len(x)))
        return together.flatten(0, 1)
    # Crops of several scales, for a network that takes any size.
    return torch.cat([answers(batch) for batch in seen])


def _over_masks(call: Callable[[Tensor], Tensor], x: Tensor, parts: list[NoisyPart]) -> Average:
    """The mean over every outcome of every coin."""
    bits = _bits(call, x, parts)
    total = sum(bit.number for bit in bits)
    if 2**total > MOST_MASKS:
        raise ModelError(
            f"there are 2^{total} masks, and at most {MOST_MASKS:,} are enumerated: use how='samples'"
        )
    numbers = torch.arange(2**total, device=x.device)
    masks = (numbers[:, None] >> torch.arange(total, device=x.device)) & 1
    keep = torch.cat([torch.full((bit.number,), bit.keep, dtype=torch.float64) for bit in bits]).to(x.device)
    weights = torch.where(masks == 1, keep, 1.0 - keep).prod(1)

    def decided(mask: Tensor, batch: Tensor) -> Tensor:
        with ExitStack() as stack:
            for part, coins in zip(parts, mask.split([bit.number for bit in bits]), strict=True):
                stack.enter_context(_given(part, coins))
            return call(batch)

    def answers(batch: Tensor, together: int) -> Tensor:
        return _side_by_side(lambda mask: decided(mask, batch), masks, together)

    return _average(_in_pieces(answers, x, len(masks)), weights)


def _bits(call: Callable[[Tensor], Tensor], x: Tensor, parts: list[NoisyPart]) -> list[Bits]:
    """The coins of each part for an item, from one pass."""
    found: dict[int, Bits] = {}

    def note(part: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(part, NoisyPart)
        bits = part.bits(inputs[0])
        if bits is None:
            raise ModelError(f"{type(part).__name__} draws more than coins: it cannot be enumerated")
        if id(part) in found:
            raise ModelError(f"one {type(part).__name__} is used twice: its coins cannot be told apart")
        found[id(part)] = bits

    handles = [part.register_forward_pre_hook(note) for part in parts]
    try:
        call(x[:1])
    finally:
        for handle in handles:
            handle.remove()
    return [found.get(id(part), Bits(0, 1.0)) for part in parts]


def _in_pieces(answers: Callable[[Tensor, int], Tensor], x: Tensor, draws: int) -> Tensor:
    """The answers for each draw, (draws, N, ...), of as many items and draws at once as memory is to hold.

    How many draws are made together follows from what an item holds alone, because it decides which numbers
    each draw gets: an item's answers must not depend on how many others there are.
    """
    item = max(1, math.prod(x.shape[1:]))
    together = max(1, min(draws, _TOGETHER // item))
    pieces = x.split(max(1, _TOGETHER // (together * item)))
    return torch.cat([answers(piece, together) for piece in pieces], 1)


def _side_by_side(answer: Callable[[Tensor], Tensor], draws: Tensor, together: int) -> Tensor:
    """The answer for each draw, (len(draws), N, ...): several at once, or one by one where that fails."""
    try:
        out: Tensor = vmap(answer, randomness="different", chunk_size=together)(draws)
    except RuntimeError:  # an operation without a batching rule; what fails for another reason fails again
        return torch.stack([answer(draw) for draw in draws])
    return out


def _average(answers: Tensor, weights: Tensor | None) -> Average:
    """The mean and the standard deviation over axis 0, in at least float32."""
    wide = answers if answers.dtype == torch.float64 else answers.float()
    if weights is None:
        mean = wide.mean(0)
        spread = (wide - mean).square().mean(0).sqrt()
    else:
        shares = weights.to(wide.dtype).reshape(-1, *(1 for _ in wide.shape[1:]))
        mean = (shares * wide).sum(0)
        spread = (shares * (wide - mean).square()).sum(0).sqrt()
    return Average(mean.to(answers.dtype), spread.to(answers.dtype), len(answers))


@contextmanager
def _every_module_called() -> Iterator[None]:
    """Without the short cut past their own submodules that torch's transformer layers take when evaluated."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _given(part: NoisyPart, coins: Tensor) -> Iterator[None]:
    part.given = coins
    try:
        yield
    finally:
        part.given = None


@contextmanager
def _drawing(parts: list[NoisyPart]) -> Iterator[None]:
    for part in parts:
        part.drawing = True
    try:
        yield
    finally:
        for part in parts:
            part.drawing = False
