"""Copies in the searched folder: those of `find_duplicates`, in words, some of many, and looked for once."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, get_args

import cv2
import pytest

pytest.importorskip("gradio", reason="the tabs need Gradio")

import gradio as gr

from dinoscope.demo import copies
from dinoscope.demo.copies import Copies, CopiesPart, word_for
from dinoscope.demo.engine import Engine
from dinoscope.demo.pictures import Refused
from dinoscope.demo.site import LANGUAGES, Site, Words
from dinoscope.near_duplicates import Kind
from tests.conftest import draw_picture

REQUEST: Any = gr.Request(headers={"accept-language": "en"})


def picture(seed: int) -> Any:
    return cv2.GaussianBlur(draw_picture(seed, (96, 120)), (0, 0), 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six pictures; a small and a mirrored copy of the first, and an exact one of the second."""
    root = tmp_path / "photos"
    root.mkdir()
    for number in range(6):
        cv2.imwrite(str(root / f"{number}.png"), picture(number))
    cv2.imwrite(str(root / "<b>small.png"), cv2.resize(picture(0), (60, 48), interpolation=cv2.INTER_AREA))
    cv2.imwrite(str(root / "turned.png"), cv2.resize(picture(0)[:, ::-1], (60, 48), interpolation=cv2.INTER_AREA))
    shutil.copy(root / "1.png", root / "same.png")
    return root


def part(engine: Engine, folder: Path, tmp_path: Path) -> CopiesPart:
    with gr.Blocks():
        return CopiesPart(Site(engine, Words(), [], tmp_path), lambda: folder, folder.name)


def test_groups_are_those_of_the_folder_and_nothing_is_moved(folder: Path) -> None:
    before, told = sorted(folder.iterdir()), list[tuple[int, int]]()
    found = Copies.find(folder, lambda *each: told.append(each))
    assert [[(member.key, member.kind) for member in group] for group in found.duplicates.groups] == [
        [("0.png", "kept"), ("<b>small.png", "near"), ("turned.png", "mirrored")],
        [("1.png", "kept"), ("same.png", "exact")],
    ]
    assert told[0][1] == 9  # images, and then pairs
    assert len(found.pictures) == 5
    assert all(address.startswith("data:image/") for address in found.pictures.values())
    assert sorted(folder.iterdir()) == before


def test_groups_are_shown_in_words_and_looked_for_once(
    engine: Engine, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = part(engine, folder, tmp_path)
    first, complaint = shown.show(REQUEST)
    assert not complaint.visible
    assert "Copies: 3 · groups: 2 · images: 9 (photos)" in first
    assert first.index("to keep: none is larger") < first.index("nearly the same, cosine ")
    assert "mirrored, cosine " in first
    assert "the same pixels" in first
    assert "<b>" not in first  # a name is text
    assert "&#60;b&#62;small" in first
    monkeypatch.setattr(copies, "find_duplicates", None)
    assert shown.show(REQUEST)[0] == first


def test_of_many_groups_and_members_the_rest_is_counted(
    engine: Engine, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "MAX_GROUPS", 1)
    monkeypatch.setattr(copies, "MAX_MEMBERS", 2)
    html, _ = part(engine, folder, tmp_path).show(REQUEST)
    assert html.count("<img") == 2
    assert "and 1 more<" in html
    assert "and 1 more groups" in html


def test_a_folder_without_copies_says_so(engine: Engine, folder: Path, tmp_path: Path) -> None:
    for name in ("<b>small.png", "turned.png", "same.png"):
        (folder / name).unlink()
    (folder / "broken.png").write_bytes(b"not an image")
    html, _ = part(engine, folder, tmp_path).show(REQUEST)
    assert "No copies among 7 images (photos)." in html
    assert "unreadable: 1" in html


def test_a_folder_that_is_too_large_is_refused(folder: Path) -> None:
    with pytest.raises(Refused) as refused:
        Copies.find(folder, lambda *_: None, limit=8)
    assert (refused.value.key, refused.value.values) == ("copies_too_many", {"images": 9, "most": 8})


def test_why_there_are_none_stays_next_to_the_button(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    view, complaint = part(engine, tmp_path / "photos", tmp_path).show(REQUEST)
    assert view["visible"] is False
    assert complaint.visible
    assert "no images" in complaint.value


def test_every_kind_has_its_words() -> None:
    for language in LANGUAGES:
        words = Words(language).texts[language]
        texts = [words[word_for(kind)].format(cosine="0.987") for kind in get_args(Kind)]
        assert len(set(texts)) == len(get_args(Kind))
