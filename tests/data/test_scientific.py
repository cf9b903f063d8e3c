"""Formats of optional packages: TIFF of every kind, JPEG 2000, AVIF, HEIC; and damaged files of all of them."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from dinoscope.data import images
from dinoscope.data.finding import find_images
from dinoscope.data.images import UnreadableImage
from dinoscope.data.scan import scan

MUTANTS = int(os.environ.get("DINOSCOPE_MUTANTS", "10000"))
"""Damaged files that are read in all."""

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 65536, (5, 8, 9), np.uint16)
COLOUR = RNG.integers(0, 256, (3, 64, 65, 3), np.uint8)


def tiff(values: np.ndarray, **options: object) -> bytes:
    tifffile = pytest.importorskip("tifffile", reason="pip install 'dinoscope[microscopy]'")
    pytest.importorskip("imagecodecs", reason="pip install 'dinoscope[microscopy]'")
    stream = BytesIO()
    tifffile.imwrite(stream, values, **options)
    return stream.getvalue()


def pillow(format: str, pixels: np.ndarray, **options: object) -> bytes:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, format, **options)
    return stream.getvalue()


def read_all(content: bytes) -> list[np.ndarray]:
    """The values of every image in a file, as its header describes them."""
    read = []
    for frame in images.frames_of_bytes(content, "x"):
        image = images.read_bytes(content, "x", frame=frame)
        header = images.stream_header(BytesIO(content), "x", 10**7, frame)
        assert image.values.shape == (header.height, header.width, 1 if header.grey else 3)
        assert image.values.dtype.str[1:] == header.sample
        read.append(image.values)
    return read


@pytest.mark.parametrize(
    ("values", "options"),
    [
        (GREY, {"photometric": "minisblack"}),
        (GREY, {"imagej": True}),
        (GREY[:4].reshape(2, 2, 8, 9), {"ome": True, "metadata": {"axes": "TCYX"}}),
        (GREY, {"photometric": "minisblack", "bigtiff": True, "byteorder": ">", "compression": "zstd"}),
        (GREY, {"photometric": "minisblack", "compression": "lzma", "tile": (16, 16)}),
        (GREY, {"photometric": "minisblack", "compression": "zlib", "predictor": True}),
        (GREY[:1].astype("f2"), {"photometric": "minisblack"}),
        (GREY.astype("f8"), {"photometric": "minisblack"}),
        (GREY.astype("i1"), {"photometric": "minisblack"}),
        (COLOUR, {"photometric": "rgb"}),
        (COLOUR[:1], {"photometric": "rgb", "compression": "jpeg2000"}),
        (COLOUR.astype("u2"), {"photometric": "rgb", "bigtiff": True}),
    ],
    ids=str,
)
def test_every_page_of_a_tiff_is_a_sample(values: np.ndarray, options: dict[str, object]) -> None:
    content = tiff(values, **options)
    size = values.shape[-3:] if values.shape[-1] == 3 else (*values.shape[-2:], 1)
    pages = values.reshape(-1, *size)
    names = images.frames_of_bytes(content, "x.tif")
    assert names == (("",) if len(pages) == 1 else tuple(f"page={index}" for index in range(len(pages))))
    np.testing.assert_array_equal(read_all(content), pages)


@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_channels_of_a_tiff(planes: str) -> None:
    values = RNG.integers(0, 65536, (9, 8, 5), np.uint16)
    stored = values if planes == "contig" else np.moveaxis(values, 2, 0)
    content = tiff(stored, photometric="minisblack", planarconfig=planes)
    np.testing.assert_array_equal(images.read_bytes(content, "x.tif").values, values)
    header = images.stream_header(BytesIO(content), "x.tif", 10**7)
    assert (header.channels, header.grey, header.sample) == (5, False, "u2")
    many = tiff(RNG.integers(0, 9, (9, 8, 17), np.uint8), photometric="minisblack", planarconfig="contig")
    with pytest.raises(images.UnreadableImage, match=r"^not supported"):
        images.read_bytes(many, "x.tif")


def test_planes_palettes_bits_and_white_as_zero() -> None:
    planes = RNG.integers(0, 65536, (3, 8, 9), np.uint16)
    content = tiff(planes, photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_all(content)[0], np.moveaxis(planes, 0, 2))
    colours = RNG.integers(0, 256, (3, 256), np.uint16)
    index = RNG.integers(0, 256, (2, 8, 9), np.uint8)
    pages = read_all(tiff(index, photometric="palette", colormap=colours * np.uint16(257)))
    np.testing.assert_array_equal(pages, np.moveaxis(colours[:, index], 0, 3))
    bits = index > 99
    np.testing.assert_array_equal(read_all(tiff(bits, photometric="minisblack")), bits[..., None] * 255)
    content = tiff(index, photometric="miniswhite")
    shown = images.read_bytes(content, "x", frame="page=1").rgb()
    np.testing.assert_array_equal(shown[..., 0], 255 - index[1])


def test_jpeg_in_tiff_is_decoded_as_tifffile_decodes_it() -> None:
    content = tiff(COLOUR, photometric="rgb", compression="jpeg", tile=(16, 16))
    np.testing.assert_array_equal(read_all(content), sys.modules["tifffile"].imread(BytesIO(content)))


def test_a_stack_of_imagej_with_a_single_directory() -> None:
    content = pillow("TIFF", GREY[0], tiffinfo={270: "ImageJ=1.53t\nimages=5\nslices=5\n"})
    tiff(GREY)  # skips without tifffile
    start = content.index(GREY[0].tobytes())
    content = content[:start] + GREY[0].tobytes() + content[start + GREY[0].nbytes :]
    assert start + GREY[0].nbytes == len(content), "the pixels are the end"
    np.testing.assert_array_equal(read_all(content + GREY[1:].tobytes()), GREY[..., None])


@pytest.mark.parametrize(
    ("values", "options", "frame", "reason"),
    [
        (GREY.astype("c8"), {"photometric": "minisblack"}, "page=1", "^not supported: this page of a TIFF"),
        (GREY[0].astype("c8"), {"photometric": "minisblack"}, "", "^not supported: a TIFF with 1 channel of 64-bit"),
        (COLOUR[0], {"photometric": "rgb", "compression": "jpegxl"}, "", "^not supported: a TIFF with 3 channels"),
        (GREY, {"photometric": "minisblack"}, "", "^several images: the file holds 5 images, page=0 to page=4"),
        (np.zeros((2, 400, 300), np.uint8), {"photometric": "minisblack"}, "page=1", "^too large: 300x400"),
    ],
    ids=str,
)
def test_a_page_that_is_no_image_is_refused(
    values: np.ndarray, options: dict[str, object], frame: str, reason: str
) -> None:
    with pytest.raises(UnreadableImage, match=reason):
        images.read_bytes(tiff(values, **options), "x", frame=frame, max_pixels=100_000)


def test_a_page_must_exist() -> None:
    content = tiff(GREY, photometric="minisblack")
    for frame in ("page=5", "page=-1", "frame=0"):
        with pytest.raises(UnreadableImage, match=rf"^no image '{frame}': the file holds 5 images, page=0 to page=4"):
            images.read_bytes(content, "x", frame=frame)


# JPEG 2000, AVIF, HEIC


@pytest.mark.skipif(not features.check("jpg_2000"), reason="this Pillow has no OpenJPEG")
def test_jpeg_2000() -> None:
    np.testing.assert_array_equal(read_all(pillow("JPEG2000", COLOUR[0]))[0], COLOUR[0])
    np.testing.assert_array_equal(read_all(pillow("JPEG2000", COLOUR[0], no_jp2=True))[0], COLOUR[0])
    np.testing.assert_array_equal(read_all(pillow("JPEG2000", GREY[0]))[0][..., 0], GREY[0])
    with pytest.raises(UnreadableImage, match=r"^too large: 65x64"):
        images.read_bytes(pillow("JPEG2000", COLOUR[0]), "x", max_pixels=4159)


@pytest.mark.skipif(not features.check("jpg_2000"), reason="this Pillow has no OpenJPEG")
def test_jpeg_2000_of_12_bits_keeps_its_values() -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    values = GREY[0] >> 4
    content = imagecodecs.jpeg2k_encode(values, bitspersample=12, reversible=True, level=0)
    np.testing.assert_array_equal(read_all(content)[0][..., 0], values)


def smooth() -> np.ndarray:
    return np.kron(np.arange(96).reshape(4, 8, 3).astype(np.uint8) * 2, np.ones((16, 16, 1), np.uint8))


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no libavif")
def test_avif() -> None:
    content = pillow("AVIF", smooth(), quality=95)
    assert np.abs(read_all(content)[0].astype(int) - smooth()).max() <= 3
    turned = Image.Exif()
    turned[0x0112] = 6
    content = pillow("AVIF", smooth(), quality=95, exif=turned)
    assert np.abs(read_all(content)[0].astype(int) - np.rot90(smooth(), -1)).max() <= 3
    with pytest.raises(UnreadableImage, match=r"^too large: 64x128"):
        images.read_bytes(content, "x", max_pixels=8191)


def heic() -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif", reason="pip install 'dinoscope[heic]'")
    stream = BytesIO()
    pillow_heif.from_pillow(Image.fromarray(smooth())).save(stream, quality=95)
    return stream.getvalue()


def test_heic(monkeypatch: pytest.MonkeyPatch) -> None:
    content = heic()
    assert np.abs(read_all(content)[0].astype(int) - smooth()).max() <= 3
    with pytest.raises(UnreadableImage, match=r"^too large: 128x64"):
        images.read_bytes(content, "x", max_pixels=8191)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(UnreadableImage, match=r"^needs pillow-heif: pip install 'dinoscope\[heic\]'$"):
        images.read_bytes(content, "x")


# All of them


def test_optional_packages_are_imported_late() -> None:
    program = "import sys, dinoscope.data.images, dinoscope.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pydicom", "nibabel", "tifffile", "imagecodecs", "pillow_heif"} & set(loaded)


def test_a_scan_counts_formats_and_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.data import test_dicom, test_nifti

    folder, cache = tmp_path / "images", tmp_path / "cache"
    folder.mkdir()
    for number, window in enumerate([(40, 400), (40, 400), (-600, 1500)]):
        dataset = test_dicom.data_set(GREY[0], WindowCenter=window[0], WindowWidth=window[1], PixelPaddingValue=0)
        (folder / f"{number}.dcm").write_bytes(test_dicom.encoded(dataset))
    (folder / "flat.nii").write_bytes(test_nifti.encoded((GREY[0, :1] // 2).astype("i2"), cal_max=100))
    np.save(folder / "array.npy", GREY[0])
    source = find_images(folder)
    report = scan(source, cache=cache)
    assert report.formats == {"DICOM": 3, "NIfTI": 1, "NPY": 1}
    assert report.windows == {"40,400": 2, "-600,1500": 1, "50,100": 1}
    assert report.over_8_bit == 5
    assert report.values is not None
    assert report.values.window == (32767.5, 65535)

    looked_at: list[int] = []
    monkeypatch.setattr(
        type(source), "read", lambda self, index: looked_at.append(index) or images.read(self.path(index))
    )
    assert scan(source, cache=cache) == report
    assert not looked_at
    monkeypatch.setattr("dinoscope.data.scan.optional_versions", lambda: ["pydicom another"])
    assert scan(source, cache=cache) == report
    assert len(looked_at) == 5


def samples(folder: Path) -> list[Path]:
    """Write one small file of every kind that is read with an optional package."""
    from tests.data import test_dicom, test_nifti  # which skip if the packages are missing

    files = {
        "pages.tif": tiff(GREY, photometric="minisblack"),
        "lzma.tif": tiff(GREY, photometric="minisblack", compression="lzma", tile=(16, 16)),
        "jpeg.tif": tiff(COLOUR, photometric="rgb", compression="jpeg"),
        "jpeg2000.tif": tiff(COLOUR, photometric="rgb", compression="jpeg2000"),
        "ramp.dcm": test_dicom.encoded(test_dicom.data_set(GREY, WindowCenter=9, WindowWidth=9, PixelPaddingValue=0)),
        "plain.nii": test_nifti.encoded(GREY.astype("i2")),
        "packed.nii.gz": gzip.compress(test_nifti.encoded(GREY.astype("f4"))),
    }
    for name in ("MR_small_RLE", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless", "SC_rgb_jpeg_gdcm", "image_dfl"):
        path = test_dicom.get_testdata_file(f"{name}.dcm")
        assert path is not None
        files[f"{name}.dcm"] = Path(path).read_bytes()
    for name, values in (("grey", GREY[0]), ("stack", GREY), ("fortran", np.asfortranarray(COLOUR))):
        stream = BytesIO()
        np.save(stream, values)
        files[f"{name}.npy"] = stream.getvalue()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in files]


CHILD = """
import json, random, resource, sys, time
from pathlib import Path
from dinoscope.data import images
from dinoscope.data.grey_range import HEADER
import pydicom, nibabel, tifffile, imagecodecs

