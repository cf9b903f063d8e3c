"""The tab for videos: load a clip, mark objects on its first frame, follow them, look at the result and save it."""

from __future__ import annotations

import math
import os
import shutil
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import gradio as gr
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

from dinoscope.demo.clip import (
    BRUSH_OPACITY,
    OBJECTS,
    Click,
    Clip,
    Mark,
    clip_cells,
    follow,
    object_ids,
    open_clip,
    painted,
    read_mask,
    sample_clip,
)
from dinoscope.demo.pictures import SHOWN, Refused, fitted_size, shrunk
from dinoscope.demo.site import Site
from dinoscope.errors import UserError
from dinoscope.evaluation.propagation import PropagationConfig, lost_objects
from dinoscope.objects import COLORS, draw_number, objects_overlay, opposite

DETAILS = (128, 192, 256, 320, 480, 640)
_DETAIL = 256
_SESSION_SECONDS = 4 * 3600  # after its last change a clip is stored so long, if the page is left open
_HEIGHT = 330  # px of both pictures: everything is seen at once on a screen of 768 px
_MAX_REACH = 0.3
_SECONDS_BETWEEN_PICTURES = 0.5  # between two frames that are shown while a clip is followed
_TIMED = 8  # the latest frames whose time tells that of the others: the first ones are compared with fewer
_PICTURES = 8  # the latest that are stored: a browser may still be fetching one of them
_LAST = 0.999  # of the width or height: a click lies inside the frame

Data = dict[Any, Any]
"""Component -> its value, as Gradio hands it to handlers."""
Updates = dict[Any, Any]
"""Component -> its new value; the others stay."""


@dataclass(eq=False)
class VideoSession:
    """One person's clip, the marks on its first frame, and the folder that holds all its files. Shared with nobody.

    whole: the clip with all of its frames. clip: with those that are followed.
    marks: every change makes another list, since what follows may read it at the same time. mask: the one of them that
        comes from a file.
    job: stands for what was asked to be followed, until it ends or is stopped; another one as soon as that is asked
        for again. waiting: the same until its turn comes. stopped: the text (a key) for why the last one was stopped.
    asked: model and detail that it was asked for with.
    followed: what is followed, or was, as `VideoTab._chosen` gives it; None if that was changed.
    """

    folder: Path
    whole: Clip
    clip: Clip
    marks: list[Mark] = field(default_factory=list[Mark])
    mask: Mark | None = None
    reach: float = 0.0
    job: object | None = None
    waiting: object | None = None
    stopped: str = "video_cancelled"
    asked: tuple[str, int] | None = None
    followed: tuple[Any, ...] | None = None
    pictures: int = 0

    @property
    def shown(self) -> tuple[int, int]:
        """Height and width of pictures."""
        return fitted_size(self.clip.size, SHOWN, SHOWN)

    def stop(self, why: str) -> bool:
        """Stop what was asked for, and return whether there was anything. why: see `stopped`."""
        if self.job is None:
            return False
        self.job, self.waiting, self.stopped = None, None, why
        return True

    def save(self, frame: UInt8[ndarray, "h w 3"]) -> Path:
        """Write a frame, as large as `shown`, under a name of its own, since browsers cache by name."""
        self.pictures += 1
        (self.folder / f"picture-{self.pictures - _PICTURES}.jpg").unlink(missing_ok=True)
        file = self.folder / f"picture-{self.pictures}.jpg"
        Image.fromarray(shrunk(frame, SHOWN, SHOWN)).save(file, quality=92)
        return file


def end(session: VideoSession | None) -> None:
    """Remove all files of a session, and stop what it does."""
    if session is not None:
        session.stop("video_ready")
        shutil.rmtree(session.folder, ignore_errors=True)


