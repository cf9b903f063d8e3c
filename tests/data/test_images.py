"""Reading one image: every kind of file gives the right pixels or one exception with a reason."""

from __future__ import annotations

import struct
import sys
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from dinoscope.data import jpeg, pillow
from dinoscope.data.grey_range import bits_window
from dinoscope.data.images import UnreadableImage, decode, read, read_header, read_size

ORIENTATION_TAG = 0x0112
# EXIF 2.32, tag 0x0112: which side of the upright picture the first stored row and column are.
EXIF_SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    stream = BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def blocks() -> np.ndarray:
    """[32, 48, 3]: two rows of three 16-pixel squares, all of different colours, so that any turn shows."""
    colours = np.array(
        [[[250, 10, 10], [10, 250, 10], [10, 10, 250]], [[240, 240, 10], [10, 240, 240], [90, 90, 90]]],
        np.uint8,
    )
    return colours.repeat(16, axis=0).repeat(16, axis=1)


def stored_as(upright: np.ndarray, orientation: int) -> np.ndarray:
    """Lay an upright picture out as a camera with this EXIF orientation stores it."""
    first_row, first_column = EXIF_SIDES[orientation]
    stored = upright if first_row in ("top", "bottom") else upright.swapaxes(0, 1)
    if first_row in ("bottom", "right"):
        stored = stored[::-1]
    if first_column in ("bottom", "right"):
        stored = stored[:, ::-1]
    return np.ascontiguousarray(stored)


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[ORIENTATION_TAG] = orientation
    return block


def assert_close(actual: np.ndarray, expected: np.ndarray, tolerance: int) -> None:
    assert actual.shape == expected.shape
    assert np.abs(actual.astype(int) - expected).max() <= tolerance


@pytest.fixture
def put(tmp_path: Path) -> Callable[[bytes], Path]:
    """Write bytes to a file whose name says nothing of its format."""

    def write(content: bytes) -> Path:
        path = tmp_path / "image"
        path.write_bytes(content)
        return path

    return write


Put = Callable[[bytes], Path]

LOSSLESS = {
    "png": ("PNG", {}),
    "bmp": ("BMP", {}),
    "ppm": ("PPM", {}),
    "webp": ("WEBP", {"lossless": True}),
    "tiff": ("TIFF", {}),
    "tiff-lzw": ("TIFF", {"compression": "tiff_lzw"}),
    "tiff-deflate": ("TIFF", {"compression": "tiff_adobe_deflate"}),
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_formats_give_the_pixels_back(put: Put, name: str) -> None:
    format, options = LOSSLESS[name]
    pixels = np.random.default_rng(0).integers(0, 256, (7, 11, 3), dtype=np.uint8)
    path = put(encode(Image.fromarray(pixels), format, **options))
    decoded = decode(path)
    np.testing.assert_array_equal(decoded, pixels)
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous
    assert decoded.flags.writeable
    assert read_size(path) == (7, 11)


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_in_colour(put: Put, progressive: bool) -> None:
    content = encode(Image.fromarray(blocks()), "JPEG", quality=95, subsampling=0, progressive=progressive)
    assert_close(decode(put(content)), blocks(), 4)


def test_jpeg_without_torchvisions_decoder_is_read_by_pillow(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(encode(Image.fromarray(stored_as(blocks(), 6)), "JPEG", quality=95, exif=exif(6)))
    with_torchvision = decode(path)

    def refuse(*_: object) -> None:
        raise RuntimeError("compiled without libjpeg")

    monkeypatch.setattr(jpeg.torch.ops.image, "decode_jpeg", refuse, raising=False)
    assert_close(decode(path), with_torchvision, 2)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "TIFF-lzw"])
@pytest.mark.parametrize("orientation", EXIF_SIDES)
def test_exif_orientation_is_applied(put: Put, format: str, orientation: int) -> None:
    options: dict[str, object] = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(format, {})
    if format == "TIFF-lzw":
        format, options = "TIFF", {"compression": "tiff_lzw"}
    stored = Image.fromarray(stored_as(blocks(), orientation))
    path = put(encode(stored, format, exif=exif(orientation), **options))
    assert_close(decode(path), blocks(), 4)
    assert read_size(path) == (32, 48)
    assert read_header(path).orientation == orientation


