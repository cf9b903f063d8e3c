"""Files of dinoscope's own: where they lie, how they are written whole, and who may write them.

What dinoscope has made is not data. A run folder is recognised by its settings. Any other folder with pictures gets a
hidden list, `MARK`: in a folder that dinoscope made it covers everything, in any other it names the pictures.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import platformdirs

from dinoscope.errors import UserError

logger = logging.getLogger("dinoscope")

CACHE_VARIABLE = "DINOSCOPE_CACHE"

OFFLINE_VARIABLE = "DINOSCOPE_OFFLINE"
"""Set to anything but 0: nothing is fetched."""

MEGAPIXELS_VARIABLE = "DINOSCOPE_MAX_MEGAPIXELS"
"""How many million pixels an image may have; unset: see `data.images.pixel_limit`."""

COMPOSITE_VARIABLE = "DINOSCOPE_COMPOSITE"
"""Which channels pictures show as red, green and blue, for images of more than one; see `data.reader.composite`."""


def cache_folder(kind: str) -> Path:
    """Return the folder of one kind of file below $DINOSCOPE_CACHE or the user's cache folder. It may not exist."""
    root = os.environ.get(CACHE_VARIABLE)
    return (Path(root).expanduser() if root else Path(platformdirs.user_cache_dir("dinoscope"))) / kind


def is_offline() -> bool:
    """Return whether fetching is switched off."""
    return os.environ.get(OFFLINE_VARIABLE, "") not in ("", "0")


def write_text(path: Path, text: str) -> None:
    """Write a small text file, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="surrogateescape")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to, in a folder of its own next to `path`; afterwards fsync it and rename it into place.

    If the block raises, what was written is deleted and the file at `path`, if there is one, is unchanged.
    """
    # A folder, because safetensors writes to a file with a name of its own first: after a kill, `prune` finds both.
    workplace = path.with_name(f".{path.name}.partial-{os.getpid()}")
    partial = workplace / path.name
    try:
        workplace.mkdir(exist_ok=True)
        partial.touch()
        mode = partial.stat().st_mode
        yield partial
        if partial.stat().st_mode != mode:  # safetensors closes its files to all other users
            partial.chmod(mode)
        _fsync(partial)
        partial.replace(path)
        _fsync(path.parent)
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder next to `path` to write to, and rename it into place afterwards, for what was there.

    If the block raises, what was written is deleted and what is at `path` is unchanged.
    """
    workplace = path.with_name(f".{path.name}.partial-{os.getpid()}")
    partial, earlier = workplace / path.name, workplace / "earlier"
    shutil.rmtree(workplace, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        if path.exists():
            path.rename(earlier)
        try:
            partial.rename(path)
        except OSError:
            if earlier.exists():
                earlier.rename(path)
            raise
        _fsync(path.parent)
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


GO_ON = (
    "The run ends here; the checkpoints that it has written are whole: free space, or give the rights back, then "
    "continue with --resume"
)


def _fsync(path: Path) -> None:
    if sys.platform == "win32" and path.is_dir():  # folders cannot be opened there; the file system keeps a journal
        return
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)  # Windows: only what may be written
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def writing(path: Path, then: str = GO_ON) -> Iterator[None]:
    """Turn an OSError of the block (a full disk, rights that are gone) into a UserError. then: what to do next."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error, then) from error


def unwritable(path: Path, error: OSError, then: str = GO_ON) -> UserError:
    """Return the error for a file of a run that could not be written."""
    return UserError(f"{path} could not be written: {error.strerror or error}. {then}")


