"""The video tab without a browser: sessions apart, files gone when they should be, refusals in one's language."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

gr = pytest.importorskip("gradio", reason="the page needs Gradio")


from dinoscope.demo import video as tab  # noqa: E402
from dinoscope.demo.clip import Followed  # noqa: E402
from dinoscope.demo.engine import Engine  # noqa: E402
from dinoscope.demo.pictures import Limits  # noqa: E402
from dinoscope.demo.site import Site, Words  # noqa: E402
from dinoscope.demo.video import Updates, VideoSession, VideoTab, end  # noqa: E402
from dinoscope.model_names import load_model  # noqa: E402
from dinoscope.objects import COLORS  # noqa: E402
from tests.demo.clips import write_clip  # noqa: E402

MODEL = "random vit_micro_conv8"
ENGLISH, SPANISH = (gr.Request(SimpleNamespace(headers={"accept-language": each})) for each in ("en", "es-ES,es;q=0.9"))


@pytest.fixture
def video(tmp_path: Path) -> VideoTab:
    return make(tmp_path, Limits())


def make(tmp_path: Path, limits: Limits) -> VideoTab:
    made = tmp_path / "made"
    made.mkdir()
    engine = Engine([load_model("random:vit_micro_conv8")], limits)
    with gr.Blocks(), gr.Tab() as place:
        return VideoTab(Site(engine, Words(), [], made), place)


@pytest.mark.parametrize(
    ("methods", "chosen"),
    [(("dino", "random"), 0), (("random", "dino"), 1), (("supervised", "dino"), 1), (("random", "random"), 1),
     (("dino",), 0), (("random",), 1)],
)  # fmt: skip
def test_a_trained_model_follows_at_first(tmp_path: Path, methods: tuple[str, ...], chosen: int) -> None:
    fresh = load_model("random:vit_micro_conv8")
    methods += ("random",)  # another one that could be chosen
    models = [replace(fresh, label=f"{number}", method=method) for number, method in enumerate(methods)]
    made = tmp_path / "made"
    made.mkdir()
    with gr.Blocks(), gr.Tab() as place:
        video = VideoTab(Site(Engine(models, Limits()), Words(), [], made), place)
    assert video.model.value == f"{chosen}"


def values(video: VideoTab, session: VideoSession | None = None, **changes: Any) -> dict[Any, Any]:
    """What Gradio hands to the tab's functions."""
    given = {"session": session, "model": MODEL, "detail": 48, "mode": "click", "editor": None, "number": 1} | changes
    return {getattr(video, name): value for name, value in {"sign": True, **given}.items()}


def upload(video: VideoTab, file: Path, session: VideoSession | None = None, request: Any = ENGLISH) -> Updates:
    return video.upload(values(video, session, upload_button=str(file)), request)


def uploaded(video: VideoTab, file: Path, session: VideoSession | None = None) -> VideoSession:
    return upload(video, file, session)[video.session]


def clicked(video: VideoTab, session: VideoSession, x: int, y: int, number: int = 1) -> Updates:
    event = gr.SelectData(None, {"index": [x, y], "value": None})
    return video.click(values(video, session, number=number), event, ENGLISH)


def following(
    video: VideoTab, session: VideoSession | None, request: Any = ENGLISH, **changes: Any
) -> Generator[Any, None, None]:
    """As the page does: asked for at once, done when it is its turn."""
    data = values(video, session, **changes)
    video.ask(data, ENGLISH)
    return video.follow(data, request)


def folders(video: VideoTab) -> list[Path]:
    return sorted(path for path in video.folder.iterdir() if path.name != "sample")


def test_a_clip_of_one_frame(video: VideoTab, tmp_path: Path) -> None:
    session = uploaded(video, write_clip(tmp_path / "still.mp4", 1))
    assert ": 1 frame, " in video._about(session, ENGLISH)
    clicked(video, session, 100, 100)
    *_, last = following(video, session)
    assert last[video.progress].startswith("**1 frame in ")