@pytest.mark.parametrize(("mark", "order"), [(b"II", "<"), (b"MM", ">")])
def test_exif_in_either_byte_order(put: Put, mark: bytes, order: str) -> None:
    # A directory at byte 8 with two entries: Make (text, 4 bytes) and Orientation (one short).
    make, orientation = (
        struct.pack(order + "HHI4s", 0x010F, 2, 4, b"Ada"),
        struct.pack(order + "HHIHH", 0x0112, 3, 1, 8, 0),
    )
    directory = struct.pack(order + "H", 2) + make + orientation + bytes(4)
    block = b"Exif\0\0" + mark + struct.pack(order + "HI", 42, 8) + directory
    assert read_header(put(encode(Image.fromarray(blocks()), "JPEG", exif=block))).orientation == 8


@pytest.mark.parametrize("block", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0garbage" * 9])
def test_a_damaged_exif_block_does_not_cost_the_image(put: Put, block: bytes) -> None:
    path = put(encode(Image.fromarray(blocks()), "JPEG", quality=95, exif=block))
    assert decode(path).shape == (32, 48, 3)
    assert read_header(path).orientation == 1


def test_an_orientation_that_does_not_exist_is_upright(put: Put) -> None:
    assert read_size(put(encode(Image.fromarray(blocks()), "PNG", exif=exif(9)))) == (32, 48)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "BMP", "PPM"])
def test_grey_is_repeated_over_the_channels(put: Put, format: str) -> None:
    grey = np.full((8, 8), 77, np.uint8)
    path = put(encode(Image.fromarray(grey), format))
    np.testing.assert_array_equal(decode(path), np.full((8, 8, 3), 77))
    assert read_header(path).grey


def test_one_bit_is_black_and_white(put: Put) -> None:
    bits = np.array([[True, False, True]])
    for format in ("PNG", "TIFF", "BMP", "PPM", "GIF"):
        decoded = decode(put(encode(Image.fromarray(bits), format)))
        np.testing.assert_array_equal(decoded[0], [[255] * 3, [0] * 3, [255] * 3])


def test_palette(put: Put) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), mode="P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    for format in ("PNG", "GIF", "BMP", "TIFF"):
        decoded = decode(put(encode(image, format)))
        np.testing.assert_array_equal(decoded[0], [[10, 20, 30], [40, 50, 60], [70, 80, 90]])


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_a_transparent_palette_entry_is_white(put: Put, format: str) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), mode="P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    path = put(encode(image, format, transparency=1))
    np.testing.assert_array_equal(decode(path)[0], [[10, 20, 30], [255, 255, 255]])
    assert read_header(path).alpha


def test_palette_with_a_degree_of_transparency_per_entry(put: Put) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), mode="P")
    image.putpalette([0, 0, 0, 0, 0, 0])
    decoded = decode(put(encode(image, "PNG", transparency=bytes([255, 51]))))
    np.testing.assert_array_equal(decoded[0], [[0, 0, 0], [204, 204, 204]])  # 255 * (1 - 51 / 255)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_composited_on_white(put: Put, format: str) -> None:
    # Black at alpha 0, 51 and 255, and red at 102: 255 * (1 - alpha / 255) + colour * alpha / 255.
    rgba = np.array([[[0, 0, 0, 0], [0, 0, 0, 51], [0, 0, 0, 255], [255, 0, 0, 102]]], np.uint8)
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    path = put(encode(Image.fromarray(rgba), format, **options))
    expected = [[255, 255, 255], [204, 204, 204], [0, 0, 0], [255, 153, 153]]
    np.testing.assert_array_equal(decode(path)[0], expected)
    assert read_header(path).alpha


def test_grey_and_palette_with_alpha(put: Put) -> None:
    grey = Image.merge("LA", (Image.new("L", (2, 2), 100), Image.new("L", (2, 2), 0)))
    np.testing.assert_array_equal(decode(put(encode(grey, "PNG"))), np.full((2, 2, 3), 255))
    palette = grey.convert("RGBA").convert("PA")
    np.testing.assert_array_equal(decode(put(encode(palette, "TIFF"))), np.full((2, 2, 3), 255))


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk(put: Put, format: str) -> None:
    # No cyan, full magenta and yellow, no black: red. JPEG stores it inverted, as Adobe does.
    path = put(encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), format))
    assert_close(decode(path), np.full((16, 16, 3), (255, 0, 0), int), 3)
    assert read_header(path).cmyk


def test_ycck_jpeg(put: Put) -> None:
    # Stored inverted: (255 - 200, 128, 128, 255). Read as YCCK that is Y = 55 without chroma: C = M = Y = 200
    # as stored, 55 after undoing Adobe's inversion, and no black, so R = G = B = 200.
    content = encode(Image.new("CMYK", (16, 16), (200, 127, 127, 0)), "JPEG", quality=100)
    adobe = content.index(b"Adobe")
    transform = adobe + len(b"Adobe") + 6
    ycck = content[:transform] + b"\x02" + content[transform + 1 :]
    assert_close(decode(put(ycck)), np.full((16, 16, 3), 200), 3)


