import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ravine.training.data import DataOptions
from ravine.training.data.images import (
    Header,
    UnusableImageError,
    decode,
    digest_all,
    grey_levels_only,
    median_short_side,
    read_header,
)

LIMIT = 1_000_000


def quadrants(width: int = 32, height: int = 32) -> Image.Image:
    """Red, green, blue and grey quarters, from the top left in reading order."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (255, 0, 0)
    pixels[: height // 2, width // 2 :] = (0, 255, 0)
    pixels[height // 2 :, : width // 2] = (0, 0, 255)
    pixels[height // 2 :, width // 2 :] = (100, 100, 100)
    return Image.fromarray(pixels)


def corners(pixels: np.ndarray) -> list[tuple[int, ...]]:
    side = pixels.shape[1]
    places = [(side // 4, side // 4), (side // 4, 3 * side // 4), (3 * side // 4, side // 4)]
    return [tuple(int(value) for value in pixels[:, row, column]) for row, column in places]


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp", "gif", "jpg"])
@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA", "CMYK"])
def test_formats_and_colour_modes_give_the_same_picture(tmp_path, suffix, mode):
    writable = {"CMYK": ("tiff", "jpg"), "RGBA": ("png", "tiff", "webp"), "P": ("png", "bmp", "tiff", "gif")}
    if suffix not in writable.get(mode, (suffix,)):
        mode = "RGB"
    path = tmp_path / f"a.{suffix}"
    quadrants().convert(mode).save(path, **({"lossless": True} if suffix == "webp" else {"quality": 95}))
    found = decode(path, (32, 32), 3, LIMIT)
    assert found.shape == (3, 32, 32)
    for seen, wanted in zip(corners(found), [(255, 0, 0), (0, 255, 0), (0, 0, 255)], strict=True):
        assert np.abs(np.subtract(seen, wanted)).max() <= (6 if suffix == "jpg" else 0)


@pytest.mark.parametrize("mode", ["L", "1", "LA", "I;16"])
def test_grey_modes_keep_their_levels(tmp_path, mode):
    levels = np.tile(np.array([0, 255, 77, 128], np.uint8), (4, 1))
    if mode == "1":
        levels = np.where(levels > 127, 255, 0).astype(np.uint8)
    if mode == "I;16":
        image = Image.fromarray(levels.astype(np.uint16) * 257)
        assert image.mode == "I;16"
    else:
        image = Image.fromarray(levels).convert(mode)
    path = tmp_path / "a.png"
    image.save(path)
    assert read_header(path, LIMIT).grey
    assert decode(path, (4, 4), 1, LIMIT)[0].tolist() == levels.tolist()
    assert decode(path, (4, 4), 3, LIMIT)[2].tolist() == levels.tolist()


def test_transparency_is_composited_on_white(tmp_path):
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    half = Image.new("LA", (4, 4), (0, 128))
    clear.save(tmp_path / "clear.png")
    half.save(tmp_path / "half.png")
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    palette.save(tmp_path / "palette.png", transparency=1)
    assert (decode(tmp_path / "clear.png", (4, 4), 3, LIMIT) == 255).all()
    assert (decode(tmp_path / "half.png", (4, 4), 1, LIMIT) == 127).all()
    assert (decode(tmp_path / "palette.png", (4, 4), 3, LIMIT) == 255).all()


@pytest.mark.parametrize(
    ("orientation", "undo"),
    [
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
        (3, Image.Transpose.ROTATE_180),
        (4, Image.Transpose.FLIP_TOP_BOTTOM),
        (5, Image.Transpose.TRANSPOSE),
        (6, Image.Transpose.ROTATE_90),
        (7, Image.Transpose.TRANSVERSE),
        (8, Image.Transpose.ROTATE_270),
    ],
)
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_exif_orientations_are_applied(tmp_path, orientation, undo, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    quadrants(64, 32).transpose(undo).save(path, exif=exif, quality=95)
    found = decode(path, (32, 64), 3, LIMIT)
    upright = np.asarray(quadrants(64, 32)).transpose(2, 0, 1).astype(int)
    assert np.abs(found.astype(int) - upright).mean() < 4


def test_short_side_is_resized_and_the_centre_is_kept(tmp_path):
    pixels = np.zeros((40, 100), np.uint8)
    pixels[:, 30:70] = 200
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    Image.fromarray(pixels.T).save(tmp_path / "tall.png")
    for name in ("wide", "tall"):
        found = decode(tmp_path / f"{name}.png", (20, 20), 1, LIMIT)[0]
        assert (found[1:-1, 1:-1] == 200).all()
        assert found.min() > 100


def test_resizing_is_antialiased(tmp_path):
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 254
    Image.fromarray(stripes).save(tmp_path / "a.png")
    assert np.abs(decode(tmp_path / "a.png", (8, 8), 1, LIMIT).astype(int) - 127).max() <= 12


def test_draft_decoding_of_large_jpegs_changes_little(tmp_path):
    y, x = np.mgrid[0:800, 0:1000]
    pixels = np.stack([x / 4, y / 4, (x + y) / 8], -1).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    difference = decode(tmp_path / "a.jpg", (32, 32), 3, LIMIT).astype(int) - decode(
        tmp_path / "a.png", (32, 32), 3, LIMIT
    )
    assert np.abs(difference).max() <= 4


def png_bomb(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(1001, 1000), (10_000, 10_000), (60_000, 60_000)])
def test_decompression_bombs_are_refused_before_decoding(tmp_path, size):
    (tmp_path / "a.png").write_bytes(png_bomb(*size))
    with pytest.raises(UnusableImageError, match="decompression bomb"):
        read_header(tmp_path / "a.png", LIMIT)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "bmp", "tiff"])
def test_truncated_images_are_found_by_decoding_them(tmp_path, suffix):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(buffer, {"jpg": "jpeg"}.get(suffix, suffix))
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(buffer.getvalue())
    digests, bad = digest_all([path], LIMIT)
    assert (len(digests), bad) == (1, {})
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) * 2 // 3])
    with pytest.raises(UnusableImageError, match=r"damaged or truncated|no known image format"):
        decode(path, (8, 8), 3, LIMIT)
    digests, bad = digest_all([path], LIMIT)
    assert digests == [] and list(bad) == [path]


def test_files_that_are_no_images_are_refused(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_bytes(b"hello")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(UnusableImageError, match="empty"):
        read_header(tmp_path / "empty.png", LIMIT)
    with pytest.raises(UnusableImageError, match="no known image format"):
        read_header(tmp_path / "text.png", LIMIT)
    with pytest.raises(UnusableImageError, match="floating point"):
        decode(tmp_path / "float.tiff", (4, 4), 1, LIMIT)


def test_the_automatic_side_is_the_median_short_side_at_most_64():
    assert median_short_side([Header(10, 30, True), Header(20, 50, True), Header(90, 40, True)]) == 20
    assert median_short_side([Header(300, 200, True)]) == 64


def test_grey_levels_are_told_from_colours():
    images = np.random.default_rng(0).integers(0, 256, (300, 1, 2, 2), np.uint8).repeat(3, axis=1)
    assert grey_levels_only(images)
    images[299, 2, 1, 1] ^= 1
    assert not grey_levels_only(images)


def test_a_file_of_another_format_is_refused_whatever_its_name(tmp_path):
    """Pillow would hand an EPS to Ghostscript, which runs it as a program."""
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n1 1 moveto\n%%EOF\n"
    (tmp_path / "a.png").write_bytes(eps)
    with Image.open(tmp_path / "a.png") as opened:
        assert opened.format == "EPS"
    for look in (lambda path: read_header(path, LIMIT), lambda path: decode(path, (8, 8), 3, LIMIT)):
        with pytest.raises(UnusableImageError, match="no known image format"):
            look(tmp_path / "a.png")


@pytest.mark.parametrize("way", ["open", "read_bytes"])
def test_files_that_may_not_be_read_are_told_apart_from_damaged_ones(tmp_path, monkeypatch, way):
    def forbidden(path, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(path))

    quadrants().save(tmp_path / "a.png")
    monkeypatch.setattr(Image if way == "open" else type(tmp_path), way, forbidden)
    _, bad = digest_all([tmp_path / "a.png"], LIMIT)
    assert "ermission denied" in bad[tmp_path / "a.png"] and "damaged" not in bad[tmp_path / "a.png"]


def test_our_limit_on_pixels_takes_the_place_of_pillows(tmp_path, monkeypatch):
    """Cameras of 108 megapixels exceed Pillow's own limit of 89 million, which stays as it was."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    quadrants(16, 16).save(tmp_path / "a.png")
    assert read_header(tmp_path / "a.png", 256).width == 16
    assert decode(tmp_path / "a.png", (8, 8), 3, 256).shape == (3, 8, 8)
    assert Image.MAX_IMAGE_PIXELS == 50
    with pytest.raises(UnusableImageError, match="decompression bomb"):
        decode(tmp_path / "a.png", (8, 8), 3, 100)
    assert Image.MAX_IMAGE_PIXELS == 50


@pytest.mark.parametrize("pixels", [61_000_000, 108_000_000])
def test_large_cameras_are_within_the_usual_limit(tmp_path, pixels):
    (tmp_path / "a.png").write_bytes(png_bomb(10_000, pixels // 10_000))
    assert read_header(tmp_path / "a.png", DataOptions.max_image_pixels).width == 10_000
    (tmp_path / "b.png").write_bytes(png_bomb(20_000, 20_000))
    with pytest.raises(UnusableImageError, match="more than the limit of 200,000,000"):
        read_header(tmp_path / "b.png", DataOptions.max_image_pixels)
