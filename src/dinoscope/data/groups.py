"""Groups: images that belong together, of one patient, study, slide, well or video.

Images of one group are alike for other reasons than their class. If some are trained on and others measured, the
figure is too good. So splits, votes of neighbours, held-out images and intervals keep groups whole.

The name of a group may be that of a patient. It is turned into a number at once. Numbers of names in paths and lists
are written nowhere. What headers say is not even in the paths, so its hash has a key, which lies outside of runs,
reports and caches: nobody who does not have it can try out which patient a number stands for.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import stat
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import platformdirs
from jaxtyping import Int64

from dinoscope.data.headers import HeaderCache
from dinoscope.data.reader import UnreadableImage, split_key
from dinoscope.errors import UserError

if TYPE_CHECKING:
    from dinoscope.data.sources import ImageSource

logger = logging.getLogger("dinoscope")

COLUMNS = ("group", "patient", "study", "slide", "video")
"""Columns of a list that tell groups, the first that it has: a patient may have several studies and slides."""

NONE = "none"
"""In the place of a pattern: no groups, whatever a run or a list has. As a pattern, it could name no group."""

HEADERS = {"patient": "patient ID", "study": "study UID", "series": "series UID"}
"""What `header:KIND` takes groups from, of a DICOM file (PS3.3 C.7.1.1, C.7.2.1, C.7.3.1) -> its name."""

KEY_VARIABLE = "DINOSCOPE_GROUP_KEY_FILE"
"""The file of the key; unset: group.key in the user's configuration folder."""

_HEADER = re.compile(r"header:([a-z]*)(?:#([0-9a-f]{8}))?")
_KEY_BYTES = 32
_SHOWN = 3


def group_numbers(names: Iterable[str]) -> Int64[np.ndarray, " n"]:
    """Return a number for each name, 63 bits of its hash: the same in all sources, so that splits can be compared.

    Of a million groups, two get the same number with a probability of 5e-8. Names that differ in their Unicode form
    alone are one group.
    """
    return np.fromiter(map(_number, names), np.int64)


def _number(name: str, key: bytes = b"", person: bytes = b"") -> int:
    text = os.fsencode(unicodedata.normalize("NFC", name))
    return int.from_bytes(hashlib.blake2b(text, digest_size=8, key=key, person=person).digest(), "big") >> 1


def keyed_number(name: str, key: Key, kind: str) -> int:
    """Return 63 bits of the keyed hash of what a header says. kind: of name; the same text of another has another."""
    return _number(name, key.secret, kind.encode())


def matched(keys: Iterable[str], pattern: str, source: str) -> Iterator[str]:
    """Yield what the one group in parentheses of a pattern matches in each key (`re.search`).

    A pattern is run as it is: one that takes exponential time, such as (a+)+$, is not stopped.

    Raises UserError if the pattern is none, has not exactly one group, or does not match a key.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--group {pattern!r} is no regular expression: {error}") from error
    if expression.groups != 1:
        raise UserError(
            f"--group {pattern!r} has {expression.groups} parts in parentheses, and needs exactly one, which names the "
            "group, such as '(?P<patient>[^/]+)/'; write other parentheses as (?:...). Or take what the headers of "
            f"DICOM files say: {', '.join(f'header:{kind}' for kind in HEADERS)}"
        )
    for key in keys:
        match = expression.search(key)
        if match is None or not match[1]:
            raise UserError(
                f"{source}: --group {pattern!r} finds no group in {key!r}. It is matched against the path below the "
                "folder of the images or of their split, and every image needs a group"
            )
        yield match[1]


# The key


@dataclass(frozen=True)
class Key:
    """What hashes names in headers. name: eight hex digits that tell keys apart, and nothing of the key."""

    secret: bytes

    @property
    def name(self) -> str:
        return hashlib.blake2b(key=self.secret, digest_size=4, person=b"name").hexdigest()

    def __repr__(self) -> str:
        return f"Key({self.name})"


def key_file() -> Path:
    """Return the file of the key, which may not exist."""
    chosen = os.environ.get(KEY_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_config_dir("dinoscope")) / "group.key"


def own_key() -> Key:
    """Return the key of this user, which is made at its first use, for its owner's eyes only.

    Processes that make it at once agree on one. Raises UserError if it cannot be made or read, or is damaged.
    """
    file = key_file()
    try:
        if not file.exists():
            _make(file)
        text, mode = file.read_text(encoding="ascii"), file.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text"
        raise UserError(
            f"the key of groups cannot be read or made: {file}: {reason}. ${KEY_VARIABLE} names another file"
        ) from None
    if not re.fullmatch(rf"[0-9a-f]{{{2 * _KEY_BYTES}}}\n?", text):
        raise UserError(
            f"{file} holds no key of groups: restore it, or move it away to have another one made, by which splits "
            f"are others. ${KEY_VARIABLE} names another file"
        )
    if os.name == "posix" and mode & (stat.S_IRGRP | stat.S_IROTH):
        logger.warning("other users of this machine can read the key of groups: chmod 600 %s", file)
    return Key(bytes.fromhex(text.strip()))


def _make(file: Path) -> None:
    """Write a new key whole or not at all, unless another process was faster."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.partial-", dir=file.parent)  # with mode 0600
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii", newline="\n") as stream:
            stream.write(f"{secrets.token_hex(_KEY_BYTES)}\n")
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(partial, file)  # fails if there is one by now, which a rename would replace
        except FileExistsError:
            return
        except OSError:  # a file system without hard links
            if not file.exists():
                partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    logger.warning("%s is the new key of groups from headers: keep a copy, for splits depend on it", file)


