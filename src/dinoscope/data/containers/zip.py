"""Zip files: members that are stored or deflated, and not encrypted."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from dinoscope.data.containers.container import Container, Entry, Progress
from dinoscope.errors import UserError

_LOCAL_HEADER = 30  # bytes, before the name and the extra field, whose lengths are its last four (APPNOTE 4.3.7)
_ENCRYPTED = 1


def _entries(path: Path, copies: BinaryIO, progress: Progress) -> Iterator[Entry]:
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            for member in sorted(archive.infolist(), key=lambda member: member.header_offset):
                if member.is_dir():
                    continue
                if member.flag_bits & _ENCRYPTED:
                    raise UserError(f"'{member.filename}' is encrypted. Unpack the file, and give the folder.")
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise UserError(
                        f"'{member.filename}' is compressed by method {member.compress_type}, and only files that are "
                        "stored or deflated are read. Unpack the file, and give the folder."
                    )
                file.seek(member.header_offset)
                header = file.read(_LOCAL_HEADER)
                if len(header) < _LOCAL_HEADER or header[:4] != b"PK\x03\x04":
                    raise UserError(f"a damaged zip file ('{member.filename}' is not where it should be)")
                name, extra = struct.unpack("<HH", header[-4:])
                offset = member.header_offset + _LOCAL_HEADER + name + extra
                progress.at(offset)
                unpacked = 0 if member.compress_type == zipfile.ZIP_STORED else max(member.file_size, 1)
                yield Entry(member.filename, offset, member.compress_size, unpacked)
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
        raise UserError(f"a damaged zip file ({error}). Make it again, or unpack what can be unpacked.") from error


CONTAINER = Container((".zip",), lambda start: start[:4] in (b"PK\x03\x04", b"PK\x05\x06"), _entries)
