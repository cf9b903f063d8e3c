"""The tab for nearest neighbours: an image, and the images of a folder that each model takes to be most like it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from dinoscope.data.images import UnreadableImage, decode
from dinoscope.demo.components import build_samples, build_slider, build_upload
from dinoscope.demo.image_actions import Shown
from dinoscope.demo.image_controls import seen_models
from dinoscope.demo.image_view import THUMBNAIL, shrunk
from dinoscope.demo.neighbours import Gallery, Neighbour, draw_gallery
from dinoscope.demo.pictures import Refused
from dinoscope.demo.site import MODELS, Picked, Site, plainly
from dinoscope.errors import UserError

_COUNT, _MOST = 9, 24


@dataclass(frozen=True)
class _Column:
    """The components that show what one model finds."""

    column: gr.Column
    caption: gr.Markdown
    found: gr.Gallery

    @property
    def outputs(self) -> list[Any]:
        return [self.column, self.caption, self.found]


def build_neighbours_tab(
    site: Site, shown: Shown, thumbnails: Sequence[Path], folder: Path | None, tab: gr.Tab
) -> None:
    """Lay the tab out and wire it; called inside of `tab`.

    The models are those of the tab for one image, and so is the image until another is chosen here.

    folder: is looked through, once for each model, when the tab is first seen with it. None: drawn scenes.
    """
    word = site.words.label
    asked = gr.State(None)
    gr.Markdown(word("neighbours_hint"), elem_classes="hint")
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=290, elem_classes="controls"):
            upload = build_upload(
                label=word("neighbours_upload"),
                placeholder=word("neighbours_drop"),
                sources=["upload", "webcam", "clipboard"],
                height=240,
                elem_id="neighbours-upload",
                elem_classes="upload picture first",
            )
            samples = build_samples(thumbnails, word("neighbours_samples"), "neighbours-samples")
            count = build_slider(1, _MOST, _COUNT, step=1, label=word("neighbours_count"))
        with gr.Column(scale=10, min_width=320, elem_classes="results"), gr.Row(equal_height=False):
            columns = _column(site, "neighbours-first"), _column(site, "neighbours-second")
    actions = _Actions(site, folder)
    light: Any = {"api_visibility": "private", "concurrency_limit": 8, "show_progress": "hidden"}
    draw: Any = {
        "fn": actions.draw,
        "inputs": [asked, shown.picked, count, shown.first, shown.second],
        "outputs": [component for column in columns for component in column.outputs],
        "concurrency_id": MODELS,
        "concurrency_limit": site.limits.concurrent,
        "api_visibility": "private",
        "show_progress_on": [column.found for column in columns],
    }
    taken = [asked, upload]
    upload.change(actions.take, [upload], taken, **light)
    samples.select(actions.pick, None, taken, **light)
    asked.change(**draw)
    count.release(**draw)
    chosen = tab.select(actions.preview, [asked, shown.picked], [upload], **light)
    chosen.then(**draw)


def _column(site: Site, name: str) -> _Column:
    with gr.Column(min_width=300, elem_id=name, elem_classes="model-column") as column:
        caption = gr.Markdown(latex_delimiters=[], elem_classes="caption", elem_id=f"{name}-caption")
        found = gr.Gallery(
            label=site.words.label("neighbours_found"),
            columns=4,
            height="auto",
            object_fit="cover",
            format="jpeg",
            interactive=False,
            buttons=[],
            elem_id=f"{name}-found",
            elem_classes="heads found",
        )
    return _Column(column, caption, found)


class _Actions:
    """The functions that the tab's events call, and the galleries, each opened once."""

    def __init__(self, site: Site, folder: Path | None) -> None:
        self.site, self.folder = site, folder
        self._galleries: dict[str, Gallery] = {}
        self._opening = threading.Lock()

    def pick(self, event: gr.SelectData, request: gr.Request) -> tuple[Any, Any]:
        """A sample was clicked."""
        return self.site.sample(int(event.index), request)

    def take(self, path: str | None, request: gr.Request) -> tuple[Any, Any]:
        """An image was uploaded, taken by the camera, pasted, or removed."""
        return self.site.take(path, request)

    def blank(self) -> list[Any]:
        """Nothing, where there is no image or no folder to look through."""
        return [gr.skip(), "", []] * 2

    @plainly
    def preview(self, asked: Picked | None, picked: Picked | None, request: gr.Request) -> Any:
        """The image of the other tab, where none was chosen here."""
        if asked is not None:
            return gr.skip()
        if picked is None:
            return None
        return self.site.show(shrunk(self.site.engine.picture(picked.path).pixels, 2 * THUMBNAIL))

    def draw(
        self,
        asked: Picked | None,
        picked: Picked | None,
        count: int,
        first: str,
        second: str,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (Gradio finds it by its default)
    ) -> list[Any]:
        """What each model finds."""
        image = asked or picked
        if image is None:
            return self.blank()
        results: list[Any] = []
        try:
            picture = self.site.engine.picture(image.path)
            for model in seen_models(first, second):
                gallery = self._gallery(model, request, progress)
                pixels = picture.by(gallery.model.backbone.config.window)
                found = gallery.nearest(pixels, count, without=image.path)
                results += [gr.Column(visible=True), self._caption(gallery, found, request), _shown(self.site, found)]
        except (Refused, UserError) as error:
            refused = error if isinstance(error, Refused) else Refused("neighbours_failed", reason=error)
            self.site.warn(request, refused)
            return self.blank()
        return results if len(results) == 6 else [*results, gr.Column(visible=False), gr.skip(), gr.skip()]

    def _gallery(self, model: str, request: gr.Request, progress: gr.Progress) -> Gallery:
        """The folder as the model sees it. Raises UserError as `Gallery.open` does."""
        what = self.site.words.plain(request, "neighbours_opening", model=model)

        def tell(done: int, total: int) -> None:
            progress((done, total), desc=what)

        with self._opening:
            if model not in self._galleries:
                folder = self.folder or draw_gallery(self.site.folder / "gallery")
                self._galleries[model] = Gallery.open(folder, self.site.engine.models[model], tell)
            return self._galleries[model]

    def _caption(self, gallery: Gallery, found: Sequence[Neighbour], request: gr.Request) -> str:
        """Which model, how many images of the folder, and the class that is found most often."""
        taken = len(gallery.paths)
        key = "neighbours_caption" if taken + gallery.unreadable == gallery.total else "neighbours_caption_some"
        name = self.folder.resolve().name if self.folder else self.site.words.say(request, "neighbours_drawn")
        values = {"model": gallery.model.label, "taken": taken, "total": gallery.total, "folder": name}
        text = self.site.words.say(request, key, **values)
        if gallery.unreadable:
            text += self.site.words.say(request, "neighbours_caption_unreadable", unreadable=gallery.unreadable)
        votes = Counter(each.label for each in found if each.label is not None)
        if votes:
            label, most = votes.most_common(1)[0]
            values = {"label": label, "votes": most, "count": len(found)}
            text += self.site.words.say(request, "neighbours_caption_class", **values)
        return text


def _shown(site: Site, found: Sequence[Neighbour]) -> list[tuple[Any, str]]:
    """Small pictures with their class and cosine; what can no longer be read is passed over."""
    pictures: list[tuple[Any, str]] = []
    for each in found:
        try:
            pixels = decode(each.path, window=site.engine.window)
        except UnreadableImage:
            continue
        caption = f"{each.cosine:.3f}" if each.label is None else f"{each.label} · {each.cosine:.3f}"
        pictures.append((site.show(shrunk(pixels, THUMBNAIL, THUMBNAIL)), caption))
    return pictures