# Headers


def of_headers(pattern: str) -> bool:
    """Whether groups are taken from headers: header:patient, also with the name of the key, header:patient#1f0c3a77.

    Raises UserError for anything else that a header may have.
    """
    match = _HEADER.fullmatch(pattern)
    if match and match[1] not in HEADERS:
        raise UserError(f"--group {pattern}: a header tells {', '.join(f'header:{kind}' for kind in HEADERS)}")
    return match is not None


def settled(pattern: str | None) -> str | None:
    """Return where groups come from as runs and results note it: with the name of the key, if it is from headers.

    Raises UserError as `own_key`.
    """
    if pattern is None or not of_headers(pattern) or "#" in pattern:
        return pattern
    return f"{pattern}#{own_key().name}"


def header_numbers(
    images: ImageSource, pattern: str, progress: Callable[[int, int], None] | None = None
) -> tuple[Int64[np.ndarray, " n"], str]:
    """Return a number for each image, 63 bits of a keyed hash of what its header says, and `settled` of the pattern.

    All images of a file have one number. Numbers are cached by path, size and time of change.

    progress: called with (done, total) in files.
    Raises UserError if a header says nothing, is damaged or is not DICOM, as `own_key`, and if the pattern has the name
    of another key.
    """
    match = _HEADER.fullmatch(pattern)
    assert match is not None
    kind, key = match[1], _key_named(match[2], pattern)
    places: dict[str, int] = {}
    files = [split_key(path)[0] for path in images.keys]
    for index, path in enumerate(files):
        places.setdefault(path, index)

    def examine(index: int) -> int:
        name = images.identifier(index, kind)
        if not name:
            raise UnreadableImage(f"no {HEADERS[kind]}")
        return keyed_number(name, key, kind)

    store = HeaderCache(images, "groups", f"{kind}-{key.name}", int, int)
    numbers, faults = store.read(places.items(), examine, progress)
    if faults:
        shown = ", ".join(f"{path} ({reason})" for path, reason in list(faults.items())[:_SHOWN])
        raise UserError(
            f"{images.name}: --group header:{kind} needs the {HEADERS[kind]} of each image, and "
            f"{len(faults)} of {len(places)} files have none: {shown}{', …' if len(faults) > _SHOWN else ''}. Leave "
            "them out, or give a pattern of the paths: --group '(?P<patient>[^/]+)/'"
        )
    return np.fromiter((numbers[path] for path in files), np.int64), f"header:{kind}#{key.name}"


def _key_named(name: str | None, pattern: str) -> Key:
    """Return the user's key; raise UserError if another one is asked for by its name."""
    if name is None:
        return own_key()
    key = own_key() if key_file().exists() else None
    if key is None or key.name != name:
        own = "there is none" if key is None else f"it is {key.name}"
        raise UserError(
            f"--group {pattern}: groups from headers depend on a key, and so does --split. The key {name} is wanted, "
            f"and in {key_file()} {own}. Restore it, or let ${KEY_VARIABLE} name its file; with "
            f"{pattern.partition('#')[0]}, this machine's key makes a split of its own"
        )
    return key
