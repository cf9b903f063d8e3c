"""What the tabs of the page share: the engine, the texts, the samples, and how a refusal is told."""

from __future__ import annotations

import functools
import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import ImageData
from gradio.image_utils import decode_base64_to_file

from dinoscope.demo.engine import Engine
from dinoscope.demo.limits import Limits
from dinoscope.demo.pictures import Refused
from dinoscope.demo.samples import Sample
from dinoscope.demo.words import Words

MODELS = "models"
"""Name of the queue that everything waits in which runs a network."""

_KEPT_SECONDS = 3600


@dataclass(frozen=True)
class Site:
    """folder: of files that are made for people to fetch; removed when the page ends."""

    engine: Engine
    words: Words
    limits: Limits
    samples: Sequence[Sample]
    folder: Path

    def warn(self, request: gr.Request, error: Refused) -> None:
        """Say in the page why something is not done."""
        gr.Warning(
            self.words.say(request, error.key, **error.values), title=self.words.say(request, "page_refused"), duration=8
        )

    def fresh_folder(self) -> Path:
        """A new folder for files to fetch; those of more than an hour ago are removed."""
        for old in self.folder.iterdir():
            if time.time() - old.stat().st_mtime > _KEPT_SECONDS:
                shutil.rmtree(old, ignore_errors=True)
        folder = self.folder / uuid.uuid4().hex
        folder.mkdir()
        return folder


def plainly(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of who has a `site`, whose last argument is a gr.Request: a refusal is told, and nothing changes."""

    @functools.wraps(method)
    def tell(self: Any, *values: Any) -> Any:
        try:
            return method(self, *values)
        except Refused as error:
            self.site.warn(values[-1], error)
            return gr.skip()

    return tell

from gradio.events import Dependency

class Upload(gr.Image):
    """An image as the file that was sent. Gradio's own opens it before we have looked at it, and speaks of faults in
    its own words."""

    is_template = True

    def preprocess(self, payload: ImageData | None) -> str | None:
        """The path of the file."""
        if payload is None:
            return None
        if payload.url and payload.url.startswith("data:"):  # of some webcams
            return decode_base64_to_file(payload.url, self.GRADIO_CACHE, "jpeg")
        return payload.path
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block
    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component