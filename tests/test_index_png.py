"""Index masks: the numbers in the file, whatever the palette says, and clear words for anything else."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinoscope.data.index_png import encode_indices, read_indices, voc_palette
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
