"""Gradio's components where Gradio itself would refuse, in words of its own, what the page can do or say better."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import ImageData
from gradio.image_utils import decode_base64_to_file


def _sent_file(self: gr.Image, payload: ImageData | None) -> str | None:
    if payload is None:
        return None
    if payload.url and payload.url.startswith("data:"):  # of some webcams
        return decode_base64_to_file(payload.url, self.GRADIO_CACHE, "jpeg")
    return payload.path


def _within(self: gr.Slider, payload: float | None) -> float:
    value = self.minimum if payload is None else min(max(payload, self.minimum), self.maximum)
    return int(value) if float(value).is_integer() else value


def _as_sent(self: gr.Radio, payload: str | None) -> str | None:
    return payload


def _taking(component: type[Any], name: str, preprocess: Callable[..., Any]) -> type[Any]:
    """A component that takes what the browser sends by another rule; to the browser it is what it was (is_template).

    A class statement would do, but for Gradio's metaclass, which writes a stub file beside the source of each.
    """
    members = {"preprocess": preprocess, "is_template": True, "__module__": __name__}
    return ABCMeta.__new__(type(component), name, (component,), members)


_Upload = _taking(gr.Image, "Upload", _sent_file)
_Slider = _taking(gr.Slider, "Slider", _within)
_Radio = _taking(gr.Radio, "Radio", _as_sent)


def build_upload(**settings: Any) -> gr.Image:
    """An image as the file that was sent, unopened: Gradio would open it before we have looked at its header, and speak
    of its faults in other words."""
    return _Upload(type="filepath", image_mode=None, format="jpeg", buttons=[], **settings)


def build_slider(minimum: float, maximum: float, value: float, **settings: Any) -> gr.Slider:
    """A slider that takes what is typed beyond its ends as its end, and nothing as its beginning.

    The range may have become smaller on the server while a value is still on its way.
    """
    return _Slider(minimum, maximum, value, buttons=[], **settings)


def build_radio(choices: Sequence[tuple[Any, str]], value: str, **settings: Any) -> gr.Radio:
    """Choices that change: one that has just gone may still come in, and whoever reads it knows what to do then."""
    return _Radio([*choices], value=value, **settings)


def build_samples(thumbnails: Sequence[Path], label: Any, name: str) -> gr.Gallery:
    """The samples as small pictures to click."""
    return gr.Gallery(
        [str(path) for path in thumbnails],
        label=label,
        columns=4,
        height="auto",
        object_fit="cover",
        allow_preview=False,
        interactive=False,
        buttons=[],
        visible=bool(thumbnails),
        elem_id=name,
        elem_classes="samples",
    )
