"""Released weights by name (`released.toml`), fetched once into the cache: resumed, checked, then put in place."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import logging
import re
import tomllib
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from dinoscope.errors import UserError
from dinoscope.files import OFFLINE_VARIABLE, cache_folder, is_offline, locked
from dinoscope.models.network import BackboneConfig
from dinoscope.models.pretrained.reading import no_weights

MEGABYTE = 10**6
CHUNK = 2**18
TRIES = 4
"""Connections that may be lost before the download fails; each continues where the last one ended."""
SECONDS = 30
"""Without a byte, after which a connection counts as lost."""
ETAG = r"(?!W/)[!-~]+"
"""A strong mark of a version, as an HTTP header may hold it."""
COUNT = r"[0-9]{1,18}"
"""A number of bytes, likewise."""

Progress = Callable[[int, int], None]

_log = logging.getLogger("dinoscope")


@dataclass(frozen=True)
class Release:
    """One file of weights.

    architecture: a name in `BACKBONES`. licence: of the weights, as the repository that releases them says.
    knn, linear: published top-1 on ImageNet's validation images in %, of frozen features. own: top-1 of the network's
    own classifier, if it was trained with labels. None: not published by `source`.
    megabytes: millions of bytes of the file, if its source says so (torchvision: 97.8 MiB).
    digest: "sha256:..." or "md5:...", as many hex digits as the source gives; "" if it gives none.
    hub: the same weights at huggingface.co; "" if none are known.
    note: what else a person should know. position_size: see `BackboneConfig`.
    """

    architecture: str
    method: str
    data: str
    licence: str
    url: str
    source: str
    knn: float | None = None
    linear: float | None = None
    own: float | None = None
    megabytes: float | None = None
    digest: str = ""
    hub: str = ""
    note: str = ""
    position_size: int | None = None

    @property
    def file(self) -> str:
        """Return the name of the file."""
        return self.url.rpartition("/")[2]

    def config(self) -> BackboneConfig:
        """Return the config of the network."""
        return BackboneConfig(self.architecture, 224, position_size=self.position_size)


def _catalogue() -> dict[str, Release]:
    entries = tomllib.loads(
        resources.files("dinoscope.models.pretrained").joinpath("released.toml").read_text(encoding="utf-8")
    )
    return {name: Release(**values) for name, values in entries.items()}


CATALOGUE: dict[str, Release] = _catalogue()
"""name -> released weights."""


class _Lost(Exception):
    """The connection was lost before the end; what has come is kept."""


def cached_file(release: Release) -> Path:
    """Return where the file is, or will be put."""
    return cache_folder("weights") / release.file


def first_digest(target: Path) -> Path:
    """Return where the SHA-256 of the first download is kept."""
    return target.with_name(f"{target.name}.sha256")


def is_cached(release: Release) -> bool:
    """Return whether it need not be fetched."""
    return cached_file(release).is_file()


def fetch(name: str, release: Release, progress: Progress = lambda _, __: None) -> Path:
    """Return the file of that name in the catalogue, fetched on first use.

    It is checked against its digest, if one is published, and against the SHA-256 that it had when it was first here.

    progress: called with (done, total) in megabytes.

    Raises UserError that says where to put the file, if it cannot be fetched, is not what its digest says, or
    fetching is switched off.
    """
    target = cached_file(release)
    if not target.is_file():
        if is_offline():
            raise UserError(_by_hand(name, release, f"fetching is switched off ({OFFLINE_VARIABLE})"))
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with locked(target.with_name(f".{target.name}.lock"), busy=lambda: None):
                if not target.is_file():  # else another process has fetched it meanwhile
                    _download(name, release, target, progress)
        except OSError as error:
            raise UserError(f"{target} could not be written: {error}") from error
    else:
        if not has_digest(target, release.digest):
            raise UserError(f"{target} is not the file it should be: its digest is not {release.digest}. Delete it")
        if fault := _unlike_the_first(target, target):
            raise UserError(f"{target} is not the file it was: {fault}; else delete the file, and it is fetched again")
    return target


def _download(name: str, release: Release, target: Path, progress: Progress) -> None:
    # Fetch next to the target, check, and rename into place.
    partial = target.with_name(f"{target.name}.partial")
    for attempt in range(1, TRIES + 1):
        try:
            _receive(release.url, partial, progress)
            break
        except _Lost as error:
            if attempt == TRIES:
                kept = partial.stat().st_size / MEGABYTE if partial.is_file() else 0
                reason = f"{error}" + (f"; {kept:.0f} MB are kept, and the next try continues there" if kept else "")
                raise UserError(_by_hand(name, release, reason)) from error
        # ValueError: addresses and headers that urllib cannot take apart
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ValueError) as error:
            raise UserError(_by_hand(name, release, f"it cannot be fetched: {error}")) from error
    if fault := no_weights(partial):
        _discard(partial)
        raise UserError(_by_hand(name, release, f"what came is no file of weights: {fault}"))
    if not has_digest(partial, release.digest):
        _discard(partial)
        raise UserError(f"{release.url} gave another file than its name promises: its digest is not {release.digest}")
    if fault := _unlike_the_first(partial, target):
        _discard(partial)
        raise UserError(f"{release.url} gave another file than the first time: {fault}")
    partial.replace(target)
    _tag(partial).unlink(missing_ok=True)


def _receive(url: str, partial: Path, progress: Progress) -> None:
    """Fetch what is missing of `partial`. Raises _Lost if the connection ends too early."""
    tag, known = _tag(partial), _known_tag(partial)
    # Without the server's mark of the version a download cannot be continued.
    held = partial.stat().st_size if known and partial.is_file() else 0
    request = urllib.request.Request(_allowed(url), headers={"User-Agent": "dinoscope"})
    if held:
        request.add_header("Range", f"bytes={held}-")
        request.add_header("If-Range", known)
    try:
        response = urllib.request.build_opener(_OnlyAllowed).open(request, timeout=SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        _discard(partial)  # it is longer than the file
        raise _Lost("the part that was kept does not fit the file") from error
    with response:
        begin, total = _extent(response, held, partial)
        mark = response.headers.get("ETag", "")
        if re.fullmatch(ETAG, mark):
            tag.write_text(mark, encoding="ascii")
        else:
            tag.unlink(missing_ok=True)
        done = _copy(response, partial, begin, total, progress)
    if total is not None and done < total:
        raise _Lost(f"the connection was lost after {done / MEGABYTE:.0f} of {total / MEGABYTE:.0f} MB")


def _extent(response: http.client.HTTPResponse, held: int, partial: Path) -> tuple[int, int | None]:
    """Return where in the file the answer begins, and the size of the whole file, if it is known.

    Raises _Lost for another part than was requested, HTTPException for a size that is no number.
    """
    length = response.headers.get("Content-Length", "")
    if length and not re.fullmatch(COUNT, length):
        raise http.client.HTTPException(f"the server says Content-Length: {length!r}, which is no number of bytes")
    if response.status != http.client.PARTIAL_CONTENT:
        return 0, int(length) if length else None
    said = response.headers.get("Content-Range", "")
    span = re.fullmatch(rf"bytes ({COUNT})-({COUNT})/({COUNT})", said)
    first, last, total = map(int, span.groups()) if span else (-1, -1, -1)
    if first != held or not first <= last < total or (length and int(length) != last + 1 - first):
        _discard(partial)
        raise _Lost(f"the server answered with another part of the file (Content-Range: {said!r})")
    return held, total


def _copy(response: Any, partial: Path, begin: int, total: int | None, progress: Progress) -> int:
    # Append what comes after the first `begin` bytes; return how many bytes there are then.
    done = begin
    with partial.open("r+b" if begin else "wb") as file:
        file.seek(begin)
        file.truncate()
        while True:
            try:
                chunk = response.read(CHUNK)
            except (http.client.HTTPException, OSError) as error:
                raise _Lost(f"the connection was lost after {done / MEGABYTE:.0f} MB ({error})") from error
            if not chunk:
                return done
            file.write(chunk)
            done += len(chunk)
            progress(done // MEGABYTE, (total or done) // MEGABYTE)


def _tag(partial: Path) -> Path:
    # The server's mark of the version (its ETag) is kept here while the file is not whole.
    return partial.with_name(f"{partial.name}.etag")


def _known_tag(partial: Path) -> str:
    tag = _tag(partial)
    mark = tag.read_text(encoding="ascii", errors="replace") if tag.is_file() else ""
    if mark and not re.fullmatch(ETAG, mark):
        _log.warning("%s is damaged: the download starts again", tag)
        return ""
    return mark


def _discard(partial: Path) -> None:
    partial.unlink(missing_ok=True)
    _tag(partial).unlink(missing_ok=True)


def _unlike_the_first(file: Path, target: Path) -> str:
    """Return how `file` differs from the first one that stood at `target`; "" if it does not, or is the first itself.

    The SHA-256 of the first one is kept next to it.
    """
    record = first_digest(target)
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    first = record.read_text(encoding="ascii", errors="replace").strip() if record.is_file() else ""
    if first in ("", digest):
        with contextlib.suppress(OSError):  # a cache that is shared may be read-only
            record.write_text(f"{digest}\n", encoding="ascii")
        return ""
    return f"its SHA-256 is {digest}, and {record} says {first[:64]!r}; if the change is meant, delete {record.name}"


def has_digest(file: Path, digest: str) -> bool:
    """Return whether the file has this digest ("sha256:..." or "md5:...", its beginning); "" fits any."""
    if not digest:
        return True
    algorithm, _, expected = digest.partition(":")
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest().startswith(expected)


def _allowed(url: str) -> str:
    """Return the URL if it may be fetched: https, or this machine's own. Raises UserError."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1")):
        return url
    raise UserError(f"{url} is not fetched: only https is")


class _OnlyAllowed(urllib.request.HTTPRedirectHandler):
    """Follows no way out of https."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Any:
        """As the base class does, for an address that may be fetched."""
        return super().redirect_request(req, fp, code, msg, headers, _allowed(newurl))


def _by_hand(name: str, release: Release, reason: str) -> str:
    hub = f" (for `dinoscope import`, the same weights: https://huggingface.co/{release.hub})" if release.hub else ""
    return f"{name} is not here, and {reason}. Put the file from {release.url} at {cached_file(release)}{hub}"
