"""Files on a web server (https, http) or in a bucket (s3): how they are named, and their bytes by ranges.

Packages of `fsspec` do the transfer. They are imported at the first request, and each process has connections of its
own, since none survives a fork. What a server needs to know who asks comes from the environment (docs/data.md), so an
address holds no credentials, and may stand in settings, logs and reports.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import re
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dinoscope.errors import UserError
from dinoscope.files import OFFLINE_VARIABLE, is_offline

SCHEMES = ("https", "http", "s3")

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_QUERY = re.compile(r"(\w+://[^\s?'\"]+)\?[^\s'\"]*")  # of an address in a library's message: it may be signed

_TRIES = 3
_WAIT = 1.0  # seconds before the second try, twice as many before the third
_CONNECT, _ANSWER = 20, 60  # seconds without a connection, and without a byte of an answer
_REMEMBERED = 60.0  # seconds for which the state of a file is taken to be the same
_AT_A_TIME = 16  # requests for the states of many files

_SMALLEST, _LARGEST = 1 << 16, 1 << 23  # bytes that are read ahead
_ABSENT = "there is no such file"
_BUSY = (408, 425, 429)  # answers that ask to come again, as all from 500 do (RFC 9110, 15.5 and 15.6)

T = TypeVar("T")

if TYPE_CHECKING:
    _Base = Path
else:
    _Base = type(Path())


class RemotePath(_Base):
    """The address of a file: a path that is written with two slashes, and opened by its server.

    It is a `Path` so that places of images have one type, and `data / "train"` and parents mean what they do on a disk.
    It names a file, never a folder; whether there is one shows when it is read. `remote_path` makes and checks it.
    """

    def __str__(self) -> str:
        first, *others = self.parts or ("",)
        return f"{first}//{'/'.join(others)}" if first.endswith(":") else "/".join(self.parts)

    def __reduce__(self) -> tuple[Any, ...]:
        return RemotePath, (str(self),)

    @property
    def scheme(self) -> str:
        """One of `SCHEMES`."""
        return self.parts[0].removesuffix(":")

    def absolute(self) -> RemotePath:
        return self

    def resolve(self, strict: bool = False) -> RemotePath:
        return self

    def is_absolute(self) -> bool:
        return True

    def exists(self, **_: Any) -> bool:
        return True

    def is_file(self, **_: Any) -> bool:
        return True

    def is_dir(self, **_: Any) -> bool:
        return False

    def open(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any:
        """Open the file for reading, with bytes read ahead. What goes wrong then is a UserError without its name."""
        if mode not in ("r", "rb"):
            raise UserError("it is on a server, where nothing is written")
        known = state(self)
        _require_ranges(str(self), known.size)
        file = io.BufferedReader(_Reader(self, known.size))
        return file if mode == "rb" else io.TextIOWrapper(file, encoding, errors, newline)


def is_address(text: str) -> bool:
    """Whether a text has the form of an address, of a scheme that is read or of another."""
    return _ADDRESS.match(text) is not None


def remote_path(text: str) -> RemotePath:
    """Return the path of an address. Raises UserError if it is of another scheme, or may hold credentials."""
    scheme, _, rest = text.partition("://")
    scheme, (host, _, key) = scheme.lower(), rest.partition("/")
    if scheme not in SCHEMES:
        raise UserError(f"{scheme}:// is not read: {', '.join(SCHEMES)} are, and others were not tried")
    if "@" in host or "?" in rest or "#" in rest:
        shown = f"{scheme}://{host.rpartition('@')[2]}/{re.split('[?#]', key)[0]}"
        raise UserError(
            f"{shown}: an address must have no user name, and nothing from a ? or a # on, since it is written to logs "
            "and reports. Credentials come from the environment: AWS_ACCESS_KEY_ID and the like, ~/.netrc, or "
            'FSSPEC_HTTPS=\'{"headers": {"Authorization": ...}}\''
        )
    if not host or not key.strip("/"):
        raise UserError(f"{text}: not the address of a file")
    if "//" in rest or any(part in (".", "..") for part in key.split("/")):
        raise UserError(f"{text}: an address must have no empty part, and no . or .. between its slashes")
    return RemotePath(f"{scheme}://{rest}")


# Requests


@dataclass(frozen=True)
class State:
    """What tells whether a file was replaced.

    size: in bytes. changed: time in nanoseconds since 1970, or a hash of the mark if the server gives none.
    mark: what the server gives of its content: an ETag or a checksum; "" without.
    """

    size: int
    changed: int
    mark: str


_states: dict[str, tuple[float, State]] = {}


def state(path: RemotePath) -> State:
    """Return the state of a file, remembered for a minute. Raises UserError, without its name, if it cannot be read."""
    address = str(path)
    if address in _states and time.monotonic() - _states[address][0] < _REMEMBERED:
        return _states[address][1]
    try:
        values = _tried(lambda: _system(path.scheme, os.getpid()).info(address))
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}") from error
    if values.get("type") == "directory":
        raise UserError("a folder, and only files are read from a server")
    if values.get("size") is None:
        raise UserError("the server does not give its size, so it cannot be read in parts: download it")
    mark = next((str(values[name]) for name in ("ETag", "Content-MD5", "Digest") if values.get(name)), "")
    found = State(int(values["size"]), _time(values) or _number(mark), mark)
    _states[address] = time.monotonic(), found
    return found


def states(paths: Iterable[RemotePath]) -> list[State | UserError]:
    """Return the states of many files, or why there is none, asked for together."""

    def one(path: RemotePath) -> State | UserError:
        try:
            return state(path)
        except UserError as error:
            return error

    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        return list(pool.map(one, paths))


def read_range(path: RemotePath, offset: int, size: int) -> bytes:
    """Return so many bytes of a file. Raises OSError after a few tries, and UserError if fetching is switched off."""
    if not size:
        return b""

    def read() -> bytes:
        system, options = _system(path.scheme, os.getpid()), dict[str, Any]()
        if path.scheme != "s3":  # or a server may compress what it sends
            options["headers"] = {**system.kwargs.get("headers", {}), "Accept-Encoding": "identity"}
        content = system.cat_file(str(path), start=offset, end=offset + size, **options)
        if len(content) != size:
            raise OSError(errno.EIO, f"the server sent {len(content):,} bytes, and {size:,} were asked for")
        return content

    return _tried(read)


def matching(path: RemotePath) -> list[RemotePath]:
    """Return the files of a bucket that match a pattern, in the order of their names. Raises UserError."""
    if path.scheme != "s3":
        raise UserError(f"{path}: a web server has no list of its files. Number them: {{000..127}}")
    try:
        found: list[str] = _tried(lambda: _system(path.scheme, os.getpid()).glob(str(path)))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    return sorted(RemotePath(f"{path.scheme}://{key}") for key in found)


@functools.cache
def _require_ranges(address: str, size: int) -> None:
    """Raise UserError if a web server sends whole files only, which fsspec tells before it has read one."""
    if address.startswith("s3:") or size < 2:
        return
    path = RemotePath(address)

    def read() -> bool:
        system = _system(path.scheme, os.getpid())
        with system.open(address, size=size, cache_type="none") as file:
            file.seek(1)
            with contextlib.suppress(ValueError):
                return len(file.read(1)) == 1
        return False

    try:
        supported = _tried(read)
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}") from error
    if not supported:
        raise UserError("its server sends whole files only (no range requests): download it")


@functools.cache
def _system(scheme: str, process: int) -> Any:
    """Return the connections of this process. `process` is its number: those of the parent do not survive a fork."""
    options: dict[str, Any] = {"config_kwargs": {"connect_timeout": _CONNECT, "read_timeout": _ANSWER}}
    try:
        import fsspec

        if scheme != "s3":
            from aiohttp import ClientTimeout  # pyright: ignore[reportMissingImports]

            timeout = ClientTimeout(total=None, sock_connect=_CONNECT, sock_read=_ANSWER)
            options = {"client_kwargs": {"timeout": timeout, "trust_env": True}}
        return fsspec.filesystem(scheme, skip_instance_cache=True, use_listings_cache=False, **options)
    except ImportError as error:
        raise UserError(f"reading {scheme}:// needs fsspec: pip install 'dinoscope[remote]'") from error


def _tried(request: Callable[[], T]) -> T:
    """Return what a request gives, after up to `_TRIES` tries. Raises OSError with the reason as `strerror`."""
    if is_offline():
        raise UserError(f"it is on a server, and fetching is switched off ({OFFLINE_VARIABLE})")
    for number in range(_TRIES):
        try:
            return request()
        except UserError:
            raise
        except Exception as error:  # of fsspec, aiohttp or botocore, which have no class in common
            reason, is_final = _reason(error)
            if is_final or number == _TRIES - 1:
                raise OSError(errno.ENOENT if reason == _ABSENT else errno.EIO, reason) from error
            time.sleep(_WAIT * 2**number)
    raise AssertionError


def _reason(error: BaseException) -> tuple[str, bool]:
    """Return what went wrong, in words and without the address, and whether another try is of no use."""
    cause = error.__cause__ or error.__context__
    # fsspec's for whatever was wrong with a request; of a bucket it is true
    if isinstance(error, FileNotFoundError) and cause is not None and not hasattr(cause, "response"):
        error = cause
    status = getattr(error, "status", None)
    if status in (404, 410):
        return _ABSENT, True
    if isinstance(status, int):
        return f"the server answers {status} {getattr(error, 'message', '')}".strip(), (
            status < 500 and status not in _BUSY
        )
    if isinstance(error, FileNotFoundError):
        return _ABSENT, True
    if isinstance(error, PermissionError):
        return f"access is denied ({_short(error)})", True
    if type(error).__name__ == "NoCredentialsError":
        return (
            "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; of a public bucket "
            "FSSPEC_S3='{\"anon\": true}'",
            True,
        )
    if isinstance(error, TimeoutError):
        return f"no answer within {_ANSWER} s", False
    if "Connect" in type(error).__name__:
        return f"no connection to its server ({_short(error)})", False
    return _short(error), False


def _short(error: BaseException) -> str:
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return _QUERY.sub(r"\1", " ".join(text.split()))[:200]


def _time(values: dict[str, Any]) -> int:
    """Return when a file was changed, in nanoseconds; 0 if the server does not tell."""
    given = values.get("LastModified") or values.get("Last-Modified")
    with contextlib.suppress(TypeError, ValueError):
        moment = given if isinstance(given, datetime) else parsedate_to_datetime(str(given))
        return round(moment.timestamp()) * 10**9
    return 0


def _number(mark: str) -> int:
    return int.from_bytes(blake2b(mark.encode(), digest_size=7).digest(), "big") if mark else 0


class _Reader(io.RawIOBase):
    """The bytes of a file. More are read ahead while each request lies close behind the last one.

    So the headers of a tar of small images come in few requests, and large images are skipped.
    """

    def __init__(self, path: RemotePath, size: int) -> None:
        self.path, self.size, self.place = path, size, 0
        self.start, self.block, self.ahead = 0, b"", _SMALLEST

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.place = max(offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.size}[whence], 0)
        return self.place

    def tell(self) -> int:
        return self.place

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self.size - self.place)
        if wanted <= 0:
            return 0
        begin = self.place - self.start
        if not 0 <= begin < len(self.block):
            gap, begin = begin - len(self.block), 0
            self.ahead = min(2 * self.ahead, _LARGEST) if 0 <= gap <= self.ahead else _SMALLEST
            self._fetch(min(max(wanted, self.ahead), self.size - self.place))
        piece = self.block[begin : begin + wanted]
        buffer[: len(piece)] = piece
        self.place += len(piece)
        return len(piece)

    def _fetch(self, size: int) -> None:
        try:
            self.block = read_range(self.path, self.place, size)
        except OSError as error:
            raise UserError(f"cannot be read: {error.strerror}") from error
        self.start = self.place
