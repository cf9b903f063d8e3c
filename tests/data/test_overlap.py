"""What two splits share: exact for files and pixels, and the search for near hashes against a plain one."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import Dataset

from dinoscope.data.images import read_bytes
from dinoscope.data.overlap import Prints, nearest_pictures, picture_hash, prints_of, shared_images
from dinoscope.data.reader import RawImage
from dinoscope.data.scan import scan, scan_with_prints
from dinoscope.data.sources import ImageFolder, dataset_images, images_in_folder


def noise(seed: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """A soft picture with structure at every size."""
    draw = np.random.default_rng(seed)
    return cv2.resize(draw.integers(0, 256, (8, 9, 3), np.uint8), size[::-1], interpolation=cv2.INTER_CUBIC)


def saved(pixels: np.ndarray, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


def prints(content: bytes) -> Prints:
    return prints_of(content, read_bytes(content, "x"))


@given(
    queries=st.integers(0, 30),
    gallery=st.integers(0, 60),
    bits=st.sampled_from([5, 16, 64]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=60)
def test_the_nearest_hash_is_that_of_a_plain_search(queries: int, gallery: int, bits: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    limit = np.uint64(2**bits - 1)
    known = draw.integers(0, 2**64, gallery, np.uint64) & limit
    asked = draw.integers(0, 2**64, queries, np.uint64) & limit
    for place in range(min(queries, gallery) // 2):  # 0 to 3 bits of some are flipped
        flips = draw.choice(64, draw.integers(0, 4), replace=False)
        asked[place] = known[place] ^ np.uint64(sum(1 << int(flip) for flip in flips))
    expected = []
    for hash in asked.tolist():
        distances = [(hash ^ other).bit_count() for other in known.tolist()]
        near = min(distances, default=64)
        expected.append(distances.index(near) if near <= 2 else -1)
    assert nearest_pictures(asked, known).tolist() == expected


def test_many_alike_hashes_are_compared_in_several_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    asked, known = (draw.integers(0, 2**12, count, np.uint64) for count in (50, 400))
    expected = nearest_pictures(asked, known)
    monkeypatch.setattr("dinoscope.data.overlap._MAX_CANDIDATES", 7)
    heard = list[tuple[int, int]]()
    found = nearest_pictures(asked, known, progress=lambda *told: heard.append(told))
    assert (found.tolist(), heard[-1]) == (expected.tolist(), (6, 6))


def test_the_hash_of_a_picture_by_hand() -> None:
    cells = np.tile(np.array([0, 9, 0, 9, 0, 9, 0, 9, 0], np.uint8), (8, 1))
    cells[7] = 3  # one colour: no cell is darker than the next
    large = np.repeat(np.repeat(cells, 4, axis=0), 4, axis=1)[:, :, None]
    assert picture_hash(RawImage(large)) == int("10101010" * 7 + "00000000", 2)
    assert picture_hash(RawImage(np.repeat(large, 3, axis=2))) == picture_hash(RawImage(large))


def test_pictures_without_structure_have_no_hash() -> None:
    assert picture_hash(RawImage(np.full((40, 40, 3), 7, np.uint8))) == 0
    assert picture_hash(RawImage(np.arange(90, dtype=np.uint8)[None, :, None].repeat(40, axis=0))) == 0


def test_copies_are_recognised() -> None:
    picture = noise(0)
    png, fast, bmp = saved(picture, "PNG"), saved(picture, "PNG", compress_level=1), saved(picture, "BMP")
    assert prints(png) == prints(png)
    assert prints(png).content != prints(fast).content
    assert prints(png)[1:] == prints(fast)[1:] == prints(bmp)[1:]
    small = saved(cv2.resize(picture, (56, 42), interpolation=cv2.INTER_AREA), "JPEG", quality=90)
    assert prints(small).pixels != prints(png).pixels
    assert (prints(small).picture ^ prints(png).picture).bit_count() <= 2
    assert (prints(saved(noise(1), "PNG")).picture ^ prints(png).picture).bit_count() > 10


def folder(root: Path, **contents: bytes) -> ImageFolder:
    root.mkdir()
    for name, content in contents.items():
        (root / f"{name}.png").write_bytes(content)
    return images_in_folder(root)


def test_an_image_counts_once_and_unreadable_ones_do_not(tmp_path: Path) -> None:
    one, two = saved(noise(0), "PNG"), saved(noise(1), "PNG")
    train = folder(tmp_path / "train", a=one, b=two, c=one, broken=b"text")
    val = folder(
        tmp_path / "val", a=one, b=saved(noise(1), "PNG", compress_level=1), broken=b"text", new=saved(noise(2), "PNG")
    )
    both = tuple(scan_with_prints(images, cache=tmp_path / "cache")[1] for images in (train, val))
    assert both[1][2] is None
    shared = {own.kind: own for own in shared_images(train, val, both)}
    assert set(shared) == {"bytes", "pixels"}
    assert shared["bytes"].pairs == (("a.png", "a.png"),)
    assert shared["pixels"].pairs == (("b.png", "b.png"),)
    assert shared_images(train, val) == []


def test_what_images_are_recognised_by_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = folder(tmp_path / "images", a=saved(noise(0), "PNG"))
    plain = scan(images, cache=tmp_path / "cache")
    first = scan_with_prints(images, cache=tmp_path / "cache")
    monkeypatch.setattr(ImageFolder, "read", lambda *_: pytest.fail("it is read again"))
    assert scan_with_prints(images, cache=tmp_path / "cache") == first
    assert scan(images, cache=tmp_path / "cache") == plain == first[0]


class Noise(Dataset[np.ndarray]):
    def __init__(self, *seeds: int) -> None:
        self.seeds = seeds

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, index: int) -> np.ndarray:
        return noise(self.seeds[index])


def test_images_of_a_dataset_are_compared_by_their_pixels() -> None:
    train, val = dataset_images(Noise(0, 1)), dataset_images(Noise(2, 1))
    both = tuple(scan_with_prints(images)[1] for images in (train, val))
    (shared,) = shared_images(train, val, both)
    assert (shared.kind, shared.pairs) == ("pixels", (("1", "1"),))
