"""What the tabs of the page share: its words, Gradio's components as the page needs them, and the `Site`."""

from __future__ import annotations

import functools
import hashlib
import html
import os
import re
import string
import tomllib
import uuid
from abc import ABCMeta
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import ImageData
from gradio.i18n import I18n, I18nData
from gradio.image_utils import decode_base64_to_file
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

from dinoscope.data.images import decode, format_of
from dinoscope.demo.engine import Engine
from dinoscope.demo.languages import FALLBACK, LANGUAGES, Language, data_file, preferred
from dinoscope.demo.pictures import THUMBNAIL, Picture, Refused, Sample, shrunk
from dinoscope.files import safe_name
from dinoscope.pictures import OPACITY, overlay_scale

NOTHING = ""
"""As the second model: only one is shown."""
LIGHT: Any = {"api_visibility": "private", "concurrency_limit": 8, "show_progress": "hidden"}
"""Settings of events that run no network."""

_PREVIEW = 480  # px
_BROWSERS = ("JPEG", "PNG", "WebP", "GIF", "BMP")  # formats that every browser shows
_NAME = 40  # characters
_STOPS = 9  # of a scale's colours, between which a browser draws
_A_NUMBER = re.compile(r"[\d\s.,:%×+-]*")


class Words:
    """The texts of the page (en.toml, es.toml). The browser's language decides, unless one is forced for everything.

    Labels are translated in the browser (`label`), messages during use on the server (`say`).
    """

    def __init__(self, forced: Language | None = None) -> None:
        self.forced = forced
        self.texts = {language: tomllib.loads(data_file(f"{language}.toml")) for language in LANGUAGES}

    def label(self, key: str) -> I18nData:
        """Return a text for a component that is built with the page. Raises KeyError if there is no such text."""
        if key not in self.texts[FALLBACK]:
            raise KeyError(key)
        return I18nData(key)

    def say(self, request: Any, key: str, **values: object) -> str:
        """Return a text as Markdown, in the language of a `gr.Request` (None: English, or what is forced).

        Values fill its placeholders literally: no name of a file, class or model becomes Markdown or HTML.
        Raises KeyError if there is no such text, or a placeholder has no value.
        """
        shown = {name: each if isinstance(each, int | float) else literal(str(each)) for name, each in values.items()}
        return self.plain(request, key, **shown)

    def plain(self, request: Any, key: str, **values: object) -> str:
        """Return a text as `say` does, for a component that shows plain text."""
        accepted = "" if request is None else request.headers.get("accept-language") or ""
        return self.texts[self.forced or preferred(accepted)][key].format(**values)

    def translations(self) -> I18n:
        """Return the argument of `launch(i18n=...)`. A forced language is listed under the name of each."""
        return I18n(**{language: self.texts[self.forced or language] for language in LANGUAGES})


def literal(text: str) -> str:
    """Return Markdown, which is HTML too, that shows the text as it is: punctuation becomes character references.

    References never form Markdown (CommonMark 0.31, section 2.5). Numbers stay as they are.
    """
    if _A_NUMBER.fullmatch(text):
        return text
    return "".join(f"&#{ord(character)};" if character in string.punctuation else character for character in text)


def _sent_file(self: gr.Image, payload: ImageData | None) -> str | None:
    if payload is None:
        return None
    if payload.url and payload.url.startswith("data:"):  # of some webcams
        return decode_base64_to_file(payload.url, self.GRADIO_CACHE, "jpeg")
    return payload.path


def _within(self: gr.Slider, payload: float | None) -> float:
    value = self.minimum if payload is None else min(max(payload, self.minimum), self.maximum)
    return int(value) if float(value).is_integer() else value


def _taking(component: type[Any], name: str, preprocess: Callable[..., Any]) -> type[Any]:
    """A component with another `preprocess`; the browser treats it as the original (is_template).

    Not a class statement, because Gradio's metaclass writes a stub file next to the source of each class.
    """
    members = {"preprocess": preprocess, "is_template": True, "__module__": __name__}
    return ABCMeta.__new__(type(component), name, (component,), members)


