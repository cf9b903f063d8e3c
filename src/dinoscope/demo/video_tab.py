"""The tab for videos: load a clip, mark objects on its first frame, follow them, look at it and take it away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from dinoscope.demo.components import build_slider
from dinoscope.demo.decoding import Apart
from dinoscope.demo.limits import Limits
from dinoscope.demo.marking import OBJECTS, object_colors
from dinoscope.demo.session_folders import SessionFolders
from dinoscope.demo.video_actions import VideoActions
from dinoscope.demo.video_session import end
from dinoscope.demo.words import Words
from dinoscope.model_names import Model

DETAILS = (128, 192, 256, 320, 480, 640)
_DETAIL = 256
_KEPT = 4 * 3600  # seconds after its last change that a clip stays, where the page is left open
_HEIGHT = 330  # px of both pictures: all is seen at once on a screen of 768 px
_MOST_REACH = 0.3


@dataclass(frozen=True)
class _Parts:
    """The components that change, by what they are."""

    upload: gr.UploadButton
    sample: gr.Button
    status: gr.Markdown
    taking: gr.Radio
    model: gr.Dropdown
    detail: gr.Dropdown
    mode: gr.Radio
    number: gr.Radio
    sign: gr.Radio
    frame: gr.Image
    editor: gr.ImageEditor
    reach: gr.Slider
    undo: gr.Button
    clear: gr.Button
    follow: gr.Button
    cancel: gr.Button
    progress: gr.Markdown
    moving: gr.Image
    overlay: gr.Video
    save_overlay: gr.DownloadButton
    save_masks: gr.DownloadButton


def build_video_tab(
    models: Sequence[Model], words: Words, limits: Limits, folder: Path, apart: Apart, tab: gr.Tab
) -> None:
    """Add the tab's parts and what they do to the page that is being built (call it inside `tab`).

    folder: is made, and removed by whoever serves the page. In it, everybody has a folder of their own, which is served
        as it is, to who knows its name, and removed when a new clip comes in or the session ends.
    """
    folders = SessionFolders(folder)
    gr.set_static_paths([folder])
    session = gr.State(None, time_to_live=_KEPT, delete_callback=end)
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=360):
            first = _left(words)
        with gr.Column(scale=1, min_width=360):
            following = _right(models, words, limits)
    parts = _Parts(**first, **following)
    _connect(parts, session, VideoActions(models, words, limits, folders, apart), tab)


def _left(words: Words) -> dict[str, Any]:
    """The clip, its first frame, and what marks it."""
    label: Any = words.label
    with gr.Row():
        upload = gr.UploadButton(label("video_upload"), file_types=["video", ".mkv", ".gif"], elem_id="video-upload")
        sample = gr.Button(label("video_sample"), elem_id="video-sample")
    status = gr.Markdown(label("video_start"), latex_delimiters=[], elem_id="video-status")
    taking = gr.Radio(
        [(label("video_taking_spread"), "spread"), (label("video_taking_start"), "start")],
        value="spread",
        label=label("video_taking"),
        elem_classes="kinds",
        visible=False,
    )
    frame = gr.Image(
        label=label("video_first"), interactive=False, height=_HEIGHT, buttons=["fullscreen"], elem_id="video-frame"
    )
    colors = [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in object_colors()]
    editor = gr.ImageEditor(
        show_label=False,
        visible=False,
        height=_HEIGHT,
        sources=(),
        transforms=(),
        layers=False,
        type="numpy",
        brush=gr.Brush(colors=[*colors], default_color=colors[0], color_mode="fixed"),
        elem_id="video-editor",
    )
    gr.HTML(_style(colors), padding=False)
    return {
        "upload": upload, "sample": sample, "status": status, "taking": taking, "frame": frame, "editor": editor,
        **_marking(words),
    }  # fmt: skip


def _marking(words: Words) -> dict[str, Any]:
    """With what a click or a stroke marks which object."""
    label: Any = words.label
    with gr.Row():
        mode = gr.Radio(
            [(label("video_mode_click"), "click"), (label("video_mode_paint"), "paint")],
            value="click",
            label=label("video_mode"),
            elem_classes="kinds",
            min_width=170,
            elem_id="video-mode",
        )
        sign = gr.Radio(
            [(label("video_sign_add"), True), (label("video_sign_away"), False)],
            value=True,
            label=label("video_sign"),
            elem_classes="kinds",
            min_width=170,
            elem_id="video-sign",
        )
    with gr.Row(equal_height=True):
        number = gr.Radio(
            [(f"{each}", each) for each in range(1, OBJECTS + 1)],
            value=1,
            label=label("video_object"),
            elem_classes="kinds",
            scale=4,
            min_width=300,
            elem_id="video-object",
        )
        with gr.Column(scale=1, min_width=90, elem_classes="stack"):
            undo = gr.Button(label("video_undo"), size="sm", elem_id="video-undo")
            clear = gr.Button(label("video_clear"), size="sm", elem_id="video-clear")
    reach = build_slider(-_MOST_REACH, _MOST_REACH, 0, step=0.02, label=label("video_reach"))
    return {"mode": mode, "sign": sign, "number": number, "reach": reach, "undo": undo, "clear": clear}


def _style(colors: Sequence[str]) -> str:
    """Each object's number underlined in its colour, and a cross to click with."""
    rules = [
        f"#video-object label:nth-of-type({number}) {{ border-bottom: 4px solid {color}; }}"
        for number, color in enumerate(colors, start=1)
    ]
    return f"<style>{' '.join(rules)} #video-frame img {{ cursor: crosshair; }}</style>"


