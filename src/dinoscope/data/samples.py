"""What a file holds: one image, or several, each of which is a sample of its own with the key PATH#NAME.

Frames of a DICOM file are called frame=3, pages of a TIFF page=3, slices of a volume axis=2,slice=17, counted from 0.
How many there are is in the header, which is read once and remembered.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path, PurePath

from dinoscope.data.images import READERS, format_of, frames
from dinoscope.data.reader import START, UnreadableImage, split_key
from dinoscope.errors import UserError
from dinoscope.files import cache_folder, write_text

logger = logging.getLogger(__name__)

_INDEX_OF_FILES = "DICOMDIR"  # a DICOM file that lists others, PS3.10 section 8.6
_PACKAGES = (
    "pydicom",
    "pylibjpeg",
    "pylibjpeg-openjpeg",
    "pyjpegls",
    "nibabel",
    "tifffile",
    "imagecodecs",
    "pillow-heif",
)
"""Packages that read some formats, if they are installed."""


def keys_of(path: str, names: Iterable[str]) -> list[str]:
    """Return the key of each image in a file."""
    return [f"{path}#{name}" if name else path for name in names]


def frame_endings() -> tuple[str, ...]:
    """Return the endings of files that may hold several images, so that their headers must be read."""
    return tuple(ending for reader in READERS.values() if reader.frames for ending in reader.extensions)


def without_ending(path: str) -> bool:
    """Whether a name has no ending that tells what a file is. The last number of 1.2.840.10008 (DICOM) is none."""
    ending = PurePath(path).suffix
    return ending[1:].isdigit() or not 1 < len(ending) <= 9


def is_recognised(start: bytes, name: str) -> bool:
    """Whether a file without an ending is an image by its first `START` bytes."""
    if not start or name == _INDEX_OF_FILES:
        return False
    try:
        return bool(format_of(BytesIO(start), name))
    except UnreadableImage:
        return False


def recognised_file(path: Path) -> bool:
    """Whether a file without an ending is an image. One that cannot be opened is none."""
    try:
        if not path.is_file():  # a pipe would wait for its writer
            return False
        with path.open("rb") as file:
            return is_recognised(file.read(START), path.name)
    except OSError:
        return False


def samples_in(root: Path, paths: Iterable[str], progress: Callable[[int, int], None] | None = None) -> Iterator[str]:
    """Yield the key of each image in files below `root`, in no order. A file that cannot be read is one image.

    progress: called with (files whose headers were read, of all that must be).
    """
    several, endings = list[str](), frame_endings()
    for path in paths:
        if path.lower().endswith(endings) or (without_ending(path) and not split_key(path)[1]):
            several.append(path)
        else:
            yield path
    if not several:
        return
    store = cache_folder("frames") / f"{hashlib.blake2b(os.fsencode(root.resolve()), digest_size=16).hexdigest()}.json"
    known, found = _read(store), dict[str, list[object]]()
    for done, path in enumerate(several):
        if progress is not None and done % 64 == 0:
            progress(done, len(several))
        try:
            status = (root / path).stat()
            stamp = [status.st_size, status.st_mtime_ns]
            kept = known.get(path)
            names = kept[2:] if kept and kept[:2] == stamp else list(frames(root / path))
        except (OSError, UnreadableImage, UserError):
            yield path
            continue
        found[path] = [*stamp, *names]
        yield from keys_of(path, map(str, names))
    if found != known:
        try:
            store.parent.mkdir(parents=True, exist_ok=True)
            write_text(store, json.dumps({"packages": versions(), "files": found}))
        except OSError as error:
            logger.warning("%s could not be written: %s", store, error)


def versions() -> list[str]:
    """Return the packages that read some formats and are installed, with their versions: caches depend on them."""
    found: list[str] = []
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{package} {version(package)}")
    return found


def _read(store: Path) -> dict[str, list[object]]:
    try:
        content = json.loads(store.read_text(encoding="utf-8", errors="surrogateescape"))
        files = content["files"] if content["packages"] == versions() else {}
        return {path: row for path, row in files.items() if len(row) > 2}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        logger.warning("%s is damaged and not used (%s)", store, error)
        return {}
