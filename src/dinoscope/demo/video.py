"""The tab for videos: load a clip, mark objects on its first frame, follow them, look at the result and save it."""

from __future__ import annotations

import os
import secrets
import shutil
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import gradio as gr
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image
from torch import Tensor

from dinoscope.demo.clip import (
    OBJECTS,
    Click,
    Clip,
    Followed,
    Marks,
    Painting,
    Step,
    Taking,
    clip_cells,
    first_frame,
    follow,
    object_colors,
    open_clip,
    painted,
    sample_clip,
)
from dinoscope.demo.limits import Refused
from dinoscope.demo.pictures import SHOWN
from dinoscope.demo.site import Site
from dinoscope.errors import UserError
from dinoscope.evaluation.propagation import PropagationConfig, lost_objects
from dinoscope.model_names import Model
from dinoscope.pictures import objects_overlay

DETAILS = (128, 192, 256, 320, 480, 640)
_DETAIL = 256
_SESSION_SECONDS = 4 * 3600  # after its last change a clip stays so long, if the page is left open
_HEIGHT = 330  # px of both pictures: everything is seen at once on a screen of 768 px
_MAX_REACH = 0.3
_SECONDS_BETWEEN_PICTURES = 0.5  # between two frames that are shown while a clip is followed
_PICTURES = 8  # the latest that stay: a browser may still be fetching one of them
_RADIUS = 7  # px of a click's mark

Updates = tuple[Any, ...]
Editor = Mapping[str, Any] | None
_UNCHANGED: Updates = (gr.skip(),) * 7  # of what `_results` updates


@dataclass
class VideoSession:
    """One person's clip, the marks on its first frame, and the folder that holds all its files. Shared with nobody.

    whole: the clip with all of its frames. clip: with those that are followed. following: from the moment it is asked
        for until it ends or is told to stop. turn: another one as soon as it is asked for again, or told to stop.
    """

    folder: Path
    whole: Clip
    clip: Clip
    marks: Marks = field(default_factory=Marks)
    following: bool = False
    turn: int = 0
    _asked: bool = False
    _cells: tuple[str, int, Float[Tensor, "rows columns d"]] | None = None
    _pictures: list[Path] = field(default_factory=list[Path])
    _count: int = 0

    def ask(self, wanted: bool = True) -> None:
        """Ask for the clip to be followed when it is its turn; or give up what was asked for or is being done."""
        self.following = self._asked = wanted
        self.turn += 1

    def begin(self) -> int | None:
        """Return the turn that begins; None if nothing is asked for any longer, or another began with it."""
        asked, self._asked = self._asked, False
        return self.turn if asked else None

    def mask(self, model: Model, size: int) -> UInt8[ndarray, "h w"]:
        """Return the object at each pixel of the first frame, which the model is given at the short side `size`.

        Raises UserError as `clip_cells` does, and Refused if the files are gone.
        """
        self.require()
        cells = None
        if self.marks.clicks:  # what is painted needs no network
            if self._cells is None or self._cells[:2] != (model.label, size):
                self._cells = model.label, size, clip_cells(model.backbone, self.clip, size)
            cells = self._cells[2]
        return self.marks.ids(cells, self.clip.size)

    def picture(self, model: Model, size: int) -> Path:
        """Write the first frame with the objects and the clicks on it, enlarged if it is small. Raises as `mask`."""
        self.require()
        picture = objects_overlay(self._enlarged(first_frame(self.clip)), self._enlarged(self.mask(model, size)))
        for click in self.marks.clicks:
            _draw_click(picture, click)
        return self.save(picture)

    @property
    def shown(self) -> tuple[int, int]:
        """Height and width of `picture`."""
        scale = SHOWN / max(self.clip.size)
        return max(1, round(self.clip.size[0] * scale)), max(1, round(self.clip.size[1] * scale))

    def _enlarged(self, array: UInt8[ndarray, "_ _ *c"]) -> UInt8[ndarray, "_ _ *c"]:
        if array.shape[:2] == self.shown:
            return array
        smooth = cv2.INTER_CUBIC if array.ndim == 3 else cv2.INTER_NEAREST
        return cv2.resize(array, self.shown[::-1], interpolation=smooth)

    def save(self, frame: UInt8[ndarray, "h w 3"]) -> Path:
        """Write a frame, as large as `shown`, under a name of its own, since browsers cache by name."""
        self.require()
        self._count += 1
        file = self.folder / f"picture-{self._count}.jpg"
        Image.fromarray(self._enlarged(frame)).save(file, quality=92)
        self._pictures.append(file)
        while len(self._pictures) > _PICTURES:
            self._pictures.pop(0).unlink(missing_ok=True)
        return file

    def results(self) -> Path:
        """Return a folder, not yet made, for what is written next; the previous one is removed."""
        self.require()
        for old in self.folder.glob("followed-*"):
            shutil.rmtree(old, ignore_errors=True)
        self._count += 1
        return self.folder / f"followed-{self._count}"

    def require(self) -> None:
        """Raise Refused if the files are gone, as after hours."""
        if not self.folder.is_dir():
            raise Refused("video_gone")


