"""Neighbouring slices as channels: which they are in each format, what becomes of them, and what is refused."""

from __future__ import annotations

import gzip
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinoscope.data import images, nifti
from dinoscope.data.finding import find_images
from dinoscope.data.grey_range import HEADER
from dinoscope.data.images import UnreadableImage, as_raw
from dinoscope.data.neighbours import check_slices, places_around, repeated, stacked
from dinoscope.data.normalisation import measured
from dinoscope.data.reader import RawImage, Reduction
from dinoscope.data.sources import dataset_images, split_images
from dinoscope.errors import UserError
from tests.data.test_datasets import Items

VALUES = np.random.default_rng(0).integers(-1000, 1000, (5, 7, 6)).astype(np.int16)
"""Five slices."""
FRONT_MIDDLE_BEHIND = [[0, 0, 1, 2, 3], [0, 1, 2, 3, 4], [1, 2, 3, 4, 4]]


def npy(values: np.ndarray) -> bytes:
    stream = BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def tiff(values: np.ndarray, **options: object) -> bytes:
    tifffile = pytest.importorskip("tifffile", reason="tifffile reads stacks: pip install 'dinoscope[microscopy]'")
    stream = BytesIO()
    tifffile.imwrite(stream, values, **options)
    return stream.getvalue()


def volume(values: np.ndarray, axes: str = "RAS", **fields: object) -> bytes:
    """A NIfTI file whose slices across axis 2 are these, stored in the order of `axes`."""
    nibabel = pytest.importorskip("nibabel", reason="nibabel reads NIfTI: pip install 'dinoscope[medical]'")
    voxels = values[:, ::-1].transpose(2, 1, 0) if values.ndim == 3 else values
    image = nibabel.Nifti1Image(np.ascontiguousarray(voxels), np.diag([1, 1, 3, 1]))
    for name, value in fields.items():
        image.header[name] = value
    turns = nibabel.orientations
    turn = turns.ornt_transform(turns.io_orientation(image.affine), turns.axcodes2ornt(axes))
    return image.as_reoriented(turn).to_bytes()


def frames_of_dicom(values: np.ndarray) -> bytes:
    pytest.importorskip("pydicom", reason="pydicom reads DICOM: pip install 'dinoscope[medical]'")
    from tests.data.test_dicom import data_set, encoded

    return encoded(data_set(values))


