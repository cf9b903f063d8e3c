"""Reading one image: every kind of file gives the right pixels or one exception with a reason."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from dinoscope.data import decode as decode_module
from dinoscope.data.decode import UnreadableImage, decode, to_uint8
from dinoscope.data.image_header import read_header, read_size

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

    monkeypatch.setattr(decode_module.torch.ops.image, "decode_jpeg", refuse, raising=False)
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


def test_sixteen_bit_white_is_zero_tiff_is_inverted(put: Put) -> None:
    photometric = 262
    values = np.array([[0, 65535]], np.uint16)
    decoded = decode(put(encode(Image.fromarray(values), "TIFF", tiffinfo={photometric: 0})))
    np.testing.assert_array_equal(decoded[0, :, 0], [255, 0])


def test_sixteen_bit_colour_keeps_the_upper_byte(put: Put) -> None:
    row = b"\0" + np.array([0x1234, 0xABCD, 0xFFFF], ">u2").tobytes()
    path = put(png(width=1, height=1, depth=16, colour_type=2, data=zlib.compress(row)))
    np.testing.assert_array_equal(decode(path)[0, 0], [0x12, 0xAB, 0xFF])
    assert read_header(path).over_8_bit


def test_float_tiff(put: Put) -> None:
    unit = decode(put(encode(Image.fromarray(np.array([[0.0, 0.2, 1.0]], np.float32)), "TIFF")))
    np.testing.assert_array_equal(unit[0, :, 0], [0, 51, 255])
    wide = decode(put(encode(Image.fromarray(np.array([[-1000.0, 0.0, 3000.0]], np.float32)), "TIFF")))
    np.testing.assert_array_equal(wide[0, :, 0], [0, 64, 255])


def test_to_uint8() -> None:
    np.testing.assert_array_equal(to_uint8(np.array([-1000, 0, 3000], np.int32)), [0, 64, 255])
    np.testing.assert_array_equal(to_uint8(np.array([0, 65536], np.int32)), [0, 255])
    np.testing.assert_array_equal(to_uint8(np.array([-5, -5], np.int32)), [0, 0])
    np.testing.assert_array_equal(to_uint8(np.array([np.nan, 2, 4, np.inf, -np.inf], np.float32)), [0, 0, 255, 255, 0])
    np.testing.assert_array_equal(to_uint8(np.array([np.nan, np.inf], np.float32)), [0, 0])


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_or_page_of_a_file(put: Put, format: str) -> None:
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


def png(*, width: int, height: int, depth: int = 8, colour_type: int = 2, data: bytes = b"") -> bytes:
    """Build a PNG by hand, whatever its header claims."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


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
        "tiff pages": encode(image, "TIFF", **many),
        "ppm": encode(image, "PPM"),
        "pgm 16 bit": encode(image.convert("I;16"), "PPM"),
    }


FILES = sorted(valid_files())


@pytest.mark.parametrize("name", FILES)
def test_too_many_pixels_are_refused_from_the_header(put: Put, name: str) -> None:
    path = put(valid_files()[name])
    for read in (decode, read_header, read_size):
        with pytest.raises(UnreadableImage, match=r"too large: \d+x\d+ is 0.0006 million pixels"):
            read(path, max_pixels=149 if name.startswith("jpeg") else 599)  # a JPEG may be halved
        read(path, max_pixels=600)


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
    monkeypatch.setattr(decode_module, "_PILLOW_UNLIMITED", 100)
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
