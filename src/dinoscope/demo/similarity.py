"""The tab in which a patch is clicked: what is similar to it, here and in a second image, and which parts are alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from dinoscope.demo.engine import Engine, Input
from dinoscope.demo.image import ImageTab
from dinoscope.demo.pictures import Picture, Pixels, Refused, Sample, shrunk
from dinoscope.demo.site import LIGHT, Site, for_models, refusals_shown
from dinoscope.explain.patches import patch_at, patch_box, stretched
from dinoscope.pictures import color_picture, cosine_overlay, marked

MIDDLE = 50  # per cent
STRETCHED = "stretched"
_SHOWN = 480  # longest side of a picture, in pixels
_PICTURES = ("here", "there", "colors_here", "colors_there")
_EMPTY = [*[None] * len(_PICTURES), gr.update(visible=False)]  # pictures and scale of a model
_BLANK = [None, *[gr.skip(), "", *_EMPTY] * 2]  # without a first image, or one that can be used


@dataclass(frozen=True)
class Similarity:
    """What the page shows of one model: in the first picture, then in the second if there is one.

    low: lowest cosine in either picture. best: highest in the second. share: of the variance that the colours hold.
    """

    similar: list[Pixels]
    colors: list[Pixels]
    low: float
    best: float | None
    share: float


def compare(
    engine: Engine, inputs: Sequence[Input], point: tuple[float, float], *, joint: bool, stretch: bool
) -> Similarity:
    """Draw the cosines with the patch at `point`, and the patches' colours, in one or two pictures.

    point: (x, y) as shares of the first picture's width and height, 0 to 1. joint: colours of both pictures together,
    else of each. stretch: the least similar patch of both pictures is dark, and the most similar bright; else a cosine
    of 0 or less is dark, and 1 bright, whatever the model. Raises Refused as `Engine.run` does.
    """
    first = inputs[0]
    rows, columns = engine.patches(first).shape[:2]
    patch = patch_at(_pixel(first.picture, point), first.picture.size, (rows, columns))
    cosines = [engine.similarity(first, patch, given) for given in inputs]
    colors = engine.colors(inputs) if joint else [engine.colors([given])[0] for given in inputs]
    shown = [shrunk(given.picture.pixels, _SHOWN) for given in inputs]
    values = stretched(cosines) if stretch else cosines
    similar = [cosine_overlay(image, each.numpy()) for image, each in zip(shown, values, strict=True)]
    similar[0] = _marked(first.picture, similar[0], point, (rows, columns))
    sizes = [(image.shape[0], image.shape[1]) for image in shown]
    return Similarity(
        similar,
        [color_picture(each.colors.numpy(), size) for each, size in zip(colors, sizes, strict=True)],
        min(each.min().item() for each in cosines),
        cosines[1].max().item() if len(cosines) > 1 else None,
        colors[0].share,
    )


def _pixel(picture: Picture, point: tuple[float, float]) -> tuple[int, int]:
    height, width = picture.size
    return min(width - 1, max(0, int(point[0] * width))), min(height - 1, max(0, int(point[1] * height)))


def _marked(picture: Picture, shown: Pixels, point: tuple[float, float], grid: tuple[int, int]) -> Pixels:
    place = _pixel(picture, point)
    box = patch_box(patch_at(place, picture.size, grid), picture.size, grid)
    return marked(shown, place, box, shown.shape[1] / picture.size[1])


class SimilarityTab:
    """The tab's components and handlers; build it inside `tab`. Image, models and resolution are the image tab's."""

    def __init__(self, site: Site, image: ImageTab, tab: gr.Tab) -> None:
        self.site, self.image = site, image
        try:
            start, preview = site.sample(1)
        except Refused:  # the page opens without it
            start = preview = None
        self.second = gr.State(start)
        gr.Markdown(site.words.label("similarity_hint"), elem_classes="hint")
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=290, elem_classes="controls"):
                clicked = site.picture("click", "similarity_click", "clickable first", height=240, buttons=[])
                with gr.Accordion(site.words.label("similarity_typed"), open=False, elem_id="similarity-typed"):
                    self.across, self.down = (
                        site.slider(f"page_{name}", 0, 100, MIDDLE, step=0.1, elem_id=f"similarity-{name}")
                        for name in ("across", "down")
                    )
                settings: Any = {"value": preview, "height": 170, "elem_classes": "picture"}
                upload, complaint = site.upload("similarity-second", "similarity_second", **settings)
                samples = site.sample_gallery("similarity-samples")
                self.scale = site.choice("similarity_scale", {each: each for each in (STRETCHED, "absolute")})
                joining: Any = {"interactive": start is not None}  # of one image alone they are the same
                self.colors = site.choice("similarity_colors", {each: each for each in ("joint", "single")}, **joining)
            with gr.Column(scale=10, min_width=320, elem_classes="results"):
                draw_complaint = site.complaint("similarity-draw")
                rows = self._build_row("likeness-first"), self._build_row("likeness-second")

        draw: Any = {
            "fn": self.draw,
            "inputs": {image.picked, image.first, image.second, image.size}
            | {self.second, self.across, self.down, self.scale, self.colors},
            "outputs": [clicked, *(component for row in rows for component in row), draw_complaint],
            **site.heavy,
        }
        upload.change(site.take, [upload], [self.second, upload, complaint], **LIGHT)
        samples.select(site.pick, None, [self.second, upload, complaint], **LIGHT)
        self.second.change(lambda second: gr.Radio(interactive=second is not None), self.second, self.colors, **LIGHT)
        self.second.change(**draw, show_progress="minimal")
        place = [self.across, self.down]
        click = clicked.select(self.click, [image.picked], place, **LIGHT)
        click.then(**draw, show_progress="hidden")
        for control in (*place, self.scale, self.colors):
            control.input(**draw, trigger_mode="always_last", show_progress="hidden")
        tab.select(**draw, show_progress="minimal")
        image.picked.change(lambda: (MIDDLE, MIDDLE), None, place, **LIGHT)

    def _build_row(self, name: str) -> list[Any]:
        # What shows one model, in the order of `_BLANK`.
        with gr.Column(elem_id=name, elem_classes="model-column") as row:
            caption = self.site.caption(name)
            settings: Any = {"height": 250, "min_width": 170, "buttons": ["fullscreen", "download"]}
            with gr.Row(elem_classes="four"):
                pictures = [
                    self.site.picture(f"{name}-{key.replace('_', '-')}", f"similarity_{key}", "one-of-four", **settings)
                    for key in _PICTURES
                ]
            scale = self.site.scale(name)
        return [row, caption, *pictures, scale]

    def click(self, event: gr.SelectData, picked: Sample | None) -> tuple[float, float]:
        """Return the clicked point of the first image, in per cent of its width and height."""
        if picked is None:
            return MIDDLE, MIDDLE
        height, width = shrunk(self.site.engine.picture(picked.path).pixels, _SHOWN).shape[:2]
        x, y = event.index
        return 100 * (x + 0.5) / width, 100 * (y + 0.5) / height

    @refusals_shown(_BLANK)
    def draw(self, data: dict[Any, Any], request: gr.Request) -> list[Any]:
        """Draw everything."""
        site = self.site
        if data[self.image.picked] is None:
            return _BLANK
        samples = [data[self.image.picked], *([data[self.second]] if data[self.second] else [])]
        pictures = [site.engine.picture(sample.path) for sample in samples]
        missing = [None] * (2 - len(pictures))
        point, size = (data[self.across] / 100, data[self.down] / 100), self.image.read_size(data)
        joint, stretch = data[self.colors] == "joint", data[self.scale] == STRETCHED

        def show(model: str) -> list[Any]:
            inputs = [Input(model, picture, size) for picture in pictures]
            try:
                drawn = compare(site.engine, inputs, point, joint=joint, stretch=stretch)
            except Refused as error:
                return [site.refused(request, model, error), *_EMPTY]
            key = "similarity_caption" if drawn.best is not None else "similarity_caption_one"
            caption = site.words.say(request, key, model=model, low=drawn.low, best=drawn.best, share=drawn.share)
            names = [sample.path.name for sample in samples]

            def row(part: str, drawn_pictures: Sequence[Pixels], what: str) -> list[Any]:
                keys = [f"similarity_{part}{place}" for place in ("here", "there")]
                return [
                    site.shown(request, model, name, key, pixels, what)
                    for key, name, pixels in zip(keys, names, drawn_pictures, strict=False)
                ]

            similar, colors = row("", drawn.similar, "similar"), row("colors_", drawn.colors, "colors")
            low = f"{drawn.low:.2f}" if stretch else site.words.plain(request, "similarity_scale_nothing")
            scale = site.scaled(request, site.words.plain(request, "similarity_scale_low", low=low), "1")
            return [caption, *similar, *missing, *colors, *missing, scale]

        clicked = _marked(pictures[0], shrunk(pictures[0].pixels, _SHOWN), point, pictures[0].size)
        return [site.show(clicked), *for_models(data[self.image.first], data[self.image.second], show)]
