"""Raw items made up like a run's own, for looking at a model where the data are not at hand."""

from typing import cast

import torch
from torch import Tensor

from ..randomness import generator
from .preprocessing import Preprocessing
from .preprocessing_steps import Columns, Standardize


def example_items(preprocessing: Preprocessing, count: int, context: int) -> Tensor:
    """Random raw items, as `read_inputs` would give them; the same each time.

    Pixels and tokens are uniform; numbers have the mean and the spread that preprocessing takes out, so
    that what a model makes of them is as varied as of real ones. A table's first row is all missing.

    Args:
        preprocessing: of the run.
        count: how many items.
        context: tokens a text.

    Returns:
        uint8 images (count, C, H, W), float32 tables or arrays (count, ...), or int64 (count, context).
    """
    spec, draw = preprocessing.spec, generator(0, "example items")
    shape = (count, *spec["item_shape"])
    if spec["kind"] == "image":
        return torch.randint(256, shape, generator=draw, dtype=torch.uint8)
    if spec["kind"] == "text":
        return torch.randint(len(spec["classes"]), (count, context), generator=draw)
    items = torch.randn(shape, generator=draw)
    scaling = next((step for step in preprocessing.steps if isinstance(step, Standardize)), None)
    if spec["kind"] == "array":
        return items if scaling is None else _unscaled(items, scaling.mean, scaling.scale)
    for number, column in enumerate(spec["columns"]):
        if column["categories"] is not None:
            items[:, number] = torch.randint(len(column["categories"]), (count,), generator=draw).float()
    columns = cast(Columns, preprocessing.steps[0])
    numeric = columns.numeric
    if scaling is not None:
        mean, scale = (
            values.expand(1, columns.features)[:, : len(numeric)] for values in (scaling.mean, scaling.scale)
        )
        items[:, numeric] = _unscaled(items[:, numeric], mean, scale)
    items[0] = torch.nan
    return items


def _unscaled(items: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    return mean + items / torch.where(scale == 0, torch.ones_like(scale), scale)
