"""What a hostile or damaged image file may cost, and what it may show: small bombs with tight bounds."""

from __future__ import annotations

import contextlib
import os
import struct
import sys
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image, ImageFile
from PIL.WebPImagePlugin import WebPImageFile

from dinoscope import cli
from dinoscope.data import jpeg, pillow, reader, tiff
from dinoscope.data.benchmarks import read_indices
from dinoscope.data.images import UnreadableImage, decode, pixel_limit, read_header, read_size
from dinoscope.errors import UserError
from dinoscope.files import CACHE_VARIABLE, MEGAPIXELS_VARIABLE

Put = Callable[[bytes], Path]
SHARED = 20_000  # bytes that all entries of a directory share
ENTRIES = 3000  # expanded: 60 MB


@pytest.fixture
def put(tmp_path: Path) -> Put:
    def write(content: bytes) -> Path:
        path = tmp_path / "image"
        path.write_bytes(content)
        return path

    return write


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    stream = BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def picture(height: int = 20, width: int = 30) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunks(png: bytes, *chunks: bytes, behind: bool = False) -> bytes:
    place = len(png) - 12 if behind else 33
    return png[:place] + b"".join(chunks) + png[place:]


def directory(*rows: tuple[int, int, int, int], shared: int = 0) -> bytes:
    """A TIFF of these entries (tag, type, count, value), and `ENTRIES` others that share the bytes behind it."""
    count = len(rows) + (ENTRIES if shared else 0)
    behind = 8 + 2 + 12 * count + 4
    others = [(40_000 + number, 7, shared, behind) for number in range(count - len(rows))]
    entries = b"".join(struct.pack("<HHII", *row) for row in [*rows, *others])
    return b"II*\0" + struct.pack("<IH", 8, count) + entries + bytes(4) + b"x" * shared


def grey_tiff(*others: tuple[int, int, int, int], side: int = 16, compression: int = 1, shared: int = 0) -> bytes:
    """A grey TIFF of side x side pixels whose strip is the file's first bytes."""
    rows = [(256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1), *others]
    return directory(*rows, shared=shared)


STRIP = ((273, 4, 1, 8), (278, 4, 1, 16), (279, 4, 1, 256))


