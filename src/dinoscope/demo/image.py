"""The tab for one image: the maps of one or two models, with every control."""

from __future__ import annotations

import functools
import uuid
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import gradio as gr
import numpy as np
import torch
from gradio.i18n import I18nData
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from PIL import Image
from torch import Tensor

from dinoscope.demo.engine import OF_BLOCKS, Engine, Input
from dinoscope.demo.pictures import SHOWN, THUMBNAIL, GroundTruth, Picture, Pixels, Refused, Sample, read_truth, shrunk
from dinoscope.demo.site import (
    LIGHT,
    NOTHING,
    Radio,
    Site,
    chosen_models,
    for_models,
    literal,
    name_of_picture,
    refusals_shown,
)
from dinoscope.evaluation.voc import jaccard
from dinoscope.explain.attention import map_masks, mean_and_heads
from dinoscope.explain.maps import MAPS
from dinoscope.files import replacing
from dinoscope.model_names import folder_names
from dinoscope.pictures import OPACITY, mask_overlay, overlay, overlay_end

MEAN = "mean"
OWN = "own"
SIZES = (224, 320, 480, 640)
_DEEP = 8  # min blocks of a network that is said to have early and late layers
_EVEN = 1.5  # times the mean: a map whose maximum is below this shows next to nothing
_NOTHING_DRAWN: list[Any] = [None, gr.update(visible=False), None]  # map, scale, mask
_BLANK: list[Any] = [gr.skip(), "", *_NOTHING_DRAWN, []] * 2  # what is shown without an image that can be used


@dataclass(frozen=True)
class Controls:
    """What a person has set.

    kind: of map, in `explain.maps.MAPS`. head: None is the mean of all. block: from 0; the last if the network has
    fewer. mass: share of the map that the mask holds. opacity: of the overlay. size: as in `Input`.
    """

    kind: str = "attention"
    head: int | None = None
    block: int = 10**6
    mass: float = 0.6
    opacity: float = OPACITY
    size: int | None = None
    smooth: bool = True


@dataclass(frozen=True)
class View:
    """One model's maps of a picture: the mean, and each head's if it has several, [1 + heads, rows, columns].

    shares: of the image in each map's mask. jaccards: of each mask with the ground truth, 0 to 1, if there is one.
    place: of the map that is chosen. block: of how many; None for kinds of map that are of the whole network.
    names: of the maps, for files: "mean" and "head0", or the kind; "layer3-" before it if that is not the last one.
    """

    maps: Float[Tensor, "maps rows columns"]
    masks: Bool[Tensor, "maps rows columns"]
    shares: list[float]
    jaccards: Sequence[float | None]
    place: int
    block: tuple[int, int] | None
    names: list[str]


def view(engine: Engine, given: Input, controls: Controls, truth: GroundTruth | None = None) -> View:
    """Return a model's maps from the engine's results alone. Raises Refused as `Engine.maps` does."""
    maps = engine.maps(given, controls.kind, controls.block)
    if len(maps) > 1:
        maps = mean_and_heads(maps[None])[0]
    masks = map_masks(maps, controls.mass)
    place = 0 if controls.head is None or controls.head + 1 >= len(maps) else controls.head + 1
    depth = engine.depth(given.model)
    block = (min(controls.block, depth - 1), depth) if controls.kind in OF_BLOCKS and depth > 1 else None
    jaccards = [None] * len(masks)
    if truth is not None and truth.objects.any():
        objects, valid = torch.from_numpy(truth.objects), torch.from_numpy(truth.valid)
        jaccards = [jaccard(mask, objects, valid) for mask in masks]
    heads = [f"head{number}" for number in range(len(maps) - 1)]
    names = [MEAN, *heads] if heads else [engine.shown_kind(given.model, controls.kind)]
    if block is not None and block[0] < depth - 1:
        names = [f"layer{block[0]}-{name}" for name in names]
    shares = [mask.float().mean().item() for mask in masks]
    return View(maps, masks, shares, jaccards, place, block, names)


