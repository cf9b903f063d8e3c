"""Index masks: the numbers in the file, whatever the palette says, and clear words for anything else."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from dinoscope.data.benchmarks import encode_indices, read_indices, voc_palette
from dinoscope.errors import UserError


def test_indices_survive_the_file(tmp_path: Path):
    indices = np.arange(256, dtype=np.uint8).reshape(8, 32)
    (tmp_path / "mask.png").write_bytes(encode_indices(indices))
    assert (read_indices(tmp_path / "mask.png") == indices).all()


def test_grey_and_bilevel_files_are_masks_too(tmp_path: Path):
    grey = np.asarray([[0, 255], [7, 0]], np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey > 0).save(tmp_path / "bilevel.png")
    assert (read_indices(tmp_path / "grey.png") == grey).all()
    assert (read_indices(tmp_path / "bilevel.png") == 255 * (grey > 0)).all()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        (b"not a picture", "not a readable PNG"),
        (encode_indices(np.zeros((40, 40), np.uint8))[:60], "not a readable PNG"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, said: str):
    file = tmp_path / "mask.png"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=said) as error:
        read_indices(file)
    assert str(file) in str(error.value)


def test_a_mask_of_colours_is_refused(tmp_path: Path):
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(UserError, match="one index a pixel"):
        read_indices(tmp_path / "mask.png")


def test_a_folder_is_no_mask(tmp_path: Path):
    with pytest.raises(UserError, match=os.strerror(21)):
        read_indices(tmp_path)


def test_palette_is_that_of_pascal_voc():
    """Colours as published: 1 aeroplane, 2 bicycle, 15 person, 255 border."""
    palette = np.asarray(voc_palette()).reshape(256, 3)
    assert palette[[0, 1, 2, 15, 255]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [192, 128, 128],
        [224, 224, 192],
    ]


@pytest.mark.parametrize(("bits", "row"), [(2, 0b00_01_10_11), (4, 0x1F)])
@pytest.mark.parametrize("palette", [False, True])
def test_grey_of_two_and_four_bits_is_not_stretched(tmp_path: Path, bits: int, row: int, palette: bool) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 8 // bits, 1, bits, 3 if palette else 0, 0, 0, 0)
    colours = chunk(b"PLTE", bytes(range(3 * 2**bits))) if palette else b""
    pixels = chunk(b"IDAT", zlib.compress(bytes([0, row])))
    path = tmp_path / "mask.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + colours + pixels + chunk(b"IEND", b""))
    assert read_indices(path).tolist() == [{2: [0, 1, 2, 3], 4: [1, 15]}[bits]]


# Soft edges


def disk(scale: int = 1, value: int = 255, radius: int = 20) -> Image.Image:
    """A disk in the middle of 96 x 64 px, drawn so many times larger."""
    page = Image.new("L", (96 * scale, 64 * scale))
    ends = [(48 - radius) * scale, (32 - radius) * scale, (48 + radius) * scale, (32 + radius) * scale]
    ImageDraw.Draw(page).ellipse(ends, fill=value)
    return page


def compressed(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("L")


@pytest.mark.parametrize(
    "soft",
    [
        disk().filter(ImageFilter.GaussianBlur(1)),
        disk().filter(ImageFilter.GaussianBlur(5)),
        disk(2).resize((96, 64), Image.Resampling.BILINEAR),
        disk(8).resize((96, 64), Image.Resampling.BILINEAR),
        disk(4, value=254).resize((96, 64), Image.Resampling.BILINEAR),
        compressed(disk(), 75),
        compressed(disk(), 95),
    ],
)
def test_soft_edges_are_cut_at_one_half(soft: Image.Image, tmp_path: Path):
    soft.save(tmp_path / "mask.png")
    values = read_indices(tmp_path / "mask.png")
    assert np.array_equal(values, 255 * (np.asarray(soft) >= 128).astype(np.uint8))
    assert 0.9 < (values > 0).sum() / (np.asarray(disk()) > 0).sum() < 1.1


@pytest.mark.parametrize(
    "soft",
    [disk(4, value=200).resize((96, 64), Image.Resampling.BILINEAR), disk().filter(ImageFilter.GaussianBlur(12))],
)
def test_soft_edges_of_what_is_not_white_are_refused(soft: Image.Image, tmp_path: Path):
    soft.save(tmp_path / "mask.png")
    with pytest.raises(UserError, match=r"mask\.png has soft edges.*cut it at one half.*palette"):
        read_indices(tmp_path / "mask.png")


def objects(radius: int, most: int) -> np.ndarray:
    """Disks whose values are their classes, each with a thin rim of void, as VOC has it."""
    rng, page = np.random.default_rng(0), Image.new("L", (96, 64))
    for _ in range(12):
        x, y, value = (int(rng.integers(high)) for high in (96, 64, most))
        for grown, fill in ((2, 255), (0, value + 1)):
            ends = [x - radius - grown, y - radius - grown, x + radius + grown, y + radius + grown]
            ImageDraw.Draw(page).ellipse(ends, fill=fill)
    return np.asarray(page)


@pytest.mark.parametrize(
    "indices",
    [
        np.asarray(disk()),
        np.asarray(disk(value=1)),
        np.asarray(disk(value=254)),
        np.full((8, 8), 255, np.uint8),
        objects(1, 20),
        objects(3, 20),
        objects(3, 253),
        objects(9, 253),
        np.kron(np.random.default_rng(1).integers(0, 256, (8, 12)), np.ones((8, 8))).astype(np.uint8),
    ],
)
def test_numbers_of_objects_in_grey_are_left_alone(indices: np.ndarray, tmp_path: Path):
    Image.fromarray(indices).save(tmp_path / "mask.png")
    assert np.array_equal(read_indices(tmp_path / "mask.png"), indices)


def test_a_palette_says_that_values_are_numbers(tmp_path: Path):
    soft = np.array(disk().filter(ImageFilter.GaussianBlur(1)))
    (tmp_path / "mask.png").write_bytes(encode_indices(soft))
    assert np.array_equal(read_indices(tmp_path / "mask.png"), soft)