Session = VideoSession | None


def end(session: Session) -> None:
    """Remove all files of a session, and stop what it does."""
    if session is not None:
        session.ask(False)
        shutil.rmtree(session.folder, ignore_errors=True)


def _draw_click(picture: UInt8[ndarray, "h w 3"], click: Click) -> None:
    height, width = picture.shape[:2]
    x, y = round(click.column * width), round(click.row * height)
    cv2.circle(picture, (x, y), _RADIUS + 2, (255, 255, 255), -1, cv2.LINE_AA)
    cv2.circle(picture, (x, y), _RADIUS, object_colors()[click.number - 1], -1, cv2.LINE_AA)
    arm = _RADIUS - 3
    cv2.line(picture, (x - arm, y), (x + arm, y), (255, 255, 255), 2)
    if click.adds:
        cv2.line(picture, (x, y - arm), (x, y + arm), (255, 255, 255), 2)


class VideoTab:
    """The tab's components and handlers; build it inside `tab`. A person's clip and marks are in their session.

    Everybody has a folder of their own below `site.folder`, which is served as it is, to whoever knows its name (which
    cannot be guessed), and removed when a new clip comes in or the session ends.
    """

    def __init__(self, site: Site, tab: gr.Tab) -> None:
        self.site, self.models = site, site.engine.models
        self.say, self.limits = site.words.say, site.limits
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
        self.status = gr.Markdown(word("video_start"), latex_delimiters=[], elem_id="video-status")
        self.taking = site.choice("video_taking", {"spread": "spread", "start": "start"}, visible=False)
        settings: Any = {"interactive": False, "height": _HEIGHT, "buttons": ["fullscreen"]}
        self.frame = gr.Image(label=word("video_first"), elem_id="video-frame", elem_classes="clickable", **settings)
        colors = [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in object_colors()]
        brush = gr.Brush(colors=[*colors], default_color=colors[0], color_mode="fixed")
        settings = {"show_label": False, "visible": False, "height": _HEIGHT, "sources": (), "transforms": ()}
        self.editor = gr.ImageEditor(layers=False, type="numpy", brush=brush, elem_id="video-editor", **settings)
        underlines = [
            f"#video-object label:nth-of-type({number}) {{ border-bottom: 4px solid {color}; }}"
            for number, color in enumerate(colors, start=1)
        ]
        gr.HTML(f"<style>{' '.join(underlines)}</style>", padding=False)

    def _build_marking(self) -> None:
        site, word = self.site, self.site.words.label
        with gr.Row():
            self.mode = site.choice(
                "video_mode", {"click": "click", "paint": "paint"}, min_width=170, elem_id="video-mode"
            )
            self.sign = site.choice("video_sign", {"add": True, "away": False}, min_width=170, elem_id="video-sign")
        with gr.Row(equal_height=True):
            settings: Any = {"scale": 4, "min_width": 300, "elem_id": "video-object", "elem_classes": "kinds"}
            numbers = [(f"{each}", each) for each in range(1, OBJECTS + 1)]
            self.number = gr.Radio(numbers, value=1, label=word("video_object"), **settings)
            with gr.Column(scale=1, min_width=90, elem_classes="stack"):
                self.undo_button = site.button("video_undo", size="sm")
                self.clear_button = site.button("video_clear", size="sm")
        self.reach_slider = site.slider("video_reach", -_MAX_REACH, _MAX_REACH, 0, step=0.02)

    def _build_following(self) -> None:
        site, word = self.site, self.site.words.label
        with gr.Row():
            self.follow_button = site.button("video_follow", variant="primary")
            self.cancel_button = site.button("video_cancel", variant="stop", interactive=False)
        self.progress = gr.Markdown(latex_delimiters=[], elem_id="video-progress")
        settings: Any = {"interactive": False, "height": _HEIGHT, "buttons": []}
        self.moving = gr.Image(label=word("video_result"), elem_id="video-moving", **settings)
        settings |= {"visible": False, "autoplay": True, "loop": True}
        self.overlay = gr.Video(label=word("video_overlay"), elem_id="video-overlay", **settings)
        with gr.Row():
            names = list(self.models)  # the second of the pair is the one that was trained without labels
            self.model = gr.Dropdown(names, value=names[:2][-1], label=word("video_model"), min_width=160)
            details = [size for size in DETAILS if size <= self.limits.most_size] or [self.limits.most_size]
            start = _DETAIL if _DETAIL in details else details[-1]
            choices = [(f"{size} px", size) for size in details]
            self.detail = gr.Dropdown(choices, value=start, label=word("video_detail"), min_width=160)
        with gr.Row():
            settings = {"interactive": False, "size": "sm"}
            self.save_overlay = site.button("video_save_overlay", gr.DownloadButton, **settings)
            self.save_masks = site.button("video_save_masks", gr.DownloadButton, **settings)

    def _wire(self, tab: gr.Tab) -> None:
        """Connect events. Marking a frame never waits for a clip that somebody else follows."""
        session, given = self.session, [self.model, self.detail]
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        results = [self.progress, self.follow_button, self.cancel_button, self.moving, self.overlay, self.save_overlay,
                   self.save_masks]  # fmt: skip
        self.follow_button.click(self.ask, [session], results, queue=False, **quiet).then(
            self.follow,
            [session, self.mode, self.editor, *given],
            results,
            concurrency_limit=self.limits.concurrent,
            concurrency_id="video",
            trigger_mode="multiple",  # the one before may still be at its last frame
            **quiet,
        )
        # not by Gradio's `cancels`: its browser takes no other click on what was cancelled so
        self.cancel_button.click(self.cancel, [session], results, queue=False, **quiet)

        load: dict[str, Any] = {
            "outputs": [session, self.status, self.taking, self.frame, self.editor, self.mode, *results],
            "api_visibility": "private",
            "show_progress": "minimal",
            "show_progress_on": self.frame,
            "concurrency_id": "clips",
            "concurrency_limit": 1,  # one after the other: the last that was chosen counts
        }
        self.upload_button.upload(self.upload, [self.upload_button, session, *given], **load)
        self.sample_button.click(self.sample, [session, *given], **load)
        tab.select(self.begin, [session, *given], **load)
        self.taking.change(self.take, [session, self.taking], [session, self.status], **quiet)

        shown = [session, self.frame, self.status]
        self.frame.select(self.click, [session, self.number, self.sign, *given], shown, **quiet)
        self.undo_button.click(self.undo, [session, *given], shown, **quiet)
        self.reach_slider.release(self.reach, [session, self.reach_slider, *given], shown, **quiet)
        tools = [self.number, self.sign, self.reach_slider, self.undo_button]
        for change in (self.mode.input, self.model.change, self.detail.change):
            change(
                self.change_mode,
                [session, self.mode, self.editor, *given],
                [session, self.frame, self.editor, *tools, self.status],
                **quiet,
            )
        self.clear_button.click(self.clear, [session, self.mode, *given], [*shown, self.editor], **quiet)

    def upload(self, file: str, session: Session, model: str, detail: int, request: gr.Request) -> Updates:
        """Load a clip, or show why not; the clip before is removed only if it is replaced."""
        folder = self._new_folder()
        copy = folder / f"clip{Path(file).suffix.lower()}"
        try:
            try:
                os.link(file, copy)  # so that it stays when Gradio removes the upload
            except OSError:  # another disk, or one without links
                shutil.copyfile(file, copy)
            clip = self.site.engine.apart(open_clip, copy, Path(file).name, self.limits, True, deadlines=6)
            return self._load(folder, clip, session, model, detail, request)
        except (UserError, Refused, OSError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            stopped = _UNCHANGED
            if session is not None and session.following:  # an upload ends it, whatever comes of the upload
                stopped = self.cancel(session, request)
            return session, self._reason(error, request), *[gr.skip()] * 4, *stopped

    def sample(self, session: Session, model: str, detail: int, request: gr.Request) -> Updates:
        """Load the drawn sample, which all sessions share."""
        with self._drawing:  # several may open the page at once
            clip = sample_clip(self.folder / "sample", self.say(request, "video_sample_name"), self.limits)
        return self._load(self._new_folder(), clip, session, model, detail, request)

    def begin(self, session: Session, model: str, detail: int, request: gr.Request) -> Updates:
        """Load the sample when the tab is first seen, so that nobody meets an empty one."""
        return (gr.skip(),) * 13 if session is not None else self.sample(session, model, detail, request)

    def take(self, session: Session, how: Taking, request: gr.Request) -> Updates:
        """Choose the frames of a clip that has too many; they begin with the same one."""
        if session is None:
            return gr.skip(), gr.skip()
        session.clip = session.whole.taking(how, self.limits.video_frames)
        return session, self._about(session, request)

    def click(
        self,
        session: Session,
        number: int,
        sign: bool,
        model: str,
        detail: int,
        event: gr.SelectData,
        request: gr.Request,
    ) -> Updates:
        """Mark an object by a click on the first frame."""
        if session is not None:
            column, row = event.index
            height, width = session.shown
            session.marks = session.marks.with_mark(Click(number, row / height, column / width, sign))
        return self._look(session, model, detail, request)

    def undo(self, session: Session, model: str, detail: int, request: gr.Request) -> Updates:
        """Remove the last mark."""
        if session is not None:
            session.marks = session.marks.undone()
        return self._look(session, model, detail, request)

    def reach(self, session: Session, reach: float, model: str, detail: int, request: gr.Request) -> Updates:
        """Let regions grow or shrink."""
        if session is not None:
            session.marks = replace(session.marks, reach=reach)
        return self._look(session, model, detail, request)

    def change_mode(
        self, session: Session, mode: str, editor: Editor, model: str, detail: int, request: gr.Request
    ) -> Updates:
        """Change from clicking to painting or back, or to another model; what was painted stays."""
        clicks = mode == "click"
        tools = [gr.update(visible=clicks)] * 4
        if session is None:
            return session, gr.update(visible=clicks), gr.update(visible=not clicks), *tools, gr.skip()
        for painting in _painting(editor, session):
            session.marks = session.marks.with_mark(painting)
        _, picture, status = self._look(session, model, detail, request)
        if clicks:
            return session, gr.update(value=picture, visible=True), gr.update(value=None, visible=False), *tools, status
        canvas = gr.update(value=_canvas(picture), visible=True)
        return session, gr.update(visible=False), canvas, *tools, self.say(request, "video_paint_info")

    def clear(self, session: Session, mode: str, model: str, detail: int, request: gr.Request) -> Updates:
        """Remove all marks."""
        if session is not None:
            session.marks = Marks(reach=session.marks.reach)
        session, picture, status = self._look(session, model, detail, request)
        return session, picture, status, _canvas(picture) if mode == "paint" and session else gr.skip()

    def ask(self, session: Session, request: gr.Request) -> Updates:
        """Show at once that following was asked for, as others may be before."""
        if session is None:
            return _results(self.say(request, "video_none"))
        session.ask()
        return _results(self.say(request, "video_waiting"), running=True)

    def follow(
        self, session: Session, mode: str, editor: Editor, model: str, detail: int, request: gr.Request
    ) -> Generator[Updates, None, None]:
        """Follow what was asked for; each update is progress, both buttons, moving picture, video, and both downloads.

        Once it is stopped, what was written so far is removed; if another was asked for, it shows nothing more.
        """
        turn = None if session is None else session.begin()
        if session is None or turn is None:
            yield _UNCHANGED
            return
        yield _results(self.say(request, "video_begin"), running=True)
        shown = 0.0
        try:
            with closing(self._steps(session, mode, editor, self.models[model], detail)) as steps:
                for step, lost in steps:
                    if session.turn != turn:
                        break
                    if isinstance(step, Followed):
                        session.following = False
                        yield self._done(step, model, lost, request)
                    elif (now := time.monotonic()) - shown > _SECONDS_BETWEEN_PICTURES:
                        shown, moving = now, session.save(step.picture)
                        yield _results(self._progress(step, request), running=True, moving=moving)
        except (UserError, Refused, OSError) as error:
            if session.turn == turn:
                session.following = False
                yield _results(self._reason(error, request, session))
        if session.turn != turn and not session.following:
            # again: the last frame's update may have come after the first
            yield _results(self.say(request, "video_cancelled" if session.folder.is_dir() else "video_ready"))

    def _steps(
        self, session: VideoSession, mode: str, editor: Editor, model: Model, size: int
    ) -> Generator[tuple[Step | Followed, list[int]], None, None]:
        """What `clip.follow` gives for the marks as they are; and the objects that are too small to be followed."""
        ids = session.mask(model, size)
        if mode == "paint":
            ids = Marks((Painting(ids), *_painting(editor, session))).ids(None, session.clip.size)
        lost = lost_objects(ids, size, model.backbone.patch_size)
        config = PropagationConfig(size=size)
        with closing(follow(model.backbone, session.clip, ids, config, session.results())) as steps:
            for step in steps:
                yield step, lost

    def cancel(self, session: Session, request: gr.Request) -> Updates:
        """Stop: the frame that is being worked on is the last."""
        if session is not None:
            session.ask(False)
        return _results(self.say(request, "video_cancelled"))

    def _new_folder(self) -> Path:
        folder = self.folder / secrets.token_hex(16)
        folder.mkdir()
        return folder

    def _load(self, folder: Path, clip: Clip, old: Session, model: str, detail: int, request: gr.Request) -> Updates:
        session = VideoSession(folder, clip, clip.taking("spread", self.limits.video_frames))
        picture = session.picture(self.models[model], detail)
        end(old)
        return (
            session,
            self._about(session, request),
            gr.update(value="spread", visible=clip.count > self.limits.video_frames),
            gr.update(value=picture, visible=True),
            gr.update(value=None, visible=False),
            "click",
            *_results(self.say(request, "video_ready")),
        )

    def _look(self, session: Session, model: str, detail: int, request: gr.Request) -> Updates:
        """Session, first frame and status after a change of the marks or of the model."""
        if session is None:
            return gr.skip(), gr.skip(), self.say(request, "video_none")
        try:
            return session, session.picture(self.models[model], detail), self._about(session, request)
        except (UserError, Refused) as error:
            return session, gr.skip(), self._reason(error, request, session)

    def _about(self, session: VideoSession, request: gr.Request) -> str:
        """One line about the clip, and another if not all of it is followed."""
        clip = session.clip
        height, width = clip.size
        seconds = f"{clip.seconds:.1f}"
        key = "video_loaded_one" if clip.total == 1 else "video_loaded"
        text = self.say(request, key, name=clip.name, total=clip.total, seconds=seconds, width=width, height=height)
        if clip.total > self.limits.video_frames:
            values = {"most": self.limits.video_frames, "count": clip.count, "step": clip.step}
            text += " " + self.say(request, "video_thinned", **values)
        return text

    def _progress(self, step: Step, request: gr.Request) -> str:
        speed = step.done / step.seconds
        values = {"speed": f"{speed:.1f}", "left": f"{(step.total - step.done) / speed:.0f}"}
        return self.say(request, "video_progress", done=step.done, total=step.total, **values)

    def _done(self, followed: Followed, model: str, lost: Sequence[int], request: gr.Request) -> Updates:
        key = "video_done_one" if followed.frames == 1 else "video_done"
        values = {"seconds": f"{followed.seconds:.1f}", "speed": f"{followed.frames / followed.seconds:.1f}"}
        text = self.say(request, key, frames=followed.frames, model=model, **values)
        if lost:
            text += " " + self.say(request, "video_lost", objects=", ".join(map(str, lost)))
        return _results(text, followed=followed)

    def _reason(self, error: Exception, request: gr.Request, session: Session = None) -> str:
        """Why it failed, with the clip's name as the person knows it, not its path on this machine."""
        if isinstance(error, Refused):
            return self.say(request, error.key, **error.values)
        reason = str(error)
        if session is not None:
            reason = reason.replace(str(session.clip.video.path), session.clip.name)
        return self.say(request, "video_failed", reason=reason)


def _results(
    text: str, *, running: bool = False, moving: Path | None = None, followed: Followed | None = None
) -> Updates:
    """Progress, both buttons, moving picture, video, and both downloads."""
    unchanged = running and moving is None
    done = followed is not None
    return (
        text,
        gr.update(interactive=not running),
        gr.update(interactive=running),
        gr.skip() if unchanged else gr.update(value=moving, visible=not done),
        gr.update(value=followed and str(followed.overlay), visible=done),
        gr.update(value=followed and str(followed.overlay), interactive=done),
        gr.update(value=followed and str(followed.masks), interactive=done),
    )


def _painting(editor: Editor, session: VideoSession) -> list[Painting]:
    """What is in the editor, if anything."""
    ids = painted(editor["layers"] if editor else [], session.clip.size)
    return [Painting(ids)] if ids.any() else []


def _canvas(picture: Path) -> dict[str, Any]:
    return {"background": str(picture), "layers": [], "composite": None}