Upload = _taking(gr.Image, "Upload", _sent_file)
"""An image as the file that was sent, unopened: Gradio would open it before its header is checked."""
Slider = _taking(gr.Slider, "Slider", _within)
"""Clamps a value beyond its ends: on the server the range may have become smaller meanwhile."""
Radio = _taking(gr.Radio, "Radio", lambda self, payload: payload)
"""Choices that change: a removed one may still come in, and the handler copes with it."""
Dropdown = _taking(gr.Dropdown, "Dropdown", lambda self, payload: payload)
"""A menu whose choices change, as those of `Radio`."""


def chosen_models(first: str, second: str) -> list[str]:
    """Return the one or two models that are chosen, each once."""
    return [first] if second in (NOTHING, first) else [first, second]


def for_models(first: str, second: str, show: Callable[[str], Sequence[Any]]) -> list[Any]:
    """Return the updates of both models' columns, within one by `show(model)`; the second is hidden without a model."""
    columns = [[gr.Column(visible=True), *show(model)] for model in chosen_models(first, second)]
    if len(columns) == 1:
        columns.append([gr.Column(visible=False), *[gr.skip()] * (len(columns[0]) - 1)])
    return [update for column in columns for update in column]


def refusals_shown(otherwise: Sequence[Any]) -> Callable[..., Any]:
    """Decorate a handler of a tab with a `site` that takes a gr.Request: if it refuses, return `otherwise`.

    It gets one more output, a `complaint`, for the reason.
    """

    def decorate(method: Callable[..., Sequence[Any]]) -> Callable[..., list[Any]]:
        @functools.wraps(method)
        def handler(self: Any, *values: Any) -> list[Any]:
            try:
                return [*method(self, *values), gr.HTML(visible=False)]
            except Refused as error:
                request = next(value for value in values if isinstance(value, gr.Request))
                return [*otherwise, self.site.complain(request, error)]

        return handler

    return decorate


def name_of_picture(file: str, *parts: str) -> str:
    """Return a name for a picture of an image's file, such as "cat-dino-head3", without an ending.

    Of each part 40 characters are taken: most systems allow 255 bytes.
    """
    return "-".join(safe_name(part, "image")[:_NAME] for part in (Path(file).stem, *parts))


def _is_shown_by_browsers(path: Path, picture: Picture) -> bool:
    if picture.raw is not None:  # more than 8 bits, or other channels, which browsers show otherwise than the page
        return False
    with path.open("rb") as file:
        return format_of(file, path.name) in _BROWSERS


