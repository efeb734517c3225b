"""The worst mistakes of an image classifier, as pictures."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..run import NothingToDrawError, Run
from .theme import blank, label

if TYPE_CHECKING:
    from numpy import ndarray
    from plotly.graph_objects import Figure

_PICTURE_LIMIT = 160


@dataclass(frozen=True)
class Mistake:
    """A picture (a PNG data URI; `size` is its longer side in pixels), its truth, what the model said."""

    picture: str
    size: int
    truth: str
    prediction: str
    probability: float


def mistakes(run: Run) -> Sequence[Mistake]:
    """The worst mistakes that a run kept, worst first.

    Raises:
        NothingToDrawError: the run kept none: it made no mistake, or does not classify images.
    """
    kept = run.predictions
    images = kept.get("worst.images")
    if images is None or not len(images):
        raise NothingToDrawError(f"{run.folder} kept no mistakes")
    truths, predictions = kept["worst.targets"], kept["worst.predictions"]
    return [
        Mistake(
            png(image),
            max(image.shape[1:]),
            class_name(run, truth),
            class_name(run, prediction),
            float(probability),
        )
        for image, truth, prediction, probability in zip(
            images, truths, predictions, kept["worst.probabilities"], strict=True
        )
    ]


def worst_mistakes(run: Run, columns: int = 6) -> "Figure":
    """The worst mistakes as a grid of pictures, each with its truth, the prediction and its probability.

    Raises:
        NothingToDrawError: as `mistakes`.
    """
    shown = mistakes(run)
    rows = -(-len(shown) // columns)
    figure = blank("Worst mistakes", "", "", height=90 + 170 * rows)
    for number, mistake in enumerate(shown):
        row, column = divmod(number, columns)
        figure.add_layout_image(
            source=mistake.picture,
            x=column + 0.08,
            y=row,
            sizex=0.84,
            sizey=0.72,
            xref="x",
            yref="y",
            sizing="contain",
        )
        figure.add_annotation(
            text=f"<b>{label(mistake.prediction, 14)}</b> {mistake.probability:.0%}"
            f"<br>is {label(mistake.truth, 14)}",
            x=column + 0.5,
            y=row + 0.74,
            yanchor="top",
            showarrow=False,
        )
    figure.add_trace(
        {"type": "scatter", "x": [0], "y": [0], "mode": "markers", "opacity": 0, "hoverinfo": "skip"}
    )
    figure.update_xaxes(visible=False, range=[0, columns])
    figure.update_yaxes(visible=False, range=[rows, 0])
    return figure


def png(image: "ndarray[Any, Any]") -> str:
    """A picture, uint8 (C, H, W) with 1 (grey), 3 (colour) or 4 (colour, opacity) channels, as a data URI.

    Pictures above 160 pixels are made smaller: a page shows two dozen of them as stamps. Of another
    number of channels the first is shown.
    """
    from PIL import Image

    channels = image.shape[0]
    pixels = image.transpose(1, 2, 0) if channels in (3, 4) else image[0]
    picture = Image.fromarray(pixels.copy())
    if max(picture.size) > _PICTURE_LIMIT:
        picture.thumbnail((_PICTURE_LIMIT, _PICTURE_LIMIT))
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def class_name(run: Run, number: Any) -> str:
    """The name of a class number; the number where the run has no such class."""
    return run.classes[int(number)] if 0 <= int(number) < len(run.classes) else str(int(number))
