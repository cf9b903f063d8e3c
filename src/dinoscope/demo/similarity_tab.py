"""The tab in which a patch is clicked: what is similar to it, here and in a second image, and what parts are alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from dinoscope.demo.components import build_samples, build_upload
from dinoscope.demo.engine import Gaze
from dinoscope.demo.image_actions import Shown
from dinoscope.demo.image_controls import seen_models
from dinoscope.demo.similarity_view import compare, with_mark
from dinoscope.demo.site import MODELS, Picked, Site, or_blank

MIDDLE = (0.5, 0.5)
STRETCHED = "stretched"


@dataclass(frozen=True)
class _Row:
    """The components that show one model."""

    row: gr.Column
    caption: gr.Markdown
    pictures: tuple[gr.Image, ...]

    @property
    def outputs(self) -> list[Any]:
        return [self.row, self.caption, *self.pictures]


@dataclass(frozen=True)
class _Parts:
    """What the tab's functions read and fill. second: an image as in `Shown`. point: shares of width and height."""

    shown: Shown
    click: gr.Image
    second: gr.State
    point: gr.State
    scale: gr.Radio
    colors: gr.Radio
    rows: tuple[_Row, _Row]

    @property
    def inputs(self) -> set[Any]:
        shown = self.shown
        return {shown.picked, shown.first, shown.second, shown.panel.size, self.second, self.point, *self.choices}

    @property
    def choices(self) -> list[gr.Radio]:
        """What may be chosen in this tab alone."""
        return [self.scale, self.colors]

    @property
    def outputs(self) -> list[Any]:
        return [self.click, *(component for row in self.rows for component in row.outputs)]


def build_similarity_tab(site: Site, shown: Shown, thumbnails: Sequence[Path], tab: gr.Tab) -> None:
    """Lay the tab out and wire it; called inside of `tab`."""
    word = site.words.label
    start, preview = site.start(1)
    second, point = gr.State(start), gr.State(MIDDLE)
    gr.Markdown(word("similarity_hint"), elem_classes="hint")
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=290, elem_classes="controls"):
            click = gr.Image(
                label=word("similarity_click"),
                format="jpeg",
                interactive=False,
                height=240,
                buttons=[],
                elem_id="click",
                elem_classes="picture clickable first",
            )
            upload = build_upload(
                value=preview,
                label=word("similarity_second"),
                placeholder=word("similarity_drop"),
                sources=["upload", "webcam", "clipboard"],
                height=170,
                elem_id="second",
                elem_classes="picture",
            )
            samples = build_samples(thumbnails, word("similarity_samples"), "second-samples")
            scale = gr.Radio(
                [(word("similarity_stretched"), STRETCHED), (word("similarity_absolute"), "absolute")],
                value=STRETCHED,
                label=word("similarity_scale"),
                info=word("similarity_scale_info"),
                elem_classes="kinds",
            )
            colors = gr.Radio(
                [(word("similarity_joint"), "joint"), (word("similarity_single"), "single")],
                value="joint",
                label=word("similarity_colors"),
                info=word("similarity_colors_info"),
                elem_classes="kinds",
            )
        with gr.Column(scale=10, min_width=320, elem_classes="results"):
            rows = _row(site, "likeness-first"), _row(site, "likeness-second")
    parts = _Parts(shown, click, second, point, scale, colors, rows)
    _wire(site, parts, tab, upload, samples)


def _row(site: Site, name: str) -> _Row:
    word = site.words.label
    with gr.Column(elem_id=name, elem_classes="model-column") as row:
        caption = gr.Markdown(latex_delimiters=[], elem_classes="caption", elem_id=f"{name}-caption")
        with gr.Row():
            pictures = tuple(
                gr.Image(
                    label=word(f"similarity_{what}"),
                    format="jpeg",
                    interactive=False,
                    height=250,
                    min_width=170,
                    buttons=["fullscreen", "download"],
                    elem_id=f"{name}-{what.replace('_', '-')}",
                    elem_classes="picture one-of-four",
                )
                for what in ("here", "there", "colors_here", "colors_there")
            )
    return _Row(row, caption, pictures)


