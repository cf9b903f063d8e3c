"""The video tab without a browser: sessions apart, files gone when they should be, refusals in one's language."""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

gr = pytest.importorskip("gradio", reason="the page needs Gradio")


from dinoscope.demo import neighbours_words, video_words  # noqa: E402
from dinoscope.demo.limits import Limits  # noqa: E402
from dinoscope.demo.marking import object_colors  # noqa: E402
from dinoscope.demo.session_folders import SessionFolders  # noqa: E402
from dinoscope.demo.video_actions import VideoActions  # noqa: E402
from dinoscope.demo.video_session import VideoSession, end  # noqa: E402
from dinoscope.demo.words import Words  # noqa: E402
from dinoscope.model_names import load_model  # noqa: E402
from tests.demo.clips import write_clip  # noqa: E402

MODEL = "random vit_micro_conv8"
SIGHT = (MODEL, 48)
ENGLISH, SPANISH = (gr.Request(SimpleNamespace(headers={"accept-language": each})) for each in ("en", "es-ES,es;q=0.9"))


@pytest.fixture
def actions(tmp_path: Path) -> VideoActions:
    return make(tmp_path, Limits())


def make(tmp_path: Path, limits: Limits) -> VideoActions:
    words = Words.joined([video_words.TEXTS])
    return VideoActions([load_model("random:vit_micro_conv8")], words, limits, SessionFolders(tmp_path / "sessions"))


def uploaded(actions: VideoActions, file: Path, session: VideoSession | None = None) -> VideoSession:
    return actions.upload(str(file), session, *SIGHT, ENGLISH)[0]


def clicked(actions: VideoActions, session: VideoSession, x: int, y: int, number: int = 1) -> tuple[Any, ...]:
    event = gr.SelectData(None, {"index": [x, y], "value": None})
    return actions.click(session, number, True, *SIGHT, event, ENGLISH)


def following(actions: VideoActions, session: VideoSession | None, *values: Any) -> Generator[Any, None, None]:
    """As the page does: asked for at once, done when it is its turn."""
    actions.ask(session, ENGLISH)
    return actions.follow(session, *values)


def folders(actions: VideoActions) -> list[Path]:
    return sorted(path for path in actions.folders.root.iterdir() if path.name != "sample")


def test_a_clip_of_one_frame(actions: VideoActions, tmp_path: Path) -> None:
    session = uploaded(actions, write_clip(tmp_path / "still.mp4", 1))
    assert ": 1 frame, " in actions._about(session, ENGLISH)
    clicked(actions, session, 100, 100)
    *_, last = following(actions, session, "click", None, *SIGHT, ENGLISH)
    assert last[0].startswith("**1 frame in ")


def test_two_people_keep_their_own_clips_and_marks(actions: VideoActions, tmp_path: Path) -> None:
    file = write_clip(tmp_path / "same.mp4", 4)
    first, second = uploaded(actions, file), uploaded(actions, file)
    assert first.folder != second.folder
    clicked(actions, first, 100, 100)
    clicked(actions, second, 600, 400, number=2)
    assert [click.number for click in first.marks.clicks] == [1]
    assert [click.number for click in second.marks.clicks] == [2]
    end(first)
    assert folders(actions) == [second.folder]
    assert file.is_file()
    *_, last = following(actions, second, "click", None, *SIGHT, ENGLISH)
    assert "4 frames" in last[0]


def test_a_new_clip_takes_the_place_of_the_old_one_and_a_refused_one_does_not(
    actions: VideoActions, tmp_path: Path
) -> None:
    session = uploaded(actions, write_clip(tmp_path / "a.mp4"))
    (tmp_path / "b.mp4").write_bytes(b"no video")
    kept, message, *_ = actions.upload(str(tmp_path / "b.mp4"), session, *SIGHT, SPANISH)
    assert kept is session
    assert "b&#46;mp4 no es un vídeo" in message
    assert folders(actions) == [session.folder]
    other = uploaded(actions, write_clip(tmp_path / "c.mp4"), session)
    assert folders(actions) == [other.folder]


def test_cancelling_removes_what_was_written_and_keeps_the_marks(actions: VideoActions, tmp_path: Path) -> None:
    session = uploaded(actions, write_clip(tmp_path / "a.mp4", 8))
    clicked(actions, session, 360, 270)
    before = session.mask(actions._sight(*SIGHT))
    running = following(actions, session, "click", None, *SIGHT, ENGLISH)
    next(running)
    next(running)
    assert list(session.folder.glob("followed-*"))
    running.close()
    assert not list(session.folder.glob("followed-*"))
    assert np.array_equal(session.mask(actions._sight(*SIGHT)), before)
    *_, last = following(actions, session, "click", None, *SIGHT, ENGLISH)
    assert len(list(session.folder.glob("followed-*/overlay.mp4"))) == 1
    assert Path(last[4]["value"]).is_file()


def test_cancel_then_follow_again_with_other_marks(actions: VideoActions, tmp_path: Path) -> None:
    session = uploaded(actions, write_clip(tmp_path / "a.mp4", 8))
    clicked(actions, session, 360, 270)
    before = following(actions, session, "click", None, *SIGHT, ENGLISH)
    assert not next(before)[1]["interactive"]
    next(before)
    cancelled = actions.cancel(session, ENGLISH)
    assert "Cancelled" in cancelled[0]
    assert cancelled[1]["interactive"]
    clicked(actions, session, 100, 100, number=2)
    assert "Waiting" in actions.ask(session, ENGLISH)[0]  # before the first has noticed
    assert list(before) == []
    assert not list(session.folder.glob("followed-*"))
    *_, last = actions.follow(session, "click", None, *SIGHT, ENGLISH)
    assert "8 frames" in last[0]
    assert list(actions.follow(session, "click", None, *SIGHT, ENGLISH)) == [(gr.skip(),) * 7]  # of a double click


