"""The tab for nearest neighbours: the images of a folder whose features are most similar to those of a given image."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from dinoscope.data.finding import resolve_split
from dinoscope.data.images import UnreadableImage, decode
from dinoscope.data.sources import evenly, images_in_folder
from dinoscope.demo.copies import CopiesPart
from dinoscope.demo.image import ImageTab
from dinoscope.demo.pictures import THUMBNAIL, Refused, Sample, shrunk
from dinoscope.demo.site import LIGHT, Site, for_models, refusals_shown
from dinoscope.errors import UserError
from dinoscope.features import ExtractConfig, cached_extract, describing, evaluation_image, evaluation_view
from dinoscope.model_names import Model
from dinoscope.scenes import ScenesConfig, write_scenes

MAX_IMAGES = 2000
"""Images of a folder that are searched; of more, so many are taken, evenly spaced."""
_COUNT, _MAX_COUNT = 9, 24
_CONFIG = ExtractConfig(workers=0, batch_size=32)  # no processes next to a server's threads
_DRAWN = ScenesConfig(train_per_class=24, val_per_class=0, voc_images=0, davis_sequences=0, davis_frames=0)
_BLANK = [gr.skip(), "", []] * 2  # what is shown without an image, or a folder to search


@dataclass(frozen=True)
class Neighbour:
    """An image of the gallery. cosine: of its feature with the query's. label: of its class; None without classes."""

    path: Path
    cosine: float
    label: str | None


@dataclass(frozen=True, eq=False)
class Gallery:
    """The images of a folder as a model describes them.

    features: of length 1, in the order of `paths`. labels: None in a folder without classes.
    total: images in the folder. unreadable: so many of those that were taken are missing here.
    """

    model: Model
    paths: tuple[Path, ...]
    features: Float[Tensor, "n d"]
    labels: tuple[str, ...] | None
    total: int
    unreadable: int

    @staticmethod
    def open(
        folder: Path, model: Model, progress: Callable[[int, int], None] | None = None, limit: int = MAX_IMAGES
    ) -> Gallery:
        """Describe the images of a folder, or of its training split; features are cached on disk.

        progress: called with (images done, of all), unless everything is in the cache.

        Raises UserError if there are no images, none can be read, or the model's features are not finite.
        """
        images = images_in_folder(resolve_split(folder, "train"))
        taken = images.subset(evenly(len(images), limit))
        bank = cached_extract(model.backbone, taken, _CONFIG, progress)
        if not bank.features.isfinite().all():
            raise UserError(f"{model.label}: the features are not finite: the weights of this model are broken")
        labels = None if bank.labels is None else tuple(bank.classes[label] for label in bank.labels.tolist())
        paths = tuple(taken.root / path for path in bank.paths)
        return Gallery(model, paths, F.normalize(bank.features, dim=1), labels, len(images), len(taken) - len(paths))

    def nearest(self, image: UInt8[ndarray, "h w 3"], count: int, without: Path | None = None) -> list[Neighbour]:
        """Return the `count` most similar images, the most similar first, equal ones in the order of the folder.

        without: a file that is left out, for an image that lies in the folder itself.
        """
        view = evaluation_view(self.model.backbone, _CONFIG)
        pixels = evaluation_image(image, view.size, view.crop_fraction)
        with describing(self.model.backbone, _CONFIG) as describe:  # as the images of the folder were
            cosines = self.features @ F.normalize(describe(pixels[None])[0].cpu(), dim=0)
        if without is not None:
            same = [path.resolve() == without.resolve() for path in self.paths]
            cosines = cosines.masked_fill(torch.tensor(same), -torch.inf)
        return [
            Neighbour(self.paths[place], cosines[place].item(), None if self.labels is None else self.labels[place])
            for place in cosines.argsort(descending=True, stable=True)[:count].tolist()
            if cosines[place].isfinite()
        ]


def draw_gallery(folder: Path) -> Path:
    """Return drawn scenes to search for whoever has no images; they are drawn into the folder unless they exist."""
    return write_scenes(folder, _DRAWN) / "folder"


