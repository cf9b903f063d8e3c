"""Folders of results: what is not free is refused before the work, what is written is whole."""

from pathlib import Path

import pytest

from dinoscope.errors import UserError
from dinoscope.evaluation.results import variant_name
from dinoscope.files import claim, write_all


def test_a_folder_is_refused_before_the_work_and_nothing_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    claim(tmp_path / "deep/er", ["a"], overwrite=False)
    assert not (tmp_path / "deep").exists()
    with pytest.raises(UserError, match="is a file"):
        claim(tmp_path / "file", ["a"], overwrite=True)
    with pytest.raises(UserError, match=r"cannot be written: .*file is a file"):
        claim(tmp_path / "file/below", ["a"], overwrite=True)
    with pytest.raises(UserError, match="holds file already"):
        claim(tmp_path, ["other", "file"], overwrite=False)
    claim(tmp_path, ["other", "file"], overwrite=True)


def test_a_folder_that_may_not_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)  # a superuser may write everywhere
    with pytest.raises(UserError, match="is read-only"):
        claim(tmp_path / "out", [], overwrite=False)


def test_what_an_earlier_run_left_goes(tmp_path: Path) -> None:
    out = tmp_path / "a/b"
    assert write_all(out, [("x", b"1"), ("y", b"2")]) == [out / "x", out / "y"]
    assert write_all(out, [("x", b"3"), ("y", None), ("z", None)]) == [out / "x"]
    assert [(path.name, path.read_bytes()) for path in out.iterdir()] == [("x", b"3")]
    (out / "folder").mkdir()
    with pytest.raises(UserError, match="could not be written"):
        write_all(out, [("folder", b"")])


def test_results_of_other_maps_blocks_and_parts_have_other_names() -> None:
    assert variant_name("voc", "attention", -1, None) == "voc"
    assert variant_name("explain", "rollout", 0, "gallery", 100) == "explain-rollout-block0-gallery-100"
