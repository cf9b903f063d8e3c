"""DICOM: the values, how the header shows them, and what is refused."""

from __future__ import annotations

import pickle
import struct
import sys
import tracemalloc
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from dinoscope.data import dicom, images
from dinoscope.data.grey_range import HEADER, with_fallback
from dinoscope.data.images import UnreadableImage
from tests.data.counting import Counting
from tests.test_benchmarks import FOLDER, imported

pydicom = pytest.importorskip("pydicom", reason="pydicom reads DICOM: pip install 'dinoscope[medical]'")

from pydicom.data import get_testdata_file  # noqa: E402
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.uid import (  # noqa: E402
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
)

sys.path.insert(0, str(FOLDER))
against_pydicom = imported("dicom")
sys.path.remove(str(FOLDER))


def data_set(pixels: np.ndarray, bits: int | None = None, **elements: object) -> Dataset:
    """An image of [h, w], [frames, h, w] or, with PhotometricInterpretation="RGB", [h, w, 3]."""
    dataset = Dataset()
    colour = elements.get("PhotometricInterpretation") == "RGB"
    frames, (height, width) = pixels.shape[0] if pixels.ndim == 3 and not colour else 1, pixels.shape[:2]
    if frames > 1:
        dataset.NumberOfFrames, (height, width) = frames, pixels.shape[1:]
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = height, width, 3 if colour else 1
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = 8 * pixels.itemsize
    dataset.BitsStored = bits or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    dataset["PixelData"].VR = "OW" if pixels.itemsize > 1 else "OB"
    for name, value in elements.items():
        setattr(dataset, name, value)
    return dataset


