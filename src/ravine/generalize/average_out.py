"""Test-time prediction: the noise of training, averaged out (T27)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import vmap

from ..errors import ModelError
from ..modes import evaluating
from ..randomness import addressed
from .noise import Bits, NoisyPart
from .noise.foreign import FunctionalDropout, drawing_foreign, foreign_parts, torch_dropout_as_ours
from .noise.items import ItemAxes
from .pieces import at_once, cut
from .views import View, pieces_seen, same

How = Literal["expectation", "samples", "exact", "views"]
Over = Literal["outputs", "probabilities"]

MOST_MASKS = 2**16


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
    `if self.training:` is not seen. The model may be in any mode, and is left in it.

    A draw of the noise is one for all items, so that no answer depends on who else is in the batch. In which
    axis a noise has the items, with time first, say, or pixels as rows, is found by a pass of a few copies of
    one item (`noise.items`). Where it cannot be found, each item draws for itself, as in training, and its
    answer depends on its place in the batch; and so do layers of other libraries, dropout within recurrent
    layers and within fused attention, and alpha dropout.

    - "expectation": each part's closed form, one pass. Exact for what is linear in the noise (C32).
    - "samples": the mean over n draws of all the noise. They run side by side, so that what comes before the
      first noise is computed once; where an operation cannot be batched so, one after another. With views,
      the mean over every draw of every view, n times as many answers as views.
    - "exact": the mean over all masks, each by its probability: for noise of coins alone, at most 16 of them
      for an item. A coin that always falls on one side is none.
    - "views": the mean over changed inputs, such as mirror images and crops, all of an item's in one batch.

    Items, draws and views beyond what memory is to hold are taken in pieces.

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
        ModelError: "exact" or "samples" without any noise; "exact" with noise that is no coins, with too
            many, or where the items are not found; the model gives something else than one tensor.
    """
    if how not in ("expectation", "samples", "exact", "views") or over not in ("outputs", "probabilities"):
        raise ValueError(
            f"Invalid how or over: {how!r}, {over!r}; valid are expectation, samples, exact and views, over "
            "outputs or probabilities"
        )
    if views and how not in ("views", "samples"):
        raise ValueError(f"views are averaged by how='views' and how='samples', not by {how!r}")
    axes = ItemAxes()
    functions = FunctionalDropout(axes, drawing=how == "samples")
    held = nn.Sequential(model)  # a model that is itself a dropout has a place, too

    def call(batch: Tensor) -> Tensor:
        axes.begin(len(batch))
        with functions:
            outputs = functions.current(held(batch))
        if not isinstance(outputs, Tensor):
            raise ModelError(
                f"the model gives a {type(outputs).__name__}, and what is averaged is one tensor: wrap the "
                "model in a module that gives the one that counts"
            )
        return outputs.softmax(axis) if over == "probabilities" else outputs

    def sampled(batch: Tensor, together: int) -> Tensor:
        with addressed(seed, "average_out"), _drawing(parts):
            if any(isinstance(other, nn.RNNBase) for other in others):
                # Their noise is drawn out of vmap's sight, once for all samples.
                return torch.stack([call(batch) for _ in range(n)])
            return _side_by_side(lambda _: call(batch), torch.arange(n), together)

    def told(batch: Tensor) -> Tensor:
        with addressed(seed, "average_out", "items"):
            return call(batch)

    learn = partial(axes.learn, told)

    with evaluating(model), torch_dropout_as_ours(held, functions), _every_module_called():
        if how == "expectation":
            mean = call(x)
            return Average(mean, torch.zeros_like(mean), 1)
        if how == "views":
            return _average(_over_views(lambda batch: call(batch)[None], x, views), None)
        parts = [module for module in held.modules() if isinstance(module, NoisyPart)]
        others = foreign_parts(held)
        if how == "exact" or not (parts or others):
            call(x[:1])  # only a pass shows what the network's own code calls
        if not (parts or others or functions.seen):
            raise ModelError("the model has no noise to average out: use how='expectation'")
        if how == "exact" and (others or functions.seen):
            name = type(others[0]).__name__ if others else f"{functions.seen} in the network's own code"
            raise ModelError(f"the noise of {name} cannot be enumerated: use layers such as torch.nn.Dropout")
        if how == "samples" and (isinstance(n, bool) or not isinstance(n, int) or n < 1):
            raise ValueError(f"Invalid n: {n!r}; it must be a whole number of at least 1")
        with _told_the_items(parts, axes), drawing_foreign(others):
            if how == "exact":
                return _over_masks(call, learn, x, parts)
            return _average(
                _over_views(lambda batch: _in_pieces(sampled, learn, batch, n), x, views or (same,)), None
            )


