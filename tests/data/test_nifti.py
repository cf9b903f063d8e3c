"""NIfTI: slices of volumes, turned to RAS+ as nibabel turns them, and what is refused."""

from __future__ import annotations

import gzip
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from dinoscope.data import images, nifti
from dinoscope.data.grey_range import HEADER
from dinoscope.data.images import UnreadableImage
from tests.data.counting import Counting

nibabel = pytest.importorskip("nibabel", reason="nibabel reads NIfTI: pip install 'dinoscope[medical]'")

BUNDLED = Path(nibabel.__file__).parent / "tests" / "data"
VOLUME = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)


def encoded(values: np.ndarray, affine: np.ndarray | None = None, **fields: object) -> bytes:
    image = nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine)
    for name, value in fields.items():
        image.header[name] = value
    return image.to_bytes()


def parsed(frame: str) -> dict[str, int]:
    return {name: int(value) for name, _, value in (part.partition("=") for part in frame.split(",") if part)}


@pytest.mark.parametrize("path", sorted(BUNDLED.glob("*.nii*")), ids=lambda path: path.name)
def test_every_file_of_nibabel_is_read_as_nibabel_reads_it(path: Path) -> None:
    if ".dconn." in path.name:
        with pytest.raises(UnreadableImage, match=r"^not supported: CIFTI"):
            images.frames(path)
        return
    expected = np.asanyarray(nibabel.as_closest_canonical(nibabel.load(path)).dataobj, np.float64)
    for frame in images.frames(path):
        place = parsed(frame)
        volume = expected[..., place["volume"]] if "volume" in place else expected
        slice_ = np.take(volume, place["slice"], place["axis"])
        header, image = images.read_header(path, frame=frame), images.read(path, frame=frame)
        np.testing.assert_allclose(image.values[..., 0], slice_.T[::-1], rtol=1e-6)
        assert image.values.shape == (header.height, header.width, 1)
        assert image.values.dtype.str[1:] == header.sample


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SAL", "ILA"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_volume_in_any_orientation_gives_the_same_slices(axes: str, pack: type) -> None:
    upright = nibabel.Nifti1Image(VOLUME, np.diag([1, 1, 3, 1]))
    turned = upright.as_reoriented(
        nibabel.orientations.ornt_transform(
            nibabel.orientations.io_orientation(upright.affine), nibabel.orientations.axcodes2ornt(axes)
        )
    )
    content = pack(turned.to_bytes())
    assert images.frames_of_bytes(content, "x") == tuple(f"axis=2,slice={index}" for index in range(4))
    # In a picture of axis 2 the patient's right is right, and the front is up.
    assert images.read_bytes(content, "x", frame="axis=2,slice=1").values[..., 0].tolist() == [
        [9, 21],
        [5, 17],
        [1, 13],
    ]
    assert images.read_bytes(content, "x", frame="axis=0,slice=1").values[..., 0].tolist() == VOLUME[1].T[::-1].tolist()


@pytest.mark.parametrize(
    ("spacing", "shape", "frames"),
    [
        ((1, 1, 1), (2, 3, 4), "axis=2,slice={}"),
        ((5, 1, 1), (2, 3, 4), "axis=0,slice={}"),
        ((5, 5, 1), (2, 3, 4), "axis=2,slice={}"),
        ((1, 9, 1), (2, 1, 4), ""),
        ((1, 1, 1), (2, 3), ""),
    ],
)
def test_slices_lie_across_the_largest_spacing(spacing: tuple[int, ...], shape: tuple[int, ...], frames: str) -> None:
    content = encoded(np.zeros(shape, np.uint8), np.diag([*spacing, 1]))
    names = images.frames_of_bytes(content, "x")
    across = int(frames[5]) if frames else None
    assert names == (("",) if across is None else tuple(frames.format(index) for index in range(shape[across])))
    images.read_bytes(content, "x", frame=names[0])


def test_volumes_are_counted() -> None:
    values = np.arange(2 * 2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 2, 3)
    content = encoded(values)
    assert images.frames_of_bytes(content, "x")[2] == "volume=1,axis=2,slice=0"
    image = images.read_bytes(content, "x", frame="volume=2,axis=2,slice=1")
    assert image.values[..., 0].tolist() == values[:, :, 1, 2].T[::-1].tolist()