def mutated(content, rng):
    content, headers = bytearray(content), 1024
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        place, kind = rng.randrange(min(len(content), headers if rng.random() < 0.7 else 1 << 30)), rng.random()
        if kind < 0.5:
            content[place] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        elif kind < 0.7:
            content[place : place + 4] = rng.randbytes(4)
        elif kind < 0.8:
            del content[place + 1 : place + rng.randrange(2, 9)]
        elif kind < 0.9:
            content[place:place] = rng.randbytes(rng.randrange(1, 9))
        else:
            del content[place + 1 :]
    return bytes(content)

paths, each = [Path(name) for name in sys.argv[2:]], int(sys.argv[1])
for path in paths:  # so that everything is loaded
    images.read(path, frame=images.frames(path)[0])
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30),) * 2)
for path in paths:
    whole, rng, read, slowest = path.read_bytes(), random.Random(path.name), 0, 0.0
    for number in range(each):
        content, begun = mutated(whole, rng), time.process_time()
        print(path.name, number, file=sys.stderr, flush=True)
        try:
            names = images.frames_of_bytes(content, path.name, max_pixels=1_000_000)
            images.read_bytes(content, path.name, frame=rng.choice(names), max_pixels=1_000_000).rgb(HEADER)
            read += 1
        except images.UnreadableImage as error:
            assert "\\n" not in str(error) and "memory" not in str(error), str(error)
        slowest = max(slowest, time.process_time() - begun)
    print(json.dumps([path.name, read, slowest]))
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is limited by RLIMIT_AS and read from /proc")
def test_damaged_files_cost_neither_the_process_nor_its_memory(tmp_path: Path) -> None:
    files = samples(tmp_path)
    each = -(-MUTANTS // len(files))
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(each), *map(str, files)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert child.returncode == 0, child.stderr[-2000:]
    for name, read, slowest in map(json.loads, child.stdout.splitlines()):
        print(f"{name}: {read} of {each} read, the slowest in {slowest:.2f} s")
        assert slowest < 10
