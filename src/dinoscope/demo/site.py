"""What the tabs of the page share: its words, Gradio's components as the page needs them, and the `Site`."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import string
import tomllib
import uuid
from abc import ABCMeta
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import gradio as gr
from gradio.data_classes import ImageData
from gradio.i18n import I18n, I18nData
from gradio.image_utils import decode_base64_to_file
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

from dinoscope.demo.engine import Engine
from dinoscope.demo.limits import Limits, Refused
from dinoscope.demo.pictures import Sample, shrunk

Language = Literal["en", "es"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
FALLBACK: Language = "en"

LIGHT: Any = {"api_visibility": "private", "concurrency_limit": 8, "show_progress": "hidden"}
"""Settings of events that run no network."""

_PREVIEW = 480  # px
_A_NUMBER = re.compile(r"[\d\s.,:%×+-]*")


def data_file(name: str) -> str:
    """Return the text of a file of this package: words, styles and scripts of the page."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


class Words:
    """The texts of the page (en.toml, es.toml). The browser's language decides, unless one is forced for everything.

    Labels are translated in the browser (`label`); what is said while the page is used, on the server (`say`).
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
        shown = {
            name: value if isinstance(value, int | float) else literal(str(value)) for name, value in values.items()
        }
        return self.plain(request, key, **shown)

    def plain(self, request: Any, key: str, **values: object) -> str:
        """Return a text as `say` does, for a component that shows plain text."""
        accepted = "" if request is None else request.headers.get("accept-language") or ""
        return self.texts[self.forced or preferred(accepted)][key].format(**values)

    def translations(self) -> I18n:
        """Return what `launch(i18n=...)` takes. A forced language stands under the name of each."""
        return I18n(**{language: self.texts[self.forced or language] for language in LANGUAGES})


def literal(text: str) -> str:
    """Return Markdown, which is HTML too, that shows the text as it is: punctuation becomes character references.

    References never form Markdown (CommonMark 0.31, section 2.5). Numbers stay as they are.
    """
    if _A_NUMBER.fullmatch(text):
        return text
    return "".join(f"&#{ord(character)};" if character in string.punctuation else character for character in text)


def preferred(accepted: str) -> Language:
    """Return our language that an Accept-Language header weighs most (RFC 9110, 12.5.4), or English."""
    best, weight = FALLBACK, 0.0
    for part in accepted.split(","):
        tag, _, quality = part.partition(";")
        name = tag.strip().lower().split("-")[0]
        try:
            value = float(quality.partition("=")[2]) if quality else 1.0
        except ValueError:
            continue
        if name in LANGUAGES and value > weight:
            best, weight = name, value
    return best


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
    """A component with another `preprocess`; to the browser it is what it was (is_template).

    A class statement would do, but for Gradio's metaclass, which writes a stub file next to the source of each.
    """
    members = {"preprocess": preprocess, "is_template": True, "__module__": __name__}
    return ABCMeta.__new__(type(component), name, (component,), members)


_Upload = _taking(gr.Image, "Upload", _sent_file)
_Slider = _taking(gr.Slider, "Slider", _within)
_Radio = _taking(gr.Radio, "Radio", lambda self, payload: payload)


def build_upload(name: str, **settings: Any) -> gr.Image:
    """Build a field for an image that gives the file as it was sent, unopened.

    Gradio's own would open it before its header is checked, and report faults in other words.
    """
    return _Upload(type="filepath", image_mode=None, format="jpeg", buttons=[], elem_id=name, **settings)


def build_slider(minimum: float, maximum: float, value: float, **settings: Any) -> gr.Slider:
    """Build a slider that takes its nearest end for a value beyond its ends, and its beginning for no value.

    The range may have become smaller on the server while a value is still on its way.
    """
    return _Slider(minimum, maximum, value, buttons=[], **settings)


def build_radio(choices: Sequence[tuple[Any, str]], value: str, **settings: Any) -> gr.Radio:
    """Build choices that change: one that has just gone may still come in, and whoever reads it can handle that."""
    return _Radio([*choices], value=value, **settings)


def build_picture(label: Any, name: str, classes: str, **settings: Any) -> gr.Image:
    """Build a picture that is only shown."""
    return gr.Image(
        label=label, format="jpeg", interactive=False, elem_id=name, elem_classes=f"picture {classes}", **settings
    )


def build_caption(name: str) -> gr.Markdown:
    """Build the lines above the pictures of one model."""
    return gr.Markdown(latex_delimiters=[], elem_classes="caption", elem_id=f"{name}-caption")


def hidden_column(outputs: int) -> list[Any]:
    """Return the updates that hide a column, the first of so many outputs, and leave the rest."""
    return [gr.Column(visible=False), *[gr.skip()] * (outputs - 1)]


@dataclass(frozen=True)
class Picked:
    """The image that a person has chosen, kept on the server. mask, binary: see `pictures.Sample`."""

    path: Path
    name: str
    mask: Path | None = None
    binary: bool | None = None


@dataclass(frozen=True)
class Site:
    """What the page is built from.

    folder: for files that are made for people to fetch, below Gradio's own folder, from which it removes old ones.
    """

    engine: Engine
    words: Words
    limits: Limits
    samples: Sequence[Sample]
    thumbnails: Sequence[Path]
    folder: Path

    @property
    def heavy(self) -> Any:
        """Settings of events that run a network: they all wait in one queue."""
        return {"concurrency_id": "models", "concurrency_limit": self.limits.concurrent, "api_visibility": "private"}

    def build_samples(self, name: str) -> gr.Gallery:
        """Build the samples as small pictures to click."""
        return gr.Gallery(
            [str(path) for path in self.thumbnails],
            label=self.words.label("page_samples"),
            columns=4,
            height="auto",
            object_fit="cover",
            allow_preview=False,
            interactive=False,
            buttons=[],
            visible=bool(self.thumbnails),
            elem_id=name,
            elem_classes="samples",
        )

    def warn(self, request: gr.Request, error: Refused) -> None:
        """Show in the page why something is not done."""
        gr.Warning(self.words.say(request, error.key, **error.values), duration=8)

    def take(self, path: str | None, request: gr.Request) -> tuple[Any, Any]:
        """Handle an image that was uploaded, photographed, pasted or removed: return it, and what its field shows."""
        if path is None:
            return None, gr.skip()
        if Path(path).is_relative_to(self.folder):  # a preview of ours: the image is known already
            return gr.skip(), gr.skip()
        try:
            self.engine.picture(Path(path))
        except Refused as error:
            self.warn(request, error)
            return None, None
        return Picked(Path(path), Path(path).stem), gr.skip()

    def pick(self, event: gr.SelectData, request: gr.Request) -> tuple[Any, Any]:
        """Handle a click on a sample: return the image, and what the field of an image shows then."""
        return self.sample(int(event.index), request)

    def sample(self, number: int, request: gr.Request) -> tuple[Any, Any]:
        """Return a sample, and its preview for the field of an image."""
        try:
            return self._picked(number)
        except Refused as error:
            self.warn(request, error)
            return gr.skip(), gr.skip()

    def start(self, number: int) -> tuple[Picked | None, str | None]:
        """Return a sample and its preview for a field to begin with; None if it is missing or cannot be read."""
        try:
            return self._picked(number)
        except (Refused, IndexError):
            return None, None

    def _picked(self, number: int) -> tuple[Picked, str]:
        sample = self.samples[number]
        picture = self.engine.picture(sample.path)
        picked = Picked(sample.path, sample.path.stem, sample.mask, sample.binary)
        return picked, self.show(shrunk(picture.pixels, _PREVIEW))

    def fresh_folder(self) -> Path:
        """Make a folder for files to fetch; Gradio removes what it has given out when it is old."""
        folder = self.folder / uuid.uuid4().hex
        folder.mkdir()
        return folder

    def show(self, pixels: UInt8[ndarray, "h w 3"]) -> str:
        """Return a file of the picture for a component to show, written once and whole.

        Gradio would write an array into a file named after its content, again each time: people to whom it is sent at
        that moment, since they look at the same image, would get a torn one.
        """
        digest = hashlib.blake2b(pixels.tobytes(), digest_size=16, key=str(pixels.shape).encode()).hexdigest()
        file = self.folder / f"{digest}.jpg"
        try:
            os.utime(file)  # not old yet
        except FileNotFoundError:
            partial = self.folder / f"{uuid.uuid4().hex}.partial"  # several may write the same picture
            Image.fromarray(pixels).save(partial, "jpeg", quality=92)
            partial.replace(file)
        return str(file)


def refusals_shown(otherwise: Callable[[Any], Any] = lambda tab: gr.skip()) -> Callable[..., Any]:
    """Decorate a handler of a tab, which has a `site`, and whose last argument is a gr.Request: show why it refuses.

    otherwise: given the tab, returns what the handler returns then. By default nothing changes.
    """

    def decorate(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def handler(self: Any, *values: Any) -> Any:
            try:
                return method(self, *values)
            except Refused as error:
                self.site.warn(values[-1], error)
                return otherwise(self)

        return handler

    return decorate