@dataclass(frozen=True)
class Site:
    """What the page is built from.

    folder: for files that are made for people to fetch, below Gradio's own folder, from which it removes old ones.
    """

    engine: Engine
    words: Words
    samples: Sequence[Sample]
    folder: Path

    @property
    def heavy(self) -> Any:
        """Settings of events that run a network: they all wait in one queue."""
        limit = self.engine.limits.concurrent
        return {"concurrency_id": "models", "concurrency_limit": limit, "api_visibility": "private"}

    def named(self, key: str) -> dict[str, Any]:
        """Return a component's label, and the line below it if there is a text KEY_info."""
        info = f"{key}_info" if f"{key}_info" in self.words.texts[FALLBACK] else None
        return {"label": self.words.label(key), "info": info and self.words.label(info)}

    def slider(self, key: str, low: float, high: float, value: float, **settings: Any) -> gr.Slider:
        """Build a slider."""
        return Slider(low, high, value, buttons=[], **(self.named(key) | settings))

    def choice(self, key: str, values: Mapping[str, Any], **settings: Any) -> gr.Radio:
        """Build choices, of which the first is chosen. values: by NAME; each is shown with the text KEY_NAME."""
        choices = [(self.words.label(f"{key}_{name}"), value) for name, value in values.items()]
        return gr.Radio(choices, value=choices[0][1], elem_classes="kinds", **self.named(key), **settings)

    def button(self, key: str, kind: type[Any] = gr.Button, **settings: Any) -> Any:
        """Build a button, whose id is KEY with hyphens."""
        return kind(self.words.label(key), elem_id=key.replace("_", "-"), **settings)

    def upload(self, name: str, key: str, **settings: Any) -> tuple[gr.Image, gr.HTML]:
        """Build a field for an image that a person sends, and below it the `complaint` for one that is refused."""
        usual = {"sources": ["upload", "webcam", "clipboard"], "placeholder": self.words.label("page_drop")}
        sent_as = {"type": "filepath", "image_mode": None, "format": "jpeg", "buttons": []}
        label: Any = self.words.label(key)
        field = Upload(label=label, alt_text=label, elem_id=name, **sent_as, **(usual | settings))
        return field, self.complaint(name)

    def complaint(self, name: str) -> gr.HTML:
        """Build the line next to a control, hidden at first, for why it was refused; it stays until the next try."""
        return gr.HTML(visible=False, elem_id=f"{name}-complaint", elem_classes="complaint", padding=False)

    def complain(self, request: gr.Request, error: Refused) -> gr.HTML:
        """Return the update of a `complaint` that shows the reason, and has it read out."""
        return gr.HTML(f'<p role="alert">{self.words.say(request, error.key, **error.values)}</p>', visible=True)

    def picture(self, name: str, key: str, classes: str, **settings: Any) -> gr.Image:
        """Build a picture that is only shown."""
        settings |= {"elem_id": name, "elem_classes": f"picture {classes}"}
        label: Any = self.words.label(key)
        return gr.Image(label=label, alt_text=label, format="jpeg", interactive=False, **settings)

    def shown(
        self, request: gr.Request, model: str, file: str, key: str, pixels: UInt8[ndarray, "h w 3"], saved: str = ""
    ) -> Any:
        """Return the update of a `picture` that shows pixels. What they are, of which model and file, is read out.

        saved: what they are, in the name of the PNG that the arrow on the picture saves; for pictures that have one.
        """
        what = self.words.plain(request, key)
        text = self.words.plain(request, "page_alt", what=what, model=model, file=file)
        name = f"{name_of_picture(file, model, saved)}.png" if saved else ""
        return gr.update(value=self.show(pixels, name), alt_text=text)

    def scale(self, name: str) -> gr.HTML:
        """Build the line below a heat map that explains its colours, hidden at first."""
        return gr.HTML(visible=False, elem_id=f"{name}-scale", elem_classes="scale", padding=False)

    def scaled(self, request: gr.Request, low: str, high: str, opacity: float = OPACITY, note: str = "") -> gr.HTML:
        """Return the update of a `scale` from low to high. note: text below it."""
        stops = ", ".join(f"rgb{tuple(map(int, color))}" for color in overlay_scale((1, _STOPS), opacity)[0])
        about = html.escape(self.words.plain(request, "page_scale", low=low, high=high))
        style = f"background: linear-gradient(to right, {stops})"
        bar = f'<span class="bar" role="img" aria-label="{about}" style="{style}"></span>'
        below = f"<p>{html.escape(note)}</p>" if note else ""
        return gr.HTML(f'<p class="ends">{html.escape(low)}{bar}{html.escape(high)}</p>{below}', visible=True)

    def gallery(self, name: str, key: str, value: Sequence[str] | None = None, **settings: Any) -> gr.Gallery:
        """Build small pictures next to each other."""
        settings |= {"object_fit": "cover", "format": "jpeg", "interactive": False, "buttons": [], "elem_id": name}
        return gr.Gallery(value, label=self.words.label(key), **settings)

    def sample_gallery(self, name: str) -> gr.Gallery:
        """Build the samples as small pictures to click."""
        settings: Any = {"visible": bool(self.samples), "elem_classes": "samples", "allow_preview": False}
        return self.gallery(name, "page_samples", self.thumbnails, columns=4, height="auto", **settings)

    @functools.cached_property
    def thumbnails(self) -> list[str]:
        """Files of small pictures of the samples."""
        pictures = [decode(sample.path, window=self.engine.window) for sample in self.samples]
        return [self.show(shrunk(pixels, THUMBNAIL, THUMBNAIL)) for pixels in pictures]

    def caption(self, name: str) -> gr.Markdown:
        """Build the lines above the pictures of one model."""
        return gr.Markdown(latex_delimiters=[], elem_classes="caption", elem_id=f"{name}-caption")

    def refused(self, request: gr.Request, model: str, error: Refused) -> str:
        """Return the text of the `caption` of a model that shows nothing: why."""
        reason = self.words.say(request, error.key, **error.values)
        return reason if "model" in error.values else f"**{literal(model)}**\n\n{reason}"

    def take(self, path: str | None, request: gr.Request) -> tuple[Any, Any, Any]:
        """Handle an image that was uploaded, photographed, pasted or removed.

        Returns the image, what its field shows, and the `complaint`. The field of one that is refused is emptied, and
        that of one that browsers cannot show gets a preview. Either change calls this again, without further effect.
        """
        if path is None:
            return None, gr.skip(), gr.skip()
        if Path(path).is_relative_to(self.folder):  # a preview of ours: the image is known already
            return gr.skip(), gr.skip(), gr.HTML(visible=False)
        try:
            picture = self.engine.picture(Path(path))
        except Refused as error:
            return None, None, self.complain(request, error)
        shown = gr.skip() if _is_shown_by_browsers(Path(path), picture) else self.preview(picture)
        return Sample(Path(path)), shown, gr.HTML(visible=False)

    def pick(self, event: gr.SelectData, request: gr.Request) -> tuple[Any, Any, Any]:
        """Handle a click on a sample: return what `take` returns. One that cannot be read changes nothing."""
        return self.sample_or_reason(int(event.index), request)

    def sample_or_reason(self, number: int, request: gr.Request) -> tuple[Any, Any, Any]:
        """Return a sample, its preview for the field of an image, and the `complaint` of that field."""
        try:
            return *self.sample(number), gr.HTML(visible=False)
        except Refused as error:
            return gr.skip(), gr.skip(), self.complain(request, error)

    def sample(self, number: int) -> tuple[Sample | None, str | None]:
        """Return a sample and its preview, or None twice without so many. Raises Refused as `Engine.picture`."""
        if number >= len(self.samples):
            return None, None
        return self.samples[number], self.preview(self.engine.picture(self.samples[number].path))

    def preview(self, picture: Picture) -> str:
        """Return a file with a small version of a picture for its field; `take` knows it from an upload."""
        return self.show(shrunk(picture.pixels, _PREVIEW))

    def show(self, pixels: UInt8[ndarray, "h w 3"], name: str = "") -> str:
        """Return a file of the picture for a component to show, written once and whole.

        name: of a PNG, by which a browser saves it. Without one it is a JPEG, which is written faster and is smaller.

        Gradio would write an array to a file named after its content whenever it is shown, and whoever loads that file
        meanwhile would get half a picture.
        """
        digest = hashlib.blake2b(pixels.tobytes(), digest_size=16, key=str(pixels.shape).encode()).hexdigest()
        file = self.folder / digest / name if name else self.folder / f"{digest}.jpg"
        try:
            os.utime(file)  # not old yet
        except FileNotFoundError:
            partial = self.folder / f"{uuid.uuid4().hex}.partial"  # several may write the same picture
            file.parent.mkdir(exist_ok=True)
            if name:
                Image.fromarray(pixels).save(partial, "png", compress_level=1)
            else:
                Image.fromarray(pixels).save(partial, "jpeg", quality=92)
            partial.replace(file)
        return str(file)
