"""What the video tab does when something is clicked: Gradio's values in, updates of its components out."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import gradio as gr

from dinoscope.demo.clip import Clip, Taking, open_stranger_clip, sample_clip
from dinoscope.demo.decoding import Apart, in_this_process
from dinoscope.demo.limits import Limits
from dinoscope.demo.marking import Click, Marks, Painting, painted
from dinoscope.demo.pictures import Refused
from dinoscope.demo.session_folders import SessionFolders, put, remove
from dinoscope.demo.tracking import Followed, Step, follow
from dinoscope.demo.video_session import Sight, VideoSession, end
from dinoscope.demo.words import Words
from dinoscope.errors import UserError
from dinoscope.evaluation.propagation import lost_objects
from dinoscope.evaluation.window import PropagationConfig
from dinoscope.model_names import Model

Updates = tuple[Any, ...]
Editor = Mapping[str, Any] | None
_UNCHANGED: Updates = (gr.skip(),) * 7  # of what `_results` updates
_BETWEEN_PICTURES = 0.5  # seconds between two frames that are shown while a clip is followed


class VideoActions:
    """The handlers of the tab. They keep nothing themselves: a person's clip and marks are in their session."""

    def __init__(
        self,
        models: Sequence[Model],
        words: Words,
        limits: Limits,
        folders: SessionFolders,
        apart: Apart = in_this_process,
    ) -> None:
        self.models = {model.label: model for model in models}
        self.apart = apart
        self.words, self.limits, self.folders = words, limits, folders
        self._drawing = threading.Lock()

    def upload(self, file: str, session: VideoSession | None, model: str, detail: int, request: gr.Request) -> Updates:
        """Take a clip in, or say why not; what was there before goes in either case where it is replaced."""
        folder = self.folders.new()
        try:
            copy = put(Path(file), folder)
            clip = self.apart(open_stranger_clip, copy, Path(file).name, self.limits, deadlines=6)
            return self._load(folder, clip, session, model, detail, request)
        except (UserError, Refused, OSError) as error:
            remove(folder)
            stopped = _UNCHANGED
            if session is not None and session.following:  # which an upload ends, whatever comes of it
                stopped = self.cancel(session, request)
            return session, self._reason(error, request), *[gr.skip()] * 4, *stopped

    def sample(self, session: VideoSession | None, model: str, detail: int, request: gr.Request) -> Updates:
        """Take in the drawn sample, which all sessions share."""
        name = self.words.say(request, "video_sample_name")
        with self._drawing:  # several may open the page at once
            clip = sample_clip(self.folders.root / "sample", name, self.limits)
        return self._load(self.folders.new(), clip, session, model, detail, request)

    def begin(self, session: VideoSession | None, model: str, detail: int, request: gr.Request) -> Updates:
        """The tab is seen: for the first time with the sample, so that nobody meets an empty one."""
        return (gr.skip(),) * 13 if session is not None else self.sample(session, model, detail, request)

    def take(self, session: VideoSession | None, how: Taking, request: gr.Request) -> Updates:
        """Choose the frames of a clip that has too many."""
        if session is None:
            return gr.skip(), gr.skip()
        session.take(how, self.limits.video_frames)
        return session, self._about(session, request)

    def click(
        self,
        session: VideoSession | None,
        number: int,
        sign: bool,
        model: str,
        detail: int,
        event: gr.SelectData,
        request: gr.Request,
    ) -> Updates:
        """A click on the first frame."""
        if session is not None:
            column, row = event.index
            height, width = session.shown
            session.marks = session.marks.with_mark(Click(number, row / height, column / width, sign))
        return self.look(session, model, detail, request)

    def undo(self, session: VideoSession | None, model: str, detail: int, request: gr.Request) -> Updates:
        """Without the last mark."""
        if session is not None:
            session.marks = session.marks.undone()
        return self.look(session, model, detail, request)

    def reach(
        self, session: VideoSession | None, reach: float, model: str, detail: int, request: gr.Request
    ) -> Updates:
        """Regions that are larger or smaller."""
        if session is not None:
            session.reach(reach)
        return self.look(session, model, detail, request)

    def look(self, session: VideoSession | None, model: str, detail: int, request: gr.Request) -> Updates:
        """Session, first frame and status after a change of the marks or of who looks."""
        if session is None:
            return gr.skip(), gr.skip(), self.words.say(request, "video_none")
        try:
            return session, session.picture(self._sight(model, detail)), self._about(session, request)
        except (UserError, Refused) as error:
            return session, gr.skip(), self._reason(error, request, session)

    def change_mode(
        self, session: VideoSession | None, mode: str, editor: Editor, model: str, detail: int, request: gr.Request
    ) -> Updates:
        """From clicking to painting or back, or another model looks; what was painted stays."""
        clicks = mode == "click"
        tools = [gr.update(visible=clicks)] * 4
        if session is None:
            return session, gr.update(visible=clicks), gr.update(visible=not clicks), *tools, gr.skip()
        for painting in _painting(editor, session):
            session.marks = session.marks.with_mark(painting)
        _, picture, status = self.look(session, model, detail, request)
        if clicks:
            return session, gr.update(value=picture, visible=True), gr.update(value=None, visible=False), *tools, status
        canvas = gr.update(value=_canvas(picture), visible=True)
        return session, gr.update(visible=False), canvas, *tools, self.words.say(request, "video_paint_info")

    def clear(self, session: VideoSession | None, mode: str, model: str, detail: int, request: gr.Request) -> Updates:
        """Without any mark."""
        if session is not None:
            session.marks = Marks(reach=session.marks.reach)
        session, picture, status = self.look(session, model, detail, request)
        return session, picture, status, _canvas(picture) if mode == "paint" and session else gr.skip()

    def ask(self, session: VideoSession | None, request: gr.Request) -> Updates:
        """Follow was clicked: said at once, as others may be before."""
        if session is None:
            return _results(self.words.say(request, "video_none"))
        session.ask()
        return _results(self.words.say(request, "video_waiting"), running=True)

    def follow(
        self, session: VideoSession | None, mode: str, editor: Editor, model: str, detail: int, request: gr.Request
    ) -> Generator[Updates, None, None]:
        """Follow what was asked for; each update is progress, both buttons, moving picture, video, and both downloads.

        Once it was stopped, what was written so far is removed; where another was asked for, it says no more.
        """
        turn = None if session is None else session.begin()
        if session is None or turn is None:
            yield _UNCHANGED
            return
        yield _results(self.words.say(request, "video_begin"), running=True)
        shown = 0.0
        try:
            with closing(self._steps(session, mode, editor, self._sight(model, detail))) as steps:
                for step, lost in steps:
                    if not session.goes_on(turn):
                        break
                    if isinstance(step, Followed):
                        session.following = False
                        yield self._done(step, model, lost, request)
                    elif (now := time.monotonic()) - shown > _BETWEEN_PICTURES:
                        shown, moving = now, session.save_frame(step.picture)
                        yield _results(self._progress(step, request), running=True, moving=moving)
        except (UserError, Refused, OSError) as error:
            if session.goes_on(turn):
                session.following = False
                yield _results(self._reason(error, request, session))
        if not session.goes_on(turn) and not session.following:
            # said again: the last frame's update may have come after what was said at once
            yield (
                self.cancelled(request) if session.folder.is_dir() else _results(self.words.say(request, "video_ready"))
            )

    def _steps(
        self, session: VideoSession, mode: str, editor: Editor, sight: Sight
    ) -> Generator[tuple[Step | Followed, list[int]], None, None]:
        """What `follow` gives for the marks as they are; and the objects that are too small to be followed."""
        ids = session.mask(sight)
        if mode == "paint":
            ids = Marks((Painting(ids), *_painting(editor, session))).ids(None, session.clip.size)
        lost = lost_objects(ids, sight.size, sight.model.backbone.patch_size)
        config = PropagationConfig(size=sight.size)
        with closing(follow(sight.model.backbone, session.clip, ids, config, session.results())) as steps:
            for step in steps:
                yield step, lost

    def cancel(self, session: VideoSession | None, request: gr.Request) -> Updates:
        """Cancel was clicked: the frame that is being worked on is the last."""
        if session is not None:
            session.stop()
        return self.cancelled(request)

    def cancelled(self, request: gr.Request) -> Updates:
        """What is shown once the work was stopped."""
        return _results(self.words.say(request, "video_cancelled"))

    def _load(
        self, folder: Path, clip: Clip, old: VideoSession | None, model: str, detail: int, request: gr.Request
    ) -> Updates:
        """A new session in place of the old one, whose files go."""
        too_many = clip.count > self.limits.video_frames
        session = VideoSession(folder, clip, clip.taking("spread", self.limits.video_frames))
        picture = session.picture(self._sight(model, detail))
        end(old)
        return (
            session,
            self._about(session, request),
            gr.update(value="spread", visible=too_many),
            gr.update(value=picture, visible=True),
            gr.update(value=None, visible=False),
            "click",
            *_results(self.words.say(request, "video_ready")),
        )

    def _about(self, session: VideoSession, request: gr.Request) -> str:
        """One line about the clip, and another where not all of it is followed."""
        clip = session.clip
        height, width = clip.size
        seconds = f"{clip.seconds:.1f}"
        values = {"name": clip.name, "total": clip.total, "seconds": seconds, "width": width, "height": height}
        text = self.words.say(request, "video_loaded_one" if clip.total == 1 else "video_loaded", **values)
        if clip.total > self.limits.video_frames:
            text += " " + self.words.say(
                request, "video_thinned", most=self.limits.video_frames, count=clip.count, step=clip.step
            )
        return text

    def _progress(self, step: Step, request: gr.Request) -> str:
        speed = step.done / step.seconds
        left = f"{(step.total - step.done) / speed:.0f}"
        return self.words.say(
            request, "video_progress", done=step.done, total=step.total, speed=f"{speed:.1f}", left=left
        )

    def _done(self, found: Followed, model: str, lost: Sequence[int], request: gr.Request) -> Updates:
        speed = f"{found.frames / found.seconds:.1f}"
        values = {"frames": found.frames, "seconds": f"{found.seconds:.1f}", "speed": speed, "model": model}
        text = self.words.say(request, "video_done_one" if found.frames == 1 else "video_done", **values)
        if lost:
            text += " " + self.words.say(request, "video_lost", objects=", ".join(map(str, lost)))
        return _results(text, found=found)

    def _sight(self, model: str, detail: int) -> Sight:
        return Sight(self.models[model], detail)

    def _reason(self, error: Exception, request: gr.Request, session: VideoSession | None = None) -> str:
        """What to say; the clip by the name that the person knows, not by its place on this machine."""
        if isinstance(error, Refused):
            return self.words.say(request, error.key, **error.values)
        reason = str(error)
        if session is not None:
            reason = reason.replace(str(session.clip.video.path), session.clip.name)
        return self.words.say(request, "video_failed", reason=reason)


def _results(text: str, *, running: bool = False, moving: Path | None = None, found: Followed | None = None) -> Updates:
    """Progress, both buttons, moving picture, video, and both downloads."""
    keep = running and moving is None
    return (
        text,
        gr.update(interactive=not running),
        gr.update(interactive=running),
        gr.skip() if keep else gr.update(value=moving, visible=found is None),
        gr.update(value=found and str(found.overlay), visible=found is not None),
        gr.update(value=found and str(found.overlay), interactive=found is not None),
        gr.update(value=found and str(found.masks), interactive=found is not None),
    )


def _painting(editor: Editor, session: VideoSession) -> list[Painting]:
    """What stands in the editor, if anything."""
    ids = painted(editor["layers"] if editor else [], session.clip.size)
    return [Painting(ids)] if ids.any() else []


def _canvas(picture: Path) -> dict[str, Any]:
    """A picture to paint on."""
    return {"background": str(picture), "layers": [], "composite": None}