def peak(work: Callable[[], object]) -> int:
    """Memory in bytes that Python's objects took at most."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "JPEG"])
def test_a_directory_whose_entries_share_their_bytes_is_not_expanded(put: Put, format: str) -> None:
    block = directory((0x0112, 3, 1, 6), shared=SHARED)
    if format == "PNG":
        content = with_chunks(encode(picture(), "PNG"), chunk(b"eXIf", block))
    elif format == "WEBP":
        content = encode(picture(), "WEBP", exif=b"Exif\0\0" + block)
    elif format == "TIFF":
        content = grey_tiff((0x0112, 3, 1, 6), *STRIP, shared=SHARED)
    else:  # CMYK, which goes through Pillow
        content = encode(picture().convert("CMYK"), "JPEG", exif=b"Exif\0\0" + block)
    path = put(content)
    for look in (read_header, decode):
        assert peak(lambda look=look: look(path)) < 2_000_000
    assert read_header(path).orientation == 6


def test_a_tiff_with_too_many_entries_is_refused(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(grey_tiff(*STRIP) + bytes(256))
    decode(path)
    monkeypatch.setattr(tiff, "MAX_ENTRIES", 7)
    with pytest.raises(UnreadableImage, match="a directory of 8 entries"):
        decode(path)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (((273, 4, 1, 8), (278, 4, 1, 8), (279, 4, 1, 128)), "1 of 2 strips or tiles are there"),
        (((273, 4, 1000, 8), (278, 4, 1, 16)), "outside the file"),
        (((322, 4, 1, 60_000), (323, 4, 1, 60_000), (324, 4, 1, 8), (325, 4, 1, 9)), "tiles of 60000x60000"),
        (((322, 4, 1, 0), (323, 4, 1, 16), (324, 4, 1, 8), (325, 4, 1, 9)), "zero pixels"),
        ((*STRIP, (322, 4, 1, 16), (323, 4, 1, 16), (324, 4, 1, 8)), "neither strips nor tiles"),
        ((), "neither strips nor tiles"),
    ],
)
def test_a_tiff_whose_strips_or_tiles_cannot_be_is_refused(
    put: Put, rows: tuple[tuple[int, int, int, int], ...], reason: str
) -> None:
    with pytest.raises(UnreadableImage, match=reason):
        decode(put(grey_tiff(*rows)))


def test_a_tiff_with_too_many_strips_is_refused(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(encode(picture(), "TIFF", strip_size=1, compression="tiff_lzw"))
    decode(path)
    monkeypatch.setattr(tiff, "MAX_PARTS", 3)
    with pytest.raises(UnreadableImage, match="20 strips or tiles, and 3 is the limit"):
        decode(path)


# JPEG


def test_a_jpeg_of_thousands_of_scans_is_refused(put: Put) -> None:
    content = encode(picture(), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    scan = content[last:-2]
    assert decode(put(content[:-2] + scan * 50 + content[-2:])).shape == (20, 30, 3)
    with pytest.raises(UnreadableImage, match=r"not read: \d+ scans, and 100 is the limit"):
        decode(put(content[:-2] + scan * 5000 + content[-2:]))


def test_scans_behind_one_that_holds_every_component_are_not_decoded(put: Put) -> None:
    image = picture(200, 300)
    content = encode(image, "JPEG", quality=95)
    scan = content[content.rindex(b"\xff\xda") : -2]
    path = put(content[:-2] + scan * 300 + content[-2:])
    started = time.process_time()
    with contextlib.suppress(UnreadableImage):
        decode(path)
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    ("filling", "reason"),
    [
        (b"\xff" * 100_000, "65536 bytes between its segments"),
        (b"\xff" + b"\0" * 100_000, "65536 bytes between its segments"),
        (b"\xff\xe5\0\2" * 20_000, "more than 10000 segments"),
    ],
)
def test_a_jpeg_of_fill_bytes_or_empty_segments_is_refused(put: Put, filling: bytes, reason: str) -> None:
    content = encode(picture(), "JPEG")
    path = put(content[:2] + filling + content[2:])
    for look in (read_header, decode):
        with pytest.raises(UnreadableImage, match=reason):
            look(path)
    few = filling[:1000]
    assert read_size(put(content[:2] + few + content[2:])) == (20, 30)


def test_coefficients_of_a_jpeg_with_several_scans_are_bounded(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    # 4:2:0 holds 1.5 samples a pixel at 2 bytes: 20 x 30 x 3 = 1800.
    progressive, ordinary = (encode(picture(), "JPEG", subsampling=2, progressive=several) for several in (True, False))
    monkeypatch.setattr(jpeg, "MAX_COEFFICIENT_BYTES", 1799)
    decode(put(ordinary))
    with pytest.raises(UnreadableImage, match="a progressive JPEG of this size"):
        read_header(put(progressive))
    monkeypatch.setattr(jpeg, "MAX_COEFFICIENT_BYTES", 1800)
    decode(put(progressive))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_above_the_limit_is_halved(put: Put, mode: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    ramp = Image.linear_gradient("L").resize((63, 41)).convert(mode)
    path = put(encode(ramp, "JPEG", quality=95, exif=exif))
    whole = decode(path)
    halved = decode(path, max_pixels=41 * 63 - 1)
    assert halved.shape == ((32, 21, 3) if orientation == 6 else (21, 32, 3))
    assert read_size(path, max_pixels=41 * 63 - 1) == halved.shape[:2]
    small = np.asarray(Image.fromarray(whole).resize(halved.shape[1::-1], Image.Resampling.BOX), int)
    assert np.abs(halved - small)[1:-1, 1:-1].max() < 12
    with pytest.raises(UnreadableImage, match="too large"):
        decode(path, max_pixels=21 * 32 - 1)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0, "quality": 100}])
def test_a_jpeg_within_the_limit_is_what_libjpeg_gives(put: Put, options: dict[str, object]) -> None:
    content = encode(picture(), "JPEG", **options)
    planes = torch.ops.image.decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), 3)
    np.testing.assert_array_equal(decode(put(content)), planes.permute(1, 2, 0).numpy())


# PNG


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize(
    "metadata",
    [
        chunk(b"zTXt", b"XML:com.adobe.xmp\0\0" + zlib.compress(b"x" * 3_000_000)),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"x" * 3_000_000)),
        chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(3_000_000))),
        chunk(b"tEXt", b"Comment\0" + b"x" * 1_500_000),
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * 3_000_000)) * 70,
    ],
    ids=["zTXt", "iTXt", "iCCP", "tEXt", "64 MB together"],
)
def test_a_png_with_much_text_or_a_large_profile_is_read(put: Put, metadata: bytes, behind: bool) -> None:
    image = picture()
    path = put(with_chunks(encode(image, "PNG"), metadata, behind=behind))
    np.testing.assert_array_equal(decode(path), np.asarray(image))
    assert read_size(path) == (20, 30)
    mask = np.arange(25, dtype=np.uint8).reshape(5, 5)
    path = put(with_chunks(encode(Image.fromarray(mask), "PNG"), metadata, behind=behind))
    np.testing.assert_array_equal(read_indices(path), mask)


def test_a_png_of_too_many_chunks_is_refused(put: Put) -> None:
    path = put(with_chunks(encode(picture(), "PNG"), chunk(b"tEXt", b"a\0b") * 100_000))
    for look in (read_header, decode):
        with pytest.raises(UnreadableImage, match="more than 100000 chunks"):
            look(path)


@pytest.mark.parametrize(
    "metadata",
    [
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 26\n" + b"".join(
            (directory((0x0112, 3, 1, 8)).hex().encode(), b"\n")))),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation=\"8\"/>"),
        chunk(b"tEXt", b"XML:com.adobe.xmp\0<tiff:Orientation>8</tiff:Orientation>"),
    ],
    ids=["ImageMagick", "XMP", "XMP as Latin-1"],
)  # fmt: skip
def test_the_orientation_of_a_png_may_be_in_its_text(put: Put, metadata: bytes) -> None:
    path = put(with_chunks(encode(picture(), "PNG"), metadata))
    assert read_header(path).orientation == 8
    np.testing.assert_array_equal(decode(path), np.rot90(np.asarray(picture()), 1))


@pytest.mark.parametrize("format", ["WEBP", "TIFF"])
def test_the_orientation_may_be_in_xmp(put: Put, format: str) -> None:
    xmp = b'<x tiff:Orientation="8"/>'
    options = {"xmp": xmp, "lossless": True} if format == "WEBP" else {"tiffinfo": {700: xmp}}
    path = put(encode(picture(), format, **options))
    assert read_header(path).orientation == 8
    np.testing.assert_array_equal(decode(path), np.rot90(np.asarray(picture()), 1))


# WebP, GIF, BMP, PPM


def test_the_size_of_a_webp_is_checked_before_libwebp_makes_room(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(encode(Image.new("RGB", (1, 1)), "WEBP", lossless=True))
    assert content[12:16] == b"VP8L"
    content[21:25] = (int.from_bytes(content[21:25], "little") | (1 << 28) - 1).to_bytes(4, "little")
    monkeypatch.setattr(WebPImageFile, "_open", lambda *_: pytest.fail("opened"))
    for look in (read_header, decode):
        with pytest.raises(UnreadableImage, match=r"too large: 16384x16384"):
            look(put(bytes(content)))
    for options in ({}, {"exif": b"Exif\0\0" + directory((0x0112, 3, 1, 1))}):
        with pytest.raises(UnreadableImage, match=r"too large: 30x20"):
            read_header(put(encode(picture(), "WEBP", **options)), max_pixels=599)


def test_a_gif_of_endless_blocks_is_refused_and_its_comments_are_left_out(put: Put) -> None:
    content = encode(picture().convert("L"), "GIF")
    place = 13 + 3 * 256
    comment = b"!\xfe" + (b"\xff" + b"x" * 255) * 2000 + b"\0"
    path = put(content[:place] + comment * 3 + content[place:])
    assert peak(lambda: decode(path)) < 4 * path.stat().st_size  # not one copy for each block
    np.testing.assert_array_equal(decode(path), decode(put(content)))
    for filling in (b"!\xfe" + b"\1x" * 1_000_001 + b"\0", b"\1" * 1_000_001):
        with pytest.raises(UnreadableImage, match="more than 1000000 blocks"):
            read_header(put(content[:place] + filling + content[place:]))


@pytest.mark.parametrize(
    "content",
    [
        b"P3\n4000 4000\n255\n1 1 1",
        b"P6\n4000 4000\n254\n" + bytes(100),
        b"BM"
        + struct.pack("<IHHI", 0, 0, 0, 54 + 1024)
        + struct.pack("<IiiHHIIiiII", 40, 50_000_000, 1, 1, 8, 1, 0, 0, 0, 256, 0)
        + bytes(i // 4 % 251 for i in range(1024))
        + b"\0\2\xff\xff\0\1",
    ],
    ids=["PPM as text", "PPM up to 254", "BMP with run lengths"],
)
def test_what_pillow_decodes_in_python_is_refused_when_large(put: Put, content: bytes) -> None:
    for look in (read_header, decode):
        with pytest.raises(UnreadableImage, match=r"not supported: a (PPM|BMP) of .*save it as PNG"):
            look(put(content))


def test_comments_of_a_ppm_are_bounded(put: Put) -> None:
    with pytest.raises(UnreadableImage, match="header is longer than 65536 bytes"):
        read_header(put(b"P6\n#" + b"x" * 70_000 + b"\n1 1\n255\n123"))
    with pytest.raises(UnreadableImage, match="more than 10000 comments"):
        decode(put(b"P2\n2 1\n255\n1 2\n" + b"#\n" * 10_001))
    np.testing.assert_array_equal(decode(put(b"P2\n#a\n2 1\n255\n1 #b\n 2\n"))[0, :, 0], [1, 2])


# libtiff


def damaged_faxes() -> list[bytes]:
    """Fax-compressed TIFFs with one byte changed each."""
    bits = np.random.default_rng(0).random((48, 64)) < 0.5
    generator = np.random.default_rng(1)
    files = []
    for compression in ("group3", "group4"):
        whole = encode(Image.fromarray(bits), "TIFF", compression=compression)
        for _ in range(25):
            content = bytearray(whole)
            content[generator.integers(8, 300)] ^= generator.integers(1, 256)
            files.append(bytes(content))
    return files


def test_faxes_in_which_libtiff_finds_errors_are_refused_in_silence(put: Put, capfd: pytest.CaptureFixture) -> None:
    if not tiff._hears_tiff_errors:
        pytest.skip("Pillow's libtiff cannot be reached on this system")
    reasons = []
    for content in damaged_faxes():
        try:
            first = decode(put(content))
        except UnreadableImage as error:
            reasons.append(str(error))
        else:
            np.testing.assert_array_equal(decode(put(content)), first)
    assert any("libtiff reports an error" in reason for reason in reasons)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("fill_order", [1, 2])
@pytest.mark.parametrize("strip_size", [5 * 8, 1 << 16])
def test_a_group_4_strip_with_too_few_rows_is_refused(put: Put, fill_order: int, strip_size: int) -> None:
    bits = np.random.default_rng(0).random((20, 64)) < 0.5
    options = {"compression": "group4", "strip_size": strip_size, "tiffinfo": {266: fill_order}}
    content = bytearray(encode(Image.fromarray(bits), "TIFF", **options))
    np.testing.assert_array_equal(decode(put(bytes(content)))[..., 0] > 0, bits)
    with Image.open(BytesIO(content)) as image:
        offset = image.tag_v2[273][-1]
    ended = int("1" + 2 * "000000000001" + "0000000", 2).to_bytes(4)  # one white row, and the end of the block
    if fill_order == 2:
        ended = bytes(int(f"{byte:08b}"[::-1], 2) for byte in ended)
    content[offset : offset + 4] = ended
    with pytest.raises(UnreadableImage, match="ends before its last row"):
        decode(put(bytes(content)))


def test_where_libtiff_cannot_report_errors_faxes_and_jpegs_are_refused(
    put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    fax = encode(Image.new("1", (8, 8)), "TIFF", compression="group4")
    lzw, jpeg = (encode(picture(), "TIFF", compression=kind) for kind in ("tiff_lzw", "jpeg"))
    for content in (fax, lzw, jpeg):
        decode(put(content))
    monkeypatch.setattr(tiff, "_hears_tiff_errors", False)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    np.testing.assert_array_equal(decode(put(lzw)), np.asarray(picture()))
    for content in (fax, jpeg):
        with pytest.raises(UnreadableImage, match="not supported: on this system"):
            decode(put(content))


def test_a_jpeg_that_does_not_fill_its_strip_is_refused(put: Put) -> None:
    content = encode(picture(32, 32), "TIFF", compression="jpeg")
    place = content.index(b"\xff\xc0") + 5  # height and width of the frame
    assert content[place : place + 4] == b"\0\x20\0\x20"
    with pytest.raises(UnreadableImage, match="does not fill its strip"):
        decode(put(content[:place] + b"\0\x08\0\x20" + content[place + 4 :]))


# Pixels


def test_pixels_converted_in_strips_are_the_same(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture()
    palette = image.quantize(8)
    alpha = image.copy()
    alpha.putalpha(Image.linear_gradient("L").resize(image.size))
    files = [
        encode(image, "PNG"),
        encode(palette, "PNG", transparency=2),
        encode(palette, "GIF"),
        encode(alpha, "WEBP", lossless=True),
        encode(alpha.convert("LA"), "PNG"),
        encode(image.convert("CMYK"), "TIFF"),
        encode(image.convert("1"), "BMP"),
        encode(image.convert("I;16"), "PNG"),
    ]
    whole = [decode(put(content)) for content in files]
    monkeypatch.setattr(reader, "_STRIP", 95)  # three rows
    for content, expected in zip(files, whole, strict=True):
        np.testing.assert_array_equal(decode(put(content)), expected)


def test_a_huge_image_waits_for_its_turn(put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(reader, "_HUGE", 599)
    path = put(encode(picture(), "PNG"))
    expected = decode(path)
    (lock,) = (tmp_path / "cache/locks").iterdir()
    loaded = threading.Event()
    monkeypatch.setattr(pillow, "load", lambda image: (loaded.set(), image.load(), image)[2])
    with FileLock(lock):
        thread = threading.Thread(target=decode, args=(path,))
        thread.start()
        assert not loaded.wait(0.3)
    thread.join(30)
    assert loaded.is_set()
    with FileLock(lock):  # a process that was stopped while it had its turn holds nobody up for ever
        monkeypatch.setattr(reader, "_PATIENCE", 0.1)
        np.testing.assert_array_equal(decode(path), expected)
    monkeypatch.setattr(reader, "_HUGE", 600)
    with FileLock(lock):
        decode(path)


# Files, and the option


def test_a_file_too_large_for_its_pixels_is_refused(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_SMALL_FILE", 1000)
    path = put(encode(picture(), "PNG") + bytes(4000))
    for look in (read_header, decode):
        with pytest.raises(UnreadableImage, match=r"a file of 0\.00\d+ MB, at most 0\.0036 MB are read"):
            look(path, max_pixels=600)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes on this system")
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UnreadableImage, match="not a regular file"):
        decode(tmp_path / "pipe.png")
    with pytest.raises(UserError, match="not a regular file"):
        read_indices(tmp_path / "pipe.png")


def test_the_limit_of_pixels_is_an_option(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MEGAPIXELS_VARIABLE, raising=False)
    assert pixel_limit() == 60_000_000
    path = put(encode(picture(), "PNG"))
    monkeypatch.setenv(MEGAPIXELS_VARIABLE, "0.000599")
    for look in (read_header, decode):
        with pytest.raises(UnreadableImage, match="or allow more with --max-megapixels"):
            look(path)
    with pytest.raises(UserError, match="too large"):
        read_indices(path)
    monkeypatch.setenv(MEGAPIXELS_VARIABLE, "0.0006")
    assert decode(path).shape == (20, 30, 3)


@pytest.mark.parametrize("given", [["--max-megapixels", "0.0005"], ["--max-megapixels=0.0005"]])
def test_the_option_stands_anywhere_in_a_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, given: list[str]
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(MEGAPIXELS_VARIABLE, raising=False)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.png").write_bytes(encode(picture(), "PNG"))
    assert cli.main(["scan", str(tmp_path / "data")]) == 0
    assert "too large" not in capsys.readouterr().out
    cli.main(["scan", *given, str(tmp_path / "data")])
    assert "too large" in capsys.readouterr().out
    assert MEGAPIXELS_VARIABLE not in os.environ


@pytest.mark.parametrize("text", ["many", "0", "-3", "inf", "nan", ""])
def test_an_impossible_limit_is_refused_before_anything_starts(
    text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["scan", str(tmp_path), f"--max-megapixels={text}"]) == 2
    assert "it must be a number above 0, such as 60" in capsys.readouterr().err


def test_pillow_is_left_strict() -> None:
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


# The real sizes: no file costs more than 1.5 GB or 10 seconds. Measured in a process of its own.


def cost(path: Path) -> tuple[float, float, bool]:
    """CPU seconds, memory in MB, and whether the file is read, in a fresh process."""
    resource = pytest.importorskip("resource")
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        before = resource.getrusage(resource.RUSAGE_SELF)
        try:
            decode(path)
            readable = True
        except UnreadableImage:
            readable = False
        after = resource.getrusage(resource.RUSAGE_SELF)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        os.write(sender, struct.pack("dd?", seconds, (after.ru_maxrss - before.ru_maxrss) / 1024, readable))
        os._exit(0)
    os.close(sender)
    with os.fdopen(receiver, "rb") as file:
        seconds, memory, readable = struct.unpack("dd?", file.read())
    os.waitpid(child, 0)
    return seconds, memory, readable


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="memory is measured in a fork")
@pytest.mark.parametrize(
    ("mode", "format", "options"),
    [
        ("RGB", "WEBP", {"lossless": True, "quality": 0, "method": 0}),
        ("RGBA", "WEBP", {"lossless": True, "quality": 0, "method": 0}),
        ("RGB", "WEBP", {"quality": 0, "method": 0}),
        ("RGBA", "PNG", {"compress_level": 1}),
        ("LA", "PNG", {"compress_level": 1}),
        ("F", "TIFF", {}),
        ("CMYK", "TIFF", {"compression": "tiff_lzw"}),
        ("RGB", "TIFF", {"compression": "jpeg"}),
        ("CMYK", "JPEG", {}),
        ("RGB", "JPEG", {"progressive": True, "subsampling": 0}),
    ],
)
def test_what_the_largest_images_cost(put: Put, mode: str, format: str, options: dict[str, object]) -> None:
    path = put(encode(Image.new(mode, (7745, 7746)), format, **options))
    seconds, memory, readable = cost(path)
    assert readable
    assert seconds < 10
    assert memory < 1500
