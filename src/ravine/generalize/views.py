"""Changed copies of an input whose predictions are averaged at test time (T23)."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import DataError
from .pieces import cut

View = Callable[[Tensor], Tensor | Sequence[Tensor]]
"""From a batch to another of as many items, or to several."""

SCALE = 8 / 7
"""How much larger an image is made before its crops are taken: 256 to 224, as is customary."""


def same(x: Tensor) -> Tensor:
    """The input as it is."""
    return x


def flip(x: Tensor) -> Tensor:
    """Mirror images, left to right, of (N, C, H, W).

    Raises:
        DataError: x is no batch of images.
    """
    if x.dim() != 4:
        raise DataError(f"mirror images are of images (N, C, H, W), not of a shape of {tuple(x.shape)}")
    return x.flip(3)


class TenCrop:
    """Five crops, at the corners and in the middle, and their mirror images (Krizhevsky et al. 2012).

    Images are made larger first, and each crop has the size that they had: any network takes it.

    Args:
        scales: how much larger, at least 1; ten crops for each (He et al. 2016 take five).

    Raises:
        ValueError: a scale below 1, or none.
    """

    def __init__(self, scales: Sequence[float] = (SCALE,)) -> None:
        if not scales or any(not 1.0 <= scale < float("inf") for scale in scales):
            raise ValueError(f"Invalid scales: {scales!r}; images are made at least 1 times larger")
        self.scales = tuple(scales)

    def __call__(self, x: Tensor) -> list[Tensor]:
        """From (N, C, H, W) to ten batches of that shape for each scale.

        Raises:
            DataError: x is no batch of images.
        """
        if x.dim() != 4:
            raise DataError(f"crops are taken of images (N, C, H, W), not of a shape of {tuple(x.shape)}")
        height, width = x.shape[2:]
        crops: list[Tensor] = []
        for scale in self.scales:
            size = (round(height * scale), round(width * scale))
            large = functional.interpolate(x, size, mode="bilinear", antialias=False)
            down, right = size[0] - height, size[1] - width
            corners = [(0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)]
            crops += [large[:, :, top : top + height, left : left + width] for top, left in corners]
        return crops + [crop.flip(3) for crop in crops]


def pieces_seen(x: Tensor, views: Sequence[View]) -> Iterator[list[Tensor]]:
    """What each view makes of a batch, of as many of its items at once as memory is to hold in all views.

    Args:
        x: (N, ...).
        views: at least one; a view of a part of the batch is that part of the view.

    Yields:
        The batches of some items, in the order of the views.

    Raises:
        ValueError: there are no views, or one gave another number of items.
    """
    # An exported graph takes a batch of any size, as one.
    pieces = (x,) if torch.compiler.is_compiling() else cut(x, len(_seen(x[:1], views)))
    for piece in pieces:
        yield _seen(piece, views)


def _seen(x: Tensor, views: Sequence[View]) -> list[Tensor]:
    seen: list[Tensor] = []
    for view in views:
        given = view(x)
        seen += [given] if isinstance(given, Tensor) else list(given)
    if not seen:
        raise ValueError("how='views' needs views, such as mirror images and crops")
    for batch in seen:
        if batch.shape[0] != x.shape[0]:  # not `len`, which an export would take for a constant
            raise ValueError(f"a view gave {len(batch)} items for {len(x)}")
    return seen


def log_mean(logits: Tensor, axis: int) -> Tensor:
    """Logits whose softmax is the mean of the answers' softmax.

    Args:
        logits: (K, N, ...), of K answers.
        axis: of the classes, in one answer.
    """
    shares = logits.log_softmax(axis + 1 if axis >= 0 else axis)
    return shares.logsumexp(0) - torch.tensor(float(len(logits))).log()