class VideoTab:
    """The tab's components and handlers; build it inside `tab`. A person's clip and marks are in their session.

    Everybody has a folder of their own below `site.folder`, which is served as it is, to whoever knows its name (which
    cannot be guessed), and removed when a new clip comes in or the session ends.
    """

    def __init__(self, site: Site, tab: gr.Tab) -> None:
        self.site, self.models = site, site.engine.models
        self.say, self.limits = site.words.say, site.engine.limits
        self.folder = site.folder / "videos"
        self.folder.mkdir(exist_ok=True)
        gr.set_static_paths([self.folder])
        self._drawing = threading.Lock()
        self.session = gr.State(None, time_to_live=_SESSION_SECONDS, delete_callback=end)
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=360):
                self._build_clip()
                self._build_marking()
            with gr.Column(scale=1, min_width=360):
                self._build_following()
        self._wire(tab)

    def _build_clip(self) -> None:
        site, word = self.site, self.site.words.label
        with gr.Row():
            self.upload_button = site.button("video_upload", gr.UploadButton, file_types=["video", ".mkv", ".gif"])
            self.sample_button = site.button("video_sample")
        self.upload_complaint = site.complaint("video-upload")
        self.status = gr.Markdown(word("video_start"), latex_delimiters=[], elem_id="video-status")
        self.taking = site.choice("video_taking", {"spread": "spread", "start": "start"}, visible=False)
        settings: Any = {"interactive": False, "height": _HEIGHT, "buttons": ["fullscreen"]}
        first: Any = word("video_first")
        settings |= {"elem_id": "video-frame", "elem_classes": "clickable"}
        self.frame = gr.Image(label=first, alt_text=first, **settings)
        strokes = [(f"rgb{color}", BRUSH_OPACITY) for color in COLORS]
        brush = gr.Brush(colors=[*strokes], default_color=strokes[0], color_mode="fixed")
        settings = {"show_label": False, "visible": False, "height": _HEIGHT, "sources": (), "transforms": ()}
        self.editor = gr.ImageEditor(layers=False, type="numpy", brush=brush, elem_id="video-editor", **settings)
        # each choice, and each colour of the brush, has the object's colour and its number
        styles = [
            f"#video-object label:nth-of-type({number}) {{ border-bottom: 4px solid rgb{color}; }}"
            f"#video-editor .swatch .color:nth-of-type({number})::after"
            f" {{ content: '{number}'; color: rgb{opposite(color)}; font-weight: 700; }}"
            for number, color in enumerate(COLORS, start=1)
        ]
        # else the number would be as pale as the paint
        styles.append("#video-editor .swatch .color { opacity: 1 !important; }")
        gr.HTML(f"<style>{' '.join(styles)}</style>", padding=False, elem_id="video-colours")

    def _build_marking(self) -> None:
        site, word = self.site, self.site.words.label
        with gr.Row():
            modes = {"click": "click", "paint": "paint"}
            self.mode = site.choice("video_mode", modes, min_width=170, elem_id="video-mode")
            self.sign = site.choice("video_sign", {"add": True, "away": False}, min_width=170, elem_id="video-sign")
        with gr.Row(equal_height=True):
            settings: Any = {"scale": 4, "min_width": 300, "elem_id": "video-object", "elem_classes": "kinds"}
            numbers = [(f"{each}", each) for each in range(1, OBJECTS + 1)]
            self.number = gr.Radio(numbers, value=1, label=word("video_object"), **settings)
            with gr.Column(scale=1, min_width=90, elem_classes="stack"):
                self.undo_button = site.button("video_undo", size="sm")
                self.clear_button = site.button("video_clear", size="sm")
            self.mask_button = site.button("video_mask", gr.UploadButton, size="sm", scale=1, min_width=90)
        self.mask_complaint = site.complaint("video-mask")
        self.reach_slider = site.slider("video_reach", -_MAX_REACH, _MAX_REACH, 0, step=0.02, elem_id="video-reach")
        with gr.Accordion(word("video_typed"), open=False, elem_id="video-typed") as self.typed, gr.Row():
            self.across = site.slider("page_across", 0, 100, 50, step=0.5, min_width=120, elem_id="video-across")
            self.down = site.slider("page_down", 0, 100, 50, step=0.5, min_width=120, elem_id="video-down")
            self.mark_button = site.button("video_mark", size="sm", min_width=90)

    def _build_following(self) -> None:
        site, word = self.site, self.site.words.label
        with gr.Row():
            self.follow_button = site.button("video_follow", variant="primary")
            self.cancel_button = site.button("video_cancel", variant="stop", interactive=False)
        self.progress = gr.Markdown(latex_delimiters=[], elem_id="video-progress")
        settings: Any = {"interactive": False, "height": _HEIGHT, "buttons": ["fullscreen"]}
        result: Any = word("video_result")
        self.moving = gr.Image(label=result, alt_text=result, elem_id="video-moving", **settings)
        settings |= {"visible": False, "autoplay": True, "loop": True, "buttons": []}
        self.overlay = gr.Video(label=word("video_overlay"), elem_id="video-overlay", **settings)
        with gr.Row():
            names = list(self.models)
            trained = [name for name in names[:2] if self.models[name].method != "random"]
            # of a trained pair the second is the one that learned without labels
            self.model = gr.Dropdown(names, value=(trained or names[:2])[-1], label=word("video_model"), min_width=160)
            details = [size for size in DETAILS if size <= self.limits.most_size] or [self.limits.most_size]
            start = _DETAIL if _DETAIL in details else details[-1]
            choices = [(f"{size} px", size) for size in details]
            self.detail = gr.Dropdown(choices, value=start, label=word("video_detail"), min_width=160)
        with gr.Row():
            settings = {"interactive": False, "size": "sm"}
            self.save_overlay = site.button("video_save_overlay", gr.DownloadButton, **settings)
            self.save_masks = site.button("video_save_masks", gr.DownloadButton, **settings)

    def _wire(self, tab: gr.Tab) -> None:
        # Marking a frame never waits for a clip that somebody else follows.
        inputs = {self.session, self.model, self.detail}
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        results = [self.progress, self.follow_button, self.cancel_button, self.moving, self.overlay, self.save_overlay,
                   self.save_masks]  # fmt: skip
        self.follow_button.click(self.ask, inputs, results, queue=False, **quiet).then(
            self.follow,
            {*inputs, self.mode, self.editor},
            results,
            concurrency_limit=self.limits.concurrent,
            concurrency_id="video",
            trigger_mode="multiple",  # the one before may still be at its last frame
            **quiet,
        )
        # not by Gradio's `cancels`: its browser takes no other click on what was cancelled so
        self.cancel_button.click(self.cancel, {self.session}, results, queue=False, **quiet)

        loaded = [self.session, self.status, self.taking, self.frame, self.editor, self.mode, *results]
        load: dict[str, Any] = {
            "outputs": [*loaded, self.upload_complaint, self.mask_complaint],
            "api_visibility": "private",
            "show_progress": "minimal",
            "show_progress_on": self.frame,
            "concurrency_id": "clips",
            "concurrency_limit": 1,  # one after the other: the last that was chosen counts
        }
        self.upload_button.upload(self.upload, {*inputs, self.upload_button}, **load)
        self.sample_button.click(self.sample, inputs, **load)
        tab.select(self.begin, inputs, **load)
        shown = [self.session, self.frame, self.status, *results]
        self.taking.input(self.take, {*inputs, self.taking}, shown, **quiet)
        self.frame.select(self.click, {*inputs, self.number, self.sign}, shown, **quiet)
        typed = {*inputs, self.number, self.sign, self.across, self.down}
        self.mark_button.click(self.mark, typed, shown, **quiet)
        self.undo_button.click(self.undo, inputs, shown, **quiet)
        self.reach_slider.release(self.reach, {*inputs, self.reach_slider}, shown, **quiet)
        self.tools = [self.number, self.sign, self.reach_slider, self.undo_button, self.typed]
        drawn = {*inputs, self.mode, self.editor}
        self.mode.input(self.change_mode, drawn, [*shown, self.editor, *self.tools], **quiet)
        for change in (self.model.change, self.detail.change):
            change(self.change_model, drawn, [*shown, self.editor], **quiet)
        self.editor.input(self.paint, drawn, results, trigger_mode="always_last", **quiet)
        mask = [*shown, self.editor, self.mask_complaint]
        self.mask_button.upload(self.upload_mask, {*drawn, self.mask_button}, mask, **quiet)
        self.clear_button.click(self.clear, {*inputs, self.mode}, [*shown, self.editor], **quiet)

    def upload(self, data: Data, request: gr.Request) -> Updates:
        """Load a clip, or show why not; the clip before is removed only if it is replaced."""
        file, folder = Path(data[self.upload_button]), self._new_folder()
        copy = folder / f"clip{file.suffix.lower()}"
        try:
            try:
                os.link(file, copy)  # so that it stays when Gradio removes the upload
            except OSError:  # another disk, or one without links
                shutil.copyfile(file, copy)
            clip = self.site.engine.apart(open_clip, copy, file.name, self.limits, deadlines=6)
            return self._load(folder, clip, data, request)
        except (UserError, Refused, OSError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            return {self.upload_complaint: self.site.complain(request, _refusal(error))}

    def sample(self, data: Data, request: gr.Request) -> Updates:
        """Load the drawn sample, which all sessions share."""
        with self._drawing:  # several may open the page at once
            clip = sample_clip(self.folder / "sample", self.say(request, "video_sample_name"), self.limits)
        return self._load(self._new_folder(), clip, data, request)

    def begin(self, data: Data, request: gr.Request) -> Updates:
        """Load the sample when the tab is first seen, so that nobody meets an empty one."""
        return gr.skip() if data[self.session] is not None else self.sample(data, request)

    def _new_folder(self) -> Path:
        folder = self.folder / uuid.uuid4().hex
        folder.mkdir()
        return folder

    def _load(self, folder: Path, clip: Clip, data: Data, request: gr.Request) -> Updates:
        session = VideoSession(folder, clip, clip.taking("spread", self.limits.video_frames))
        picture = self._picture(session, data)
        end(data[self.session])
        return {
            self.session: session,
            self.status: self._about(session, request),
            self.taking: gr.update(value="spread", visible=clip.count > self.limits.video_frames),
            self.frame: gr.update(value=picture, visible=True),
            self.editor: gr.update(value=None, visible=False),
            self.mode: "click",
            self.upload_complaint: gr.HTML(visible=False),
            self.mask_complaint: gr.HTML(visible=False),
        } | self._results(self.say(request, "video_ready"))

    def take(self, data: Data, request: gr.Request) -> Updates:
        """Choose the frames of a clip that has too many; they begin with the same one."""
        session: VideoSession | None = data[self.session]
        if session is None:
            return gr.skip()
        session.clip = session.whole.taking(data[self.taking], self.limits.video_frames)
        outdated = self._outdated(session, data, request)
        return {self.session: session, self.status: self._about(session, request)} | outdated

    def click(self, data: Data, event: gr.SelectData, request: gr.Request) -> Updates:
        """Mark an object by a click on the first frame."""
        session: VideoSession | None = data[self.session]
        if session is None:
            return self._look(data, request)
        (column, row), (height, width) = event.index, session.shown
        return self._click(data, row / height, column / width, request)

    def mark(self, data: Data, request: gr.Request) -> Updates:
        """Mark an object at the place that was typed, in per cent of the frame's width and height."""
        return self._click(data, data[self.down] / 100, data[self.across] / 100, request)

    def _click(self, data: Data, row: float, column: float, request: gr.Request) -> Updates:
        session: VideoSession | None = data[self.session]
        if session is not None:
            click = Click(data[self.number], min(row, _LAST), min(column, _LAST), data[self.sign])
            session.marks = [*session.marks, click]
        return self._look_again(data, request)

    def undo(self, data: Data, request: gr.Request) -> Updates:
        """Remove the last mark."""
        session: VideoSession | None = data[self.session]
        if session is not None:
            session.marks = session.marks[:-1]
        return self._look_again(data, request)

    def reach(self, data: Data, request: gr.Request) -> Updates:
        """Let regions grow or shrink."""
        session: VideoSession | None = data[self.session]
        if session is not None:
            session.reach = data[self.reach_slider]
        return self._look_again(data, request)

    def clear(self, data: Data, request: gr.Request) -> Updates:
        """Remove all marks."""
        session: VideoSession | None = data[self.session]
        if session is not None:
            session.marks = []
        return self._look_again(data, request)

    def paint(self, data: Data, request: gr.Request) -> Updates:
        """Clear a result that is without what was just painted. Gradio calls this when nothing was painted, too."""
        session: VideoSession | None = data[self.session]
        return (session is not None and self._outdated(session, data, request)) or gr.skip()

    def upload_mask(self, data: Data, request: gr.Request) -> Updates:
        """Mark the objects of a mask file, in place of an earlier file's; or show why not, and change nothing."""
        session: VideoSession | None = data[self.session]
        try:
            if session is None:
                raise Refused("video_none")
            file = Path(data[self.mask_button])
            mask = self.site.engine.apart(read_mask, file, session.clip, self.limits)
        except (UserError, Refused) as error:
            return {self.mask_complaint: self.site.complain(request, _refusal(error))}
        others = [mark for mark in session.marks if mark is not session.mask]
        session.marks, session.mask = [*others, *self._painted(session, data), mask], mask
        return self._look_again(data | {self.editor: None}, request) | {self.mask_complaint: gr.HTML(visible=False)}

    def change_model(self, data: Data, request: gr.Request) -> Updates:
        """Draw the regions as another model, or more or less detail, makes them; what was painted stays."""
        session: VideoSession | None = data[self.session]
        if session is not None:
            session.marks = [*session.marks, *self._painted(session, data)]
        return self._look_again(data | {self.editor: None}, request)

    def change_mode(self, data: Data, request: gr.Request) -> Updates:
        """Change from clicking to painting or back; what was painted stays."""
        session: VideoSession | None = data[self.session]
        clicks = data[self.mode] == "click"
        if session is not None:
            session.marks = [*session.marks, *self._painted(session, data)]
        updates = self._look(data, request)
        picture: Path | None = updates.get(self.frame)
        updates |= {tool: gr.update(visible=clicks) for tool in self.tools}
        if clicks:
            hidden = {self.editor: gr.update(value=None, visible=False)}
            shown: dict[str, Any] = {} if picture is None else {"value": picture}
            return updates | {self.frame: gr.update(visible=True, **shown)} | hidden
        if picture is not None:
            updates[self.status] = self.say(request, "video_paint_info")
        drawn: dict[str, Any] = {} if picture is None else {"value": _canvas(picture)}
        return updates | {self.frame: gr.update(visible=False), self.editor: gr.update(visible=True, **drawn)}

    def _look_again(self, data: Data, request: gr.Request) -> Updates:
        # After a change of the marks or of the model; the result is of those before.
        session: VideoSession | None = data[self.session]
        updates = self._look(data, request)
        if data.get(self.mode) == "paint" and self.frame in updates:
            updates[self.editor] = _canvas(updates[self.frame])
        return updates if session is None else updates | self._outdated(session, data, request)

    def _outdated(self, session: VideoSession, data: Data, request: gr.Request) -> Updates:
        """Stop what is followed, and clear what was, if it is not what is chosen now.

        Events come late, and some without a change: only a comparison tells.
        """
        try:
            if session.waiting is not None:  # the marks are read at its turn
                same = session.asked == (data[self.model], data[self.detail])
            else:
                same = session.followed is None or session.followed == self._chosen(session, data)[0]
        except (UserError, Refused):
            same = False
        if same:
            return {}
        session.followed = None
        return self._results(self.say(request, "video_stopped" if session.stop("video_stopped") else "video_ready"))

    def _look(self, data: Data, request: gr.Request) -> Updates:
        session: VideoSession | None = data[self.session]
        if session is None:
            return {self.status: self.say(request, "video_none")}
        try:
            picture = self._picture(session, data)
        except (UserError, Refused) as error:
            return {self.session: session, self.status: self._reason(error, request, session)}
        return {self.session: session, self.frame: picture, self.status: self._about(session, request)}

    def _picture(self, session: VideoSession, data: Data) -> Path:
        # The first frame with the objects and the clicks on it, enlarged if it is small.
        ids = self.ids(session, data)
        frame = shrunk(next(iter(session.clip)), SHOWN, SHOWN)
        clicks = [mark for mark in session.marks if isinstance(mark, Click)]
        numbered = {click.number for click in clicks if click.adds}  # by their clicks
        ids = cv2.resize(ids, session.shown[::-1], interpolation=cv2.INTER_NEAREST)
        picture = objects_overlay(frame, ids, numbered)
        height, width = session.shown
        for click in clicks:
            place = round(click.column * width), round(click.row * height)
            draw_number(picture, place, click.number, adds=click.adds)
        return session.save(picture)

    def ids(self, session: VideoSession, data: Data) -> UInt8[ndarray, "h w"]:
        """Return the object at each pixel of the first frame. Raises as `clip_cells`; Refused if the files are gone."""
        if not session.folder.is_dir():
            raise Refused("video_gone")
        cells, size, marks = None, data[self.detail], session.marks
        if any(isinstance(mark, Click) for mark in marks):  # what is painted needs no network
            backbone = self.models[data[self.model]].backbone
            key = session.folder, data[self.model], size
            cells = self.site.engine.cached(key, lambda: clip_cells(backbone, session.clip, size))
        return object_ids(marks, cells, session.clip.size, session.reach)

    def _chosen(self, session: VideoSession, data: Data) -> tuple[tuple[Any, ...], UInt8[ndarray, "h w"]]:
        # All that a result depends on, to compare; and of it the objects of the first frame.
        strokes = self._painted(session, data) if data.get(self.mode) == "paint" else []
        ids = object_ids([self.ids(session, data), *strokes], None, session.clip.size)
        return (ids.tobytes(), data[self.model], data[self.detail], session.clip.step, session.clip.count), ids

    def _painted(self, session: VideoSession, data: Data) -> list[Mark]:
        editor = data.get(self.editor)
        ids = painted(editor["layers"] if editor else [], session.clip.size)
        return [ids] if ids.any() else []

    def ask(self, data: Data, request: gr.Request) -> Updates:
        """Show at once that following was asked for, as others may be before."""
        session: VideoSession | None = data[self.session]
        if session is None:
            return self._results(self.say(request, "video_none"))
        session.job = session.waiting = object()
        session.asked, session.followed = (data[self.model], data[self.detail]), None
        return self._results(self.say(request, "video_waiting"), running=True)

    def cancel(self, data: Data, request: gr.Request) -> Updates:
        """Stop: the frame that is being worked on is the last."""
        session: VideoSession | None = data[self.session]
        if session is not None:
            session.stop("video_cancelled")
        return self._results(self.say(request, "video_cancelled"))

    def follow(self, data: Data, request: gr.Request) -> Iterator[Updates]:
        """Follow what was asked for, and show each frame and at last the result.

        Once it is stopped, what was written so far is removed; if another was asked for, it shows nothing more.
        """
        session: VideoSession | None = data[self.session]
        job = None if session is None else session.waiting
        if session is None or job is None:  # stopped before its turn, or a double click
            yield gr.skip()
            return
        session.waiting = None
        yield self._results(self.say(request, "video_begin"), running=True)
        try:
            model, size = self.models[data[self.model]], data[self.detail]
            session.followed, ids = self._chosen(session, data)
            for old in session.folder.glob("followed-*"):
                shutil.rmtree(old, ignore_errors=True)
            folder = session.folder / f"followed-{uuid.uuid4().hex}"
            steps = follow(model.backbone, session.clip, ids, PropagationConfig(size=size), folder)
            begin, total = time.perf_counter(), session.clip.count
            done, seconds, shown, ends = 0, 0.0, -math.inf, deque([begin], maxlen=_TIMED + 1)
            with closing(steps):
                for done, (frame, seconds) in enumerate(steps, start=1):
                    if session.job is not job:
                        break
                    ends.append(now := time.perf_counter())
                    if now - shown > _SECONDS_BETWEEN_PICTURES or done == total:
                        shown, left = now, (total - done) * (now - ends[0]) / (len(ends) - 1)
                        key = "video_progress" if done < total else "video_writing"
                        values = {"speed": f"{done / seconds:.1f}", "left": f"{left:.0f}"}
                        text = self.say(request, key, done=done, total=total, **values)
                        yield self._results(text, running=True, moving=session.save(frame))
            if session.job is job:
                session.job, whole = None, time.perf_counter() - begin
                key = "video_done_one" if done == 1 else "video_done"
                values = {"seconds": f"{seconds:.1f}", "speed": f"{done / seconds:.1f}", "whole": f"{whole:.1f}"}
                text = self.say(request, key, frames=done, model=model.label, **values)
                if lost := lost_objects(ids, size, model.backbone.patch_size):
                    text += " " + self.say(request, "video_lost", objects=", ".join(map(str, lost)))
                yield self._results(text, folder=folder)
                return
            shutil.rmtree(folder, ignore_errors=True)  # stopped when the last frame was done
        except (UserError, Refused, OSError) as error:
            if session.job is job:
                session.job = None
                yield self._results(self._reason(error, request, session))
                return
        if session.job is None:  # again: the last frame's update may have come after the first
            yield self._results(self.say(request, session.stopped))

    def _results(
        self, text: str, *, running: bool = False, moving: Path | None = None, folder: Path | None = None
    ) -> Updates:
        overlay, masks = (folder and str(folder / name) for name in ("overlay.webm", "masks.zip"))
        done = folder is not None
        updates = {
            self.progress: text,
            self.follow_button: gr.update(interactive=not running),
            self.cancel_button: gr.update(interactive=running),
            self.overlay: gr.update(value=overlay, visible=done),
            self.save_overlay: gr.update(value=overlay, interactive=done),
            self.save_masks: gr.update(value=masks, interactive=done),
        }
        if moving is not None or not running:
            updates[self.moving] = gr.update(value=moving, visible=not done)
        return updates

    def _about(self, session: VideoSession, request: gr.Request) -> str:
        # One line about the clip, and another if not all of it is followed.
        clip, (height, width) = session.clip, session.clip.size
        key, seconds = "video_loaded_one" if clip.total == 1 else "video_loaded", f"{clip.total / clip.video.fps:.1f}"
        text = self.say(request, key, name=clip.name, total=clip.total, seconds=seconds, width=width, height=height)
        if clip.total > self.limits.video_frames:
            values = {"most": self.limits.video_frames, "count": clip.count, "step": clip.step}
            text += " " + self.say(request, "video_thinned", **values)
        return text

    def _reason(self, error: Exception, request: gr.Request, session: VideoSession) -> str:
        refused = _refusal(error, session)
        return self.say(request, refused.key, **refused.values)


def _refusal(error: Exception, session: VideoSession | None = None) -> Refused:
    # Names the clip as the person knows it, not by its path on this machine.
    if isinstance(error, Refused):
        return error
    reason = str(error)
    if session is not None:
        reason = reason.replace(str(session.clip.video.path), session.clip.name)
    return Refused("video_failed", reason=reason)


def _canvas(picture: Path) -> dict[str, Any]:
    return {"background": str(picture), "layers": [], "composite": None}