def _wire(site: Site, parts: _Parts, tab: gr.Tab, upload: gr.Image, samples: gr.Gallery) -> None:
    actions = _Actions(site, parts)
    light: Any = {"api_visibility": "private", "concurrency_limit": 8, "show_progress": "hidden"}
    draw: Any = {
        "fn": actions.draw,
        "inputs": parts.inputs,
        "outputs": parts.outputs,
        "concurrency_id": MODELS,
        "concurrency_limit": site.limits.concurrent,
        "api_visibility": "private",
    }
    taken = [parts.second, upload]
    upload.change(actions.take, [upload], taken, **light)
    samples.select(actions.pick, None, taken, **light)
    parts.second.change(**draw, show_progress="minimal")
    clicked = parts.click.select(actions.clicked, [parts.shown.picked], [parts.point], **light)
    clicked.then(**draw, show_progress="hidden")
    for choice in parts.choices:
        choice.input(**draw, show_progress="hidden")
    tab.select(**draw, show_progress="minimal")
    parts.shown.picked.change(lambda: MIDDLE, None, [parts.point], **light)


class _Actions:
    """The functions that the tab's events call."""

    def __init__(self, site: Site, parts: _Parts) -> None:
        self.site, self.parts = site, parts

    def take(self, path: str | None, request: gr.Request) -> tuple[Any, Any]:
        """The second image was uploaded or removed."""
        return self.site.take(path, request)

    def pick(self, event: gr.SelectData, request: gr.Request) -> tuple[Any, Any]:
        """A sample was clicked."""
        return self.site.sample(int(event.index), request)

    def clicked(self, event: gr.SelectData, picked: Picked | None) -> tuple[float, float]:
        """A point of the first image was clicked: its shares of width and height."""
        if picked is None:
            return MIDDLE
        height, width = with_mark(self.site.engine.picture(picked.path), MIDDLE).shape[:2]
        x, y = event.index
        return (x + 0.5) / width, (y + 0.5) / height

    def blank(self) -> list[Any]:
        """Nothing, where there is no first image or one cannot be looked at."""
        return [None, *[gr.skip(), "", *[None] * 4] * 2]

    @or_blank
    def draw(self, data: dict[Any, Any], request: gr.Request) -> list[Any]:
        """Everything that is shown."""
        parts, engine = self.parts, self.site.engine
        first: Picked | None = data[parts.shown.picked]
        second: Picked | None = data[parts.second]
        if first is None:
            return self.blank()
        size = self.parts.shown.panel.read_size(data)
        pictures = [engine.picture(picked.path) for picked in (first, second) if picked is not None]
        show = self.site.show
        results: list[Any] = [show(with_mark(pictures[0], data[parts.point]))]
        models = seen_models(data[parts.shown.first], data[parts.shown.second])
        for model in models:
            gazes = tuple(Gaze(model, picture, size) for picture in pictures)
            joint, stretch = data[parts.colors] == "joint", data[parts.scale] == STRETCHED
            likeness = compare(engine, gazes, data[parts.point], joint=joint, stretch=stretch)
            key = "similarity_caption" if likeness.best is not None else "similarity_caption_one"
            values = {"low": likeness.low, "best": likeness.best, "share": likeness.share}
            caption = self.site.words.say(request, key, model=model, **values)
            missing = [None] * (2 - len(pictures))
            similar, colors = map(show, likeness.similar), map(show, likeness.colors)
            results += [gr.Column(visible=True), caption, *similar, *missing, *colors, *missing]
        hidden = [gr.Column(visible=False), *[gr.skip()] * 5]
        return results if len(models) > 1 else [*results, *hidden]
