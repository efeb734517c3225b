"""One image file to bytes: every mode, format and orientation the same way, in training and after.

An image becomes upright (EXIF), composited on white where it is transparent, cut in the centre to the
wanted aspect and resized with antialiasing.
"""

import math
import os
import struct
import warnings
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".bmp", ".dib"}
    | {".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"}
)
GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"})
# What Pillow raises on damaged files of its various formats.
DAMAGE = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError,
    MemoryError, struct.error, zlib.error,
)  # fmt: skip
TAIL = 4096


class UnusableImageError(Exception):
    """Why one image file cannot be used; the reader says which and what to do."""


@dataclass(frozen=True)
class Header:
    """What a file says of its image before any decoding."""

    width: int
    height: int
    grey: bool


def is_image(path: Path) -> bool:
    """Whether a file's name is that of an image."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def read_header(path: Path, max_pixels: int) -> Header:
    """Size and mode of an image, and a look at its end.

    Where the format's end mark is missing, or the format has none, the image is decoded to see
    whether it is whole. Not safe to call from several threads at once.

    Raises:
        UnusableImageError: the file is empty, no image, truncated, or has more than `max_pixels` pixels.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                width, height = image.size
                _refuse_bomb(width, height, max_pixels)
                if not _has_end_mark(path, image.format):
                    image.load()
                return Header(width, height, image.mode in GREY_MODES and "transparency" not in image.info)
    except Image.DecompressionBombError as error:
        raise UnusableImageError(f"a decompression bomb: {error}") from error
    except UnidentifiedImageError as error:
        raise UnusableImageError("empty" if path.stat().st_size == 0 else "no known image format") from error
    except DAMAGE as error:
        raise UnusableImageError(f"damaged or truncated: {error}") from error


def decode(path: Path, size: tuple[int, int], channels: int, max_pixels: int) -> npt.NDArray[np.uint8]:
    """The image at `path` as uint8 (channels, height, width).

    Args:
        path: an image file; of an animation the first frame is taken.
        size: height and width of the result; the image is cut in the centre to this aspect.
        channels: 3 for colour, 1 for grey.
        max_pixels: an image with more is refused before it is decoded.

    Raises:
        UnusableImageError: the file is damaged or truncated, too large, or its pixels have no known range.
    """
    from PIL import Image, ImageOps

    height, width = size
    try:
        with Image.open(path) as file:
            _refuse_bomb(*file.size, max_pixels)
            # JPEG files can be decoded at 1/2, 1/4, 1/8 of their size; twice the target keeps the
            # antialiasing of the resize below.
            scale = min(1.0, 2 * max(size) / min(file.size))
            file.draft(None, (math.ceil(file.width * scale), math.ceil(file.height * scale)))
            image = ImageOps.exif_transpose(file)
            image = _opaque(image).convert("L" if channels == 1 else "RGB")
        if image.size != (width, height):
            image = image.resize(
                (width, height),
                Image.Resampling.BILINEAR,
                box=_centre(image.size, width / height),
                reducing_gap=2.0,
            )
    except (*DAMAGE, Image.DecompressionBombError) as error:
        raise UnusableImageError(f"damaged or truncated: {error}") from error
    pixels = np.asarray(image, np.uint8)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def decode_all(
    paths: Sequence[Path], size: tuple[int, int], channels: int, max_pixels: int
) -> tuple[npt.NDArray[np.uint8], dict[Path, str]]:
    """All images that can be decoded, (N, channels, height, width), and why the others cannot.

    Threads share the work: Pillow releases the interpreter's lock while it decodes and resizes.
    """
    batch = np.empty((len(paths), channels, *size), np.uint8)
    bad: dict[Path, str] = {}

    def place(row: int) -> None:
        try:
            batch[row] = decode(paths[row], size, channels, max_pixels)
        except UnusableImageError as error:
            bad[paths[row]] = str(error)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(place, range(len(paths))):
            pass
    return (batch[[path not in bad for path in paths]] if bad else batch), bad


def _refuse_bomb(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise UnusableImageError(
            f"{width}×{height} pixels are more than the limit of {max_pixels:,}, as in a decompression bomb"
        )


def _opaque(image: "Image.Image") -> "Image.Image":
    """8-bit, and on white where it is transparent."""
    from PIL import Image

    if image.mode.startswith("I"):
        return _eight_bit(image)
    if image.mode == "F":
        raise UnusableImageError(
            "its pixels are floating point, without a known range; save it with 8 or 16 bits"
        )
    if image.mode not in ("RGBA", "LA", "PA", "RGBa", "La") and "transparency" not in image.info:
        return image
    coloured = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), coloured)


def _eight_bit(image: "Image.Image") -> "Image.Image":
    """16-bit grey levels as 8-bit ones."""
    from PIL import Image

    levels: npt.NDArray[Any] = np.asarray(image).astype(np.int64)
    if levels.min() < 0 or levels.max() > 65535:
        raise UnusableImageError(
            "its pixels have more than 16 bits, without a known range; save it with 8 or 16"
        )
    return Image.fromarray(((levels + 128) // 257).astype(np.uint8))


def _centre(size: tuple[int, int], aspect: float) -> tuple[float, float, float, float]:
    """The largest box of a given aspect (width / height) in the centre of an image."""
    width, height = size
    box_width = min(float(width), height * aspect)
    box_height = min(float(height), width / aspect)
    left, top = (width - box_width) / 2, (height - box_height) / 2
    return left, top, left + box_width, top + box_height


def _has_end_mark(path: Path, image_format: str | None) -> bool:
    with path.open("rb") as file:
        head = file.read(12)
        length = file.seek(0, 2)
        file.seek(max(0, length - TAIL))
        tail = file.read()
    match image_format:
        case "JPEG" | "MPO":
            return b"\xff\xd9" in tail
        case "PNG":
            return b"IEND" in tail
        case "GIF":
            return tail.rstrip(b"\0").endswith(b";")
        case "WEBP":
            return length >= int.from_bytes(head[4:8], "little") + 8
    return False


def grey_levels_only(images: npt.NDArray[np.uint8]) -> bool:
    """Whether images (N, 3, H, W) have three equal channels throughout."""
    return all(
        np.array_equal(chunk[:, 0], chunk[:, 1]) and np.array_equal(chunk[:, 0], chunk[:, 2])
        for chunk in np.array_split(images, max(1, len(images) // 256))
    )


def median_short_side(headers: Iterable[Header], most: int = 64) -> int:
    """The side that suits images of mixed sizes: their median short side, at most `most`."""
    sides: Sequence[int] = sorted(min(header.width, header.height) for header in headers)
    return min(sides[len(sides) // 2], most)
