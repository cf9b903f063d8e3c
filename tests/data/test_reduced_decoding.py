"""JPEG decoded at a reduced size: where its pixels lie, what is decoded so, and the views that are made of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dinoscope.data.augment import apply_view, multi_crop
from dinoscope.data.finding import find_images
from dinoscope.data.images import UnreadableImage, read
from dinoscope.data.loader import ViewsDataset
from dinoscope.data.reader import Reduction
from dinoscope.data.views import VIEWS, ViewParameters, ViewsConfig, largest_divisor, sample_views
from dinoscope.training.config import RunConfig
from dinoscope.training.run_folder import changed_settings
from tests.data.test_images import exif, stored_as
from tests.data.test_views import PLAIN, photograph

WHOLE = replace(PLAIN, global_scale=(1.0, 1.0), aspect_ratio=(1.0, 1.0), num_local=0)
"""Views of the whole of a square image."""


def save(path: Path, pixels: np.ndarray, orientation: int = 1, mode: str = "RGB", **options: object) -> Path:
    stored = Image.fromarray(stored_as(pixels, orientation)).convert(mode)
    stored.save(path, "JPEG", quality=95, exif=exif(orientation), **options)
    return path


def by(divisor: int) -> Callable[[int, int], int]:
    return lambda height, width: divisor


# What may be divided


@pytest.mark.parametrize(("side", "divisor"), [(447, 1), (448, 2), (895, 2), (896, 4), (1792, 8), (5000, 8)])
def test_divisor_is_what_the_views_shrink_by(side: int, divisor: int) -> None:
    assert largest_divisor(WHOLE, 0, 0, 0, side, side) == divisor
    small_local = replace(WHOLE, num_local=1, local_scale=(1.0, 1.0), local_size=112)
    assert largest_divisor(small_local, 0, 0, 0, side, side) == divisor


@given(
    index=st.integers(0, 2**32),
    height=st.integers(300, 6000),
    width=st.integers(300, 6000),
    name=st.sampled_from(sorted(VIEWS)),
)
def test_boxes_in_the_reduced_image_are_those_of_the_whole_one(index: int, height: int, width: int, name: str) -> None:
    config = VIEWS[name]
    divisor = largest_divisor(config, 1, 2, index, height, width)
    whole = sample_views(config, 1, 2, index, height, width)
    for before, after in zip(whole, sample_views(config, 1, 2, index, height, width, divisor), strict=True):
        assert min(before.height, before.width) >= (divisor if divisor > 1 else 0) * before.size
        ends = [(p.top, p.left, p.top + p.height, p.left + p.width) for p in (before, after)]
        assert all(0 <= end * divisor <= side for end, side in zip(ends[1], [height, width] * 2, strict=True))
        for first, second, side in zip(*ends, [height, width] * 2, strict=True):
            # Half a pixel of the reduced image, or the rest of a division at the edge.
            assert abs(first - second * divisor) <= max(divisor / 2, (side % divisor) * (first > side - divisor))
        assert replace(after, top=0, left=0, height=1, width=1) == replace(before, top=0, left=0, height=1, width=1)


# Reading


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("divisor", [2, 4, 8])
@pytest.mark.parametrize(("height", "width"), [(320, 480), (317, 476), (323, 482)])
def test_pixels_of_a_reduced_image_are_means_of_its_blocks(
    tmp_path: Path, orientation: int, divisor: int, height: int, width: int
) -> None:
    """In every orientation: a side that is turned round and has a remainder is divided by less."""
    upright = photograph(height, width)
    reduced = read(save(tmp_path / "a.jpg", upright, orientation, subsampling=0), shrink=by(divisor))
    used = 1 if reduced.reduction is None else reduced.reduction.divisor
    assert reduced.reduction == (None if used == 1 else Reduction(height, width, used))
    assert used == divisor or height % divisor or width % divisor
    assert reduced.values.shape == (-(-height // used), -(-width // used), 3)
    rows, columns = height // used, width // used
    blocks = cv2.resize(upright[: rows * used, : columns * used], (columns, rows), interpolation=cv2.INTER_AREA)
    assert np.abs(reduced.values[:rows, :columns].astype(int) - blocks).mean() < 2.5


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_every_kind_of_jpeg_is_reduced_as_pillow_does(tmp_path: Path, mode: str, progressive: bool) -> None:
    path = save(tmp_path / "a.jpg", photograph(200, 304), mode=mode, progressive=progressive)
    drafted = Image.open(path)
    drafted.draft(None, (304 // 4, 200 // 4))
    np.testing.assert_array_equal(read(path, shrink=by(4)).rgb(), np.asarray(drafted.convert("RGB")))


def test_a_jpeg_that_is_halved_anyway_is_divided_once_more(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", photograph(203, 300))
    raw = read(path, max_pixels=30_000, shrink=by(8))
    assert raw.reduction == Reduction(102, 150, 4)
    assert raw.values.shape == (26, 38, 3)


def test_other_formats_and_a_divisor_of_1_are_read_as_ever(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", photograph(203, 300))
    for name, values in (("rgb", photograph(203, 300)), ("grey", np.arange(60_000, dtype=np.uint16).reshape(200, 300))):
        Image.fromarray(values).save(tmp_path / f"{name}.png")
        Image.fromarray(values).save(tmp_path / f"{name}.tiff")
    files = [(path, 1), *((file, 8) for file in tmp_path.iterdir() if file != path)]
    assert len(files) == 5
    for file, divisor in files:
        expected, actual = read(file), read(file, shrink=by(divisor))
        np.testing.assert_array_equal(actual.values, expected.values)
        assert actual.values.dtype == expected.values.dtype
        assert actual.reduction is None


def test_a_truncated_jpeg_is_refused_at_a_reduced_size_too(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", photograph(800, 800))
    path.write_bytes(path.read_bytes()[:-20_000])
    with pytest.raises(UnreadableImage):
        read(path, shrink=by(8))


# Views


@pytest.mark.parametrize("name", ["imagenet", "byol", "swav"])
@pytest.mark.parametrize(("height", "width", "divisor"), [(300, 401, 2), (600, 801, 4), (1202, 1601, 8)])
def test_views_differ_as_pillows_do_in_draft_mode(
    tmp_path: Path, name: str, height: int, width: int, divisor: int
) -> None:
    """Of the same boxes; by half a grey level on average, and no more than Pillow's to 0.01 of one."""
    fields = ("interpolation", "num_local", "global_scale", "local_scale")
    config = replace(PLAIN, global_size=56, local_size=24, **{field: getattr(VIEWS[name], field) for field in fields})
    path = save(tmp_path / "a.jpg", photograph(height, width))
    whole, (full, draft) = read(path).rgb(), (Image.open(path), Image.open(path))
    draft.draft(None, (width // divisor, height // divisor))
    ours, pillows = [], []
    for index in range(24):
        raw = read(path, shrink=partial(largest_divisor, config, 0, 0, index))
        if raw.reduction is None or (n := raw.reduction.divisor) != divisor:
            continue
        boxes = sample_views(config, 0, 0, index, height, width, n)
        for box, view in zip(boxes, _views(raw.rgb(), config, index, raw.reduction), strict=True):
            p = replace(box, top=n * box.top, left=n * box.left, height=n * box.height, width=n * box.width)
            ours.append(np.abs(view.astype(int) - apply_view(whole, p)).mean())
            pillows.append(np.abs(_pillows(full, p).astype(int) - _pillows(draft, box)).mean())
    assert len(ours) >= 10
    assert np.mean(ours) <= min(np.mean(pillows) + 0.01, 0.5)


def _views(image: np.ndarray, config: ViewsConfig, index: int, reduction: Reduction) -> list[np.ndarray]:
    views = multi_crop(image, config, 0, 0, index, reduction)
    return [view for group in views if group is not None for view in group]


def _pillows(image: Image.Image, box: ViewParameters) -> np.ndarray:
    crop = image.crop((box.left, box.top, box.left + box.width, box.top + box.height))
    return np.asarray(crop.resize((box.size, box.size), Image.Resampling[box.interpolation.upper()]))


def test_only_large_images_of_a_run_are_reduced(tmp_path: Path) -> None:
    sizes = {"small.jpg": (60, 80), "large.jpg": (1600, 1200), "turned.jpg": (1600, 1200)}
    for name, size in sizes.items():
        save(tmp_path / name, photograph(*size), orientation=6 if name == "turned.jpg" else 1)
    folder = find_images(tmp_path)
    full, reduced = (ViewsDataset(folder, VIEWS["small_64"], 3, reduced=reduced) for reduced in (False, True))
    for index, name in enumerate(folder.paths):
        for one, other in zip(full[1, index][:2], reduced[1, index][:2], strict=True):
            assert one.shape == other.shape
            assert torch.equal(one, other) == (name == "small.jpg")
            assert (one.float() - other.float()).abs().mean() < 6
        for again, first in zip(reduced[1, index][:2], reduced[1, index][:2], strict=True):
            assert torch.equal(again, first)


def test_a_run_keeps_its_way_of_decoding(tmp_path: Path) -> None:
    config = RunConfig(data=tmp_path, out=tmp_path / "run")
    assert config.decode == "full"
    assert changed_settings(config, replace(config, decode="reduced")) == ["decode: full -> reduced"]