Call = Callable[[Tensor], Tensor]
Learn = Callable[[Tensor, set[int]], None]


def _over_views(answers: Call, x: Tensor, views: Sequence[View]) -> Tensor:
    """What the views are answered: (K·len(views), N, ...), where `answers` gives K answers of a batch."""
    pieces = []
    for seen in pieces_seen(x, views):
        if all(batch.shape == seen[0].shape for batch in seen):
            together: Tensor = answers(torch.cat(seen)).unflatten(1, (len(seen), -1))
            pieces.append(together.flatten(0, 1))
        else:  # crops of several scales, for a network that takes any size
            pieces.append(torch.cat([answers(batch) for batch in seen]))
    return torch.cat(pieces, 1)


def _over_masks(call: Call, learn: Learn, x: Tensor, parts: list[NoisyPart]) -> Average:
    """The mean over every outcome of every coin."""
    bits = _bits(call, x, parts)
    sizes = [bit.number for bit in bits]
    total = sum(sizes)
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
            for part, bit, coins in zip(parts, bits, mask.split(sizes), strict=True):
                stack.enter_context(_given(part, coins if bit.number else mask.new_tensor(bit.keep)))
            return call(batch)

    def answers(batch: Tensor, together: int) -> Tensor:
        return _side_by_side(lambda mask: decided(mask, batch), masks, together)

    return _average(_in_pieces(answers, learn, x, len(masks)), weights)


def _bits(call: Call, x: Tensor, parts: list[NoisyPart]) -> list[Bits]:
    """The coins of each part for an item, from one pass."""
    found: dict[int, Bits] = {}

    def note(part: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(part, NoisyPart)
        bits = part.bits(inputs[0])
        if bits is None:
            raise ModelError(f"{type(part).__name__} draws more than coins: it cannot be enumerated")
        if id(part) in found and bits.number:
            raise ModelError(f"one {type(part).__name__} is used twice: its coins cannot be told apart")
        found[id(part)] = bits

    handles = [part.register_forward_pre_hook(note) for part in parts]
    try:
        call(x[:1])
    finally:
        for handle in handles:
            handle.remove()
    return [found.get(id(part), Bits((), 1.0)) for part in parts]


def _in_pieces(answers: Callable[[Tensor, int], Tensor], learn: Learn, x: Tensor, draws: int) -> Tensor:
    """The answers for each draw, (draws, N, ...), of as many items and draws at once as memory is to hold.

    How many draws are made together follows from what an item holds alone, because it decides which numbers
    each draw gets: an item's answers must not depend on how many others there are.
    """
    together = min(draws, at_once(x))
    pieces = cut(x, together)
    learn(x[:1], {len(piece) for piece in pieces})
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
def _told_the_items(parts: list[NoisyPart], axes: ItemAxes) -> Iterator[None]:
    """Each part told before each call where the items are in what it takes."""

    def tell(part: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        assert isinstance(part, NoisyPart)
        items = axes.next(*inputs, *named.values())
        part.items = items if part.by_item else None

    handles = [part.register_forward_pre_hook(tell, with_kwargs=True) for part in parts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for part in parts:
            part.items = None


@contextmanager
def _drawing(parts: list[NoisyPart]) -> Iterator[None]:
    for part in parts:
        part.drawing = True
    try:
        yield
    finally:
        for part in parts:
            part.drawing = False
