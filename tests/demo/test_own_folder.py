"""The page's temporary folder goes with the page, however that ends."""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock

from dinoscope.demo import serving
from dinoscope.demo.serving import own_folder


def test_a_failure_leaves_nothing_either(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ZeroDivisionError), own_folder():
        _ = 1 / 0
    assert not list(tmp_path.iterdir())


def test_work_that_is_under_way_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    started = threading.Event()

    def work(folder: Path) -> None:
        number, end = 0, time.monotonic() + 0.5
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                (folder / str(number % 50)).write_bytes(b"x")
            started.set()
            number += 1

    with own_folder() as folder:
        worker = threading.Thread(target=work, args=(folder,))
        worker.start()
        started.wait()
    worker.join()
    assert not folder.exists()


def test_what_a_killed_page_has_left_goes_and_what_is_in_use_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed, new, strange = (tmp_path / f"dinoscope-demo-{name}" for name in ("killed", "new", "strange"))
    for folder in (killed, new):
        folder.mkdir()
        (folder / "in-use").touch()
        (folder / "upload.png").write_bytes(b"x")
    strange.mkdir()  # nobody has locked it: it is not known to be left behind
    with own_folder() as first:
        assert killed.exists()  # as young as that, its page may be about to lock it
        monkeypatch.setattr(serving, "_NEW", -1.0)
        with FileLock(new / "in-use"):
            with own_folder() as second:
                assert first != second
                assert first.exists()
            assert new.exists()
        assert not killed.exists()
        assert strange.exists()