def _right(models: Sequence[Model], words: Words, limits: Limits) -> dict[str, Any]:
    """The model, and the clip with what it follows."""
    label: Any = words.label
    details = [size for size in DETAILS if size <= limits.most_size] or [limits.most_size]
    with gr.Row():
        follow = gr.Button(label("video_follow"), variant="primary", elem_id="video-follow")
        cancel = gr.Button(label("video_cancel"), variant="stop", interactive=False, elem_id="video-cancel")
    progress = gr.Markdown(latex_delimiters=[], elem_id="video-progress")
    moving = gr.Image(
        label=label("video_result"), interactive=False, height=_HEIGHT, buttons=[], elem_id="video-moving"
    )
    overlay = gr.Video(
        label=label("video_overlay"), interactive=False, height=_HEIGHT, visible=False, autoplay=True, loop=True,
        buttons=[], elem_id="video-overlay",
    )  # fmt: skip
    with gr.Row():
        names = [model.label for model in models]  # the second of the pair is the one that learnt without labels
        model = gr.Dropdown(names, value=names[:2][-1], label=label("video_model"), min_width=160)
        detail = gr.Dropdown(
            [(f"{size} px", size) for size in details],
            value=_DETAIL if _DETAIL in details else details[-1],
            label=label("video_detail"),
            min_width=160,
        )
    with gr.Row():
        save_overlay = gr.DownloadButton(
            label("video_save_overlay"), interactive=False, size="sm", elem_id="video-save-overlay"
        )
        save_masks = gr.DownloadButton(
            label("video_save_masks"), interactive=False, size="sm", elem_id="video-save-masks"
        )
    return {
        "model": model, "detail": detail, "follow": follow, "cancel": cancel, "progress": progress, "moving": moving,
        "overlay": overlay, "save_overlay": save_overlay, "save_masks": save_masks,
    }  # fmt: skip


def _connect(parts: _Parts, session: gr.State, actions: VideoActions, tab: gr.Tab) -> None:
    """What happens when. Marking a frame never waits for a clip that somebody else follows."""
    results = [parts.progress, parts.follow, parts.cancel, parts.moving, parts.overlay, parts.save_overlay,
               parts.save_masks]  # fmt: skip
    sight = [parts.model, parts.detail]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    parts.follow.click(actions.ask, [session], results, queue=False, **quiet).then(
        actions.follow,
        [session, parts.mode, parts.editor, *sight],
        results,
        concurrency_limit=actions.limits.concurrent,
        concurrency_id="video",
        trigger_mode="multiple",  # the one before may still be at its last frame
        **quiet,
    )
    # not by Gradio's `cancels`: its browser takes no other click on what was cancelled so
    parts.cancel.click(actions.cancel, [session], results, queue=False, **quiet)

    loaded = [session, parts.status, parts.taking, parts.frame, parts.editor, parts.mode, *results]
    load: dict[str, Any] = {"outputs": loaded, "api_visibility": "private"}
    load |= {"show_progress": "minimal", "show_progress_on": parts.frame}
    load |= {"concurrency_id": "clips", "concurrency_limit": 1}  # one after the other: the last that was chosen counts
    parts.upload.upload(actions.upload, [parts.upload, session, *sight], **load)
    parts.sample.click(actions.sample, [session, *sight], **load)
    tab.select(actions.begin, [session, *sight], **load)
    parts.taking.change(actions.take, [session, parts.taking], [session, parts.status], **quiet)

    shown = [session, parts.frame, parts.status]
    parts.frame.select(actions.click, [session, parts.number, parts.sign, *sight], shown, **quiet)
    parts.undo.click(actions.undo, [session, *sight], shown, **quiet)
    parts.reach.release(actions.reach, [session, parts.reach, *sight], shown, **quiet)
    tools = [parts.number, parts.sign, parts.reach, parts.undo]
    for change in (parts.mode.input, parts.model.change, parts.detail.change):
        change(
            actions.change_mode,
            [session, parts.mode, parts.editor, *sight],
            [session, parts.frame, parts.editor, *tools, parts.status],
            **quiet,
        )
    parts.clear.click(actions.clear, [session, parts.mode, *sight], [*shown, parts.editor], **quiet)