def encoded(dataset: Dataset, syntax: UID = ExplicitVRLittleEndian) -> bytes:
    """The data set as a file, with preamble and meta information."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.7")
    dataset.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    stream = BytesIO()
    pydicom.dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


def read(dataset: Dataset | bytes, frame: str = "") -> images.RawImage:
    content = dataset if isinstance(dataset, bytes) else encoded(dataset)
    return images.read_bytes(content, "image", frame=frame)


def item(**elements: object) -> Dataset:
    dataset = Dataset()
    for name, value in elements.items():
        setattr(dataset, name, value)
    return dataset


def lut(first: int, bits: int, *values: int) -> Dataset:
    return item(LUTDescriptor=[len(values), first, bits], LUTData=struct.pack(f"<{len(values)}H", *values))


def shown(dataset: Dataset, window: tuple[float, float] = HEADER) -> list[int]:
    """The first row as it is displayed."""
    return read(dataset).rgb(window)[0, :, 0].tolist()


RAMP = np.array([[0, 100, 210, 300, 400]], np.uint16)


@pytest.mark.parametrize("path", against_pydicom.dicom_files(), ids=lambda path: path.name)
def test_every_file_of_pydicom_is_shown_as_pydicom_shows_it_or_refused(path: Path) -> None:
    try:
        frames = images.frames(path)
        # Pixels are rounded once here; 0.51 leaves room for the last digit of a float.
        assert all(against_pydicom.difference(path, frame) <= 0.51 for frame in (frames[0], frames[-1]))
    except UnreadableImage as error:
        reason = str(error)
    else:
        return
    assert reason.startswith(("damaged: ", "not supported: a DICOM file without an image", "not an image"))
    assert "\n" not in reason


@pytest.mark.parametrize(
    ("name", "place", "values"),
    [  # tests/pixels/pixels_reference.py of pydicom
        ("JPGExtended.dcm", np.s_[420, 140:141], [244]),
        ("JPGLosslessP14SV1_1s_1f_8b.dcm", np.s_[300, 512:520], [26, 26, 25, 22, 19, 16, 14, 15]),
        ("JPEG-LL.dcm", np.s_[400, 124:132], [60, 58, 61, 68, 59, 65, 64, 67]),
    ],
)
def test_jpeg_of_12_bits_and_lossless_jpeg(name: str, place: tuple[int, slice], values: list[int]) -> None:
    pytest.importorskip("imagecodecs")
    assert images.read(Path(get_testdata_file(name))).values[..., 0][place].tolist() == values


# Values


@pytest.mark.parametrize(
    ("stored", "slope", "intercept", "kind", "expected"),
    [
        (np.array([[0, 4095]], np.uint16), 1, -1024, "i2", [-1024, 3071]),
        (np.array([[0, 4095]], np.uint16), 1, 0, "u2", [0, 4095]),
        (np.array([[-5, 7]], np.int16), 2, 1, "i2", [-9, 15]),
        (np.array([[0, 4095]], np.uint16), 100, 0, "i4", [0, 409500]),
        (np.array([[0, 10]], np.uint16), 0.5, -1, "f4", [-1, 4]),
        (np.array([[0, 4095]], np.uint16), -1, 0, "i2", [0, -4095]),
        (np.array([[0, 4095]], np.uint16), 2**20, 0, "f4", [0, 4095 * 2**20]),
        (np.array([[0, 40_000]], np.uint16), 1, -1, "i2", [-1, 40_000 % 2**12 - 1]),
    ],
)
def test_slope_and_intercept_keep_whole_numbers_whole(
    stored: np.ndarray, slope: float, intercept: float, kind: str, expected: list[float]
) -> None:
    content = encoded(data_set(stored, bits=12, RescaleSlope=slope, RescaleIntercept=intercept))
    values = read(content).values
    assert values[0, :, 0].tolist() == expected
    assert values.dtype.str[1:] == kind == images.stream_header(BytesIO(content), "", 10**6).sample


def test_slope_without_intercept_is_not_applied() -> None:
    assert read(data_set(RAMP, RescaleSlope=2)).values[0, :, 0].tolist() == RAMP[0].tolist()


def test_a_modality_lut_comes_before_the_window() -> None:
    table = lut(1, 16, 1000, 2000, 3000)
    dataset = data_set(np.array([[0, 1, 2, 3, 9]], np.uint16), ModalityLUTSequence=[table])
    dataset.WindowCenter, dataset.WindowWidth, dataset.VOILUTFunction = 1990, 2000, "LINEAR_EXACT"
    assert read(dataset).values[0, :, 0].tolist() == [1000, 1000, 2000, 3000, 3000]
    assert shown(dataset) == [1, 1, 129, 255, 255]  # 255 * (0.005, 0.505, 1.005)


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("whole", [True, False])
def test_every_frame_is_a_sample_in_any_encoding_and_without_preamble(frames: int, syntax: UID, whole: bool) -> None:
    pixels = np.arange(frames * 6, dtype=np.uint16).reshape(frames, 2, 3)
    dataset = data_set(pixels[0] if frames == 1 else pixels, ImageType=["ORIGINAL", "PRIMARY"])
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = pixels.astype(">u2").tobytes()
    content = encoded(dataset, syntax)
    if not whole:
        content = content[132 + 12 + struct.unpack_from("<I", content, 140)[0] :]
    names = images.frames_of_bytes(content, "image")
    assert names == (("",) if frames == 1 else ("frame=0", "frame=1", "frame=2"))
    for name, expected in zip(names, pixels, strict=True):
        np.testing.assert_array_equal(read(content, name).values[..., 0], expected)
    with pytest.raises(UnreadableImage, match="no image 'frame=3': "):
        read(content, "frame=3")


def test_of_several_frames_one_must_be_named(tmp_path: Path) -> None:
    path = tmp_path / "loop.dcm"
    path.write_bytes(encoded(data_set(np.zeros((3, 2, 2), np.uint16))))
    for look in (images.read, images.read_header):
        with pytest.raises(
            UnreadableImage, match=r"^several images: the file holds 3 images, frame=0 to frame=2; choose"
        ):
            look(path)
    assert images.read_header(path, frame="frame=1").height == 2


def test_one_bit_is_black_and_white_and_colour_is_final() -> None:
    dataset = data_set(np.array([[0, 255]], np.uint8))
    dataset.Columns, dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 1, 1, 0
    assert read(dataset).values[0, ::8, 0].tolist() == [0, 255]
    deep = np.array([[[0, 2048, 4095]]], np.uint16)
    assert read(data_set(deep, bits=12, PhotometricInterpretation="RGB")).values[0, 0].tolist() == [0, 128, 255]


# The window of the header


@pytest.mark.parametrize(
    ("function", "level", "width", "expected"),
    [
        # (x - level) / width + 1/2: 0, 1/4, 0.525, 3/4, 1
        ("LINEAR_EXACT", 200, 400, [0, 64, 134, 191, 255]),
        # (x - (200 - 1/2)) / (401 - 1) + 1/2: 1/800 above that
        ("LINEAR", 200, 401, [0, 64, 134, 192, 255]),
        (None, 200, 401, [0, 64, 134, 192, 255]),
        ("LINEAR", 200, 1, [0, 0, 255, 255, 255]),  # white above 199.5
        # 255 / (1 + exp(-4 (x - 200) / 400)): of -2, -1, 0.1, 1, 2
        ("SIGMOID", 200, 400, [30, 69, 134, 186, 225]),
    ],
)
def test_the_functions_of_a_window(function: str | None, level: float, width: float, expected: list[int]) -> None:
    dataset = data_set(RAMP, WindowCenter=[level, 0], WindowWidth=[width, 9])  # the first of two
    if function is not None:
        dataset.VOILUTFunction = function
    assert shown(dataset) == expected
    assert shown(dataset, (200.0, 400.0)) == [0, 64, 134, 191, 255], "another range ignores the header"


def test_a_voi_lut_is_preferred_to_a_window() -> None:
    table = lut(100, 8, 51, 102)
    dataset = data_set(RAMP, WindowCenter=200, WindowWidth=400, VOILUTSequence=[table])
    assert shown(dataset) == [51, 51, 102, 102, 102]


@pytest.mark.parametrize("elements", [{}, {"WindowCenter": 100}, {"WindowCenter": 100, "WindowWidth": 0}])
def test_without_a_window_the_range_behind_header_is_taken(elements: dict[str, float]) -> None:
    dataset = data_set(RAMP, **elements)
    assert shown(dataset, with_fallback((200.0, 400.0))) == [0, 64, 134, 191, 255]
    assert shown(dataset) == [0, 25, 52, 75, 100]  # 10 bits hold its values: 255 x / 1023


def test_eight_bits_are_final_unless_the_header_is_asked() -> None:
    dataset = data_set(
        np.array([[0, 60, 100]], np.uint8), WindowCenter=50, WindowWidth=100, VOILUTFunction="LINEAR_EXACT"
    )
    assert read(dataset).range is None
    assert shown(dataset, (0.0, 1.0)) == [0, 60, 100]
    assert shown(dataset) == [0, 153, 255]


def test_monochrome1_is_inverted_last() -> None:
    window = {"WindowCenter": 200, "WindowWidth": 200, "VOILUTFunction": "LINEAR_EXACT"}
    assert shown(data_set(RAMP, PhotometricInterpretation="MONOCHROME1", **window)) == [255, 255, 115, 0, 0]
    assert shown(data_set(RAMP, PresentationLUTShape="INVERSE", **window)) == [255, 255, 115, 0, 0]
    assert shown(data_set(np.array([[0, 255]], np.uint8), PhotometricInterpretation="MONOCHROME1")) == [255, 0]


@pytest.mark.parametrize("colours", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_does_not_count(colours: str) -> None:
    stored = np.array([[-2000, -1990, 0, 100, -1980]], np.int16)
    dataset = data_set(stored, PhotometricInterpretation=colours, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1990)
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, 10
    image = read(dataset)
    assert image.padding is not None
    assert image.padding[0, :, 0].tolist() == [True, True, False, False, False]
    assert image.range is not None
    assert (image.range.low, image.range.high) == (-1970, 110)
    white = image.rgb((-5000.0, 1.0))[0, :, 0].tolist()  # everything is above it
    assert white == ([0, 0, 255, 255, 255] if colours == "MONOCHROME2" else [0] * 5)
    assert image.rgb((5000.0, 1.0))[0, :2, 0].tolist() == [0, 0]


def test_functional_groups_hold_for_their_frame() -> None:
    dataset = data_set(np.array([[[0, 100]], [[0, 100]]], np.uint16))

    def group(intercept: int) -> Dataset:
        return item(PixelValueTransformationSequence=[item(RescaleSlope=1, RescaleIntercept=intercept)])

    window = item(WindowCenter=60, WindowWidth=100, VOILUTFunction="LINEAR_EXACT")
    dataset.SharedFunctionalGroupsSequence = [item(FrameVOILUTSequence=[window])]
    dataset.PerFrameFunctionalGroupsSequence = [group(10), group(20)]
    content = encoded(dataset)
    assert read(content, "frame=0").values[0, :, 0].tolist() == [10, 110]
    assert read(content, "frame=1").values[0, :, 0].tolist() == [20, 120]
    assert read(content, "frame=0").rgb(HEADER)[0, :, 0].tolist() == [0, 255]


# Privacy


def test_no_name_date_or_identifier_is_taken_from_the_header() -> None:
    secret = "Mustermann"
    dataset = data_set(
        RAMP, PatientName=f"{secret}^Erika", PatientID=secret, InstitutionName=secret, StudyDescription=secret
    )
    dataset.PatientBirthDate, dataset.WindowCenterWidthExplanation = "19400101", secret
    dataset.VOILUTSequence = [lut(0, 8, 1, 2)]
    dataset.VOILUTSequence[0].LUTExplanation = secret
    dataset.PixelPaddingValue = 0
    content = encoded(dataset)
    assert secret.encode() in content
    image = read(content)
    assert image.display is not None
    taken = pickle.dumps((image, images.stream_header(BytesIO(content), "image", 10**6)))
    assert secret.encode() not in taken
    assert b"19400101" not in taken


# What is refused


@pytest.mark.parametrize("rows", [5, 5000])
def test_a_compressed_frame_that_is_larger_than_the_header_says_is_not_decoded(rows: int) -> None:
    path = get_testdata_file("MR_small_jp2klossless.dcm")
    assert path is not None
    dataset = pydicom.dcmread(path)
    dataset.Rows = rows
    with pytest.raises(
        UnreadableImage, match=rf"^damaged: its header tells .*\({rows}, 64, 1\), a frame \(64, 64, 1\)"
    ):
        read(encoded(dataset, JPEG2000Lossless))


def test_deflated_data_is_decompressed_up_to_the_limit_only() -> None:
    dataset = data_set(np.zeros((9000, 9000), np.uint8))
    dataset.Rows = dataset.Columns = 9000
    content = encoded(dataset, DeflatedExplicitVRLittleEndian)
    assert len(content) < 200_000
    tracemalloc.start()
    with pytest.raises(UnreadableImage, match=r"^too large: more than 64 MB once decompressed"):
        images.read_bytes(content, "image", max_pixels=10_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000_000
    assert read(encoded(data_set(RAMP), DeflatedExplicitVRLittleEndian)).values[0, :, 0].tolist() == RAMP[0].tolist()


def test_deflated_data_is_recognised_behind_long_meta_information() -> None:
    dataset = data_set(np.zeros((9000, 9000), np.uint8))
    content = encoded(dataset, DeflatedExplicitVRLittleEndian)
    identifier = content.index(b"1.2.3\0")
    assert content[identifier - 2 : identifier] == b"\6\0"
    longer = content[: identifier - 2] + struct.pack("<H", 5000) + b"1" * 5000 + content[identifier + 6 :]
    with pytest.raises(UnreadableImage, match=r"^too large: more than 64 MB once decompressed"):
        images.read_bytes(longer, "image", max_pixels=10_000)


def test_a_palette_that_expands_without_end_is_refused() -> None:
    dataset = data_set(np.zeros((2, 2), np.uint8), PhotometricInterpretation="PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        lines = struct.pack("<5H", 0, 1, 0, 1, 65535) + struct.pack("<3H", 1, 65535, 9) * 1000
        setattr(dataset, f"Segmented{colour}PaletteColorLookupTableData", lines)
    with pytest.raises(UnreadableImage, match=r"^not supported: a DICOM image with a palette of odd segments"):
        read(dataset)


@pytest.mark.parametrize(("kind", "name"), [("f4", "FloatPixelData"), ("f8", "DoubleFloatPixelData")])
def test_floats(kind: str, name: str) -> None:
    dataset = data_set(np.array([[0.5, -2]], kind))
    for element in ("PixelData", "PixelRepresentation", "BitsStored", "HighBit"):
        delattr(dataset, element)
    setattr(dataset, name, np.array([[0.5, -2]], kind).tobytes())
    content = encoded(dataset)
    assert read(content).values[0, :, 0].tolist() == [0.5, -2]
    assert images.stream_header(BytesIO(content), "", 10**6).sample == kind


@pytest.mark.parametrize("name", ["emri_small.dcm", "emri_small_RLE.dcm", "emri_small_jpeg_2k_lossless.dcm"])
def test_a_file_that_ends_within_its_pixels_is_refused(name: str) -> None:
    path = get_testdata_file(name)
    assert path is not None
    content = Path(path).read_bytes()[:-300]
    with pytest.raises(UnreadableImage, match=r"^damaged: the file ends within its pixels"):
        read(content, "frame=9")


def test_only_the_bytes_of_a_frame_are_read() -> None:
    stream = Counting(encoded(data_set(np.zeros((50, 64, 64), np.uint16))))
    dicom.read(stream, 10**6, "frame=40")
    assert stream.count < 30_000


def test_too_many_pixels_are_refused_by_the_header() -> None:
    dataset = data_set(RAMP)
    dataset.Rows = dataset.Columns = 60_000
    with pytest.raises(UnreadableImage, match=r"^too large: 60000x60000"):
        read(dataset)


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"Rows": 0}, "damaged: the header says zero pixels"),
        ({"Rows": 100}, "damaged: the file ends within its pixels"),
        ({"SamplesPerPixel": 4, "PhotometricInterpretation": "ARGB"}, "not supported: a DICOM image of 4 channels"),
        ({"NumberOfFrames": 10**7}, "not read: 10000000 frames"),
    ],
)
def test_a_header_that_cannot_be_is_refused(elements: dict[str, object], reason: str) -> None:
    with pytest.raises(UnreadableImage, match=reason):
        read(data_set(RAMP, **elements))


def test_a_file_without_an_image_is_not_called_damaged() -> None:
    dataset = item(Modality="SR", SOPInstanceUID="1.2.3")
    with pytest.raises(UnreadableImage, match=r"^not supported: a DICOM file without an image"):
        read(dataset)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(data_set(RAMP))
    lossless = Path(str(get_testdata_file("MR_small_jp2klossless.dcm"))).read_bytes()
    monkeypatch.setattr(type(pydicom.pixels.get_decoder(JPEG2000Lossless)), "is_available", False)
    with pytest.raises(
        UnreadableImage, match=r"^needs pylibjpeg-openjpeg for JPEG 2000 .*: pip install 'dinoscope\[medical\]'$"
    ):
        read(lossless)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UnreadableImage, match=r"^needs pydicom: pip install 'dinoscope\[medical\]'$"):
        read(content)


def test_a_tiff_within_the_preamble_is_dicom_and_zlib_is_not() -> None:
    content = encoded(data_set(RAMP))
    assert read(b"II*\0" + content[4:]).values.shape == (1, 5, 1)
    with pytest.raises(UnreadableImage, match=r"^not an image"):
        read(zlib.compress(content))
