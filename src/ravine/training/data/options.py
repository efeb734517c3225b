"""How a source is to be read: the few things a person may want to say about it."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class DataOptions:
    """What `open_data` may be told; the defaults suit most sources.

    Attributes:
        target: what to predict: a table's column or an array's name; "auto" looks for a usual one.
        task: "classification" or "regression"; "auto" tells them apart by the target's values.
        image_size: side in pixels of the squares that image files become; "auto" is the median
            short side, at most 64.
        skip_bad: leave out images that cannot be read instead of refusing the data.
        memory_gb: image folders that would take more than this as raw tensors are streamed.
        max_image_pixels: an image with more pixels is refused, as a decompression bomb would be.
    """

    target: str = "auto"
    task: Literal["auto", "classification", "regression"] = "auto"
    image_size: int | Literal["auto"] = "auto"
    skip_bad: bool = False
    memory_gb: float = 1.0
    max_image_pixels: int = 200_000_000