def test_work_on_a_clip_that_is_replaced_ends_with_what_the_new_one_waits_for(
    actions: VideoActions, tmp_path: Path
) -> None:
    session = uploaded(actions, write_clip(tmp_path / "a.mp4", 8))
    clicked(actions, session, 360, 270)
    running = following(actions, session, "click", None, *SIGHT, ENGLISH)
    next(running)
    next(running)
    other = uploaded(actions, write_clip(tmp_path / "c.mp4"), session)
    (last,) = running
    assert "Mark an object" in last[0]
    assert last[1]["interactive"]
    assert folders(actions) == [other.folder]


def test_who_cancels_while_waiting_is_not_served(actions: VideoActions, tmp_path: Path) -> None:
    session = uploaded(actions, write_clip(tmp_path / "a.mp4", 8))
    clicked(actions, session, 360, 270)
    waiting = following(actions, session, "click", None, *SIGHT, ENGLISH)
    actions.cancel(session, ENGLISH)
    assert list(waiting) == [(gr.skip(),) * 7]


def test_the_tab_begins_with_the_sample_and_keeps_what_is_there(actions: VideoActions, tmp_path: Path) -> None:
    session, message, *_, progress = actions.begin(None, *SIGHT, SPANISH)[:7]
    assert "Ejemplo dibujado" in message
    assert "Marca un objeto" in progress
    assert isinstance(session, VideoSession)
    assert actions.begin(session, *SIGHT, SPANISH) == (gr.skip(),) * 13


def test_a_refused_clip_that_stops_the_work_gives_the_buttons_back(actions: VideoActions, tmp_path: Path) -> None:
    session = uploaded(actions, write_clip(tmp_path / "a.mp4", 8))
    (tmp_path / "b.mp4").write_bytes(b"no video")
    clicked(actions, session, 360, 270)
    running = following(actions, session, "click", None, *SIGHT, ENGLISH)
    assert not next(running)[1]["interactive"]
    results = actions.upload(str(tmp_path / "b.mp4"), session, *SIGHT, ENGLISH)
    assert "Cancelled" in results[6]
    assert results[7]["interactive"]
    (stopped,) = running
    assert "Cancelled" in stopped[0]  # again: an update of the work may have overtaken the first
    assert stopped[1]["interactive"]
    assert not list(session.folder.glob("followed-*"))
    *_, _ = following(actions, session, "click", None, *SIGHT, ENGLISH)
    results = actions.upload(str(tmp_path / "b.mp4"), session, *SIGHT, ENGLISH)
    assert results[6:] == (gr.skip(),) * 7  # what was followed to its end stays


def test_what_is_not_there_is_asked_for(actions: VideoActions, tmp_path: Path) -> None:
    assert "First upload a clip" in actions.ask(None, ENGLISH)[0]
    assert list(actions.follow(None, "click", None, *SIGHT, ENGLISH)) == [(gr.skip(),) * 7]
    session = uploaded(actions, write_clip(tmp_path / "a.mp4"))
    *_, unmarked = following(actions, session, "click", None, *SIGHT, SPANISH)
    assert "Primero marca un objeto" in unmarked[0]
    end(session)
    *_, gone = following(actions, session, "click", None, *SIGHT, ENGLISH)
    assert "no longer here" in gone[0]
    assert "no longer here" in clicked(actions, session, 1, 1)[2]
    assert folders(actions) == []


def test_painted_objects_stay_when_the_mode_changes_and_are_followed(actions: VideoActions, tmp_path: Path) -> None:
    session = uploaded(actions, write_clip(tmp_path / "a.mp4", 3))
    layer = np.zeros((*session.shown, 4), np.uint8)
    layer[100:300, 200:400] = (*object_colors()[4], 255)
    *_, last = following(actions, session, "paint", {"layers": [layer]}, *SIGHT, ENGLISH)
    assert "3 frames" in last[0]
    assert session.marks.marks == ()
    actions.change_mode(session, "click", {"layers": [layer]}, *SIGHT, ENGLISH)
    assert set(np.unique(session.mask(actions._sight(*SIGHT)))) == {0, 5}
    actions.undo(session, *SIGHT, ENGLISH)
    assert not session.mask(actions._sight(*SIGHT)).any()


def test_a_clip_with_too_many_frames_says_which_are_taken(tmp_path: Path) -> None:
    actions = make(tmp_path, replace(Limits(), video_frames=5))
    session, message, taking, *_ = actions.upload(str(write_clip(tmp_path / "a.mp4", 12)), None, *SIGHT, ENGLISH)
    assert taking["visible"]
    assert "more than the 5 frames" in message
    assert "Now: 4 frames, every 3" in message
    _, message = actions.take(session, "start", ENGLISH)
    assert "Now: 5 frames, every 1" in message
    assert len(list(session.clip)) == 5


def test_old_pictures_go(actions: VideoActions, tmp_path: Path) -> None:
    session = uploaded(actions, write_clip(tmp_path / "a.mp4"))
    for number in range(20):
        clicked(actions, session, 30 * number, 200)
    assert len(list(session.folder.glob("picture-*"))) <= 8


@pytest.mark.parametrize("texts", [video_words.TEXTS, neighbours_words.TEXTS])
def test_both_languages_say_the_same_things(texts: Any) -> None:
    assert texts["en"].keys() == texts["es"].keys()
    for key, english in texts["en"].items():
        assert set(re.findall(r"{(\w+)}", english)) == set(re.findall(r"{(\w+)}", texts["es"][key])), key
