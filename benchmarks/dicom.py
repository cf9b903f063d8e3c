"""Read pydicom's own test files and compare what the reader shows with pydicom's functions.

    python benchmarks/dicom.py > docs/results/dicom.md

Every frame of every file is either within one grey level of pydicom, or refused with a reason. pydicom-data, if it is
installed, adds its files.
"""

from __future__ import annotations

import argparse
import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
from pydicom.data import get_testdata_files
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array

from dinoscope.data.dicom import recognises
from dinoscope.data.grey_range import HEADER
from dinoscope.data.images import UnreadableImage, frames, read

PACKAGES = ("pydicom", "pydicom-data", "pylibjpeg", "pylibjpeg-openjpeg", "pyjpegls", "imagecodecs", "pillow", "numpy")
MAX_FRAMES = 8
"""Frames of a file that are compared: the first and the last, and evenly between."""


def dicom_files() -> list[Path]:
    """Return the data sets among pydicom's files, directories of media (DICOMDIR) too."""
    paths = sorted({Path(name) for name in get_testdata_files()})
    return [path for path in paths if path.is_file() and (path.suffix == ".dcm" or recognises(path.read_bytes()[:132]))]


def difference(path: Path, frame: str) -> float:
    """Return the largest difference from pydicom in grey levels of 255, or in values if the header has no window.

    Raises UnreadableImage if the reader refuses the frame.
    """
    image = read(path, frame=frame)
    shown, values = by_pydicom(path, int(frame.partition("=")[2] or 0))
    if shown is None:
        assert image.values.shape == (*values.shape, 1)
        return np.abs(image.values[..., 0].astype(np.float64) - values).max()
    actual = image.rgb(HEADER).astype(int)
    assert actual.shape == shown.shape
    if image.padding is not None:
        actual, shown = actual[~image.padding[..., 0]], shown[~image.padding[..., 0]]
    return np.abs(actual - shown).max(initial=0)


def by_pydicom(path: Path, index: int) -> tuple[np.ndarray | None, np.ndarray]:
    """Return a frame as its header shows it, [h, w, 3] from 0 to 255 and not rounded, and its values.

    None if the header of a grey image asks for no window.
    """
    dataset = pydicom.dcmread(path, force=True)
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    pixels, bits = pixel_array(dataset, index=index), dataset.BitsStored
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)
        return pixels * (255 / np.iinfo(pixels.dtype).max), pixels
    if pixels.ndim == 3:
        return pixels * (255 / (2**bits - 1)), pixels
    transform, window = (
        macro(dataset, "PixelValueTransformationSequence", index),
        macro(dataset, "FrameVOILUTSequence", index),
    )
    values = apply_modality_lut(pixels, dataset if "ModalityLUTSequence" in dataset else transform)
    if window.get("VOILUTSequence"):
        shown, low, high = apply_voi_lut(values, window), 0, 2 ** window.VOILUTSequence[0].LUTDescriptor[2] - 1
    elif "WindowCenter" in window and "WindowWidth" in window:
        # The ends of the output range are what the stored bits can say (PS3.3 C.11.2.1.2).
        signed = dataset.PixelRepresentation == 1
        ends = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        for name in ("BitsStored", "PixelRepresentation", "PhotometricInterpretation"):
            setattr(window, name, getattr(dataset, name))
        if window is not transform and "RescaleSlope" in transform:
            window.RescaleSlope, window.RescaleIntercept = transform.RescaleSlope, transform.RescaleIntercept
        slope, intercept = float(window.get("RescaleSlope", 1)), float(window.get("RescaleIntercept", 0))
        shown, low, high = apply_voi_lut(values, window), *(slope * end + intercept for end in ends)
    elif values.dtype == np.uint8:
        shown, low, high = values, 0, 2 ** min(8, bits) - 1
    else:
        return None, values
    levels = (shown - low) * (255 / (high - low))
    if dataset.PhotometricInterpretation == "MONOCHROME1" or dataset.get("PresentationLUTShape") == "INVERSE":
        levels = 255 - levels
    return levels[..., None].repeat(3, axis=2), values


def macro(dataset: pydicom.Dataset, sequence: str, index: int) -> pydicom.Dataset:
    """Return the functional group's item for a frame, or the data set itself if there is none."""
    for groups, place in (("PerFrameFunctionalGroupsSequence", index), ("SharedFunctionalGroupsSequence", 0)):
        items = dataset.get(groups) or []
        if place < len(items) and sequence in items[place]:
            return items[place][sequence][0]
    return dataset


def outcomes(limit: int | None = None) -> Iterator[tuple[Path, str]]:
    """Yield each file (of the first ones), and "equal", the largest difference above 1, or the reason of a refusal."""
    for path in dicom_files()[:limit]:
        try:
            names = frames(path)
            sampled = [names[place] for place in sorted({round(p) for p in np.linspace(0, len(names) - 1, MAX_FRAMES)})]
            differences = [difference(path, frame) for frame in sampled]
        except UnreadableImage as error:
            yield path, str(error)
            continue
        yield path, "equal" if max(differences) <= 1 else f"differs by {max(differences):.3g}"


def decoded_by_pydicom(path: Path) -> bool:
    """Whether pydicom decodes the first frame of a file."""
    try:
        by_pydicom(path, 0)
    except Exception:  # a damaged file raises most of the built-in ones
        return False
    return True


def versions() -> Iterator[str]:
    for package in PACKAGES:
        try:
            yield f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            yield f"no {package}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, help="compare the first ones only")
    rows = list(outcomes(parser.parse_args().files))
    groups: dict[str, list[Path]] = {}
    for path, outcome in rows:
        groups.setdefault(outcome, []).append(path)
    print("# DICOM: pydicom's own test files, read\n")
    print(f"{len(rows)} files. Command: `python benchmarks/dicom.py`. Versions: {', '.join(versions())}.\n")
    print(
        "*Equal*: within one grey level of 255 of what pydicom's functions make of the same file (modality and VOI\n"
        f"LUT, window, palette), in every frame compared, at most {MAX_FRAMES} of a file. If a header asks for no\n"
        "window, the values are compared. imagecodecs decodes JPEG Lossless and JPEG with 12 bits on both sides.\n"
    )
    print("| outcome | files | decoded by pydicom |\n|---|---:|---:|")
    for outcome, paths in sorted(groups.items(), key=lambda group: (group[0] != "equal", -len(group[1]), group[0])):
        names = f" ({', '.join(path.name for path in paths)})" if outcome != "equal" and len(paths) <= 3 else ""
        print(f"| {outcome}{names} | {len(paths)} | {sum(map(decoded_by_pydicom, paths))} |")


if __name__ == "__main__":
    main()