def is_full(error: OSError) -> bool:
    """Whether a disk or a quota is full. Safetensors gives only the text."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error) or "quota" in str(error)


@contextlib.contextmanager
def locked(file: Path, busy: Callable[[], object]) -> Iterator[None]:
    """Hold the lock `file`, which stays as an empty file.

    A thread that holds it already may take it again. Processes that are forked meanwhile (loader processes, which may
    outlive a killed parent for seconds) do not hold it. It works across the machines of a shared file system that
    supports locks; otherwise a warning is logged and the block runs unprotected.

    busy: called when another process holds the lock, before waiting for it; what it raises ends the wait.
    """
    # No soft lock (a file that exists): it would outlive a killed process.
    from filelock import FileLock, Timeout  # not needed to print help

    lock = FileLock(file, is_singleton=True, fallback_to_soft=False, preserve_lock_file=True)
    with contextlib.ExitStack() as held:
        try:
            try:
                held.enter_context(lock.acquire(blocking=False))
            except Timeout:
                busy()
                held.enter_context(lock.acquire())
        except OSError as error:
            logger.warning("%s cannot be locked (%s): make sure that no other process works there", file, error)
        yield


MARK = ".dinoscope"
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif")
"""Results of these kinds are listed in `MARK`."""
RUN_SETTINGS = "config.json"

_KEY = "made by dinoscope, not data"
_ALL = "*"
_MAX_SETTINGS_BYTES = 1_000_000
"""Settings of a run are smaller; a config.json of somebody else may be of any size."""


def mark(folder: Path, names: Iterable[str] = ()) -> None:
    """List these files of a folder as dinoscope's, before they are written; if it makes the folder, everything in it.

    Raises UserError if that is not possible.
    """
    listed = drawn_names(folder)
    wanted = listed | (set(names) if folder.exists() else {_ALL})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if wanted != listed and _ALL not in listed | drawn_names(folder.parent):
            (folder / MARK).write_text(json.dumps({_KEY: sorted(wanted)}, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}") from error


def drawn_names(folder: Path) -> set[str]:
    """Return the files in the folder that dinoscope has drawn; none without a list that can be read."""
    listed = _read_object(folder / MARK).get(_KEY)
    return {name for name in listed if isinstance(name, str)} if isinstance(listed, list) else set()


def is_made(folder: Path) -> bool:
    """Whether dinoscope made the folder: a run, or one that is marked as a whole."""
    if _ALL in drawn_names(folder):
        return True
    settings = _read_object(folder / RUN_SETTINGS, _MAX_SETTINGS_BYTES)
    return "version" in settings and isinstance(settings.get("run"), dict)


def nothing_but_made(folder: Path) -> bool:
    """Whether dinoscope made the folder, or all that is in it but hidden files, at any depth: runs/ of runs/mine.

    Raises OSError if it cannot be listed.
    """
    if is_made(folder):
        return True
    empty = True
    with os.scandir(folder) as entries:
        for entry in entries:  # up to the first that is not: a class of a million images costs nothing
            if entry.name.startswith("."):
                continue
            if not entry.is_dir(follow_symlinks=False) or not nothing_but_made(Path(entry.path)):
                return False
            empty = False
    return not empty


def _read_object(file: Path, limit: float = math.inf) -> dict[str, object]:
    """Return a JSON object; an empty one if there is none, or the file has more bytes than `limit`."""
    try:
        values = json.loads(file.read_text(encoding="utf-8")) if file.stat().st_size <= limit else None
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def safe_name(text: str, otherwise: str) -> str:
    """Return a text as a part of names of files, on any system; `otherwise` if nothing of it can be one."""
    return re.sub(r"[^\w.+-]+", "-", text).strip("-.") or otherwise


def unique_names(names: Iterable[str]) -> list[str]:
    """Return the names; one that is taken already gets a number, as in "cat-2"."""
    taken: dict[str, str] = {}  # by casefold: some file systems take "Cat" and "cat" for one
    for given in names:
        name, number = given, 1
        while name.casefold() in taken:
            number += 1
            name = f"{given}-{number}"
        taken[name.casefold()] = name
    return list(taken.values())


def claim(out: Path, names: Iterable[str], *, overwrite: bool) -> None:
    """Raise UserError, before the work, if a folder cannot be made or holds some of the files. Makes nothing yet."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; --out is the folder to write to")
    _require_writable(out)
    there = next((name for name in names if (out / name).exists()), None)
    if there is not None and not overwrite:
        raise UserError(f"{out} holds {there} already: name another folder with --out, or add --overwrite")


def claim_file(out: Path, *, overwrite: bool) -> None:
    """Raise UserError, before the work, if a file is a folder, exists already, or cannot be made."""
    if out.is_dir():
        raise UserError(f"{out} is a folder; --out names the file to write")
    if out.exists() and not overwrite:
        raise UserError(f"{out} exists already; choose another --out, or --overwrite to replace it")
    _require_writable(out.absolute().parent)


def _require_writable(out: Path) -> None:
    parent = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"{out} cannot be written: {parent} is {'read-only' if parent.is_dir() else 'a file'}")


def write_all(out: Path, contents: Iterable[tuple[str, bytes | None]]) -> list[Path]:
    """Write every file, each whole or not at all, and return them. None deletes the file of an earlier run.

    Pictures among them are listed in `MARK`. Raises UserError if a file cannot be written.
    """
    written: list[Path] = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in contents:
            path = out / name
            if content is None:
                path.unlink(missing_ok=True)
                continue
            if name.endswith(PICTURE_SUFFIXES):
                mark(out, [name])
            with replacing(path) as partial:
                partial.write_bytes(content)
            written.append(path)
    except OSError as error:
        raise UserError(f"the results could not be written to {out}: {error}") from error
    return written


def write_folder(
    out: Path,
    record: str,
    identity: str,
    files: Iterable[tuple[str, bytes]],
    total: int,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a drawn data set into the folder `out`, or reuse it if it is already there.

    The folder appears whole or not at all: it is written next to `out` and renamed at the end.

    out: a folder that does not exist, is empty, or was written with the same identity.
    record, identity: name and text of the file in it that tells what was drawn.
    files: (path below the folder, content) of the others. total: their number, for `progress`.

    Raises UserError if `out` holds something else.
    """
    kind = Path(record).stem
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        if not (out / record).is_file():
            raise UserError(f"{out} exists and holds no drawn {kind}; choose another folder or empty it")
        if (out / record).read_text(encoding="utf-8", errors="replace") != identity:
            raise UserError(
                f"{out} holds {kind} of another config or version (see {out / record}); choose another folder"
            )
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    building.chmod(0o755)  # mkdtemp lets only the owner in
    try:
        for done, (name, content) in enumerate(files, start=1):
            path = building / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            if progress is not None:
                progress(done, total)
        (building / record).write_text(identity)
        if out.exists():
            out.rmdir()
        building.rename(out)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return out


@contextlib.contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    """Set variables for this process and those it starts, and restore them afterwards."""
    before = {name: os.environ[name] for name in variables if name in os.environ}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)
        os.environ.update(before)
