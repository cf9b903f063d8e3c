"""Tar files that are not compressed, and shards of webdataset, in which the files of a sample share a name.

Of a webdataset sample, `NAME.cls` or the entry `label`, `cls` or `class` of `NAME.json` is the label.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from dinoscope.data.containers.container import Container, Entry, Progress
from dinoscope.errors import UserError

_MAX_LABEL_BYTES = 1 << 16
_MAX_LABEL_LENGTH = 200


def _entries(path: Path, copies: BinaryIO, progress: Progress) -> Iterator[Entry]:
    labels: dict[str, str] = {}
    waiting: list[Entry] = []
    sample = ""
    try:
        with path.open("rb") as file, tarfile.TarFile(fileobj=file) as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # it keeps what it has read  # pyright: ignore[reportAttributeAccessIssue]
                progress.at(member.offset_data)
                if not member.isreg() or member.issparse():
                    continue
                name = _sample(member.name)
                if name != sample:  # the files of a sample lie next to each other
                    yield from (entry._replace(label=labels.get("", "")) for entry in waiting)
                    waiting, labels, sample = [], {}, name
                if member.name.endswith((".cls", ".json")) and member.size <= _MAX_LABEL_BYTES:
                    position = file.tell()
                    file.seek(member.offset_data)
                    label = _label(member.name, file.read(member.size))
                    file.seek(position)
                    if label:
                        labels[""] = label
                waiting.append(Entry(member.name, member.offset_data, member.size))
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"a damaged tar file ({error}). Make it again, or unpack what can be unpacked.") from error
    yield from (entry._replace(label=labels.get("", "")) for entry in waiting)


def _sample(name: str) -> str:
    """Return what the files of a webdataset sample have in common: the name up to the first dot of its last part."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + (last.partition(".")[0] or last)


def _label(name: str, content: bytes) -> str:
    try:
        if name.endswith(".cls"):
            label = content.decode().strip()
        else:
            values = json.loads(content)
            found = (values[key] for key in ("label", "cls", "class") if key in values)
            label = next((str(value) for value in found if isinstance(value, str | int)), "")
    except (ValueError, TypeError, RecursionError):
        return ""
    return label if len(label) <= _MAX_LABEL_LENGTH and label.isprintable() else ""


CONTAINER = Container((".tar",), lambda start: start[257:262] == b"ustar", _entries)
