"""A second embedded data set: drawn mammograms with one finding each, written as DICOM files.

For first steps with medical images, and for tests. Nothing is learned from or traced after a patient. An image is a
region around a finding, made as a detector makes it:

- tissue: glandular in fat. Its texture has the power-law spectrum of mammograms, 1/f^3 (Burgess, Jacobson and Judy
  2001, Medical Physics 28:419: exponents about 2.8), and its amount differs between patients;
- attenuation: the integral of the coefficients of fat, gland, tumour and calcium along the ray, at 20 keV
  (Johns and Yaffe 1987, Physics in Medicine and Biology 32:675), by Beer and Lambert;
- scatter, the blur of the detector, quanta (Poisson noise, by dose), the logarithm, and 12 bits.

The class is the finding: its outline and its calcium. Everything else is random and independent of it: position, size,
direction, thickness, tissue, dose, and the maker of the machine. One maker stores 12 bits as MONOCHROME1 (high values
are dark), the other one 14 bits with a rescale slope; each file asks for a window of its own. Two images are of one
patient.

A folder written by `write_mammograms`:

    folder/{train,val}/CLASS/00000.dcm            one finding an image, six classes
    folder-masks/val/CLASS/00000.png              where that finding is: 0 or 255, same size
    mammograms.json                               the config and the version of the drawing

Every image depends on (seed, split, class, index) alone: a larger set begins with the images of a smaller one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8, UInt16
from numpy import ndarray

from dinoscope.errors import UserError
from dinoscope.files import write_folder
from dinoscope.scenes import Frame

VERSION = 1
"""Raise it whenever a drawn value changes: folders of another version are not reused."""

FAT, GLAND, TUMOUR, CALCIUM = 0.456, 0.802, 0.844, 18.0
"""Attenuation at 20 keV in 1/cm: adipose, glandular and carcinoma (Johns and Yaffe 1987), hydroxyapatite (about)."""

THICKNESS = 4.5
"""Thickness of the compressed breast in cm. It varies by up to a fifth between patients."""

_SUPERSAMPLING = 2
_SPECTRUM = 3.0
_SPLITS = {"train": 0, "val": 1}
_SCALE, _OFFSET = 900.0, 200.0
"""They map a line integral to 12 bits."""

Plane = Float[ndarray, "n n"]


# Findings


@dataclass(frozen=True)
class Finding:
    """What the rays pass through.

    soft, calcium: cm of tumour and of calcium; soft below 0 is fat in place of tissue. mask: what lies in the outline.
    """

    soft: Plane
    calcium: Plane
    mask: Bool[ndarray, "n n"]


def _dome(distance: Plane) -> Plane:
    """Return how thick a ball is at a distance from its centre. Both are relative to its radius."""
    return np.sqrt(np.clip(1 - distance**2, 0, 1))


def _waves(rng: np.random.Generator, angle: Plane, count: int, amplitude: float) -> Plane:
    """Return the irregularity of an outline: waves around the circle, of which slow ones are stronger."""
    waves = np.zeros_like(angle)
    for turns in range(2, 2 + count):
        waves += rng.normal(0, amplitude / turns) * np.cos(turns * angle + rng.uniform(0, math.tau))
    return waves


def _round(rng: np.random.Generator, frame: Frame, thickness: float) -> Finding:
    edge = 1 + _waves(rng, frame.angle, 2, 0.04)
    return Finding(thickness * _dome(frame.r / edge), np.zeros_like(edge), frame.r < edge)


def _lobulated(rng: np.random.Generator, frame: Frame, thickness: float) -> Finding:
    lobes = int(rng.integers(3, 6)) * frame.angle + rng.uniform(0, math.tau)
    edge = 0.86 + 0.14 * np.cos(lobes) + _waves(rng, frame.angle, 3, 0.06)
    return Finding(thickness * _dome(frame.r / edge), np.zeros_like(edge), frame.r < edge)


def _spiculated(rng: np.random.Generator, frame: Frame, thickness: float) -> Finding:
    soft = thickness * _dome(frame.r / (0.5 + _waves(rng, frame.angle, 4, 0.1)))
    count = int(rng.integers(11, 17))
    for direction in np.linspace(0, math.tau, count, endpoint=False) + rng.uniform(-0.12, 0.12, count):
        along = math.cos(direction) * frame.u + math.sin(direction) * frame.v
        across = np.abs(math.cos(direction) * frame.v - math.sin(direction) * frame.u)
        spike = np.clip(1.5 - across / (0.066 - 0.033 * np.clip(along, 0, 1)), 0, 1)
        spike *= (along > 0) * np.clip((rng.uniform(0.8, 1.05) - along) / 0.2, 0, 1)
        soft = np.maximum(soft, 0.6 * thickness * spike)
    return Finding(soft, np.zeros_like(soft), frame.r < 0.85)


def _rim(rng: np.random.Generator, frame: Frame, thickness: float) -> Finding:
    edge, shell = 1 + _waves(rng, frame.angle, 2, 0.03), 0.09  # an oil cyst: fat within a shell of calcium
    inner = edge - shell
    ray = np.sqrt(np.clip(edge**2 - frame.r**2, 0, None)) - np.sqrt(np.clip(inner**2 - frame.r**2, 0, None))
    return Finding(-0.35 * thickness * _dome(frame.r / edge), 0.06 * ray, frame.r < edge)


def _cluster(rng: np.random.Generator, frame: Frame, thickness: float) -> Finding:
    calcium = np.zeros_like(frame.r)
    for _ in range(int(rng.integers(14, 24))):
        distance = _from_grain(rng, frame, 0.85)
        calcium = np.maximum(calcium, rng.uniform(0.03, 0.06) * _dome(distance / rng.uniform(0.05, 0.1)))
    return Finding(np.zeros_like(calcium), calcium, frame.r < 0.95)


def _popcorn(rng: np.random.Generator, frame: Frame, thickness: float) -> Finding:
    edge = 0.95 + _waves(rng, frame.angle, 4, 0.08)
    calcium = np.zeros_like(edge)
    for _ in range(int(rng.integers(4, 8))):
        calcium = np.maximum(calcium, 0.05 * _dome(_from_grain(rng, frame, 0.6) / rng.uniform(0.16, 0.28)))
    return Finding(0.6 * thickness * _dome(frame.r / edge), calcium, frame.r < edge)


def _from_grain(rng: np.random.Generator, frame: Frame, reach: float) -> Plane:
    """Return the distance from a random point, which lies within `reach` of the centre."""
    direction, away = rng.uniform(0, math.tau), reach * math.sqrt(rng.uniform())
    return np.hypot(frame.u - away * math.cos(direction), frame.v - away * math.sin(direction))


FINDINGS: dict[str, Callable[[np.random.Generator, Frame, float], Finding]] = {
    "cluster": _cluster,
    "lobulated": _lobulated,
    "popcorn": _popcorn,
    "rim": _rim,
    "round": _round,
    "spiculated": _spiculated,
}
"""Class -> function that draws such a finding of a given thickness in cm."""

CLASSES = tuple(FINDINGS)


# An image


@dataclass(frozen=True)
class Exposure:
    """What a detector measured, and where the finding is.

    line_integral: -ln of the share of the quanta that arrived, with noise. finding: 0 or 255.
    inverted: the maker stores high values for dark.
    """

    line_integral: Float[ndarray, "size size"]
    finding: UInt8[ndarray, "size size"]
    inverted: bool


def exposed(config: MammogramsConfig, split: str, class_index: int, index: int) -> Exposure:
    """Expose one image. Images 2 i and 2 i + 1 are of the same patient."""
    patient = np.random.default_rng([config.seed, _SPLITS[split], class_index, index // 2, 0])
    rng = np.random.default_rng([config.seed, _SPLITS[split], class_index, index, 1])
    side = _SUPERSAMPLING * config.size
    thickness = THICKNESS * patient.uniform(0.8, 1.2)
    glandular, unevenness = patient.uniform(0.25, 0.5), patient.uniform(0.07, 0.14)
    inverted, dose = bool(patient.uniform() < 0.5), patient.uniform(0.5e5, 2e5)

    tissue = FAT + (GLAND - FAT) * np.clip(glandular + unevenness * _texture(rng, side), 0, 1)
    finding = _placed(rng, CLASSES[class_index], side)
    ray = tissue * thickness + (TUMOUR - tissue) * finding.soft + CALCIUM * finding.calcium
    arriving = cv2.resize(np.exp(-ray), (config.size, config.size), interpolation=cv2.INTER_AREA)
    scatter = 0.25 * arriving.mean()
    quanta = rng.poisson(dose * (cv2.GaussianBlur(arriving, (0, 0), 0.5) + scatter))
    covered = cv2.resize(finding.mask.astype(np.float32), (config.size, config.size), interpolation=cv2.INTER_AREA)
    return Exposure(-np.log(np.maximum(quanta, 1) / dose), np.where(covered > 0.5, 255, 0).astype(np.uint8), inverted)


def _texture(rng: np.random.Generator, side: int) -> Plane:
    """Return noise with the spectrum of breast tissue, mean 0 and standard deviation 1."""
    double = 2 * side  # so that opposite edges do not match
    frequency = np.hypot(np.fft.fftfreq(double)[:, None], np.fft.rfftfreq(double)[None])
    frequency[0, 0] = np.inf
    waves = frequency ** (-_SPECTRUM / 2) * np.exp(1j * rng.uniform(0, math.tau, frequency.shape))
    noise = np.fft.irfft2(waves, s=(double, double))[:side, :side]
    return (noise - noise.mean()) / noise.std()


def _placed(rng: np.random.Generator, kind: str, side: int) -> Finding:
    radius = side * rng.uniform(0.22, 0.38)
    reach = max(side / 2 - 0.9 * radius, 0.05 * side)
    x, y = side / 2 + rng.uniform(-reach, reach, 2)
    tilt, squash = rng.uniform(0, math.tau), rng.uniform(0.75, 1)
    right, down = np.arange(side)[None] + 0.5 - x, np.arange(side)[:, None] + 0.5 - y
    u = (math.cos(tilt) * right + math.sin(tilt) * down) / radius
    v = (math.cos(tilt) * down - math.sin(tilt) * right) / radius / squash
    return FINDINGS[kind](rng, Frame(u, v, np.hypot(u, v), np.arctan2(v, u)), rng.uniform(1.3, 2.3))


# The files


@dataclass(frozen=True)
class MammogramsConfig:
    """How much is drawn.

    seed: seed of every image.
    size: side of the images, in pixels.
    train_per_class, val_per_class: images of each of the six classes.
    """

    seed: int = 0
    size: int = 64
    train_per_class: int = 800
    val_per_class: int = 80

    def __post_init__(self) -> None:
        if self.size < 16:
            raise UserError(f"mammograms are drawn at 16 px and more; size is {self.size}")
        if min(self.train_per_class, self.val_per_class, self.seed) < 0:
            raise UserError(f"the seed and the numbers of images cannot be negative: {self}")


def write_mammograms(
    out: Path, config: MammogramsConfig = MammogramsConfig(), progress: Callable[[int, int], None] | None = None
) -> Path:
    """Draw the data set into the folder `out`, or reuse it if it is already there, as `scenes.write_scenes` does.

    Raises UserError if `out` holds something else, or pydicom is missing.
    """
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        raise UserError("drawing mammograms needs pydicom: pip install 'dinoscope[medical]'") from error
    identity = json.dumps({"version": VERSION, "classes": CLASSES, "config": asdict(config)}, indent=2) + "\n"
    total = len(CLASSES) * (config.train_per_class + 2 * config.val_per_class)
    return write_folder(Path(out), "mammograms.json", identity, _files(config), total, progress)


def _files(config: MammogramsConfig) -> Iterator[tuple[str, bytes]]:
    for split, count in (("train", config.train_per_class), ("val", config.val_per_class)):
        for class_index, name in enumerate(CLASSES):
            for index in range(count):
                exposure = exposed(config, split, class_index, index)
                numbers = (config.seed, _SPLITS[split], class_index, index)
                yield f"folder/{split}/{name}/{index:05d}.dcm", _dicom(exposure, numbers)
                if split == "val":
                    mask = cv2.imencode(".png", exposure.finding)[1].tobytes()
                    yield f"folder-masks/val/{name}/{index:05d}.png", mask


def _dicom(exposure: Exposure, numbers: tuple[int, ...]) -> bytes:
    """Return the file of one image. numbers: seed, split, class and index, which make its identifiers."""
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    values = np.clip(np.rint(_SCALE * exposure.line_integral + _OFFSET), 0, 4095).astype(np.uint16)
    low, high = np.percentile(values, (1, 99))
    level, width = round(float(low + high) / 2), max(round(1.3 * float(high - low)), 1)
    stored: UInt16[ndarray, "size size"] = 4095 - values if exposure.inverted else 4 * values
    patient = (*numbers[:3], numbers[3] // 2)
    elements: dict[str, Any] = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.2",  # digital mammography, for presentation
        "SOPInstanceUID": generate_uid(entropy_srcs=["dinoscope", "image", str(numbers)]),
        "StudyInstanceUID": generate_uid(entropy_srcs=["dinoscope", "study", str(patient)]),
        "SeriesInstanceUID": generate_uid(entropy_srcs=["dinoscope", "series", str(patient)]),
        "PatientID": "drawn-" + "-".join(map(str, patient)),
        "PatientName": "Drawn^Nobody",
        "Modality": "MG",
        "Rows": stored.shape[0],
        "Columns": stored.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME1" if exposure.inverted else "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 12 if exposure.inverted else 14,
        "HighBit": 11 if exposure.inverted else 13,
        "PixelRepresentation": 0,
        "RescaleIntercept": 0,
        "RescaleSlope": 1 if exposure.inverted else 0.25,
        "WindowCenter": 4095 - level if exposure.inverted else level,
        "WindowWidth": width,
        "PixelData": stored.astype("<u2").tobytes(),
    }
    dataset = Dataset()
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    stream = BytesIO()
    pydicom.dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()
