"""Files of the catalogue, fetched once into the cache folder: resumed where cut off, checked, then put in place."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dinoscope.cache import OFFLINE_VARIABLE, cache_folder
from dinoscope.errors import UserError
from dinoscope.locks import locked
from dinoscope.models.pretrained.catalogue import Release
from dinoscope.models.pretrained.reading import no_weights

MEGABYTE = 10**6
CHUNK = 2**18
TRIES = 4
"""Connections that may be lost before it is given up; each goes on where the last one ended."""
SECONDS = 30
"""Without a byte, after which a connection counts as lost."""

Progress = Callable[[int, int], None]


class _Lost(Exception):
    """The connection, before the end; what has come is kept."""


def cached_file(release: Release) -> Path:
    """Where the file is, or is to be put."""
    return cache_folder("weights") / release.file


def is_cached(release: Release) -> bool:
    """Whether it need not be fetched."""
    return cached_file(release).is_file()


def is_offline() -> bool:
    """Whether fetching is switched off."""
    return os.environ.get(OFFLINE_VARIABLE, "") not in ("", "0")


def fetch(name: str, release: Release, progress: Progress = lambda _, __: None) -> Path:
    """The file of that name in the catalogue, checked against its digest where one is known; fetched on first use.

    progress: called with (done, total) in megabytes.

    Raises UserError that says where to put the file, where it cannot be fetched, is not what its digest says, or
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
    elif not has_digest(target, release.digest):
        raise UserError(f"{target} is not the file it should be: its digest is not {release.digest}. Delete it")
    return target


def _download(name: str, release: Release, target: Path, progress: Progress) -> None:
    """Fetch beside the target, check, and rename into place."""
    partial = target.with_name(f"{target.name}.partial")
    for attempt in range(1, TRIES + 1):
        try:
            _receive(release.url, partial, progress)
            break
        except _Lost as error:
            if attempt == TRIES:
                kept = partial.stat().st_size / MEGABYTE if partial.is_file() else 0
                reason = f"{error}" + (f"; {kept:.0f} MB are kept, and the next try goes on from there" if kept else "")
                raise UserError(_by_hand(name, release, reason)) from error
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            raise UserError(_by_hand(name, release, f"it cannot be fetched: {error}")) from error
    if fault := no_weights(partial):
        _discard(partial)
        raise UserError(_by_hand(name, release, f"what came is no file of weights: {fault}"))
    if not has_digest(partial, release.digest):
        _discard(partial)
        raise UserError(f"{release.url} gave another file than its name promises: its digest is not {release.digest}")
    partial.replace(target)
    _tag(partial).unlink(missing_ok=True)


def _receive(url: str, partial: Path, progress: Progress) -> None:
    """Fetch what is missing of `partial`. Raises _Lost where the connection ends too early."""
    held, tag = (partial.stat().st_size, _tag(partial)) if partial.is_file() else (0, _tag(partial))
    if held and not tag.is_file():  # without the server's mark of the version nothing can be gone on with
        held = 0
    request = urllib.request.Request(_allowed(url), headers={"User-Agent": "dinoscope"})
    if held:
        request.add_header("Range", f"bytes={held}-")
        request.add_header("If-Range", tag.read_text(encoding="utf-8"))
    try:
        response = urllib.request.build_opener(_OnlyAllowed).open(request, timeout=SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        _discard(partial)  # it is longer than the file
        raise _Lost("the part that was kept does not fit the file") from error
    with response:
        begin = held if response.status == http.client.PARTIAL_CONTENT else 0
        length = response.headers.get("Content-Length")
        total = begin + int(length) if length else None
        mark = response.headers.get("ETag", "")
        if mark and not mark.startswith("W/"):
            tag.write_text(mark, encoding="utf-8")
        else:
            tag.unlink(missing_ok=True)
        done = _copy(response, partial, begin, total, progress)
    if total is not None and done < total:
        raise _Lost(f"the connection was lost after {done / MEGABYTE:.0f} of {total / MEGABYTE:.0f} MB")


def _copy(response: Any, partial: Path, begin: int, total: int | None, progress: Progress) -> int:
    """Append what comes, after the first `begin` bytes; return how many bytes there are then."""
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
    """Where the server's mark of the version (its ETag) is kept while the file is not whole."""
    return partial.with_name(f"{partial.name}.etag")


def _discard(partial: Path) -> None:
    partial.unlink(missing_ok=True)
    _tag(partial).unlink(missing_ok=True)


def has_digest(file: Path, digest: str) -> bool:
    """Whether the file has this digest ("sha256:..." or "md5:...", its beginning); any does where none is known."""
    if not digest:
        return True
    algorithm, _, expected = digest.partition(":")
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest().startswith(expected)


def _allowed(url: str) -> str:
    """The URL, if it is one that may be fetched: https, or this machine's own. Raises UserError."""
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
    """How to go on without us, in one line."""
    hub = f" (for `dinoscope import`, the same weights: https://huggingface.co/{release.hub})" if release.hub else ""
    return f"{name} is not here, and {reason}. Put the file from {release.url} at {cached_file(release)}{hub}"