def test_two_people_keep_their_own_clips_and_marks(video: VideoTab, tmp_path: Path) -> None:
    file = write_clip(tmp_path / "same.mp4", 4)
    first, second = uploaded(video, file), uploaded(video, file)
    assert first.folder != second.folder
    clicked(video, first, 100, 100)
    clicked(video, second, 600, 400, number=2)
    assert [click.number for click in first.marks] == [1]
    assert [click.number for click in second.marks] == [2]
    end(first)
    assert folders(video) == [second.folder]
    assert file.is_file()
    *_, last = following(video, second)
    assert "4 frames" in last[video.progress]


def test_a_new_clip_takes_the_place_of_the_old_one_and_a_refused_one_does_not(video: VideoTab, tmp_path: Path) -> None:
    session = uploaded(video, write_clip(tmp_path / "a.mp4"))
    (tmp_path / "b.mp4").write_bytes(b"no video")
    refused = upload(video, tmp_path / "b.mp4", session, SPANISH)
    assert list(refused) == [video.upload_complaint]
    assert "b&#46;mp4 no es un vídeo" in refused[video.upload_complaint].value
    assert folders(video) == [session.folder]
    other = uploaded(video, write_clip(tmp_path / "c.mp4"), session)
    assert folders(video) == [other.folder]


def test_cancelling_removes_what_was_written_and_keeps_the_marks(video: VideoTab, tmp_path: Path) -> None:
    session = uploaded(video, write_clip(tmp_path / "a.mp4", 8))
    clicked(video, session, 360, 270)
    before = video.ids(session, values(video))
    running = following(video, session)
    next(running)
    next(running)
    assert list(session.folder.glob("followed-*"))
    running.close()
    assert not list(session.folder.glob("followed-*"))
    assert np.array_equal(video.ids(session, values(video)), before)
    *_, last = following(video, session)
    assert len(list(session.folder.glob("followed-*/overlay.webm"))) == 1
    assert Path(last[video.overlay]["value"]).is_file()


