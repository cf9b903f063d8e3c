"""What the tabs of the page share: the engine, the texts, the samples, and how a refusal is told."""

from __future__ import annotations

import functools
import hashlib
import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

from dinoscope.demo.engine import Engine
from dinoscope.demo.image_view import shrunk
from dinoscope.demo.limits import Limits
from dinoscope.demo.pictures import Refused
from dinoscope.demo.samples import Sample
from dinoscope.demo.words import Words

MODELS = "models"
"""Name of the queue that everything waits in which runs a network."""

_PREVIEW = 480  # px


@dataclass(frozen=True)
class Picked:
    """The image that a person has chosen, kept on the server. mask, binary: see `samples.Sample`."""

    path: Path
    name: str
    mask: Path | None = None
    binary: bool | None = None


@dataclass(frozen=True)
class Site:
    """folder: of files that are made for people to fetch, below Gradio's own, which removes old ones."""

    engine: Engine
    words: Words
    limits: Limits
    samples: Sequence[Sample]
    folder: Path

    def warn(self, request: gr.Request, error: Refused) -> None:
        """Say in the page why something is not done."""
        gr.Warning(self.words.say(request, error.key, **error.values), duration=8)

    def take(self, path: str | None, request: gr.Request) -> tuple[Any, Any]:
        """What was uploaded, taken by the camera, pasted or removed: the image, and what its field shows then."""
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

    def sample(self, number: int, request: gr.Request) -> tuple[Any, Any]:
        """One of the samples, and what the field of an image shows then."""
        try:
            return self._picked(number)
        except Refused as error:
            self.warn(request, error)
            return gr.skip(), gr.skip()

    def start(self, number: int) -> tuple[Picked | None, str | None]:
        """A sample and its preview for a field to begin with; nothing where there is none, or it cannot be read."""
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
        """A new folder for files to fetch; Gradio removes what it has given out when it is old."""
        folder = self.folder / uuid.uuid4().hex
        folder.mkdir()
        return folder

    def show(self, pixels: UInt8[ndarray, "h w 3"]) -> str:
        """A file of the picture for a component to show, written once and whole.

        Gradio would write an array into a file named after its content, again each time: those to whom it is sent at
        that moment, since they look at the same image, get a torn one.
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


def plainly(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of who has a `site`, whose last argument is a gr.Request: a refusal is told, and nothing changes."""
    return _telling(method, lambda _: gr.skip())


def or_blank(method: Callable[..., Any]) -> Callable[..., Any]:
    """As `plainly`, of who also has `blank`: nothing is shown then, rather than what was made of something else."""
    return _telling(method, lambda owner: owner.blank())


def _telling(method: Callable[..., Any], otherwise: Callable[[Any], Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def tell(self: Any, *values: Any) -> Any:
        try:
            return method(self, *values)
        except Refused as error:
            self.site.warn(values[-1], error)
            return otherwise(self)

    return tell
