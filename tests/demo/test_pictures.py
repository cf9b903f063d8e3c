"""Bad uploads are refused by their header, with a text of the page; true masks are read or refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

import dinoscope.demo.pictures as pictures
from dinoscope.demo.pictures import Limits, Refused, find_samples, read_picture, read_truth
from dinoscope.errors import UserError
from tests.conftest import draw_picture


def png_of(width: int, height: int) -> bytes:
    """A PNG that says it is so large, and has next to no pixels: a decompression bomb is told by this header."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "limits", "key"),
    [
        (b"", Limits(), "picture_empty"),
        (b"not an image at all", Limits(), "picture_no_image"),
        (png_of(30_000, 30_000), Limits(), "picture_vast"),
        (png_of(9_000, 9_000), Limits(), "picture_large"),
        (png_of(30_000, 100), Limits(), "picture_long"),
        (png_of(100, 100), Limits(), "picture_damaged"),
        (png_of(100, 100), Limits(upload_mb=0.00001), "picture_heavy"),
    ],
)
def test_bad_uploads(tmp_path: Path, content: bytes, limits: Limits, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "upload.png"
    file.write_bytes(content)
    if key != "picture_damaged":  # only damage is found by decoding
        monkeypatch.setattr(pictures, "read", lambda *_, **__: pytest.fail("decoded what its header forbids"))
    with pytest.raises(Refused) as refused:
        read_picture(file, limits)
    assert refused.value.key == key


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="picture_gone"):
        read_picture(tmp_path / "nothing.png", Limits())


def test_every_refusal_has_its_text(tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    from dinoscope.demo.site import Words

    file = tmp_path / "upload.png"
    for content in (b"", b"text", png_of(30_000, 30_000), png_of(9_000, 9_000), png_of(30_000, 9), png_of(9, 9)):
        file.write_bytes(content)
        with pytest.raises(Refused) as refused:
            read_picture(file, Limits())
        text = Words().say(None, refused.value.key, **refused.value.values)
        assert "{" not in text
        assert "\n" not in text


def test_equal_pixels_have_equal_digests_and_others_not(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for file, seed in zip(files, (1, 1, 2), strict=True):
        cv2.imwrite(str(file), draw_picture(seed))
    first, same, other = (read_picture(file, Limits()).digest for file in files)
    assert first == same != other


def write_mask(file: Path, values: list[int], binary: bool | None = None) -> pictures.GroundTruth:
    cv2.imwrite(str(file), np.array([values], np.uint8))
    return read_truth(file, (1, len(values)), Limits(), binary=binary)


def test_what_masks_mean(tmp_path: Path) -> None:
    drawn = write_mask(tmp_path / "drawn.png", [0, 255, 255])
    assert drawn.objects.tolist() == [[False, True, True]]
    assert drawn.valid.all()
    voc = write_mask(tmp_path / "voc.png", [0, 7, 255])
    assert voc.objects.tolist() == [[False, True, False]]
    assert voc.valid.tolist() == [[True, True, False]]
    void = write_mask(tmp_path / "void.png", [0, 255, 0], binary=False)
    assert not void.objects.any()
    assert void.valid.tolist() == [[True, False, True]]


def test_masks_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="truth_size"):
        read_truth(mask_file(tmp_path, np.zeros((4, 5), np.uint8)), (5, 4), Limits())
    with pytest.raises(Refused, match="truth_no_mask"):
        read_truth(mask_file(tmp_path, draw_picture(0)), (32, 40), Limits())


def mask_file(folder: Path, values: np.ndarray) -> Path:
    cv2.imwrite(str(folder / "mask.png"), values)
    return folder / "mask.png"


def test_limits_are_above_zero() -> None:
    with pytest.raises(UserError, match="upload_mb"):
        Limits(upload_mb=0)


def test_samples_that_cannot_be_shown_are_left_out(tmp_path: Path) -> None:
    """The first of a folder is what everybody meets."""
    (tmp_path / "a.png").write_bytes(b"not an image at all")
    (tmp_path / "b.png").write_bytes(png_of(9_000, 9_000))
    with pytest.raises(UserError, match="none of the 2 images"):
        find_samples(tmp_path, None, Limits())
    cv2.imwrite(str(tmp_path / "c.png"), draw_picture(1))
    assert [sample.path.name for sample in find_samples(tmp_path, None, Limits())] == ["c.png"]
