"""Neighbours of single DICOM files come from their series: which they are, in any container and any choice."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dinoscope.data import sources
from dinoscope.data.finding import find_images
from dinoscope.data.joined import joined_images
from dinoscope.data.reader import UnreadableImage
from dinoscope.data.sources import ImageSource, split_images
from tests.containers import WRITERS

pytest.importorskip("pydicom", reason="pydicom reads DICOM: pip install 'dinoscope[medical]'")

from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from tests.data.test_dicom import data_set, encoded

VALUES = np.random.default_rng(0).integers(-1000, 1000, (6, 7, 6)).astype(np.int16)
"""Six slices, from the feet to the head."""
AXIAL = ("1", "0", "0", "0", "1", "0")
NAMES = ("c", "f", "a", "e", "b", "d")
"""Of the files of the slices, in no order of theirs."""


def write_slice(file: Path, values: np.ndarray, series: str | None = "1.2.7", **elements: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    syntax = elements.pop("syntax", ExplicitVRLittleEndian)
    if series is not None:
        elements["SeriesInstanceUID"] = series
    file.write_bytes(encoded(data_set(values, **elements), syntax))
    return file


def at(height: float, orientation: tuple[str, ...] = AXIAL) -> dict[str, Any]:
    """Where a slice lies: so high above the origin, along z."""
    return {"ImagePositionPatient": ["-10", "5", f"{height:g}"], "ImageOrientationPatient": list(orientation)}


def write_series(folder: Path, values: np.ndarray = VALUES, series: str = "1.2.7") -> Path:
    """Names and numbers in two other orders than positions; two of the slices in other encodings."""
    syntaxes = {1: ImplicitVRLittleEndian, 2: DeflatedExplicitVRLittleEndian}
    for place, (name, plane) in enumerate(zip(NAMES, values, strict=False)):
        where = at(-3.5 + 2.5 * place) | {"InstanceNumber": (5 * place) % 6 + 1}
        syntax = syntaxes.get(place, ExplicitVRLittleEndian)
        write_slice(folder / f"{name}.dcm", plane, series, syntax=syntax, **where)
    return folder


def stacked(places: list[int], values: np.ndarray = VALUES) -> np.ndarray:
    return values[places].transpose(1, 2, 0)


def assert_stacks(images: ImageSource, wanted: dict[str, list[int]], values: np.ndarray = VALUES) -> None:
    """Each image that is named has these slices as channels."""
    keys = {key.rpartition("/")[2]: index for index, key in enumerate(images.keys)}
    for name, places in wanted.items():
        np.testing.assert_array_equal(images.read(keys[name]).values, stacked(places, values), err_msg=name)


ANATOMICAL = {f"{name}.dcm": [max(place - 1, 0), place, min(place + 1, 5)] for place, name in enumerate(NAMES)}


def test_slices_are_in_anatomical_order_whatever_they_are_called(tmp_path: Path) -> None:
    images = find_images(write_series(tmp_path)).with_slices(3)
    assert images.has_neighbours()
    assert_stacks(images, ANATOMICAL)
    assert [images.header(index).channels for index in range(6)] == [3] * 6
    place = images.keys.index("a.dcm")
    np.testing.assert_array_equal(images.with_slices(5).read(place).values, stacked([0, 1, 2, 3, 4]))
    np.testing.assert_array_equal(images.with_slices(1).read(place).values, stacked([2]))


def test_oblique_slices_are_ordered_along_their_normal(tmp_path: Path) -> None:
    """Tilted by 80 degrees about x, so that z falls by less than y moves; within a plane, the corner may shift."""
    cosine, sine = math.cos(math.radians(80)), math.sin(math.radians(80))
    orientation = [f"{value:.6f}" for value in (1, 0, 0, 0, cosine, sine)]
    for place, plane in enumerate(VALUES[:4]):
        # Normal (0, -sine, cosine). A shift of the corner by a multiple of (0, cosine, sine) changes no order.
        shift = (30, -20, 10, 0)[place]
        corner = (7, -3 * place * sine + shift * cosine, 3 * place * cosine + shift * sine)
        write_slice(
            tmp_path / f"{NAMES[place]}.dcm",
            plane,
            ImagePositionPatient=[f"{value:.6f}" for value in corner],
            ImageOrientationPatient=orientation,
        )
    assert_stacks(
        find_images(tmp_path).with_slices(3),
        {"c.dcm": [0, 0, 1], "f.dcm": [0, 1, 2], "a.dcm": [1, 2, 3], "e.dcm": [2, 3, 3]},
    )


def test_only_one_series_orientation_and_size_are_neighbours(tmp_path: Path) -> None:
    write_slice(tmp_path / "one-0.dcm", VALUES[0], **at(0))
    write_slice(tmp_path / "two-0.dcm", VALUES[1], "1.2.8", **at(1))
    write_slice(tmp_path / "one-1.dcm", VALUES[2], **at(2))
    write_slice(tmp_path / "two-1.dcm", VALUES[3], "1.2.8", **at(3))
    write_slice(tmp_path / "scout.dcm", VALUES[4], **at(1, ("1", "0", "0", "0", "0", "-1")))
    write_slice(tmp_path / "small.dcm", VALUES[5, :5], **at(1))
    write_slice(tmp_path / "without.dcm", VALUES[5], None, **at(1))
    Image.fromarray(np.full((7, 6), 9, np.uint8)).save(tmp_path / "picture.png")
    (tmp_path / "damaged.dcm").write_bytes((tmp_path / "one-0.dcm").read_bytes()[:150])
    np.save(tmp_path / "stack.npy", VALUES[:5])
    images = find_images(tmp_path).with_slices(3)
    alone = {"scout.dcm": [4, 4, 4], "without.dcm": [5, 5, 5], "stack.npy#frame=1": [0, 1, 2]}
    series = {"one-0.dcm": [0, 0, 2], "one-1.dcm": [0, 2, 2], "two-0.dcm": [1, 1, 3], "two-1.dcm": [1, 3, 3]}
    assert_stacks(images, alone | series)
    assert images.read(images.keys.index("picture.png")).values.shape == (7, 6, 3)
    np.testing.assert_array_equal(images.read(images.keys.index("small.dcm")).values[..., 2], VALUES[5, :5])


def test_without_a_position_the_number_decides_and_then_the_name(tmp_path: Path) -> None:
    for number, (name, plane) in enumerate(zip(NAMES[:3], VALUES, strict=False)):
        write_slice(tmp_path / "numbers" / f"{name}.dcm", plane, InstanceNumber=9 + number)  # 9 to 11: no texts
        write_slice(tmp_path / "names" / f"{name}.dcm", plane, "1.2.8")
    images = find_images(tmp_path, labelled=False).with_slices(3)
    at_number = images.subset([index for index, key in enumerate(images.keys) if key.startswith("numbers")])
    assert_stacks(at_number, {"c.dcm": [0, 0, 1], "f.dcm": [0, 1, 2], "a.dcm": [1, 2, 2]})
    by_name = images.subset([index for index, key in enumerate(images.keys) if key.startswith("names")])
    assert_stacks(by_name, {"a.dcm": [2, 2, 0], "c.dcm": [2, 0, 1], "f.dcm": [0, 1, 1]})


def test_a_choice_of_images_changes_no_neighbour(tmp_path: Path) -> None:
    images = find_images(write_series(tmp_path))
    for chosen in (
        images.with_slices(3).subset([4, 1]),
        images.subset([4, 1]).with_slices(3),
        images.subset([0, 4, 1]).subset([1, 2]).unlabelled().with_slices(3),
        *(part.with_slices(3) for part in split_images(images.grouped_by("(.)"), 0.5)),
        images.without({"a.dcm", "c.dcm"}).with_slices(5).with_slices(3),
        joined_images("both", {"one": images.subset([4, 1])}).with_slices(3),
    ):
        assert_stacks(chosen, {key: ANATOMICAL[key] for key in chosen.keys})
        assert chosen.has_neighbours()
    assert images.subset([4, 1]).fingerprint() == images.with_slices(3).subset([4, 1]).fingerprint()


def test_every_container_gives_the_same_pixels(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs pyarrow (extra parquet)")
    folder = write_series(tmp_path / "data" / "inner").parent
    for place in (folder, *(write(folder, tmp_path / "made") for write in WRITERS.values())):
        images = find_images(place, labelled=False).with_slices(3)
        assert len(images) == 6
        assert_stacks(images, ANATOMICAL)
        assert_stacks(images.subset([3, 5]), {key: ANATOMICAL[key] for key in ("d.dcm", "f.dcm")})


def test_headers_are_read_once_and_not_in_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DINOSCOPE_CACHE", str(tmp_path / "cache"))
    folder, told = write_series(tmp_path / "data"), list[tuple[int, int]]()
    images = find_images(folder).with_slices(3, lambda done, total: told.append((done, total)))
    assert told == [(6, 6)]
    before = images.subset([0, 3]).neighbours_fingerprint()
    assert before == find_images(folder).subset([0, 3]).with_slices(3).neighbours_fingerprint()
    assert images.subset([0]).neighbours_fingerprint() != before != ""
    assert find_images(folder).neighbours_fingerprint() == ""

    def fail(path: Path) -> None:
        raise AssertionError(path)

    monkeypatch.setattr(sources, "read_series_place", fail)
    assert_stacks(pickle.loads(pickle.dumps(images.subset([0, 3]))), {"a.dcm": ANATOMICAL["a.dcm"]})
    assert_stacks(find_images(folder).with_slices(3), ANATOMICAL)  # by the cache
    monkeypatch.undo()
    monkeypatch.setenv("DINOSCOPE_CACHE", str(tmp_path / "cache"))
    write_slice(folder / "f.dcm", VALUES[1], **at(100))  # moved to the head
    after = find_images(folder).with_slices(3)
    assert_stacks(after, {"c.dcm": [0, 0, 2], "d.dcm": [4, 5, 1], "f.dcm": [5, 1, 1]})
    assert after.subset([0, 3]).neighbours_fingerprint() != before


def test_a_damaged_neighbour_is_named(tmp_path: Path) -> None:
    folder = write_series(tmp_path)
    file = folder / "f.dcm"
    file.write_bytes(file.read_bytes()[:-20])
    images = find_images(folder).with_slices(3)
    with pytest.raises(UnreadableImage, match=r"a slice next to it, f\.dcm: damaged"):
        images.read(images.keys.index("c.dcm"))
    assert_stacks(images, {name: ANATOMICAL[name] for name in ("e.dcm", "b.dcm", "d.dcm")})


def test_volumes_need_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DINOSCOPE_GROUP_KEY_FILE", str(tmp_path / "key" / "group.key"))
    np.save(tmp_path / "volume.npy", np.zeros((9, 40, 36), np.uint16))
    assert find_images(tmp_path).with_slices(3).has_neighbours()
    assert not (tmp_path / "key").exists()