def reads_as_alone(content: bytes, slices: int) -> None:
    """Each stack has the values of the images around it, read alone; at the ends the last one again."""
    names = images.frames_of_bytes(content, "x")
    alone = [images.read_bytes(content, "x", frame=name).values for name in names]
    for place, name in enumerate(names):
        stack = images.read_bytes(content, "x", frame=name, slices=slices)
        wanted = [alone[min(max(other, 0), len(names) - 1)] for other in range(place - slices // 2, place + slices)]
        np.testing.assert_array_equal(stack.values, np.concatenate(wanted[:slices], axis=2))
        assert stack.values.dtype == alone[0].dtype


def test_places_repeat_the_ends() -> None:
    assert places_around(0, 5, 3) == [0, 0, 1]
    assert places_around(3, 5, 3) == [2, 3, 4]
    assert places_around(4, 5, 7) == [1, 2, 3, 4, 4, 4, 4]
    assert places_around(0, 1, 3) == [0, 0, 0]


@pytest.mark.parametrize("slices", [-1, 0, 2, 17])
def test_other_numbers_of_slices_are_refused(slices: int) -> None:
    with pytest.raises(UserError, match="--slices must be odd, from 1 to 15"):
        check_slices(slices)


# Formats


@pytest.mark.parametrize("slices", [3, 5])
@pytest.mark.parametrize("axes", ["RAS", "LPI", "SAR", "IPL"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_slices_of_a_volume(pack: type, axes: str, slices: int) -> None:
    content = pack(volume(VALUES, axes))
    reads_as_alone(content, slices)
    stack = images.read_bytes(content, "x", frame="axis=2,slice=1", slices=3)
    np.testing.assert_array_equal(stack.values, VALUES[:3].transpose(1, 2, 0))


def test_slices_across_another_axis_and_of_one_volume_of_several() -> None:
    voxels = np.arange(2 * 3 * 4 * 2, dtype=np.int16).reshape(2, 3, 4, 2)
    content = volume(voxels)
    stack = images.read_bytes(content, "x", frame="volume=1,axis=0,slice=0", slices=3).values
    first, second = (voxels[place, :, :, 1].T[::-1] for place in (0, 1))
    np.testing.assert_array_equal(stack, np.stack([first, first, second], axis=2))
    end = images.read_bytes(content, "x", frame="volume=0,axis=2,slice=3", slices=3).values
    np.testing.assert_array_equal(end[..., 1], end[..., 2])


def test_a_volume_is_decompressed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    content, opened = gzip.compress(volume(VALUES)), list[int]()
    original = nifti._opened
    monkeypatch.setattr(nifti, "_opened", lambda *arguments: opened.append(1) or original(*arguments))
    images.read_bytes(content, "x", frame="axis=2,slice=2", slices=5)
    assert len(opened) == 1


def test_frames_of_a_dicom_file() -> None:
    reads_as_alone(frames_of_dicom(np.abs(VALUES).astype(np.uint16)), 3)


def test_frames_of_an_array() -> None:
    reads_as_alone(npy(VALUES), 3)
    reads_as_alone(npy(np.repeat(VALUES.astype(np.float32)[..., None], 1, axis=3)), 5)


@pytest.mark.parametrize(
    "options", [{"photometric": "minisblack"}, {"photometric": "miniswhite", "compression": "zlib"}, {"imagej": True}]
)
def test_pages_of_a_stack(options: dict[str, object]) -> None:
    reads_as_alone(tiff(np.abs(VALUES).astype(np.uint16), **options), 3)


def test_smaller_copies_between_pages_are_passed_over() -> None:
    pytest.importorskip("tifffile", reason="tifffile reads stacks: pip install 'dinoscope[microscopy]'")
    stream = BytesIO()
    with sys.modules["tifffile"].TiffWriter(stream) as file:
        for page in np.abs(VALUES[:3]).astype(np.uint16):
            file.write(page, photometric="minisblack")
            file.write(page[::2, ::2], photometric="minisblack", subfiletype=1)
    content = stream.getvalue()
    assert images.frames_of_bytes(content, "x") == ("page=0", "page=2", "page=4")
    reads_as_alone(content, 3)


def test_pages_of_different_sizes_are_refused() -> None:
    pytest.importorskip("tifffile", reason="tifffile reads stacks: pip install 'dinoscope[microscopy]'")
    stream = BytesIO()
    with sys.modules["tifffile"].TiffWriter(stream) as file:
        file.write(np.zeros((4, 6), np.uint16), photometric="minisblack")
        file.write(np.zeros((5, 6), np.uint16), photometric="minisblack")
    with pytest.raises(UnreadableImage, match="slices of 6x4 and 6x5 next to each other"):
        images.read_bytes(stream.getvalue(), "x", frame="page=0", slices=3)


def test_too_many_pixels_together_are_refused() -> None:
    for content, name in ((npy(VALUES), "frame=0"), (volume(VALUES), "axis=2,slice=0")):
        images.read_bytes(content, "x", frame=name, slices=3, max_pixels=42)
        with pytest.raises(UnreadableImage, match="too large: 5 slices of 6x7, together at most"):
            images.read_bytes(content, "x", frame=name, slices=5, max_pixels=42)


# What becomes of the slices


def test_the_window_of_the_header_is_that_of_each_slice() -> None:
    content = volume(VALUES, cal_min=-200, cal_max=300)
    stack = images.read_bytes(content, "x", frame="axis=2,slice=2", slices=3)
    alone = [images.read_bytes(content, "x", frame=f"axis=2,slice={place}") for place in (1, 2, 3)]
    for window in (HEADER, (40.0, 400.0)):
        expected = np.concatenate([image.pixels(1, window) for image in alone], axis=2)
        np.testing.assert_array_equal(stack.pixels(3, window), expected)


def test_padding_and_transparency_are_those_of_each_slice() -> None:
    rng = np.random.default_rng(0)
    values = [rng.integers(0, 4000, (4, 5, 1)).astype(np.uint16) for _ in range(3)]
    padding, alpha = rng.random((4, 5, 1)) < 0.5, rng.integers(0, 65535, (4, 5, 1)).astype(np.uint16)
    slices = [
        RawImage(values[0], white_is_zero=True),
        RawImage(values[1], white_is_zero=True, padding=padding),
        RawImage(values[2], white_is_zero=True, alpha=alpha),
    ]
    expected = np.concatenate([image.pixels(1, (2000.0, 3000.0)) for image in slices], axis=2)
    np.testing.assert_array_equal(stacked(slices).pixels(3, (2000.0, 3000.0)), expected)
    everywhere = np.concatenate([values[0].ravel(), values[1][~padding], values[2].ravel()])
    own = stacked(slices).range
    assert own is not None
    assert (own.low, own.high) == (everywhere.min(), everywhere.max())


def test_slices_of_different_kinds_are_refused() -> None:
    eight, sixteen = (RawImage(np.zeros((2, 2, 1), kind)) for kind in (np.uint8, np.uint16))
    with pytest.raises(UnreadableImage, match="different kinds"):
        stacked([eight, sixteen])


def test_an_image_without_neighbours_is_repeated_and_colour_turns_grey(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    Image.fromarray(colours).save(tmp_path / "colours.png")
    grey = np.asarray(Image.fromarray(colours).convert("L"))
    read = images.read(tmp_path / "colours.png", slices=5).pixels(5)
    np.testing.assert_array_equal(read, np.repeat(grey[..., None], 5, axis=2))
    reduced = RawImage(colours, reduction=Reduction(12, 16, 2))
    assert repeated(reduced, 3).reduction == reduced.reduction
    with pytest.raises(UnreadableImage, match="has 3 channels, and --slices takes grey images"):
        repeated(RawImage(colours.astype(np.uint16)), 3)
    with pytest.raises(UnreadableImage, match="has 5 channels"):
        repeated(RawImage(np.zeros((2, 2, 5), np.uint8)), 3)


def test_an_array_may_be_a_stack_already() -> None:
    stack = np.random.default_rng(0).integers(0, 4000, (6, 8, 5)).astype(np.uint16)
    np.testing.assert_array_equal(as_raw(stack, 5).values, stack)
    np.testing.assert_array_equal(as_raw(stack[..., 0], 5).values, np.repeat(stack[..., :1], 5, axis=2))


# Sources


def test_neighbours_come_from_the_file_in_any_container_and_choice(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.npy").write_bytes(npy(VALUES))
    Image.fromarray(np.zeros((7, 6), np.uint8)).save(folder / "b.png")
    with tarfile.open(tmp_path / "data.tar", "w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)
    (tmp_path / "list.txt").write_text("data/a.npy#frame=2\ndata/b.png\n")
    for place, kept in ((folder, [2, 5]), (tmp_path / "data.tar", [2, 5]), (tmp_path / "list.txt", [0, 1])):
        source = find_images(place, labelled=False)
        chosen = source.with_slices(3).subset(kept).unlabelled()
        assert chosen.slices == 3
        assert chosen.keys[0].endswith("a.npy#frame=2")
        np.testing.assert_array_equal(chosen.read(0).values, VALUES[1:4].transpose(1, 2, 0))
        assert chosen.read(1).values.shape == (7, 6, 3)
        assert [chosen.header(index).channels for index in (0, 1)] == [3, 3]
        assert source.header(kept[0]).channels == 1
        plain = source.subset(kept)
        assert chosen.fingerprint() == plain.fingerprint()
        assert chosen.stamp(0) == plain.stamp(0)
        assert chosen.content(0) == (folder / "a.npy").read_bytes()
        part = next(part for part in split_images(source.with_slices(3), 0.5) if chosen.keys[0] in part.keys)
        np.testing.assert_array_equal(part.read(list(part.keys).index(chosen.keys[0])).values, chosen.read(0).values)
        assert chosen.without({chosen.keys[1]}).slices == 3
        np.testing.assert_array_equal(chosen.with_slices(1).read(0).values, VALUES[2][..., None])


def test_items_of_a_dataset_are_repeated() -> None:
    source = dataset_images(Items([VALUES[0], VALUES[1]])).with_slices(3)
    assert source.header(0).channels == 3
    np.testing.assert_array_equal(source.read(1).values, np.repeat(VALUES[1][..., None], 3, axis=2))


def test_every_channel_is_measured_by_itself_and_cached_apart(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    values = [0, 1000, 4095, 2000, 100]
    (folder / "a.npy").write_bytes(npy(np.stack([np.full((4, 6), value, np.uint16) for value in values])))
    source, window = find_images(folder), (2047.5, 4095.0)
    once = measured(source, 3, window, cache=tmp_path / "cache")
    slices = measured(source.with_slices(3), 3, window, cache=tmp_path / "cache")
    assert once is not None
    assert slices is not None
    levels = np.rint(np.array(values) / 4095 * 255) / 255
    np.testing.assert_allclose(once[0], [levels.mean()] * 3, atol=1e-4)
    # In front of the slices, themselves, and behind them.
    np.testing.assert_allclose(slices[0], [levels[places].mean() for places in FRONT_MIDDLE_BEHIND], atol=1e-4)
