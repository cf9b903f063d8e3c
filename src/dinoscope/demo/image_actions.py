"""What happens in the tab for one image when something is chosen, moved or clicked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from dinoscope.demo.engine import Gaze
from dinoscope.demo.image_controls import ControlPanel, fit_controls, seen_models
from dinoscope.demo.image_view import Controls, View, full_size, see
from dinoscope.demo.pictures import Picture, Refused, Truth, read_truth
from dinoscope.demo.site import Picked, Site, or_blank, plainly
from dinoscope.demo.words import literal
from dinoscope.model_names import folder_names
from dinoscope.pictures import write_png

_NAME = 40  # characters of an image's name in those of saved files, for which most systems allow 255 bytes


@dataclass(frozen=True)
class ModelColumn:
    """The components that show one model."""

    column: gr.Column
    caption: gr.Markdown
    overlay: gr.Image
    mask: gr.Image
    heads: gr.Gallery

    @property
    def outputs(self) -> list[Any]:
        """In the order in which `ImageActions.draw` fills them."""
        return [self.column, self.caption, self.overlay, self.mask, self.heads]


@dataclass(frozen=True)
class Shown:
    """The components of the tab that others read or fill."""

    picked: gr.State
    first: gr.Dropdown
    second: gr.Dropdown
    panel: ControlPanel
    columns: tuple[ModelColumn, ModelColumn]

    @property
    def outputs(self) -> list[Any]:
        """Of both columns."""
        return [component for column in self.columns for component in column.outputs]


class ImageActions:
    """The functions that the tab's events call."""

    def __init__(self, site: Site, shown: Shown) -> None:
        self.site, self.shown = site, shown

    def begin(self, request: gr.Request) -> tuple[Any, Any]:
        """The first sample, so that nobody meets an empty page."""
        return self.site.sample(0, request)

    def pick(self, event: gr.SelectData, request: gr.Request) -> tuple[Any, Any, Any]:
        """A sample was clicked; a true mask that was uploaded is another image's."""
        return *self.site.sample(int(event.index), request), None

    def take(self, path: str | None, request: gr.Request) -> tuple[Any, Any, Any]:
        """An image was uploaded, taken by the camera, pasted, or removed; a true mask that was uploaded is not its."""
        picked, field = self.site.take(path, request)
        return picked, field, None if picked is None or isinstance(picked, Picked) else gr.skip()

    def take_truth(self, picked: Picked | None, path: str | None, request: gr.Request) -> tuple[Any, Any]:
        """A true mask was uploaded for the image."""
        try:
            if picked is None:
                raise Refused("image_first")
            if path is None:
                return replace(picked, mask=None), gr.skip()
            picture = self.site.engine.picture(picked.path)
            self.site.engine.apart(read_truth, Path(path), picture.size, self.site.limits)
        except Refused as error:
            self.site.warn(request, error)
            return gr.skip(), None
        return replace(picked, mask=Path(path), binary=None), gr.skip()

    def drop_truth(self, picked: Picked | None) -> Picked | None:
        """The true mask was removed."""
        return None if picked is None else replace(picked, mask=None)

    def fit(self, first: str, second: str, kind: str, head: str, block: int, depth: int) -> tuple[Any, Any, int]:
        """Other models, or another kind of map: head and layer follow. depth: of the deepest model before."""
        return fit_controls(self.site, seen_models(first, second), kind, head, (block, depth))

    def enlarge(self, event: gr.SelectData) -> str:
        """A head was clicked in the gallery."""
        return str(event.index)

    def blank(self) -> list[Any]:
        """Nothing, where there is no image or it cannot be looked at."""
        return [gr.skip(), "", None, None, []] * 2

    @or_blank
    def draw(self, data: dict[Any, Any], request: gr.Request) -> list[Any]:
        """Everything that is shown, for the image, the models and the controls as they are."""
        picked: Picked | None = data[self.shown.picked]
        if picked is None:
            return self.blank()
        picture, truth = self._read(picked)
        controls, results = self.shown.panel.read(data), list[Any]()
        models = seen_models(data[self.shown.first], data[self.shown.second])
        for model in models:
            results += self._column(Gaze(model, picture, controls.size), controls, truth, request)
        return results if len(models) > 1 else [*results, gr.Column(visible=False), *[gr.skip()] * 4]

    def _column(self, gaze: Gaze, controls: Controls, truth: Truth | None, request: gr.Request) -> list[Any]:
        """What one model sees, or in its caption why it does not: the one beside it may."""
        try:
            view = see(self.site.engine, gaze, controls, truth)
        except Refused as error:
            reason = self.site.words.say(request, error.key, **error.values)
            caption = reason if "model" in error.values else f"**{literal(gaze.model)}**\n\n{reason}"
            return [gr.Column(visible=True), caption, None, None, gr.Gallery([], visible=False)]
        show = self.site.show
        heads = [(show(head.picture), self._head_caption(head, request)) for head in view.heads]
        caption = self._caption(gaze.model, controls.kind, view, request)
        gallery = gr.Gallery(heads, visible=bool(heads))
        return [gr.Column(visible=True), caption, show(view.overlay), show(view.mask), gallery]

    @plainly
    def save(self, data: dict[Any, Any], request: gr.Request) -> Any:
        """PNG files of all that is shown, at the image's own size."""
        picked: Picked | None = data[self.shown.picked]
        if picked is None:
            raise Refused("image_first")
        picture, _ = self._read(picked)
        controls = self.shown.panel.read(data)
        models = seen_models(data[self.shown.first], data[self.shown.second])
        folder, files = self.site.fresh_folder(), list[str]()
        for model, name in zip(models, folder_names(models), strict=True):
            for what, pixels in full_size(self.site.engine, Gaze(model, picture, controls.size), controls):
                file = folder / f"{picked.name[:_NAME]}_{name}_{what}.png"
                write_png(file, pixels)
                files.append(str(file))
        return gr.File(files, visible=True)

    def _read(self, picked: Picked) -> tuple[Picture, Truth | None]:
        picture = self.site.engine.picture(picked.path)
        if picked.mask is None:
            return picture, None
        read = self.site.engine.apart
        return picture, read(read_truth, picked.mask, picture.size, self.site.limits, picked.binary)

    def _caption(self, model: str, kind: str, view: View, request: gr.Request) -> str:
        """What is shown of a model, in three lines, so that what is under two of them begins at the same height."""
        say = self.site.words.say
        engine = self.site.engine
        place = []
        if kind == "attention" and engine.heads(model) > 1:
            key = "image_place_mean" if view.head is None else "image_place_head"
            head = None if view.head is None else view.head + 1
            place.append(say(request, key, head=head, heads=engine.heads(model)))
        if view.block is not None:
            place.append(say(request, "image_place_layer", layer=view.block[0] + 1, layers=view.block[1]))
        rows, columns = view.grid
        size = say(request, "image_caption_size", columns=columns, rows=rows, size=view.size)
        what = say(request, f"image_kind_{engine.shown_kind(model, kind)}")
        line = say(request, "image_caption", model=model, share=f"{view.share:.0%}")
        if view.jaccard is not None:
            line += " · " + say(request, "image_caption_truth", jaccard=f"{view.jaccard:.1%}")
        return f"**{model}**\n\n{line}\n\n<span class='small'>{' · '.join([what, *place, size])}</span>"

    def _head_caption(self, head: Any, request: gr.Request) -> str:
        known = head.jaccard is not None
        return self.site.words.say(
            request,
            "image_head_caption_truth" if known else "image_head_caption",
            head=head.number + 1,
            share=f"{head.share:.0%}",
            jaccard=f"{head.jaccard:.0%}" if known else "",
        )
