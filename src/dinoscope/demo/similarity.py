"""The tab in which a patch is clicked: what is similar to it, here and in a second image, and which parts are alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
import torch
from jaxtyping import Float
from torch import Tensor

from dinoscope.demo.engine import Engine, Input
from dinoscope.demo.image import ImageTab, chosen_models
from dinoscope.demo.pictures import Picture, Pixels, shrunk
from dinoscope.demo.site import LIGHT, Picked, Site, hidden_column, refusals_shown
from dinoscope.explain.patches import patch_at, patch_box
from dinoscope.pictures import color_picture, cosine_overlay, marked

MIDDLE = (0.5, 0.5)
STRETCHED = "stretched"
_SHOWN = 480  # longest side of a picture, in pixels
_PICTURES = ("here", "there", "colors_here", "colors_there")


@dataclass(frozen=True)
class Similarity:
    """What the page shows of one model: in the first picture, then in the second if there is one.

    low: lowest cosine in either picture. best: highest in the second. share: of the variance that the colours hold.
    """

    similar: tuple[Pixels, ...]
    colors: tuple[Pixels, ...]
    low: float
    best: float | None
    share: float


def compare(
    engine: Engine, inputs: tuple[Input, ...], point: tuple[float, float], *, joint: bool, stretch: bool
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
    return Similarity(
        tuple(similar),
        tuple(
            color_picture(each.colors.numpy(), (image.shape[0], image.shape[1]))
            for image, each in zip(shown, colors, strict=True)
        ),
        min(each.min().item() for each in cosines),
        cosines[1].max().item() if len(cosines) > 1 else None,
        colors[0].share,
    )


def stretched(cosines: Sequence[Float[Tensor, "_ _"]]) -> list[Float[Tensor, "_ _"]]:
    """Scale values so that the lowest of all is 0 and the highest 1; zeros if they are all equal."""
    low, high = min(each.min() for each in cosines), max(each.max() for each in cosines)
    return [(each - low) / (high - low) if high > low else torch.zeros_like(each) for each in cosines]


def with_mark(picture: Picture, point: tuple[float, float]) -> Pixels:
    """Return the picture with a cross on the point."""
    return _marked(picture, shrunk(picture.pixels, _SHOWN), point, picture.size)


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
        word = site.words.label
        start, preview = site.sample(1)
        self.second = gr.State(start)
        self.point = gr.State(MIDDLE)  # shares of width and height
        gr.Markdown(word("similarity_hint"), elem_classes="hint")
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=290, elem_classes="controls"):
                self.clicked_image = site.picture(
                    "click", "similarity_click", "clickable first", height=240, buttons=[]
                )
                self.upload = site.upload(
                    "second", "similarity_second", value=preview, height=170, elem_classes="picture"
                )
                self.samples = site.sample_gallery("second-samples")
                self.scale = site.choice("similarity_scale", {each: each for each in (STRETCHED, "absolute")})
                self.colors = site.choice("similarity_colors", {each: each for each in ("joint", "single")})
            with gr.Column(scale=10, min_width=320, elem_classes="results"):
                self.rows = self._build_row("likeness-first"), self._build_row("likeness-second")
        self._wire(tab)

    def _build_row(self, name: str) -> list[Any]:
        """What shows one model, in the order in which `draw` fills it."""
        with gr.Column(elem_id=name, elem_classes="model-column") as row:
            caption = self.site.caption(name)
            settings: Any = {"height": 250, "min_width": 170, "buttons": ["fullscreen", "download"]}
            with gr.Row():
                pictures = [
                    self.site.picture(
                        f"{name}-{what.replace('_', '-')}", f"similarity_{what}", "one-of-four", **settings
                    )
                    for what in _PICTURES
                ]
        return [row, caption, *pictures]

    def _wire(self, tab: gr.Tab) -> None:
        image = self.image
        draw: Any = {
            "fn": self.draw,
            "inputs": {image.picked, image.first, image.second, image.size}
            | {self.second, self.point, self.scale, self.colors},
            "outputs": [self.clicked_image, *(component for row in self.rows for component in row)],
            **self.site.heavy,
        }
        taken = [self.second, self.upload]
        self.upload.change(self.site.take, [self.upload], taken, **LIGHT)
        self.samples.select(self.site.pick, None, taken, **LIGHT)
        self.second.change(**draw, show_progress="minimal")
        clicked = self.clicked_image.select(self.click, [image.picked], [self.point], **LIGHT)
        clicked.then(**draw, show_progress="hidden")
        for choice in (self.scale, self.colors):
            choice.input(**draw, show_progress="hidden")
        tab.select(**draw, show_progress="minimal")
        image.picked.change(lambda: MIDDLE, None, [self.point], **LIGHT)

    def click(self, event: gr.SelectData, picked: Picked | None) -> tuple[float, float]:
        """Return the clicked point of the first image: its shares of width and height."""
        if picked is None:
            return MIDDLE
        height, width = with_mark(self.site.engine.picture(picked.path), MIDDLE).shape[:2]
        x, y = event.index
        return (x + 0.5) / width, (y + 0.5) / height

    def blank(self) -> list[Any]:
        """Return what is shown if there is no first image, or one cannot be used."""
        return [None, *[gr.skip(), "", *[None] * len(_PICTURES)] * 2]

    @refusals_shown(blank)
    def draw(self, data: dict[Any, Any], request: gr.Request) -> list[Any]:
        """Draw everything."""
        engine, show = self.site.engine, self.site.show
        first: Picked | None = data[self.image.picked]
        second: Picked | None = data[self.second]
        if first is None:
            return self.blank()
        size, point = self.image.read_size(data), data[self.point]
        pictures = [engine.picture(picked.path) for picked in (first, second) if picked is not None]
        missing = [None] * (2 - len(pictures))
        results: list[Any] = [show(with_mark(pictures[0], point))]
        models = chosen_models(data[self.image.first], data[self.image.second])
        joint, stretch = data[self.colors] == "joint", data[self.scale] == STRETCHED
        for model in models:
            inputs = tuple(Input(model, picture, size) for picture in pictures)
            found = compare(engine, inputs, point, joint=joint, stretch=stretch)
            key = "similarity_caption" if found.best is not None else "similarity_caption_one"
            values = {"low": found.low, "best": found.best, "share": found.share}
            caption = self.site.words.say(request, key, model=model, **values)
            similar, colors = map(show, found.similar), map(show, found.colors)
            results += [gr.Column(visible=True), caption, *similar, *missing, *colors, *missing]
        return results if len(models) > 1 else [*results, *hidden_column(2 + len(_PICTURES))]