def test_sixteen_bit_grey_takes_the_smallest_bit_depth_that_holds_it(put: Put) -> None:
    for largest, bits in ((255, 8), (1000, 10), (4095, 12), (4096, 14), (16384, 16), (65535, 16)):
        values = np.array([[0, largest // 2, largest]], np.uint16)
        expected = np.rint(values * (255 / (2**bits - 1)))[..., None].repeat(3, -1)
        for format in ("PNG", "TIFF", "PPM"):
            path = put(encode(Image.fromarray(values), format))
            np.testing.assert_array_equal(decode(path), expected)
            assert read_header(path).over_8_bit


def test_sixteen_bit_grey_turned_by_exif(put: Put) -> None:
    values = np.array([[0, 65535, 257]], np.uint16)
    decoded = decode(put(encode(Image.fromarray(values), "PNG", exif=exif(6))))
    np.testing.assert_array_equal(decoded[:, 0, 0], [0, 255, 1])


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bit_white_is_zero_tiff_is_inverted(put: Put, order: str) -> None:
    decoded = decode(put(tiff(np.array([[0, 65535]], np.uint16), order=order, photometric=0)))
    np.testing.assert_array_equal(decoded[0, :, 0], [255, 0])
    # Black is the upper end of the grey range, not that of the file's 16 bits: here the range is of 12 bits.
    twelve = put(tiff(np.array([[0, 4095]], np.uint16), order=order, photometric=0))
    np.testing.assert_array_equal(decode(twelve, window=bits_window(12))[0, :, 0], [255, 0])


def deep_colour(name: str, values: np.ndarray) -> bytes:
    """[h, w, 3] as a file of 16 bits a channel."""
    if name == "PNG":
        return png16(values)
    if name == "PPM":
        return b"P6\n%d %d\n65535\n" % (values.shape[1], values.shape[0]) + values.astype(">u2").tobytes()
    if name == "PPM plain":
        return b"P3\n%d %d\n65535\n" % (values.shape[1], values.shape[0]) + b" ".join(b"%d" % v for v in values.ravel())
    return tiff(values, order=">" if "big" in name else "<", deflate="deflate" in name)


COLOUR_FILES = ["PNG", "PPM", "PPM plain", "TIFF", "TIFF big", "TIFF deflate", "TIFF big deflate"]


@pytest.mark.parametrize("name", COLOUR_FILES)
def test_sixteen_bit_colour(put: Put, name: str) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (9, 7, 3)).astype(np.uint16)
    path = put(deep_colour(name, values))
    np.testing.assert_array_equal(read(path).values, values)
    np.testing.assert_array_equal(decode(path), np.rint(values / 257))
    header = read_header(path)
    assert (header.sample, header.over_8_bit, header.grey) == ("u2", True, False)


@pytest.mark.parametrize("name", COLOUR_FILES)
def test_twelve_bit_colour_in_a_sixteen_bit_file_is_not_black(put: Put, name: str) -> None:
    values = np.array([[[0, 4095, 2048], [1000, 10, 4000]]], np.uint16)
    decoded = decode(put(deep_colour(name, values)))
    np.testing.assert_array_equal(decoded, np.rint(values * (255 / 4095)))


@pytest.mark.parametrize("name", ["PNG", "TIFF", "TIFF deflate"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_sixteen_bit_colour_is_turned_upright(put: Put, name: str, orientation: int) -> None:
    values = stored_as(blocks().astype(np.uint16) * 257, orientation)
    tags = {ORIENTATION_TAG: (orientation,)}
    content = png16(values, exif=exif(orientation)) if name == "PNG" else tiff(values, deflate="d" in name, tags=tags)
    path = put(content)
    np.testing.assert_array_equal(decode(path), blocks())
    assert read_size(path) == (32, 48)


def test_sixteen_bit_transparency_is_composited_on_white(put: Put) -> None:
    grey = np.array([[[0, 0], [0, 65535], [65535, 20], [0, 13107]]], np.uint16)  # 13107 is a fifth of 65535
    np.testing.assert_array_equal(decode(put(png16(grey)))[0, :, 0], [255, 0, 255, 204])
    colour = np.concatenate((np.full((1, 4, 3), 65535, np.uint16), grey[..., 1:]), axis=2)
    colour[..., 1:3] = 0
    expected = [[255, 255, 255], [255, 0, 0], [255, 255, 255], [255, 204, 204]]
    for content in (png16(colour), tiff(colour, tags={338: (2,)})):
        path = put(content)
        np.testing.assert_array_equal(decode(path)[0], expected)
        assert read_header(path).alpha


def test_a_transparent_grey_value_of_sixteen_bits(put: Put) -> None:
    content = png16(np.array([[[0], [500]]], np.uint16))
    path = put(content[:33] + chunk(b"tRNS", struct.pack(">H", 500)) + content[33:])
    np.testing.assert_array_equal(decode(path, window=(500.0, 1000.0))[0, :, 0], [0, 255])


@pytest.mark.parametrize("kind", ["u1", "u2"])
@pytest.mark.parametrize("extra", [None, (0,)])
def test_a_fourth_channel_that_is_not_called_transparency_is_left_out(
    put: Put, kind: str, extra: tuple[int] | None
) -> None:
    values = np.array([[[10, 20, 30, 0], [40, 50, 60, 200]]], kind)
    values[0, 1, 0] = np.iinfo(kind).max
    path = put(tiff(values, tags={} if extra is None else {338: extra}))
    expected = values[..., :3] if kind == "u1" else np.rint(values[..., :3] / 257)
    np.testing.assert_array_equal(decode(path), expected)
    assert not read_header(path).alpha


def test_a_fourth_channel_of_a_bmp_that_is_all_zero_is_no_transparency(put: Put) -> None:
    content = bytearray(encode(Image.fromarray(np.full((2, 2, 4), (10, 20, 30, 77), np.uint8)), "BMP"))
    offset = int.from_bytes(content[10:14], "little")
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = content[14:offset] + masks + bytes(108 - (offset - 14) - 16)  # BITMAPV4HEADER
    header[0:4], header[16:20] = struct.pack("<I", 108), struct.pack("<I", 3)
    content[10:14] = struct.pack("<I", 14 + 108)
    pixels = np.frombuffer(content[offset:], np.uint8).reshape(2, 2, 4).copy()
    for alpha, expected in ((0, (10, 20, 30)), (51, (206, 208, 210))):  # 255 * 0.8 + colour * 0.2
        pixels[..., 3] = alpha
        decoded = decode(put(bytes(content[:14] + header) + pixels.tobytes()))
        np.testing.assert_array_equal(decoded, np.full((2, 2, 3), expected))


def test_a_pgm_keeps_its_values_whatever_its_maximum(put: Put) -> None:
    values = np.array([[0, 500, 1000]], np.uint16)
    for content in (b"P5\n3 1\n1000\n" + values.astype(">u2").tobytes(), b"P2\n3 1\n1000\n0 500 1000\n"):
        raw = read(put(content))
        np.testing.assert_array_equal(raw.values[..., 0], values)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("kind", ["i1", "u2", "i2", "u4", "i4", "f4", "f8"])
def test_values_of_every_kind(put: Put, kind: str, order: str, deflate: bool) -> None:
    if kind.startswith("f"):
        values = np.random.default_rng(0).normal(0, 100, (5, 6)).astype(kind)
    else:
        limits = np.iinfo(kind)
        values = np.random.default_rng(0).integers(limits.min, limits.max, (5, 6), dtype=kind, endpoint=True)
        values[0, :2] = limits.min, limits.max
    path = put(tiff(values, order=order, deflate=deflate))
    raw = read(path)
    np.testing.assert_array_equal(raw.values[..., 0], values)
    assert read_header(path).sample == kind
    low, high = float(values.min()), float(values.max())
    expected = np.rint((values.astype(np.float64) - low) * (255 / (high - low)))
    np.testing.assert_array_equal(decode(path)[..., 0], expected)


def test_big_tiffs_and_those_with_a_predictor(put: Put) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (20, 30, 3)).astype(np.uint16)
    lzw = cv2.imencode(".tiff", values[..., ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 5])[1].tobytes()
    np.testing.assert_array_equal(read(put(lzw)).values, values)
    big = encode(Image.fromarray(values[..., 0]), "TIFF", big_tiff=True)
    np.testing.assert_array_equal(read(put(big)).values, values[..., :1])
    assert read_size(put(big)) == (20, 30)


def test_the_grey_range_is_the_callers(put: Put) -> None:
    path = put(tiff(np.array([[0, 1024, 4095, 60000]], np.uint16)))
    np.testing.assert_array_equal(decode(path, window=bits_window(12))[0, :, 0], [0, 64, 255, 255])
    hounsfield = put(tiff(np.array([[-1000, -160, 41, 240, 3000]], np.int16)))
    np.testing.assert_array_equal(decode(hounsfield, window=(40.0, 400.0))[0, :, 0], [0, 0, 128, 255, 255])


def test_eight_bits_know_no_grey_range(put: Put) -> None:
    for name in ("png", "jpeg grey", "tiff", "png palette"):
        path = put(valid_files()[name])
        np.testing.assert_array_equal(decode(path, window=(10.0, 5.0)), decode(path))
        assert read(path).range is None


def test_float_tiff(put: Put) -> None:
    unit = decode(put(encode(Image.fromarray(np.array([[0.0, 0.2, 1.0]], np.float32)), "TIFF")))
    np.testing.assert_array_equal(unit[0, :, 0], [0, 51, 255])
    wide = decode(put(encode(Image.fromarray(np.array([[-1000.0, 0.0, 3000.0]], np.float32)), "TIFF")))
    np.testing.assert_array_equal(wide[0, :, 0], [0, 64, 255])
    colour = np.array([[[0, 0.2, 1], [1, 0.4, 0]]], np.float32)
    np.testing.assert_array_equal(decode(put(tiff(colour, order=">", deflate=True))), np.rint(colour * 255))


@pytest.mark.parametrize("name", ["tiff 16 bit colour", "png 16 bit colour"])
def test_damaged_sixteen_bit_colour_is_refused_without_a_word(
    put: Put, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    content = valid_files()[name]
    for damaged in (content[: len(content) // 2], content[:60] + b"\xff" * 200 + content[260:]):
        with pytest.raises(UnreadableImage):
            decode(put(damaged))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation(put: Put, format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    options = {"lossless": True} if format == "WEBP" else {}
    content = encode(frames[0], format, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(decode(put(content)), np.full((8, 8, 3), (200, 0, 0)))
    assert read_header(put(content)).animated
    assert not read_header(put(encode(frames[0], format, **options))).animated


def test_a_gif_cut_within_its_second_frame_still_gives_the_first(put: Put) -> None:
    frames = [Image.fromarray(np.random.default_rng(i).integers(0, 255, (40, 40, 3), np.uint8)) for i in range(2)]
    content = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    alone = decode(put(encode(frames[0], "GIF")))
    np.testing.assert_array_equal(decode(put(content[:-300])), alone)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(*, width: int, height: int, depth: int = 8, colour_type: int = 2, data: bytes = b"") -> bytes:
    """Build a PNG by hand, whatever its header claims."""

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def tiff(
    values: np.ndarray,
    *,
    order: str = "<",
    deflate: bool = False,
    planes: bool = False,
    photometric: int | None = None,
    tags: dict[int, tuple[int, ...]] | None = None,
    pages: int = 1,
) -> bytes:
    """Build a TIFF by hand, whatever its values are: [h, w] or [h, w, channels]. tags: shorts, added or replaced."""
    values = values if values.ndim == 3 else values[..., None]
    height, width, channels = values.shape
    stored = values.astype(values.dtype.newbyteorder(order))
    strips = [stored[..., c].tobytes() for c in range(channels)] if planes else [stored.tobytes()]
    strips = [zlib.compress(strip) if deflate else strip for strip in strips]
    body, offsets = b"", []
    for strip in strips:
        offsets.append(8 + len(body))
        body += strip + b"\0" * (len(strip) % 2)
    shorts = {
        256: (width,),
        257: (height,),
        258: (values.dtype.itemsize * 8,) * channels,
        259: (8 if deflate else 1,),
        262: (photometric if photometric is not None else 2 if channels > 2 else 1,),
        277: (channels,),
        278: (height,),
        284: (2 if planes else 1,),
        339: ({"u": 1, "i": 2, "f": 3}[values.dtype.kind],) * channels,
    }
    entries = {tag: ("H", numbers) for tag, numbers in (shorts | (tags or {})).items()}
    entries |= {273: ("I", tuple(offsets)), 279: ("I", tuple(len(strip) for strip in strips))}
    content = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(body)) + body
    for page in range(pages):
        rows, extra = b"", b""
        end = len(content) + 2 + 12 * len(entries) + 4
        for tag, (kind, numbers) in sorted(entries.items()):
            packed = struct.pack(f"{order}{len(numbers)}{kind}", *numbers)
            if len(packed) > 4:
                packed, extra = struct.pack(order + "I", end + len(extra)), extra + packed
            rows += struct.pack(order + "HHI", tag, {"H": 3, "I": 4}[kind], len(numbers)) + packed.ljust(4, b"\0")
        following = end + len(extra) if page + 1 < pages else 0
        content += struct.pack(order + "H", len(entries)) + rows + struct.pack(order + "I", following) + extra
    return content


def png16(values: np.ndarray, *, exif: Image.Exif | None = None) -> bytes:
    """Build a PNG of 16 bits a channel: grey, grey with alpha, RGB or RGBA [h, w, channels]."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    content = png(
        width=width, height=height, depth=16, colour_type=(0, 4, 2, 6)[channels - 1], data=zlib.compress(rows)
    )
    return content if exif is None else content[:33] + chunk(b"eXIf", exif.tobytes()[6:]) + content[33:]


@cache
def valid_files() -> dict[str, bytes]:
    """A small valid file of every format and of the variants whose readers differ."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    other = image.rotate(180)
    many = {"save_all": True, "append_images": [other]}
    return {
        "jpeg": encode(image, "JPEG", exif=exif(6)),
        "jpeg progressive": encode(image, "JPEG", progressive=True),
        "jpeg grey": encode(image.convert("L"), "JPEG"),
        "jpeg cmyk": encode(image.convert("CMYK"), "JPEG"),
        "png": encode(image, "PNG", exif=exif(8)),
        "png palette": encode(image.convert("P"), "PNG", transparency=3),
        "png 16 bit": encode(image.convert("I;16"), "PNG"),
        "apng": encode(image, "PNG", **many),
        "gif": encode(image, "GIF", **many),
        "webp": encode(image, "WEBP", exif=exif(5)),
        "webp animated": encode(image, "WEBP", **many),
        "bmp": encode(image, "BMP"),
        "tiff": encode(image, "TIFF", exif=exif(7)),
        "tiff lzw": encode(image, "TIFF", compression="tiff_lzw"),
        "tiff jpeg": encode(image, "TIFF", compression="jpeg"),
        "tiff float": encode(image.convert("F"), "TIFF"),
        "tiff 16 bit colour": tiff(np.asarray(image).astype(np.uint16) * 257, deflate=True),
        "png 16 bit colour": png16(np.asarray(image).astype(np.uint16) * 257),
        "ppm": encode(image, "PPM"),
        "pgm 16 bit": encode(image.convert("I;16"), "PPM"),
    }


FILES = sorted(valid_files())


def unsupported_files() -> dict[str, bytes]:
    grey, colour = np.zeros((4, 6)), np.zeros((4, 6, 3))
    frame = encode(Image.new("RGB", (8, 8)), "JPEG")
    sof = frame.index(b"\xff\xc0")
    bmp = bytearray(encode(Image.new("RGB", (4, 4)), "BMP"))
    bmp[30] = 4  # compression: JPEG
    return {
        "tiff half float": tiff(grey.astype("f2")),
        "tiff three grey bands": tiff(colour.astype("u2"), photometric=1),
        "tiff two bands": tiff(colour[..., :2].astype("u1")),
        "tiff planes": tiff(colour.astype("u2"), planes=True),
        "tiff float planes": tiff(colour.astype("f4"), planes=True),
        "tiff five bands": tiff(np.zeros((4, 6, 5), "u2"), photometric=2),
        "tiff CMYK 16": tiff(np.zeros((4, 6, 4), "u2"), photometric=5),
        "tiff complex": tiff(np.zeros((4, 6), "u4"), tags={339: (6,)}),
        "tiff Lab": tiff(colour.astype("u1"), photometric=8),
        "tiff Lab 16": tiff(colour.astype("u2"), photometric=8),
        "tiff YCbCr": tiff(colour.astype("u1"), photometric=6),
        "tiff JPEG 2000": tiff(colour.astype("u1"), tags={259: (33005,)}),
        "tiff LERC": tiff(grey.astype("f4"), tags={259: (34887,)}),
        "tiff JPEG of 12 bits": tiff(grey.astype("u2"), tags={259: (7,), 258: (12,)}),
        "tiff premultiplied": tiff(np.zeros((4, 6, 4), "u2"), tags={338: (1,)}),
        "tiff pages": tiff(grey.astype("u1"), pages=3),
        "tiff pages of 16 bits": tiff(grey.astype("u2"), pages=2, order=">"),
        "tiff raw file of a camera": tiff(colour.astype("u1"), tags={254: (1,), 330: (8,)}),
        "jpeg 12 bit": frame[: sof + 4] + b"\x0c" + frame[sof + 5 :],
        "jpeg hierarchical": frame[: sof + 1] + b"\xc5" + frame[sof + 2 :],
        "jpeg two channels": frame[: sof + 9] + b"\x02" + frame[sof + 10 :],
        "jpeg-ls": b"\xff\xd8\xff\xf7" + frame[sof + 2 :],
        "bmp": bytes(bmp),
        "png of an iPhone": b"\x89PNG\r\n\x1a\n"
        + chunk(b"CgBI", b"\x50\0\x20\2")
        + encode(Image.new("L", (2, 2)), "PNG")[8:],
        "jpeg xl": b"\xff\x0a" + bytes(8),
    }


@pytest.fixture
def without_tifffile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tifffile", None)


@pytest.mark.usefixtures("without_tifffile")
@pytest.mark.parametrize("name", unsupported_files())
def test_a_whole_file_of_a_kind_that_is_not_read_is_not_called_damaged(put: Put, name: str) -> None:
    path = put(unsupported_files()[name])
    for look in (decode, read_header):
        with pytest.raises(UnreadableImage, match=r"^not supported: .+, save it as .+"):
            look(path)


@pytest.mark.usefixtures("without_tifffile")
def test_the_pages_of_a_tiff_are_counted(put: Put) -> None:
    with pytest.raises(UnreadableImage, match="a TIFF of 3 pages"):
        decode(put(tiff(np.zeros((2, 2), np.uint8), pages=3)))
    # A large stack of ImageJ has a single directory.
    text = b"ImageJ=1.53t\nimages=120\nslices=120\n\0"
    content = encode(Image.new("I;16", (2, 2)), "TIFF", tiffinfo={270: text.decode()})
    with pytest.raises(UnreadableImage, match="a TIFF of 120 pages"):
        decode(put(content))


def test_previews_and_masks_behind_an_image_are_no_pages(put: Put) -> None:
    for kind in (1, 4):
        content = bytearray(tiff(np.full((2, 2), 7, np.uint8), tags={254: (0,)}, pages=2))
        last = content.rindex(struct.pack("<HHI", 254, 3, 1))
        content[last + 8] = kind
        np.testing.assert_array_equal(decode(put(bytes(content))), np.full((2, 2, 3), 7))


@pytest.mark.parametrize("name", FILES)
def test_too_many_pixels_are_refused_from_the_header(put: Put, name: str) -> None:
    path = put(valid_files()[name])
    for look in (decode, read_header, read_size):
        with pytest.raises(UnreadableImage, match=r"too large: \d+x\d+ is 0.0006 million pixels"):
            look(path, max_pixels=149 if name.startswith("jpeg") else 599)  # a JPEG may be halved
        look(path, max_pixels=600)


def test_a_huge_claim_is_refused_without_decoding(put: Put) -> None:
    with pytest.raises(UnreadableImage, match=r"100000x100000.*at most 60 million"):
        decode(put(png(width=100_000, height=100_000)))


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith("jpeg")])
def test_headers_and_refusals_decode_no_pixels(put: Put, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(valid_files()[name])
    decoded: list[ImageFile.ImageFile] = []
    monkeypatch.setattr(ImageFile.ImageFile, "load_prepare", decoded.append)
    read_header(path)
    with pytest.raises(UnreadableImage, match="too large"):
        decode(path, max_pixels=599)
    assert not decoded


@pytest.mark.parametrize("name", FILES)
def test_pillows_own_limit_neither_warns_nor_stops(put: Put, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(valid_files()[name])
    expected = decode(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)  # Pillow refuses above twice that
    monkeypatch.setattr(pillow, "_UNLIMITED", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(decode(path), expected)
        assert read_size(path) == expected.shape[:2]
    assert Image.MAX_IMAGE_PIXELS == 200


@pytest.mark.slow
def test_an_image_between_pillows_limit_and_ours(put: Put) -> None:
    path = put(encode(Image.new("1", (14_000, 13_000)), "TIFF", compression="group4"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(path, max_pixels=200_000_000).shape == (13_000, 14_000, 3)


@pytest.mark.parametrize("name", FILES)
def test_every_truncation_of_a_valid_file_is_an_image_or_unreadable(put: Put, name: str) -> None:
    content = valid_files()[name]
    for length in range(0, len(content), max(1, len(content) // 40)):
        read_or_refuse(put(content[:length]))


@pytest.mark.parametrize("name", ["jpeg", "jpeg progressive", "jpeg grey", "jpeg cmyk", "png", "bmp", "tiff", "ppm"])
def test_a_file_cut_in_half_is_unreadable(put: Put, name: str) -> None:
    content = valid_files()[name]
    with pytest.raises(UnreadableImage):
        decode(put(content[: len(content) // 2]))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"just a text, named x.jpg", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (b"\xff\xd8\xff", "ends within its header"),
        (b"\xff\xd8\xff\xe0\0\0", "impossible length"),
        (b"\xff\xd8\xff\xda\0\x02", "no frame header"),
        (b"\xff\xd8\xff\xc0\0\x11\x08\0\0\0\x10\x03", "zero pixels"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
        (b"GIF89a", "damaged"),
        (b"P6\n4 4\n255\n", "damaged"),
    ],
)
def test_what_is_no_image_is_refused_with_a_reason(put: Put, content: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImage, match=reason):
        decode(put(content))


def test_what_cannot_be_opened_is_refused_with_a_reason(tmp_path: Path) -> None:
    folder = tmp_path / "x.jpg"
    folder.mkdir()
    with pytest.raises(UnreadableImage, match="cannot be opened"):
        decode(folder)
    with pytest.raises(UnreadableImage, match="No such file"):
        read_size(tmp_path / "missing.jpg")


def test_the_content_decides_and_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "really_a_png.jpg"
    path.write_bytes(encode(Image.fromarray(blocks()), "PNG"))
    np.testing.assert_array_equal(decode(path), blocks())
    assert read_header(path).format == "PNG"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("IMG_1.JXL", b"\0\0\0\x18ftypnew!", "^not supported: JPEG XL, save it as PNG or JPEG$"),
        ("scan.exr", b"\x1f\x8b\x08", "^not supported: OpenEXR"),
        ("x.jpg", b"\x1f\x8b\x08", "^not an image"),
        ("x.heic", b"\xff\xd8\xff\xe0\0\0", "^damaged: a segment of impossible length"),
        ("x.heic", b"", "^empty file"),
    ],
)
def test_the_name_gives_the_reason_only_if_the_content_does_not(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(content)
    for look in (decode, read_header):
        with pytest.raises(UnreadableImage, match=reason):
            look(tmp_path / name)


def test_threads_read_the_same_as_one_thread(tmp_path: Path) -> None:
    paths = []
    for name in FILES * 4:
        paths.append(tmp_path / f"{len(paths)}")
        paths[-1].write_bytes(valid_files()[name])
    with ThreadPoolExecutor(8) as pool:
        for actual, path in zip(pool.map(decode, paths), paths, strict=True):
            np.testing.assert_array_equal(actual, decode(path))


def test_pillow_is_left_strict() -> None:
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def read_or_refuse(path: Path) -> None:
    """Anything but an array, a header and UnreadableImage escapes and fails the test."""
    decoded = header = None
    reason = "none"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow grumbles about damaged metadata
        try:
            decoded = decode(path, max_pixels=100_000)
        except UnreadableImage as error:
            reason = str(error)
        try:
            header = read_header(path, max_pixels=100_000)
        except UnreadableImage:
            assert decoded is None, "what can be decoded has a header"
    assert len(reason.splitlines()) == 1, "one line, and not an empty one"
    if decoded is not None and header is not None:
        assert decoded.shape == (header.height, header.width, 3)
        assert decoded.dtype == np.uint8


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "image"


@settings(max_examples=250)
@given(
    name=st.sampled_from(FILES),
    flips=st.lists(st.tuples(st.integers(0, 2**16), st.integers(1, 255)), max_size=8),
    in_header=st.booleans(),
    keep=st.floats(0.3, 1),
)
def test_damaged_files_never_raise_anything_else(
    scratch: Path, name: str, flips: list[tuple[int, int]], in_header: bool, keep: float
) -> None:
    content = bytearray(valid_files()[name])
    reach = min(64, len(content)) if in_header else len(content)
    for position, change in flips:
        content[position % reach] ^= change
    scratch.write_bytes(content[: int(len(content) * keep)] if keep < 0.9 else content)
    read_or_refuse(scratch)


@settings(max_examples=150)
@given(
    magic=st.sampled_from(
        [
            b"",
            b"\xff\xd8\xff",
            b"\x89PNG\r\n\x1a\n",
            b"GIF89a",
            b"RIFF\x20\0\0\0WEBPVP8 ",
            b"BM",
            b"II*\0",
            b"MM\0*",
            b"P6\n",
        ]
    ),
    rest=st.binary(max_size=200),
)
def test_random_bytes_never_raise_anything_else(scratch: Path, magic: bytes, rest: bytes) -> None:
    scratch.write_bytes(magic + rest)
    read_or_refuse(scratch)