class NeighboursTab:
    """The tab's components and handlers; build it inside `tab`.

    The models are the image tab's, and so is the image until another is chosen here.

    folder: is described, once for each model, when the tab is first seen with it. None: drawn scenes.
    """

    def __init__(self, site: Site, image: ImageTab, folder: Path | None, tab: gr.Tab) -> None:
        self.site, self.folder = site, folder
        self._galleries: dict[str, Gallery] = {}
        self._opening, self._drawing = threading.Lock(), threading.Lock()
        own = gr.State(None)
        gr.Markdown(site.words.label("neighbours_hint"), elem_classes="hint")
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=290, elem_classes="controls"):
                settings: Any = {"height": 240, "elem_classes": "upload picture first"}
                upload, complaint = site.upload("neighbours-upload", "neighbours_upload", **settings)
                samples = site.sample_gallery("neighbours-samples")
                count = site.slider("neighbours_count", 1, _MAX_COUNT, _COUNT, step=1, elem_id="neighbours-count")
            with gr.Column(scale=10, min_width=320, elem_classes="results"):
                draw_complaint = site.complaint("neighbours-draw")
                with gr.Row(equal_height=False):
                    columns = self._build_column("neighbours-first"), self._build_column("neighbours-second")
        CopiesPart(site, self.searched, folder and folder.resolve().name)
        draw: Any = {
            "fn": self.draw,
            "inputs": [own, image.picked, count, image.first, image.second],
            "outputs": [*(component for column in columns for component in column), draw_complaint],
            "show_progress_on": [gallery for *_, gallery in columns],
            **site.heavy,
        }
        upload.change(site.take, [upload], [own, upload, complaint], **LIGHT)
        samples.select(site.pick, None, [own, upload, complaint], **LIGHT)
        own.change(**draw)
        count.release(**draw)
        tab.select(self.preview, [own, image.picked], [upload, complaint], **LIGHT).then(**draw)

    def _build_column(self, name: str) -> list[Any]:
        # What shows one model, in the order of `_BLANK`.
        with gr.Column(min_width=300, elem_id=name, elem_classes="model-column") as column:
            caption = self.site.caption(name)
            settings: Any = {"columns": 4, "height": "auto", "elem_classes": "heads found"}
            gallery = self.site.gallery(f"{name}-found", "neighbours_found", **settings)
        return [column, caption, gallery]

    @refusals_shown([gr.skip()])
    def preview(self, own: Sample | None, picked: Sample | None, request: gr.Request) -> list[Any]:
        """Show the image tab's image if none was chosen here."""
        if own is not None:
            return [gr.skip()]
        if picked is None:
            return [None]
        return [self.site.show(shrunk(self.site.engine.picture(picked.path).pixels, 2 * THUMBNAIL))]

    @refusals_shown(_BLANK)
    def draw(
        self,
        own: Sample | None,
        picked: Sample | None,
        count: int,
        first: str,
        second: str,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (Gradio finds it by its default)
    ) -> list[Any]:
        """Show the nearest neighbours by each model."""
        image = own or picked
        if image is None:
            return _BLANK
        picture = self.site.engine.picture(image.path)

        def show(model: str) -> list[Any]:
            gallery = self._gallery(model, request, progress)
            pixels = picture.given_to(gallery.model.backbone.config)
            neighbours = gallery.nearest(pixels, count, without=image.path)
            return [self._caption(gallery, neighbours, request), self._pictures(neighbours)]

        try:
            return for_models(first, second, show)
        except UserError as error:
            raise Refused("neighbours_failed", reason=error) from error

    def searched(self) -> Path:
        """Return the folder; without one, scenes are drawn when they are first needed."""
        with self._drawing:
            return self.folder or draw_gallery(self.site.folder / "gallery")

    def _gallery(self, model: str, request: gr.Request, progress: gr.Progress) -> Gallery:
        what = self.site.words.plain(request, "neighbours_opening", model=model)

        def show_progress(done: int, total: int) -> None:
            progress((done, total), desc=what)

        with self._opening:
            if model not in self._galleries:
                self._galleries[model] = Gallery.open(self.searched(), self.site.engine.models[model], show_progress)
            return self._galleries[model]

    def _caption(self, gallery: Gallery, neighbours: Sequence[Neighbour], request: gr.Request) -> str:
        say, taken = self.site.words.say, len(gallery.paths)
        key = "neighbours_caption" if taken + gallery.unreadable == gallery.total else "neighbours_caption_some"
        name = self.folder.resolve().name if self.folder else say(request, "neighbours_drawn")
        text = say(request, key, model=gallery.model.label, taken=taken, total=gallery.total, folder=name)
        if gallery.unreadable:
            text += say(request, "neighbours_caption_unreadable", unreadable=gallery.unreadable)
        votes = Counter(each.label for each in neighbours if each.label is not None)
        if votes:
            label, most = votes.most_common(1)[0]
            text += say(request, "neighbours_caption_class", label=label, votes=most, count=len(neighbours))
        return text

    def _pictures(self, neighbours: Sequence[Neighbour]) -> list[tuple[Any, str]]:
        # Small pictures with their class and cosine; files that can no longer be read are passed over.
        pictures: list[tuple[Any, str]] = []
        for each in neighbours:
            try:
                pixels = decode(each.path, window=self.site.engine.window)
            except UnreadableImage:
                continue
            caption = f"{each.cosine:.3f}" if each.label is None else f"{each.label} · {each.cosine:.3f}"
            pictures.append((self.site.show(shrunk(pixels, THUMBNAIL, THUMBNAIL)), caption))
        return pictures
