"""What preprocessing learns from the training part (T33), in float64 and in chunks.

Each way of preprocessing is registered here as a function from the `TrainingPart` to the steps that do
it. Per channel for images ("pca" and "whiten": per pixel), per feature for tables and arrays.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from ..errors import DataError
from ..randomness import generator
from ..registry import register
from .data.batches import StreamBatches
from .data.dataset import Dataset
from .preprocessing_steps import Columns, Rotate, Standardize, Step

STREAMED_SAMPLE = 5_000
"""At most so many items of a set that streams from the disk are read for its statistics."""
COVARIANCE_SAMPLE = 20_000
"""At most so many items enter a covariance: its cost is items × features²."""
LARGEST_MATRIX = 4_096
"""At most so many features are decorrelated: the eigenvectors cost features³."""
CHUNK_NUMBERS = 1 << 18
"""Numbers handled at once: in float64 they stay within a processor's cache."""


@dataclass(frozen=True)
class TrainingPart:
    """The training part of a data set, read in chunks.

    Attributes:
        dataset: whose items they are.
        positions: the items that count.
        columns: for tables, what makes features of the raw columns.
        seed: addresses the sample, where not all items are read.
    """

    dataset: Dataset
    positions: Tensor
    columns: Columns | None
    seed: int

    @classmethod
    def of(cls, dataset: Dataset, positions: Tensor, seed: int) -> "TrainingPart":
        """The training part, of items at `positions`, or a sample of it where they stream from the disk."""
        part = cls(dataset, positions, None, seed)
        if not isinstance(dataset.inputs, Tensor):
            part = part.at_most(STREAMED_SAMPLE)
        if dataset.kind == "table":
            part = cls(dataset, part.positions, _columns(part), seed)
        return part

    def at_most(self, count: int) -> "TrainingPart":
        """The same part, or a random sample of `count` of its items."""
        if len(self.positions) <= count:
            return self
        order = torch.randperm(len(self.positions), generator=generator(self.seed, "preprocessing"))
        chosen = self.positions[order[:count]].sort().values
        return TrainingPart(self.dataset, chosen, self.columns, self.seed)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one item's features."""
        return self.dataset.item_shape if self.columns is None else (self.columns.features,)

    @property
    def unit(self) -> float:
        """What turns a raw number into the range that models expect: pixels become 0..1."""
        return 1 / 255 if self.dataset.kind == "image" else 1.0

    def raw_chunks(self) -> Iterator[Tensor]:
        """The raw items, some at a time; threads decode those that stream from the disk."""
        items = max(1, CHUNK_NUMBERS // max(1, prod(self.dataset.item_shape)))
        if isinstance(self.dataset.inputs, Tensor):
            for positions in torch.split(self.positions, items):
                yield self.dataset.fetch(positions)
        else:
            for raw, _ in StreamBatches(self.dataset, self.positions, items, shuffle=False).epoch(0):
                yield raw

    def chunks(self) -> Iterator[Tensor]:
        """The features (n, *shape) in float64, some items at a time, in raw units."""
        for raw in self.raw_chunks():
            yield (raw if self.columns is None else self.columns(raw)).to(torch.float64)


@register("preprocessing", "none", "numbers as they are; pixels from 0..255 to 0..1")
def unchanged(part: TrainingPart) -> list[Step]:
    """Nothing but the unit."""
    shape = _per_channel(part)
    return [Standardize(torch.zeros(shape), torch.full(shape, part.unit))] if part.unit != 1 else []


@register("preprocessing", "center", "zero-centred: the training part's mean becomes 0")
def center(part: TrainingPart) -> list[Step]:
    """Subtract the mean."""
    mean, _ = _moments(part)
    mean, scale = _numbers_only(part, mean, torch.full_like(mean, part.unit))
    return [_standardize(part, mean, scale)]


@register("preprocessing", "normalize", "zero mean and unit variance: images per channel, else per feature")
def normalize(part: TrainingPart) -> list[Step]:
    """Subtract the mean, divide by the standard deviation; what never varies becomes 0."""
    mean, std = _moments(part)
    mean, scale = _numbers_only(part, mean, _reciprocal(std, mean))
    return [_standardize(part, mean, scale)]


@register(
    "preprocessing", "pca", "decorrelated: rotated to the principal components, largest first, as a vector"
)
def pca(part: TrainingPart) -> list[Step]:
    """Centre and rotate; components without variance are left out."""
    standardize, _, vectors = _components(part)
    return [standardize, Rotate(vectors, (vectors.shape[1],))]


@register("preprocessing", "whiten", "whitened (ZCA): unit covariance, and still the shape of an image")
def whiten(part: TrainingPart) -> list[Step]:
    """Centre, rotate, divide by each component's deviation, rotate back.

    Rotating back (ZCA, Bell and Sejnowski 1997) keeps neighbours neighbours, so that convolutions make
    sense. Small variances are raised by 1e-4 of the mean one, else the noise in them would be blown up.
    """
    standardize, variances, vectors = _components(part)
    scale = (variances + 1e-4 * variances.sum() / len(vectors)).rsqrt()
    return [standardize, Rotate((vectors * scale) @ vectors.T, part.shape)]


def color_covariance(part: TrainingPart) -> tuple[tuple[float, ...], ...]:
    """The covariance of the colours of all pixels, C rows of C numbers, of values in [0, 1]: for `PCAColor`.

    Args:
        part: of images (N, C, H, W).
    """
    pixels = (chunk.movedim(1, -1).flatten(0, -2) for chunk in part.chunks())
    _, covariance = _covariance(pixels, part.shape[0])
    return tuple(tuple(row) for row in (covariance * part.unit**2).tolist())


def _columns(part: TrainingPart) -> Columns:
    """What the raw columns of the training part say about features."""
    columns = part.dataset.columns
    numeric = [index for index, column in enumerate(columns) if column.categories is None]
    present = torch.zeros(len(columns), dtype=torch.int64)
    total = torch.zeros(len(columns), dtype=torch.float64)
    seen: list[set[float]] = [set() for _ in columns]
    for raw in part.raw_chunks():
        present += (~raw.isnan()).sum(0)
        total += raw.to(torch.float64).nansum(0)
        for index, column in enumerate(columns):
            if column.categories is not None:
                seen[index].update(torch.unique(raw[:, index]).tolist())
    one_hot = [(index, code) for index, codes in enumerate(seen) for code in sorted(codes) if code >= 0]
    some_missing = (present > 0) & (present < len(part.positions))
    return Columns(
        numeric=torch.tensor(numeric, dtype=torch.int64),
        fill=(total / present.clamp(min=1)).to(torch.float32)[numeric],
        flagged=torch.tensor([index for index in numeric if some_missing[index]], dtype=torch.int64),
        categorical=torch.tensor([index for index, _ in one_hot], dtype=torch.int64),
        codes=torch.tensor([code for _, code in one_hot], dtype=torch.float32),
    )


def _per_channel(part: TrainingPart) -> tuple[int, ...]:
    """The shape of statistics: one number a channel for images, else one a feature."""
    return (part.shape[0], 1, 1) if part.dataset.kind == "image" else part.shape


def _moments(part: TrainingPart) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation in float64, flat: one a channel or feature.

    Summed around the first chunk's mean, so that nothing cancels where the mean is far from zero.
    """
    rows = part.shape[0] if part.dataset.kind == "image" else prod(part.shape)
    count = 0
    shift, total, squares = (torch.zeros(rows, 1, dtype=torch.float64) for _ in range(3))
    for chunk in part.chunks():
        # A row for each channel or feature: (n, C, H, W) to (C, n·H·W), (n, features) to (features, n).
        values = chunk.flatten(2 if part.dataset.kind == "image" else 1)
        values = values.transpose(0, 1).reshape(rows, -1)
        if count == 0:
            shift = values.mean(1, keepdim=True)
        values = values - shift
        count += values.shape[1]
        total += values.sum(1, keepdim=True)
        squares += torch.linalg.vecdot(values, values).unsqueeze(1)
    offset = total / count
    variance = (squares / count - offset.square()).clamp(min=0)
    return (shift + offset).squeeze(1), variance.sqrt().squeeze(1)


def _covariance(rows: Iterable[Tensor], features: int) -> tuple[Tensor, Tensor]:
    """Mean (D,) and covariance (D, D) of `rows`, float64 (n, D) some at a time; D is `features`."""
    count = 0
    shift, total = (torch.zeros(features, dtype=torch.float64) for _ in range(2))
    products = torch.zeros(features, features, dtype=torch.float64)
    for values in rows:
        if count == 0:
            shift = values.mean(0)
        values = values - shift
        count += len(values)
        total += values.sum(0)
        products.addmm_(values.T, values)
    offset = total / count
    return shift + offset, products / count - torch.outer(offset, offset)


def _components(part: TrainingPart) -> tuple[Standardize, Tensor, Tensor]:
    """The centring, the variances (K,) and the principal directions (D, K), largest first.

    A table's numbers have units of their own, so they are brought to unit variance before. Signs are
    fixed (each direction's largest entry is positive), since those of eigenvectors are arbitrary.

    Raises:
        DataError: more features than `LARGEST_MATRIX`, or none that varies.
    """
    features = prod(part.shape)
    if features > LARGEST_MATRIX:
        advice = "lower data.image_size" if part.dataset.kind == "image" else "use 'normalize'"
        raise DataError(
            f"preprocessing by 'pca' or 'whiten' takes at most {LARGEST_MATRIX:,} numbers an item, and an "
            f"item of {part.dataset.name} has {features:,}: {advice}."
        )
    items = (chunk.flatten(1) for chunk in part.at_most(COVARIANCE_SAMPLE).chunks())
    mean, covariance = _covariance(items, features)
    scale = torch.full_like(mean, part.unit)
    if part.columns is not None:
        deviation = covariance.diagonal().clamp(min=0).sqrt()
        _, scale = _numbers_only(part, mean, _reciprocal(deviation, mean))
    variances, vectors = torch.linalg.eigh(covariance * torch.outer(scale, scale))
    variances, vectors = variances.flip(0), vectors.flip(1)
    kept = variances > 1e-10 * variances[0].clamp(min=1e-30)
    if not kept.any():
        raise DataError(f"no feature of {part.dataset.name} varies in the training part: nothing to rotate.")
    vectors = vectors[:, kept]
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    standardize = Standardize(mean.reshape(part.shape), scale.reshape(part.shape))
    return standardize, variances[kept], vectors * largest.sign()


def _reciprocal(std: Tensor, mean: Tensor) -> Tensor:
    """1/std, and 0 for what is constant.

    A feature that never varied in training has weights that never trained: it is silenced, not passed
    on. A spread below float32's resolution of the values themselves is rounding, not information.
    """
    varies = std > torch.maximum(1e-7 * mean.abs(), torch.full_like(std, 1e-30))
    return torch.where(varies, 1 / std, 0.0)


def _numbers_only(part: TrainingPart, mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Leave the flags and one-hot features of a table as the zeros and ones they are."""
    if part.columns is None:
        return mean, scale
    number = torch.arange(len(mean)) < len(part.columns.numeric)
    return torch.where(number, mean, 0.0), torch.where(number, scale, 1.0)


def _standardize(part: TrainingPart, mean: Tensor, scale: Tensor) -> Standardize:
    shape = _per_channel(part)
    return Standardize(mean.reshape(shape), scale.reshape(shape))