def full_size(engine: Engine, given: Input, controls: Controls) -> Iterator[tuple[str, UInt8[ndarray, "h w *c"]]]:
    """Yield (name, picture): overlay, mask (0 or 255) and outline of every map at the image's own size."""
    drawn, pixels = view(engine, given, controls), given.picture.pixels
    for name, values, mask in zip(drawn.names, drawn.maps, drawn.masks, strict=True):
        full = mask.numpy().astype(np.uint8) * 255
        yield name, draw_map(pixels, values, controls)
        yield f"{name}-mask", cv2.resize(full, given.picture.size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        yield f"{name}-outline", mask_overlay(pixels, mask.numpy())


def draw_map(pixels: Pixels, values: Float[Tensor, "rows columns"], controls: Controls) -> Pixels:
    """Lay a map over an image according to the controls."""
    return overlay(pixels, values.numpy(), opacity=controls.opacity, smooth=controls.smooth)


class ImageTab:
    """The tab's components and handlers; build it inside its `gr.Tab`.

    Other tabs read `picked`, `first`, `second` (the models) and `size`.
    """

    def __init__(self, site: Site, demo: gr.Blocks) -> None:
        self.site = site
        word = site.words.label
        self.picked = gr.State(None)
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=290, elem_classes="controls"):
                self._build_controls()
            with gr.Column(scale=10, min_width=320, elem_classes="results interleaved"):
                with gr.Row():
                    labels = list(site.engine.models)
                    others = [(word("image_no_second"), NOTHING), *((label, label) for label in labels)]
                    second = labels[1] if len(labels) > 1 else NOTHING
                    settings: Any = {"filterable": False, "min_width": 200}
                    self.first = gr.Dropdown(labels, value=labels[0], label=word("image_model"), **settings)
                    self.second = gr.Dropdown(others, value=second, label=word("image_second"), **settings)
                self.draw_complaint = site.complaint("image-draw")
                with gr.Row(equal_height=False, elem_classes="interleaved"):
                    self.columns = self._build_column("first"), self._build_column("second")
        self._wire(demo)

    def _build_controls(self) -> None:
        site, word, start = self.site, self.site.words.label, list(self.site.engine.models)[:2]
        settings: Any = {"height": 170, "elem_classes": "upload picture first"}
        self.upload, self.complaint = site.upload("upload", "image_upload", **settings)
        self.samples = site.sample_gallery("samples")
        self.kind = site.choice("image_kind", {kind: kind for kind in MAPS})
        heads, last = self._heads_and_last(start)
        choosing: Any = {"elem_classes": "heads-choice", "interactive": len(heads) > 1}
        self.head = Radio(heads, value=MEAN, **choosing, **site.named("image_head"))
        moving: Any = {"interactive": last > 0, "info": self._about_blocks(last)}
        self.block = site.slider("image_block", 0, max(last, 1), last, step=1, elem_id="block", **moving)
        self.mass = site.slider("image_mass", 5, 100, 60, step=1, elem_id="mass")
        self.opacity = site.slider("image_opacity", 0, 100, round(100 * OPACITY), step=1, elem_id="opacity")
        with gr.Accordion(word("image_more"), open=False):
            sizes = [size for size in SIZES if size <= site.engine.limits.most_size]
            # the DINO paper's 480 px for networks made for photographs, 224 px for the small ones of 32 to 64 px
            made_for = max(model.backbone.config.image_size for model in site.engine.models.values())
            wanted = 480 if made_for >= 224 else 224
            value = str(max((size for size in sizes if size <= wanted), default=OWN))
            choices = [*((str(size), str(size)) for size in sizes), (word("image_size_own"), OWN)]
            self.size = gr.Radio(choices, value=value, elem_classes="sizes", **site.named("image_size"))
            self.smooth = gr.Checkbox(True, **site.named("image_smooth"))
        self.controls = [self.kind, self.head, self.block, self.mass, self.opacity, self.size, self.smooth]
        with gr.Accordion(word("image_truth"), open=False):
            settings = {"show_label": False, "sources": ["upload"], "height": 130}
            drop = word("image_truth_drop")
            self.truth, self.truth_complaint = site.upload("truth", "image_truth", placeholder=drop, **settings)
        self.save_button = gr.Button(word("image_save"), size="sm", elem_id="save")
        self.save_complaint = site.complaint("save")
        self.files = gr.File(label=word("image_files"), visible=False, elem_id="files")

    def _build_column(self, name: str) -> list[Any]:
        # What shows one model, in the order of `_BLANK`.
        site = self.site
        with gr.Column(min_width=300, elem_classes="model-column", elem_id=name) as column:
            caption = site.caption(name)
            buttons = ["fullscreen", "download"]
            main = site.picture(f"{name}-overlay", "image_overlay", "large", height=300, buttons=buttons)
            scale = site.scale(f"{name}-overlay")
            with gr.Row(equal_height=True):
                below: Any = {"height": 195, "min_width": 150, "scale": 5, "buttons": ["fullscreen"]}
                mask = site.picture(f"{name}-mask", "image_mask", "below", **below)
                below = {"height": 195, "min_width": 160, "scale": 6, "elem_classes": "heads below"}
                heads = site.gallery(f"{name}-heads", "image_heads", columns=3, allow_preview=False, **below)
        return [column, caption, main, scale, mask, heads]

    def _wire(self, demo: gr.Blocks) -> None:
        # Of many moves of a control the last counts.
        site, inputs = self.site, {self.picked, self.first, self.second, *self.controls}
        outputs = [*(component for column in self.columns for component in column), self.draw_complaint]
        draw: Any = {"fn": self.draw, "inputs": inputs, "outputs": outputs, **site.heavy}
        picked = [self.picked, self.upload, self.complaint]
        self.upload.change(self.take, [self.upload], [*picked, self.truth], **LIGHT)
        self.samples.select(self.pick, None, [*picked, self.truth], **LIGHT)
        truth = [self.picked, self.truth, self.truth_complaint]
        self.truth.upload(self.take_truth, [self.picked, self.truth], truth, **LIGHT)
        self.truth.clear(self.clear_truth, [self.picked], [self.picked, self.truth_complaint], **LIGHT)
        if site.samples:
            demo.load(self.begin, None, picked, **LIGHT)
        self.picked.change(**draw, show_progress="minimal")
        last = gr.State(self.block.value)
        fitted = [self.first, self.second, self.kind, self.head, self.block, last]
        for component in (self.first, self.second, self.kind):
            fit = component.input(self.fit, fitted, [self.head, self.block, last], **LIGHT)
            fit.then(**draw, show_progress="minimal")
        for component in self.controls[1:]:
            component.input(**draw, trigger_mode="always_last", show_progress="hidden")
        for *_, heads in self.columns:
            chosen = heads.select(self.enlarge, None, [self.head], **LIGHT)
            chosen.then(**draw, show_progress="hidden")
        saved = [self.files, self.save_complaint]
        self.save_button.click(self.save, inputs, saved, concurrency_id="models", api_visibility="private")

    def _heads_and_last(self, models: list[str]) -> tuple[list[tuple[Any, str]], int]:
        # The mean, then the heads of the model that has most; the last block of the deepest.
        engine = self.site.engine
        count = max(map(engine.heads, models))
        heads = [(str(number), str(number)) for number in range(count)] if count > 1 else []
        return [(self.site.words.label("image_mean"), MEAN), *heads], max(map(engine.depth, models)) - 1

    def _about_blocks(self, last: int) -> I18nData:
        return self.site.words.label("image_block_deep" if last + 1 >= _DEEP else "image_block_info")

    def read_size(self, data: Mapping[Any, Any]) -> int | None:
        """Return the resolution, as in `Input`."""
        return None if data[self.size] == OWN else int(data[self.size])

    def begin(self, request: gr.Request) -> tuple[Any, Any, Any]:
        """Pick the first sample, so that nobody meets an empty page."""
        return self.site.sample_or_reason(0, request)

    def pick(self, event: gr.SelectData, request: gr.Request) -> tuple[Any, Any, Any, Any]:
        """Pick a sample; a ground truth that was uploaded is another image's."""
        return *self.site.pick(event, request), None

    def take(self, path: str | None, request: gr.Request) -> tuple[Any, Any, Any, Any]:
        """Take an image that was uploaded, or its removal; a ground truth that was uploaded is another image's."""
        picked, field, complaint = self.site.take(path, request)
        return picked, field, complaint, None if picked is None or isinstance(picked, Sample) else gr.skip()

    def take_truth(self, picked: Sample | None, path: str | None, request: gr.Request) -> tuple[Any, Any, Any]:
        """Take a ground truth that was uploaded for the image, or show below its field why it is refused."""
        try:
            if picked is None:
                raise Refused("image_first")
            taken = replace(picked, mask=None) if path is None else Sample(picked.path, Path(path))
            self._read(taken)
        except Refused as error:
            return gr.skip(), None, self.site.complain(request, error)
        return taken, gr.skip(), gr.HTML(visible=False)

    def clear_truth(self, picked: Sample | None) -> tuple[Sample | None, Any]:
        """Forget the ground truth, and why another was refused."""
        return picked and replace(picked, mask=None), gr.HTML(visible=False)

    def fit(self, first: str, second: str, kind: str, head: str, block: int, last: int) -> tuple[Any, Any, int]:
        """Update head and layer for other models or another kind of map: what does not apply cannot be moved.

        block: the layer that was chosen; the last one stays the last. last: layer of the deepest model before.
        """
        choices, now_last = self._heads_and_last(chosen_models(first, second))
        value = head if head in [value for _, value in choices] else MEAN
        several = kind == "attention" and len(choices) > 1
        layer = now_last if block >= last else min(block, now_last)
        movable = kind in OF_BLOCKS and now_last > 0
        about: Any = self._about_blocks(now_last)
        slider = gr.Slider(value=layer, maximum=max(now_last, 1), interactive=movable, info=about)
        return gr.Radio(choices, value=value, interactive=several), slider, now_last

    def enlarge(self, event: gr.SelectData) -> str:
        """Choose the head that was clicked in the gallery."""
        return str(event.index)

    @refusals_shown(_BLANK)
    def draw(self, data: dict[Any, Any], request: gr.Request) -> list[Any]:
        """Draw everything, for the image, the models and the controls as they are."""
        if data[self.picked] is None:
            return _BLANK
        picture, truth = self._read(data[self.picked])
        controls = self._controls(data)
        return for_models(
            data[self.first],
            data[self.second],
            lambda model: self._column(
                Input(model, picture, controls.size), controls, truth, data[self.picked].path.name, request
            ),
        )

    def _controls(self, data: Mapping[Any, Any]) -> Controls:
        # Shares are in percent.
        head = None if data[self.head] == MEAN else int(data[self.head])
        mass, opacity = data[self.mass] / 100, data[self.opacity] / 100
        block, smooth = int(data[self.block]), data[self.smooth]
        return Controls(data[self.kind], head, block, mass, opacity, self.read_size(data), smooth)

    def _column(
        self, given: Input, controls: Controls, truth: GroundTruth | None, file: str, request: gr.Request
    ) -> list[Any]:
        # One model's pictures; or in its caption why there are none: the other model may have some.
        say, show = self.site.words.say, self.site.show
        try:
            drawn = view(self.site.engine, given, controls, truth)
        except Refused as error:
            nothing = [*_NOTHING_DRAWN, gr.Gallery([], visible=False)]
            return [self.site.refused(request, given.model, error), *nothing]
        kind = self.site.engine.shown_kind(given.model, controls.kind)
        shown = functools.partial(self.site.shown, request, given.model, file)
        large, small = shrunk(given.picture.pixels, SHOWN), shrunk(given.picture.pixels, THUMBNAIL, THUMBNAIL)
        heads: list[tuple[str, str]] = []
        for number in range(1, len(drawn.maps)):
            values = {"head": number - 1, "share": f"{drawn.shares[number]:.0%}"}
            score = drawn.jaccards[number]
            if score is None:
                caption = say(request, "image_head_caption", **values)
            else:
                caption = say(request, "image_head_caption_truth", **values, jaccard=f"{score:.0%}")
            heads.append((show(draw_map(small, drawn.maps[number], controls)), caption))
        return [
            self._caption(given, controls.kind, drawn, request),
            shown(f"image_kind_{kind}", draw_map(large, drawn.maps[drawn.place], controls), drawn.names[drawn.place]),
            self._scale(given, kind, drawn.maps[drawn.place], controls.opacity, request),
            shown("image_mask", mask_overlay(large, drawn.masks[drawn.place].numpy())),
            gr.Gallery(heads, visible=bool(heads)),
        ]

    def _scale(
        self, given: Input, kind: str, values: Float[Tensor, "rows columns"], opacity: float, request: gr.Request
    ) -> gr.HTML:
        # What the colours mean, and why the energy of a transformer shows next to nothing.
        say = functools.partial(self.site.words.plain, request)
        times, note = (values.max() / values.mean()).item(), ""
        if kind == "energy" and times < _EVEN and self.site.engine.models[given.model].backbone.transformer is not None:
            note = say("image_energy_even", times=f"{times:.1f}")
        high = say("image_scale_high", times=f"{overlay_end(values.numpy()):.1f}")
        return self.site.scaled(request, say("image_scale_low"), high, opacity, note)

    def _caption(self, given: Input, kind: str, drawn: View, request: gr.Request) -> str:
        # Always three lines, so that the pictures of two models begin at the same height.
        say, engine, model = self.site.words.say, self.site.engine, given.model
        score = drawn.jaccards[drawn.place]
        share = say(request, "image_caption", share=f"{drawn.shares[drawn.place]:.0%}")
        if score is not None:
            share += " · " + say(request, "image_caption_truth", jaccard=f"{score:.1%}")
        parts = [say(request, f"image_kind_{engine.shown_kind(model, kind)}")]
        heads = len(drawn.maps) - 1
        if heads:
            key = "image_place_head" if drawn.place else "image_place_mean"
            parts.append(say(request, key, head=drawn.place - 1, heads=heads, last=heads - 1))
        if drawn.block is not None:
            parts.append(say(request, "image_place_layer", layer=drawn.block[0], last=drawn.block[1] - 1))
        _, rows, columns = drawn.maps.shape
        parts.append(say(request, "image_caption_size", columns=columns, rows=rows, size=engine.size(given)))
        return f"**{literal(model)}**\n\n{share}\n\n<span class='small'>{' · '.join(parts)}</span>"

    def save(self, data: dict[Any, Any], request: gr.Request) -> tuple[Any, Any]:
        """Offer a ZIP of PNGs of everything that is shown, at the image's own size, or show why there is none."""
        try:
            return self._saved(data), gr.HTML(visible=False)
        except Refused as error:
            return gr.skip(), self.site.complain(request, error)

    def _saved(self, data: dict[Any, Any]) -> gr.File:
        picked: Sample | None = data[self.picked]
        if picked is None:
            raise Refused("image_first")
        picture, _ = self._read(picked)
        controls = self._controls(data)
        models = chosen_models(data[self.first], data[self.second])
        file = self.site.folder / uuid.uuid4().hex / f"{name_of_picture(picked.path.name)}-maps.zip"
        file.parent.mkdir()
        with replacing(file) as partial, zipfile.ZipFile(partial, "w") as archive:
            for model, label in zip(models, folder_names([model[:36] for model in models]), strict=True):
                for what, pixels in full_size(self.site.engine, Input(model, picture, controls.size), controls):
                    with archive.open(f"{name_of_picture(picked.path.name, label, what)}.png", "w") as entry:
                        Image.fromarray(pixels).save(entry, "png")
        return gr.File(str(file), visible=True)

    def _read(self, picked: Sample) -> tuple[Picture, GroundTruth | None]:
        engine = self.site.engine
        picture = engine.picture(picked.path)
        if picked.mask is None:
            return picture, None
        return picture, engine.apart(read_truth, picked.mask, picture.size, engine.limits, picked.binary)
