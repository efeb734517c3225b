"""One image file to bytes: every mode, format and orientation the same way, in training and after.

An image becomes upright (EXIF), composited on white where it is transparent, cut in the centre to the
wanted aspect and resized with antialiasing.
"""

import hashlib
import io
import math
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL import Image

Result = TypeVar("Result")
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".bmp", ".dib"}
    | {".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"}
)
# What Pillow may take a file for, whatever its name. It would hand an EPS to Ghostscript, which runs it.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM")
GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"})
# What Pillow raises on damaged files of its various formats.
DAMAGE = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError,
    MemoryError, struct.error, zlib.error,
)  # fmt: skip
# Files a task of the threads: fewer would cost more in bookkeeping than a small image in decoding.
FILES_A_TASK = 8


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
    """Size and mode of an image, without decoding it. Not safe to call from several threads at once.

    Raises:
        UnusableImageError: the file is empty, no image, or has more than `max_pixels` pixels.
    """
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with _opened(path, max_pixels) as image:
            grey = image.mode in GREY_MODES and "transparency" not in image.info
            return Header(image.width, image.height, grey)


def decode(
    source: Path | io.BytesIO, size: tuple[int, int], channels: int, max_pixels: int
) -> npt.NDArray[np.uint8]:
    """An image as uint8 (channels, height, width).

    Args:
        source: an image file, or its content; of an animation the first frame is taken.
        size: height and width of the result; the image is cut in the centre to this aspect.
        channels: 3 for colour, 1 for grey.
        max_pixels: an image with more is refused before it is decoded.

    Raises:
        UnusableImageError: the file is damaged or truncated, too large, or its pixels have no known range.
    """
    from PIL import Image, ImageOps

    height, width = size
    with _opened(source, max_pixels) as file:
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
    pixels = np.asarray(image, np.uint8)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def decode_all(
    paths: Sequence[Path], size: tuple[int, int], channels: int, max_pixels: int
) -> tuple[npt.NDArray[np.uint8], dict[Path, str]]:
    """All images that can be decoded, (N, channels, height, width), and why the others cannot."""
    batch = np.empty((len(paths), channels, *size), np.uint8)

    def place(row: int) -> None:
        batch[row] = decode(paths[row], size, channels, max_pixels)

    _, bad = _each(place, paths)
    return (batch[[path not in bad for path in paths]] if bad else batch), bad


def digest_all(paths: Sequence[Path], max_pixels: int) -> tuple[list[bytes], dict[Path, str]]:
    """A digest of the content of each image that can be decoded, and why the others cannot.

    Each is decoded once, as small as its format allows: only so is it known to be whole.
    """

    def digest(row: int) -> bytes:
        try:
            content = paths[row].read_bytes()
        except OSError as error:
            raise UnusableImageError(error.strerror or str(error)) from error
        decode(io.BytesIO(content), (8, 8), 3, max_pixels)
        return hashlib.blake2b(content, digest_size=16).digest()

    return _each(digest, paths)


def _each(work: Callable[[int], Result], paths: Sequence[Path]) -> tuple[list[Result], dict[Path, str]]:
    """What `work` gives for the number of each path that is usable, and why the others are not.

    Threads share the work: Pillow releases the interpreter's lock while it decodes and resizes.
    """
    bad: dict[Path, str] = {}

    def some(start: int) -> list[Result]:
        done = []
        for row in range(start, min(start + FILES_A_TASK, len(paths))):
            try:
                done.append(work(row))
            except UnusableImageError as error:
                bad[paths[row]] = str(error)
        return done

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        starts = range(0, len(paths), FILES_A_TASK)
        return [result for done in pool.map(some, starts) for result in done], bad


@contextmanager
def _opened(source: Path | io.BytesIO, max_pixels: int) -> "Iterator[Image.Image]":
    """An image whose header is read, and whatever Pillow says against it as one kind of error."""
    from PIL import Image, UnidentifiedImageError

    try:
        with _pillow_limit.at_least(max_pixels), Image.open(source, formats=FORMATS) as image:
            _refuse_bomb(*image.size, max_pixels)
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnusableImageError(f"a decompression bomb: {error}") from error
    except UnidentifiedImageError as error:
        empty = isinstance(source, Path) and source.stat().st_size == 0
        raise UnusableImageError("empty" if empty else "no known image format") from error
    except PermissionError as error:
        raise UnusableImageError("it may not be read: permission denied") from error
    except DAMAGE as error:
        raise UnusableImageError(f"damaged or truncated: {error}") from error


class _PillowLimit:
    """Pillow's own limit on pixels, a global: raised to ours while any thread has an image open."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before: int | None = None

    @contextmanager
    def at_least(self, pixels: int) -> Iterator[None]:
        from PIL import Image

        with self._lock:
            if not self._users:
                self._before = Image.MAX_IMAGE_PIXELS
            self._users += 1
            if Image.MAX_IMAGE_PIXELS is not None:
                Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, pixels)
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    Image.MAX_IMAGE_PIXELS = self._before


_pillow_limit = _PillowLimit()


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


def grey_levels_only(images: npt.NDArray[np.uint8]) -> bool:
    """Whether images (N, 3, H, W) have three equal channels throughout."""
    return all(
        np.array_equal(chunk[:, 0], chunk[:, 1]) and np.array_equal(chunk[:, 0], chunk[:, 2])
        for chunk in np.array_split(images, max(1, len(images) // 256))
    )


def median_short_side(headers: Iterable[Header], most: int = 64) -> int:
    """The side that suits images of mixed sizes: their median short side, at most `most`."""
    sides = sorted(min(header.width, header.height) for header in headers) or [most]
    return min(sides[len(sides) // 2], most)
