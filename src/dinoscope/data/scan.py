"""Examine images before they are used: what they are, and which cannot be read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import os
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median_low
from typing import Any, NamedTuple

import cv2
import PIL
import torchvision

from dinoscope.data.grey_range import ValueRange, joined
from dinoscope.data.images import Header, UnreadableImage, pixel_limit
from dinoscope.data.overlap import Prints, prints_of
from dinoscope.data.samples import versions as optional_versions
from dinoscope.data.sources import ImageSource
from dinoscope.errors import UserError
from dinoscope.files import write_text
from dinoscope.places import parse_place
from dinoscope.system import available_cores

logger = logging.getLogger(__name__)

_CHUNK = 32
"""Images examined between two calls of `progress`."""

_MAX_WORKERS = 1024


@dataclass(frozen=True)
class Unreadable:
    """An image that cannot be read. path: its key. reason: one line for a person."""

    path: str
    reason: str


@dataclass(frozen=True)
class Extent:
    """Smallest, middle (of an even number, the lower one) and largest of whole numbers."""

    minimum: int
    median: int
    maximum: int


@dataclass(frozen=True)
class ScanReport:
    """What a source holds. Everything but `images`, `bytes` and `unreadable` is about the readable images only.

    root: name of the source.
    complete: every image was decoded, not only its header read.
    images: number of files. bytes: their size on disk.
    formats: number of images by format, by content, the most frequent first.
    classes: number of images by class, in the order of the labels; empty for an unlabelled folder.
    widths, heights: pixels, after EXIF orientation; aspect_ratios: the smallest and largest width / height. None if
    nothing is readable.
    grey, alpha, over_8_bit, cmyk, rotated, animated: numbers of images. rotated: EXIF has an orientation other than
    upright.
    passed_over: number of files that are not taken for images, by ending, the most frequent first.
    windows: number of images by the window that their header asks for, the most frequent first.
    groups: number of groups (patients, slides, videos...); None if they are unknown.
    channels: number of images by their channels, the most frequent first.
    mean, std: of each channel in [0, 1], for `most_channels`; see `normalisation.measured`. None if they were not
    measured, as for 8-bit RGB.
    values: smallest and largest value of the images that are not of unsigned 8 bits, None if there are none. If headers
    alone were read it is what 16 bits can hold, and None if there are values of another kind.
    """

    root: str
    complete: bool
    images: int
    bytes: int
    formats: Mapping[str, int]
    classes: Mapping[str, int]
    widths: Extent | None
    heights: Extent | None
    aspect_ratios: tuple[float, float] | None
    grey: int
    alpha: int
    over_8_bit: int
    cmyk: int
    rotated: int
    animated: int
    unreadable: tuple[Unreadable, ...]
    passed_over: Mapping[str, int] = field(default_factory=dict)
    windows: Mapping[str, int] = field(default_factory=dict)
    channels: Mapping[int, int] = field(default_factory=dict[int, int])
    values: ValueRange | None = None
    groups: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def most_channels(self) -> int:
        """The channels that most images have; of images that are not all grey, grey ones count as RGB."""
        if set(self.channels) == {1}:
            return 1
        return most_channels([self])

    @property
    def is_8_bit_rgb(self) -> bool:
        """Whether no image has more than 8 bits, and a network of three channels is given most as they are."""
        return not self.over_8_bit and self.most_channels == 3


def most_channels(reports: Sequence[ScanReport]) -> int:
    """Return the channels that most images of all reports have, grey ones counted as RGB; 3 if there are none."""
    counts = Counter[int]()
    for report in reports:
        for channels, count in report.channels.items():
            counts[3 if channels == 1 else channels] += count
    return counts.most_common(1)[0][0] if counts else 3


class _Finding(NamedTuple):
    """One image examined: size and time of change if it has them, its header or the reason why there is none.

    values: of an image that was decoded and is not of unsigned 8 bits. prints: if they were asked for.
    """

    stamp: tuple[int, int] | None
    header: Header | None
    reason: str = ""
    values: ValueRange | None = None
    prints: Prints | None = None


def scan(
    images: ImageSource,
    *,
    workers: int = 0,
    full: bool = True,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ScanReport:
    """Examine every image; the report does not depend on `workers` nor on the cache.

    workers: threads; 0 takes one per available core.
    full: decode every image, which finds all damage; False reads the headers only.
    cache: folder in which to remember the readable images by key, size and modification time, one file for each source
    and `full`. It is written when the scan is interrupted, too.
    progress: called now and then with the numbers of images examined and of all.
    """
    return _report(images, _examined(images, workers, full, cache, progress), full)


def scan_with_prints(
    images: ImageSource,
    *,
    workers: int = 0,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[ScanReport, list[Prints | None]]:
    """Return the report of a full `scan`, and by what each image is recognised, None if it is unreadable."""
    findings = _examined(images, workers, True, cache, progress, prints=True)
    return _report(images, findings, True), [finding.prints for finding in findings]


def _examined(
    images: ImageSource,
    workers: int,
    full: bool,
    cache: Path | None,
    progress: Callable[[int, int], None] | None,
    *,
    prints: bool = False,
) -> list[_Finding]:
    if not 0 <= workers <= _MAX_WORKERS:
        raise UserError(f"the number of workers is {workers}; it must be from 0 (one per core) to {_MAX_WORKERS}")
    # What other readers refuse and how they turn images may differ, so their cache is not used.
    versions = f"4 pillow {PIL.__version__} torchvision {torchvision.__version__} opencv {cv2.__version__}"
    versions = " ".join([versions, *optional_versions()])
    readers = f"{versions} pixels {pixel_limit()}"
    digest = hashlib.blake2b(os.fsencode(parse_place(images.name).resolve()), digest_size=16).hexdigest()
    store = None if cache is None else cache / f"{digest}-{'full' if full else 'headers'}.json"
    known = {} if store is None else _read_cache(store, readers)
    findings: list[_Finding] = []

    def examine(start: int) -> list[_Finding]:
        indices = range(start, min(start + _CHUNK, len(images)))
        return [_examine(images, index, known.get(images.keys[index]), full, prints) for index in indices]

    pool = ThreadPoolExecutor(workers or available_cores())
    try:
        for chunk in pool.map(examine, range(0, len(images), _CHUNK)):
            findings += chunk
            if progress is not None:
                progress(len(findings), len(images))
    finally:
        pool.shutdown(cancel_futures=True)
        if store is not None:
            _write_cache(store, readers, known, dict(zip(images.keys, findings, strict=False)))
    return findings


def check_readable(root: Path | str, unreadable: Sequence[Unreadable], images: int, limit: float = 0.05) -> None:
    """Raise UserError, naming the first three, if more than the share `limit` of the images is unreadable."""
    count = len(unreadable)
    if not count or count / images <= limit:
        return
    first = "; ".join(f"{fault.path} ({fault.reason})" for fault in unreadable[:3])
    more = "; …" if count > 3 else ""
    enough = math.ceil(100 * count / images) / 100
    raise UserError(
        f"{root}: {count} of {images} images cannot be read, more than the {100 * limit:g}% that are passed over: "
        f"{first}{more}. Repair or remove them (`dinoscope scan {shlex.quote(str(root))} --all` lists them all), or "
        f"leave them out with --max-unreadable {enough:g}"
    )


def _examine(images: ImageSource, index: int, known: _Finding | None, full: bool, prints: bool) -> _Finding:
    stamp = images.stamp(index)
    if stamp is not None and stamp[0] < 0:
        stamp = None
    if known is not None and stamp == known.stamp and (known.prints or not prints):
        return known
    try:
        header = images.header(index)
        if not full:
            return _Finding(stamp, header)
        image = images.read(index)
        own = prints_of(images.content(index), image) if prints else None
        return _Finding(stamp, header, values=image.range, prints=own)
    except UnreadableImage as error:
        return _Finding(stamp, None, str(error))


def _report(images: ImageSource, findings: Sequence[_Finding], full: bool) -> ScanReport:
    """Summarise the findings, one for each image."""

    def extent(values: list[int]) -> Extent | None:
        return Extent(min(values), median_low(values), max(values)) if values else None

    headers = [finding.header for finding in findings if finding.header is not None]
    ratios = [header.width / header.height for header in headers]
    formats = Counter(header.format for header in headers)
    windows = Counter(header.window for header in headers if header.window)
    counts = Counter(label for label, finding in zip(images.labels or (), findings, strict=False) if finding.header)
    if full:
        values = joined(finding.values for finding in findings if finding.values is not None)
    else:
        is_deep = {header.sample for header in headers} - {"u1"} == {"u2"}
        values = ValueRange(0, 65535, True) if is_deep else None
    return ScanReport(
        root=images.name,
        complete=full,
        images=len(images),
        bytes=sum(finding.stamp[0] for finding in findings if finding.stamp),
        formats=_by_frequency(formats),
        classes={name: counts[label] for label, name in enumerate(images.classes)},
        widths=extent([header.width for header in headers]),
        heights=extent([header.height for header in headers]),
        aspect_ratios=(min(ratios), max(ratios)) if ratios else None,
        grey=sum(header.grey for header in headers),
        alpha=sum(header.alpha for header in headers),
        over_8_bit=sum(header.over_8_bit for header in headers),
        cmyk=sum(header.cmyk for header in headers),
        rotated=sum(header.orientation != 1 for header in headers),
        animated=sum(header.animated for header in headers),
        unreadable=tuple(
            Unreadable(path, finding.reason)
            for path, finding in zip(images.keys, findings, strict=True)
            if finding.header is None
        ),
        passed_over=dict(images.passed_over),
        channels=dict(Counter(header.channels for header in headers).most_common()),
        windows=_by_frequency(windows),
        values=values,
        groups=None if images.groups is None else len(set(images.groups)),
    )


def _by_frequency(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


# The cache: one row per readable image, so that one that was repaired, or made accessible, is examined again.


def _read_cache(file: Path, readers: str) -> dict[str, _Finding]:
    """Return what the cache knows by key; nothing if it is absent, damaged or outdated."""
    types = [type(value) for value in dataclasses.astuple(Header("", 1, 1))]
    findings: dict[str, _Finding] = {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["readers"] != readers:
            return {}
        for key, (size, modified_ns, *fields, values, prints) in content["files"].items():
            header = Header(*fields)
            if [type(value) for value in fields] != types or header.height < 1 or header.width < 1:
                raise ValueError(f"not a header: {fields}")
            values = None if values is None else ValueRange(*values)
            own = None if prints is None else Prints(str(prints[0]), str(prints[1]), int(prints[2]))
            findings[key] = _Finding((size, modified_ns), header, values=values, prints=own)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        logger.warning("the scan cache %s is damaged and not used (%s)", file, error)
        return {}
    return findings


def _write_cache(file: Path, readers: str, known: Mapping[str, _Finding], found: Mapping[str, _Finding]) -> None:
    """Write what is known now. A cache that cannot be written gives a warning."""
    readable = {key: finding for key, finding in found.items() if finding.header and finding.stamp}
    if readable.items() <= known.items():
        return
    rows: dict[str, tuple[Any, ...]] = {}
    for key, (stamp, header, _, values, prints) in {**known, **readable}.items():
        if stamp and header:
            rows[key] = *stamp, *dataclasses.astuple(header), values and dataclasses.astuple(values), prints
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps({"readers": readers, "files": rows}, separators=(",", ":")))
    except OSError as error:
        logger.warning("the scan cache %s could not be written: %s", file, error)