@pytest.mark.parametrize(
    ("kind", "slope", "intercept", "expected"),
    [
        ("i2", 1, 0, "i2"),
        ("u1", 1, 0, "u1"),
        ("i2", 2, -1024, "i4"),
        ("i2", 0.5, 0, "f4"),
        ("i4", 2, 0, "f4"),
        ("f8", 1, 0, "f4"),
    ],
)
def test_slope_and_intercept_are_applied(kind: str, slope: float, intercept: float, expected: str) -> None:
    content = encoded(np.array([[1, 7]], kind), scl_slope=slope, scl_inter=intercept)
    # nibabel computes the slope when it saves; these are the fields themselves.
    content = content[:112] + struct.pack("<ff", slope, intercept) + content[120:]
    values = images.read_bytes(content, "x").values
    assert values.dtype.str[1:] == expected
    assert values[:, 0, 0].tolist() == [7 * slope + intercept, slope + intercept]


def test_colour_and_the_displayed_range() -> None:
    colours = np.zeros((1, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    colours["R"], colours["B"] = [[1, 2]], [[3, 4]]
    assert images.read_bytes(encoded(colours), "x").values.tolist() == [[[2, 0, 4]], [[1, 0, 3]]]
    image = images.read_bytes(encoded(np.array([[0, 60, 100]], np.int16), cal_min=0, cal_max=100), "x")
    assert image.rgb(HEADER)[:, 0, 0].tolist() == [255, 153, 0]


def test_a_packed_file_is_decompressed_up_to_the_limit_only() -> None:
    content = gzip.compress(encoded(np.zeros((300, 300, 1000), np.uint8)))
    assert len(content) < 200_000
    for look in (images.frames_of_bytes, images.read_bytes):
        with pytest.raises(
            UnreadableImage, match=r"^too large: 90 MB once decompressed, at most 64 MB.*unpack the file$"
        ):
            look(content, "x", max_pixels=100_000)
    far = bytearray(encoded(VOLUME))
    far[108:112] = struct.pack("<f", 1e12)  # vox_offset
    with pytest.raises(UnreadableImage, match=r"^too large"):
        images.read_bytes(gzip.compress(far), "x", frame="axis=2,slice=0")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda content: content[:-1], "^damaged: 399 bytes instead of 400"),
        (lambda content: content[:344] + b"ni1\0" + content[348:], "^not supported: a NIfTI header whose voxels"),
        (
            lambda content: content[:70] + struct.pack("<hh", 32, 64) + content[74:],
            "^not supported: a NIfTI of complex64",
        ),
        (lambda content: content[:42] + struct.pack("<h", -2) + content[44:], "^damaged"),
        (lambda content: content[:42] + struct.pack("<hhh", 30000, 30000, 1) + content[48:], "^damaged: 400 bytes"),
    ],
)
def test_what_cannot_be_is_refused(change, reason: str) -> None:
    with pytest.raises(UnreadableImage, match=reason):
        images.frames_of_bytes(change(encoded(VOLUME)), "x")


def test_too_many_pixels_are_refused_and_a_slice_must_exist() -> None:
    content = encoded(np.zeros((40, 50, 2), np.uint8))
    with pytest.raises(UnreadableImage, match=r"^too large: 40x50"):
        images.frames_of_bytes(content, "x", max_pixels=1999)
    images.read_bytes(content, "x", frame="axis=0,slice=0", max_pixels=1999)
    for frame in ("axis=2,slice=2", "axis=3,slice=0", "volume=0,axis=2,slice=0", "page=0"):
        with pytest.raises(UnreadableImage, match=rf"^no image '{frame}'"):
            images.read_bytes(content, "x", frame=frame)


def test_only_the_voxels_of_a_slice_are_read() -> None:
    stream = Counting(encoded(np.zeros((64, 64, 100), np.int16)))
    nifti.read(stream, 10**6, "axis=2,slice=50")
    assert stream.count < 20_000


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    nifti._library.cache_clear()
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(UnreadableImage, match=r"^needs nibabel: pip install 'dinoscope\[medical\]'$"):
        images.read_bytes(encoded(VOLUME), "x")
