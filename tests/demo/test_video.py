"""The video tab without a browser: sessions apart, files gone when they should be, refusals in one's language."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

gr = pytest.importorskip("gradio", reason="the page needs Gradio")


from dinoscope.demo.clip import object_colors  # noqa: E402
from dinoscope.demo.engine import Engine  # noqa: E402
from dinoscope.demo.limits import Limits  # noqa: E402
from dinoscope.demo.site import Site, Words  # noqa: E402
from dinoscope.demo.video import VideoSession, VideoTab, end  # noqa: E402
from dinoscope.model_names import load_model  # noqa: E402
from tests.demo.clips import write_clip  # noqa: E402

MODEL = "random vit_micro_conv8"
GIVEN = (MODEL, 48)
ENGLISH, SPANISH = (gr.Request(SimpleNamespace(headers={"accept-language": each})) for each in ("en", "es-ES,es;q=0.9"))


@pytest.fixture
def video(tmp_path: Path) -> VideoTab:
    return make(tmp_path, Limits())


def make(tmp_path: Path, limits: Limits) -> VideoTab:
    made = tmp_path / "made"
    made.mkdir()
    engine = Engine([load_model("random:vit_micro_conv8")], limits)
    with gr.Blocks(), gr.Tab() as tab:
        return VideoTab(Site(engine, Words(), limits, [], [], made), tab)


def uploaded(video: VideoTab, file: Path, session: VideoSession | None = None) -> VideoSession:
    return video.upload(str(file), session, *GIVEN, ENGLISH)[0]


def clicked(video: VideoTab, session: VideoSession, x: int, y: int, number: int = 1) -> tuple[Any, ...]:
    event = gr.SelectData(None, {"index": [x, y], "value": None})
    return video.click(session, number, True, *GIVEN, event, ENGLISH)


def following(video: VideoTab, session: VideoSession | None, *values: Any) -> Generator[Any, None, None]:
    """As the page does: asked for at once, done when it is its turn."""
    video.ask(session, ENGLISH)
    return video.follow(session, *values)


def folders(video: VideoTab) -> list[Path]:
    return sorted(path for path in video.folder.iterdir() if path.name != "sample")


def test_a_clip_of_one_frame(video: VideoTab, tmp_path: Path) -> None:
    session = uploaded(video, write_clip(tmp_path / "still.mp4", 1))
    assert ": 1 frame, " in video._about(session, ENGLISH)
    clicked(video, session, 100, 100)
    *_, last = following(video, session, "click", None, *GIVEN, ENGLISH)
    assert last[0].startswith("**1 frame in ")


def test_two_people_keep_their_own_clips_and_marks(video: VideoTab, tmp_path: Path) -> None:
    file = write_clip(tmp_path / "same.mp4", 4)
    first, second = uploaded(video, file), uploaded(video, file)
    assert first.folder != second.folder
    clicked(video, first, 100, 100)
    clicked(video, second, 600, 400, number=2)
    assert [click.number for click in first.marks.clicks] == [1]
    assert [click.number for click in second.marks.clicks] == [2]
    end(first)
    assert folders(video) == [second.folder]
    assert file.is_file()
    *_, last = following(video, second, "click", None, *GIVEN, ENGLISH)
    assert "4 frames" in last[0]


def test_a_new_clip_takes_the_place_of_the_old_one_and_a_refused_one_does_not(video: VideoTab, tmp_path: Path) -> None:
    session = uploaded(video, write_clip(tmp_path / "a.mp4"))
    (tmp_path / "b.mp4").write_bytes(b"no video")
    kept, message, *_ = video.upload(str(tmp_path / "b.mp4"), session, *GIVEN, SPANISH)
    assert kept is session
    assert "b&#46;mp4 no es un vídeo" in message
    assert folders(video) == [session.folder]
    other = uploaded(video, write_clip(tmp_path / "c.mp4"), session)
    assert folders(video) == [other.folder]


def test_cancelling_removes_what_was_written_and_keeps_the_marks(video: VideoTab, tmp_path: Path) -> None:
    session = uploaded(video, write_clip(tmp_path / "a.mp4", 8))
    clicked(video, session, 360, 270)
    before = session.mask(video.models[MODEL], 48)
    running = following(video, session, "click", None, *GIVEN, ENGLISH)
    next(running)
    next(running)
    assert list(session.folder.glob("followed-*"))
    running.close()
    assert not list(session.folder.glob("followed-*"))
    assert np.array_equal(session.mask(video.models[MODEL], 48), before)
    *_, last = following(video, session, "click", None, *GIVEN, ENGLISH)
    assert len(list(session.folder.glob("followed-*/overlay.mp4"))) == 1
    assert Path(last[4]["value"]).is_file()


def test_cancel_then_follow_again_with_other_marks(video: VideoTab, tmp_path: Path) -> None:
    session = uploaded(video, write_clip(tmp_path / "a.mp4", 8))
    clicked(video, session, 360, 270)
    before = following(video, session, "click", None, *GIVEN, ENGLISH)
    assert not next(before)[1]["interactive"]
    next(before)
    cancelled = video.cancel(session, ENGLISH)
    assert "Cancelled" in cancelled[0]
    assert cancelled[1]["interactive"]
    clicked(video, session, 100, 100, number=2)
    assert "Waiting" in video.ask(session, ENGLISH)[0]  # before the first has noticed
    assert list(before) == []
    assert not list(session.folder.glob("followed-*"))
    *_, last = video.follow(session, "click", None, *GIVEN, ENGLISH)
    assert "8 frames" in last[0]
    assert list(video.follow(session, "click", None, *GIVEN, ENGLISH)) == [(gr.skip(),) * 7]  # of a double click


def test_work_on_a_clip_that_is_replaced_ends_with_what_the_new_one_waits_for(video: VideoTab, tmp_path: Path) -> None:
    session = uploaded(video, write_clip(tmp_path / "a.mp4", 8))
    clicked(video, session, 360, 270)
    running = following(video, session, "click", None, *GIVEN, ENGLISH)
    next(running)
    next(running)
    other = uploaded(video, write_clip(tmp_path / "c.mp4"), session)
    (last,) = running
    assert "Mark an object" in last[0]
    assert last[1]["interactive"]
    assert folders(video) == [other.folder]


def test_who_cancels_while_waiting_is_not_served(video: VideoTab, tmp_path: Path) -> None:
    session = uploaded(video, write_clip(tmp_path / "a.mp4", 8))
    clicked(video, session, 360, 270)
    waiting = following(video, session, "click", None, *GIVEN, ENGLISH)
    video.cancel(session, ENGLISH)
    assert list(waiting) == [(gr.skip(),) * 7]


def test_the_tab_begins_with_the_sample_and_keeps_what_is_there(video: VideoTab, tmp_path: Path) -> None:
    session, message, *_, progress = video.begin(None, *GIVEN, SPANISH)[:7]
    assert "Ejemplo dibujado" in message
    assert "Marca un objeto" in progress
    assert isinstance(session, VideoSession)
    assert video.begin(session, *GIVEN, SPANISH) == (gr.skip(),) * 13


def test_a_refused_clip_that_stops_the_work_gives_the_buttons_back(video: VideoTab, tmp_path: Path) -> None:
    session = uploaded(video, write_clip(tmp_path / "a.mp4", 8))
    (tmp_path / "b.mp4").write_bytes(b"no video")
    clicked(video, session, 360, 270)
    running = following(video, session, "click", None, *GIVEN, ENGLISH)
    assert not next(running)[1]["interactive"]
    results = video.upload(str(tmp_path / "b.mp4"), session, *GIVEN, ENGLISH)
    assert "Cancelled" in results[6]
    assert results[7]["interactive"]
    (stopped,) = running
    assert "Cancelled" in stopped[0]  # again: an update of the work may have overtaken the first
    assert stopped[1]["interactive"]
    assert not list(session.folder.glob("followed-*"))
    *_, _ = following(video, session, "click", None, *GIVEN, ENGLISH)
    results = video.upload(str(tmp_path / "b.mp4"), session, *GIVEN, ENGLISH)
    assert results[6:] == (gr.skip(),) * 7  # what was followed to its end stays


def test_what_is_not_there_is_asked_for(video: VideoTab, tmp_path: Path) -> None:
    assert "First upload a clip" in video.ask(None, ENGLISH)[0]
    assert list(video.follow(None, "click", None, *GIVEN, ENGLISH)) == [(gr.skip(),) * 7]
    session = uploaded(video, write_clip(tmp_path / "a.mp4"))
    *_, unmarked = following(video, session, "click", None, *GIVEN, SPANISH)
    assert "Primero marca un objeto" in unmarked[0]
    end(session)
    *_, gone = following(video, session, "click", None, *GIVEN, ENGLISH)
    assert "no longer here" in gone[0]
    assert "no longer here" in clicked(video, session, 1, 1)[2]
    assert folders(video) == []


def test_painted_objects_stay_when_the_mode_changes_and_are_followed(video: VideoTab, tmp_path: Path) -> None:
    session = uploaded(video, write_clip(tmp_path / "a.mp4", 3))
    layer = np.zeros((*session.shown, 4), np.uint8)
    layer[100:300, 200:400] = (*object_colors()[4], 255)
    *_, last = following(video, session, "paint", {"layers": [layer]}, *GIVEN, ENGLISH)
    assert "3 frames" in last[0]
    assert session.marks.marks == ()
    video.change_mode(session, "click", {"layers": [layer]}, *GIVEN, ENGLISH)
    assert set(np.unique(session.mask(video.models[MODEL], 48))) == {0, 5}
    video.undo(session, *GIVEN, ENGLISH)
    assert not session.mask(video.models[MODEL], 48).any()


def test_a_clip_with_too_many_frames_says_which_are_taken(tmp_path: Path) -> None:
    video = make(tmp_path, replace(Limits(), video_frames=5))
    session, message, taking, *_ = video.upload(str(write_clip(tmp_path / "a.mp4", 12)), None, *GIVEN, ENGLISH)
    assert taking["visible"]
    assert "more than the 5 frames" in message
    assert "Now: 4 frames, every 3" in message
    _, message = video.take(session, "start", ENGLISH)
    assert "Now: 5 frames, every 1" in message
    assert len(list(session.clip)) == 5


def test_old_pictures_go(video: VideoTab, tmp_path: Path) -> None:
    session = uploaded(video, write_clip(tmp_path / "a.mp4"))
    for number in range(20):
        clicked(video, session, 30 * number, 200)
    assert len(list(session.folder.glob("picture-*"))) <= 8