def followed_by_clock(
    video: VideoTab, session: VideoSession, monkeypatch: pytest.MonkeyPatch, model: float, drawing: float, end: float
) -> tuple[list[tuple[float, Updates]], float]:
    """Follow with a model and a drawing of so many seconds a frame, and so many at the end, by a clock of our own.

    Return each update with its time, and the time at which all was done.
    """
    clock = SimpleNamespace(now=1000.0)

    def follow(*_: Any) -> Generator[Followed, None, None]:
        for number, frame in enumerate(session.clip, start=1):
            clock.now += model + drawing
            yield Followed(frame, number * model)
        clock.now += end

    monkeypatch.setattr(tab, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(tab, "follow", follow)
    updates = [(clock.now, update) for update in following(video, session)]
    return updates, clock.now


def test_the_time_left_counts_drawing_and_encoding_and_the_figures_of_the_model_do_not(
    video: VideoTab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = uploaded(video, write_clip(tmp_path / "a.mp4", 12))
    clicked(video, session, 360, 270)
    (_, first), *running, (_, last) = followed_by_clock(video, session, monkeypatch, model=2, drawing=3, end=0.4)[0]
    assert "Starting" in first[video.progress]
    texts = [update[video.progress] for _, update in running]
    lefts = [float(text.split("about ")[1].split(" s left")[0]) for text in texts[:-1]]
    assert lefts == [60 - 5 * done for done in range(1, 12)]
    assert "writing the video and the masks" in texts[-1]
    assert all("0.5 frames/s" in text for text in texts)
    assert "**12 frames in 24.0 s** (0.5 frames/s)" in last[video.progress]
    assert "60.4 s with drawing and encoding" in last[video.progress]


def test_frames_appear_while_they_are_followed_at_most_twice_a_second_and_the_last_one(
    video: VideoTab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = uploaded(video, write_clip(tmp_path / "a.mp4", 24))
    clicked(video, session, 360, 270)
    updates, end = followed_by_clock(video, session, monkeypatch, model=0.15, drawing=0.05, end=0)
    shown = [(now, update[video.moving]["value"]) for now, update in updates[1:-1]]
    assert len({path for _, path in shown}) == len(shown) == 9  # of 24 frames in 4.8 s
    assert [now for now, _ in shown] == pytest.approx([*(1000.2 + 0.6 * number for number in range(8)), 1004.8])
    assert end == pytest.approx(1004.8)


def test_cancel_then_follow_again_with_other_marks(video: VideoTab, tmp_path: Path) -> None:
    session = uploaded(video, write_clip(tmp_path / "a.mp4", 8))
    clicked(video, session, 360, 270)
    before = following(video, session)
    assert not next(before)[video.follow_button]["interactive"]
    next(before)
    cancelled = video.cancel(values(video, session), ENGLISH)
    assert "Cancelled" in cancelled[video.progress]
    assert cancelled[video.follow_button]["interactive"]
    clicked(video, session, 100, 100, number=2)
    assert "Waiting" in video.ask(values(video, session), ENGLISH)[video.progress]  # before the first has noticed
    assert list(before) == []
    assert not list(session.folder.glob("followed-*"))
    *_, last = video.follow(values(video, session), ENGLISH)
    assert "8 frames" in last[video.progress]
    assert list(video.follow(values(video, session), ENGLISH)) == [gr.skip()]  # of a double click


def test_work_on_a_clip_that_is_replaced_ends_with_what_the_new_one_waits_for(video: VideoTab, tmp_path: Path) -> None:
    session = uploaded(video, write_clip(tmp_path / "a.mp4", 8))
    clicked(video, session, 360, 270)
    running = following(video, session)
    next(running)
    next(running)
    other = uploaded(video, write_clip(tmp_path / "c.mp4"), session)
    (last,) = running
    assert "Mark an object" in last[video.progress]
    assert last[video.follow_button]["interactive"]
    assert folders(video) == [other.folder]


def test_who_cancels_while_waiting_is_not_served(video: VideoTab, tmp_path: Path) -> None:
    session = uploaded(video, write_clip(tmp_path / "a.mp4", 8))
    clicked(video, session, 360, 270)
    waiting = following(video, session)
    video.cancel(values(video, session), ENGLISH)
    assert list(waiting) == [gr.skip()]


def test_the_tab_begins_with_the_sample_and_keeps_what_is_there(video: VideoTab, tmp_path: Path) -> None:
    begun = video.begin(values(video), SPANISH)
    assert "Ejemplo dibujado" in begun[video.status]
    assert "Marca un objeto" in begun[video.progress]
    assert isinstance(begun[video.session], VideoSession)
    assert video.begin(values(video, begun[video.session]), SPANISH) == gr.skip()


def test_a_refused_clip_leaves_the_work_alone(video: VideoTab, tmp_path: Path) -> None:
    session = uploaded(video, write_clip(tmp_path / "a.mp4", 8))
    (tmp_path / "b.mp4").write_bytes(b"no video")
    clicked(video, session, 360, 270)
    running = following(video, session)
    next(running)
    next(running)
    assert list(upload(video, tmp_path / "b.mp4", session)) == [video.upload_complaint]
    *_, last = running
    assert "8 frames" in last[video.progress]


def test_what_is_not_there_is_asked_for(video: VideoTab, tmp_path: Path) -> None:
    assert "First upload a clip" in video.ask(values(video), ENGLISH)[video.progress]
    assert list(video.follow(values(video), ENGLISH)) == [gr.skip()]
    session = uploaded(video, write_clip(tmp_path / "a.mp4"))
    *_, unmarked = following(video, session, SPANISH)
    assert "Primero marca un objeto" in unmarked[video.progress]
    end(session)
    *_, gone = following(video, session)
    assert "no longer here" in gone[video.progress]
    assert "no longer here" in clicked(video, session, 1, 1)[video.status]
    assert folders(video) == []


def test_painted_objects_stay_when_the_mode_changes_and_are_followed(video: VideoTab, tmp_path: Path) -> None:
    session = uploaded(video, write_clip(tmp_path / "a.mp4", 3))
    layer = np.zeros((*session.shown, 4), np.uint8)
    layer[100:300, 200:400] = (*COLORS[4], 255)
    *_, last = following(video, session, mode="paint", editor={"layers": [layer]})
    assert "3 frames" in last[video.progress]
    assert session.marks == []
    video.change_mode(values(video, session, editor={"layers": [layer]}), ENGLISH)
    assert set(np.unique(video.ids(session, values(video)))) == {0, 5}
    video.undo(values(video, session), ENGLISH)
    assert not video.ids(session, values(video)).any()


def mask_file(path: Path, ids: dict[int, slice], size: tuple[int, int] = (48, 64)) -> Path:
    """A grey PNG: each object in rows of its own."""
    values = np.zeros(size, np.uint8)
    for number, rows in ids.items():
        values[rows, 8:40] = number
    Image.fromarray(values).save(path)
    return path


def give_mask(video: VideoTab, session: VideoSession | None, file: Path, request: Any = ENGLISH) -> Updates:
    return video.upload_mask(values(video, session, mask_button=str(file)), request)


def test_a_mask_file_marks_its_objects_and_another_takes_its_place(video: VideoTab, tmp_path: Path) -> None:
    session = uploaded(video, write_clip(tmp_path / "a.mp4", 3))
    clicked(video, session, 1, 1, number=3)
    bare = session.marks
    given = give_mask(video, session, mask_file(tmp_path / "mask.png", {2: slice(10, 20), 9: slice(30, 40)}))
    assert given[video.frame].is_file()
    assert not given[video.mask_complaint].visible
    ids = video.ids(session, values(video))
    assert (ids[10:20, 8:40] == 2).all()
    assert (ids[30:40, 8:40] == 9).all()
    give_mask(video, session, mask_file(tmp_path / "other.png", {255: slice(12, 30)}))
    ids = video.ids(session, values(video))
    assert (ids[12:30, 8:40] == 1).all()  # white alone is an object
    assert not np.isin(ids, (2, 9)).any()
    *_, last = following(video, session)
    assert "3 frames" in last[video.progress]
    video.undo(values(video, session), ENGLISH)
    assert session.marks == bare


def test_a_mask_of_the_videos_own_size_is_shrunk_with_it(tmp_path: Path) -> None:
    video = make(tmp_path, replace(Limits(), video_side=32))
    session = uploaded(video, write_clip(tmp_path / "a.mp4"))
    give_mask(video, session, mask_file(tmp_path / "own.png", {4: slice(12, 24)}))
    large = video.ids(session, values(video))
    give_mask(video, session, mask_file(tmp_path / "shown.png", {4: slice(6, 12)}, (24, 32)))
    assert large.shape == (24, 32)
    assert (large[6:12, 4:20] == 4).all()
    assert (large == 4).sum() == 6 * 16
    refused = give_mask(video, session, mask_file(tmp_path / "wrong.png", {4: slice(6, 12)}, (40, 40)))
    text = refused[video.mask_complaint].value
    assert all(size in text for size in ("40 × 40 px", "64 × 48 px", "32 × 24 px"))


@pytest.mark.parametrize(
    ("ids", "size", "words"),
    [
        ({1: slice(5, 9)}, (48, 60), "La máscara tiene 60 × 48 px, y el vídeo 64 × 48 px"),
        ({}, (48, 64), "ningún objeto"),
        ({number: slice(5 * number, 5 * number + 3) for number in range(1, 8)}, (48, 64), "7 objetos; se siguen 6"),
        (None, (48, 64), "PNG con paleta o en gris"),
    ],
)
def test_a_refused_mask_says_why_and_changes_nothing(
    video: VideoTab, tmp_path: Path, ids: dict[int, slice] | None, size: tuple[int, int], words: str
) -> None:
    session = uploaded(video, write_clip(tmp_path / "a.mp4", 3))
    give_mask(video, session, mask_file(tmp_path / "good.png", {1: slice(5, 20)}))
    marks = session.marks
    if ids is None:
        Image.new("RGB", size[::-1]).save(tmp_path / "bad.png")
    else:
        mask_file(tmp_path / "bad.png", ids, size)
    running = following(video, session)
    next(running)
    refused = give_mask(video, session, tmp_path / "bad.png", SPANISH)
    assert list(refused) == [video.mask_complaint]
    assert words in refused[video.mask_complaint].value
    assert session.marks is marks
    *_, last = running
    assert "3 frames" in last[video.progress]


def test_a_mask_without_a_clip_is_refused(video: VideoTab, tmp_path: Path) -> None:
    refused = give_mask(video, None, mask_file(tmp_path / "mask.png", {1: slice(5, 9)}))
    assert "First upload a clip" in refused[video.mask_complaint].value


def painting(video: VideoTab, session: VideoSession, empty: bool = False) -> Updates:
    layer = np.zeros((*session.shown, 4), np.uint8)
    if not empty:
        layer[100:300, 200:400] = (*COLORS[4], 255)
    return video.paint(values(video, session, mode="paint", editor={"layers": [layer]}), ENGLISH)


CHANGES: dict[str, Callable[[VideoTab, VideoSession, Path], Updates]] = {
    "click": lambda video, session, _: clicked(video, session, 100, 100, number=2),
    "mark": lambda video, session, _: video.mark(values(video, session, across=20, down=20, number=2), ENGLISH),
    "undo": lambda video, session, _: video.undo(values(video, session), ENGLISH),
    "clear": lambda video, session, _: video.clear(values(video, session), ENGLISH),
    "reach": lambda video, session, _: video.reach(values(video, session, reach_slider=0.2), ENGLISH),
    "detail": lambda video, session, _: video.change_model(values(video, session, detail=64), ENGLISH),
    "mask": lambda video, session, path: give_mask(video, session, mask_file(path / "m.png", {1: slice(5, 20)})),
    "paint": lambda video, session, _: painting(video, session),
    "frames": lambda video, session, _: video.take(values(video, session, taking="start"), ENGLISH),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_clears_the_result(tmp_path: Path, name: str) -> None:
    video = make(tmp_path, replace(Limits(), video_frames=3))
    session = uploaded(video, write_clip(tmp_path / "a.mp4", 6))
    clicked(video, session, 360, 270)
    *_, last = following(video, session)
    assert last[video.save_masks]["interactive"]
    changed = CHANGES[name](video, session, tmp_path)
    assert "Mark an object" in changed[video.progress]
    for saved in (video.save_overlay, video.save_masks):
        assert (changed[saved]["value"], changed[saved]["interactive"]) == (None, False)
    assert (changed[video.overlay]["value"], changed[video.overlay]["visible"]) == (None, False)
    assert changed[video.moving]["value"] is None


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_stops_what_runs(tmp_path: Path, name: str) -> None:
    video = make(tmp_path, replace(Limits(), video_frames=3))
    session = uploaded(video, write_clip(tmp_path / "a.mp4", 6))
    clicked(video, session, 360, 270)
    running = following(video, session)
    next(running)
    next(running)
    changed = CHANGES[name](video, session, tmp_path)
    assert "Stopped" in changed[video.progress]
    assert changed[video.follow_button]["interactive"]
    (stopped,) = running
    assert "Stopped" in stopped[video.progress]
    assert not list(session.folder.glob("followed-*"))


def test_what_changes_nothing_leaves_the_result(video: VideoTab, tmp_path: Path) -> None:
    session = uploaded(video, write_clip(tmp_path / "a.mp4", 3))
    clicked(video, session, 360, 270)
    *_, _ = following(video, session)
    # the keyboard passes over the slider and the menus, of which Gradio tells
    assert video.progress not in video.reach(values(video, session, reach_slider=0.0), ENGLISH)
    assert video.progress not in video.change_model(values(video, session), ENGLISH)


def test_what_waits_takes_more_marks_and_no_other_model(video: VideoTab, tmp_path: Path) -> None:
    session = uploaded(video, write_clip(tmp_path / "a.mp4", 3))
    clicked(video, session, 360, 270)
    waiting = following(video, session)
    mask = mask_file(tmp_path / "m.png", {4: slice(5, 20)})
    assert video.progress not in give_mask(video, session, mask)
    assert video.progress not in video.change_model(values(video, session), ENGLISH)
    *_, last = waiting
    with zipfile.ZipFile(last[video.save_masks]["value"]) as masks, masks.open("00000.png") as file:
        assert 4 in np.asarray(Image.open(file))
    waiting = following(video, session)
    assert "Stopped" in video.change_model(values(video, session, detail=64), ENGLISH)[video.progress]
    assert list(waiting) == [gr.skip()]


def test_painting_mode_keeps_the_result_until_something_is_painted(video: VideoTab, tmp_path: Path) -> None:
    session = uploaded(video, write_clip(tmp_path / "a.mp4", 3))
    clicked(video, session, 360, 270)
    *_, _ = following(video, session)
    assert video.progress not in video.change_mode(values(video, session, mode="paint"), ENGLISH)
    assert painting(video, session, empty=True) == gr.skip()
    waiting = following(video, session, mode="paint")
    assert painting(video, session) == gr.skip()  # what waits is followed with it
    assert len(list(waiting)) > 1


def test_stopped_at_the_last_frame_nothing_stays(video: VideoTab, tmp_path: Path) -> None:
    session = uploaded(video, write_clip(tmp_path / "a.mp4", 2))
    clicked(video, session, 360, 270)
    for update in following(video, session):
        if "writing" in update[video.progress]:
            video.cancel(values(video, session), ENGLISH)
    assert "Cancelled" in update[video.progress]
    assert not list(session.folder.glob("followed-*"))


def test_a_change_does_not_end_what_was_asked_for_after_it(
    video: VideoTab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = uploaded(video, write_clip(tmp_path / "a.mp4", 2))
    drawn = video._picture

    def slow(*given: Any) -> Path:
        video.ask(values(video, session), ENGLISH)
        return drawn(*given)

    monkeypatch.setattr(video, "_picture", slow)
    assert video.progress not in clicked(video, session, 360, 270)
    monkeypatch.undo()
    *_, last = video.follow(values(video, session), ENGLISH)
    assert "2 frames" in last[video.progress]


def test_a_clip_with_too_many_frames_says_which_are_taken(tmp_path: Path) -> None:
    video = make(tmp_path, replace(Limits(), video_frames=5))
    loaded = upload(video, write_clip(tmp_path / "a.mp4", 12))
    session = loaded[video.session]
    assert loaded[video.taking]["visible"]
    assert "more than the 5 frames" in loaded[video.status]
    assert "Now: 4 frames, every 3" in loaded[video.status]
    changed = video.take(values(video, session, taking="start"), ENGLISH)
    assert "Now: 5 frames, every 1" in changed[video.status]
    assert len(list(session.clip)) == 5


def test_old_pictures_go(video: VideoTab, tmp_path: Path) -> None:
    session = uploaded(video, write_clip(tmp_path / "a.mp4"))
    for number in range(20):
        clicked(video, session, 30 * number, 200)
    assert len(list(session.folder.glob("picture-*"))) <= 8
