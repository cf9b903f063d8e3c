"""The tab for one image: what one or two models attend to, with every control."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from dinoscope.demo.components import build_samples, build_upload
from dinoscope.demo.image_actions import ImageActions, ModelColumn, Shown
from dinoscope.demo.image_controls import build_controls, model_choice
from dinoscope.demo.site import MODELS, Site


def build_image_tab(site: Site, thumbnails: Sequence[Path], demo: gr.Blocks) -> Shown:
    """Lay the tab out and wire it; called inside of its `gr.Tab`."""
    word = site.words.label
    picked = gr.State(None)
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=290, elem_classes="controls"):
            upload = build_upload(
                label=word("image_upload"),
                placeholder=word("image_drop"),
                sources=["upload", "webcam", "clipboard"],
                height=170,
                elem_id="upload",
                elem_classes="upload picture first",
            )
            samples = build_samples(thumbnails, word("image_samples"), "samples")
            start = list(site.engine.models)[:2]
            panel = build_controls(site, start)
            with gr.Accordion(word("image_truth"), open=False):
                truth = build_upload(
                    show_label=False,
                    label=word("image_truth"),
                    placeholder=word("image_truth_drop"),
                    sources=["upload"],
                    height=130,
                    elem_id="truth",
                )
            save = gr.Button(word("image_save"), size="sm", elem_id="save")
            files = gr.File(label=word("image_files"), file_count="multiple", visible=False, elem_id="files")
        with gr.Column(scale=10, min_width=320, elem_classes="results"):
            with gr.Row():
                first, second = model_choice(site)
            with gr.Row(equal_height=False):
                columns = _column(site, "first"), _column(site, "second")
    shown = Shown(picked, first, second, panel, columns)
    actions = ImageActions(site, shown)
    _wire(demo, actions, (upload, samples, truth))
    save.click(
        actions.save,
        {picked, first, second, *panel.components},
        [files],
        concurrency_id=MODELS,
        api_visibility="private",
    )
    return shown


def _column(site: Site, name: str) -> ModelColumn:
    """What is shown of one model."""
    word = site.words.label
    with gr.Column(min_width=300, elem_classes="model-column", elem_id=name) as column:
        caption = gr.Markdown(latex_delimiters=[], elem_classes="caption", elem_id=f"{name}-caption")
        overlay = gr.Image(
            label=word("image_overlay"),
            format="jpeg",
            interactive=False,
            height=300,
            buttons=["fullscreen", "download"],
            elem_id=f"{name}-overlay",
            elem_classes="picture large",
        )
        with gr.Row(equal_height=True):
            mask = gr.Image(
                label=word("image_mask"),
                format="jpeg",
                interactive=False,
                height=195,
                min_width=150,
                scale=5,
                buttons=["fullscreen"],
                elem_id=f"{name}-mask",
                elem_classes="picture below",
            )
            heads = gr.Gallery(
                label=word("image_heads"),
                columns=3,
                height=195,
                min_width=160,
                scale=6,
                object_fit="cover",
                format="jpeg",
                allow_preview=False,
                interactive=False,
                buttons=[],
                elem_id=f"{name}-heads",
                elem_classes="heads below",
            )
    return ModelColumn(column, caption, overlay, mask, heads)


def _wire(demo: gr.Blocks, actions: ImageActions, sources: tuple[gr.Image, gr.Gallery, gr.Image]) -> None:
    """Which event calls what. Everything that may run a network waits in one queue; of many moves the last counts."""
    shown = actions.shown
    light: Any = {"api_visibility": "private", "concurrency_limit": 8, "show_progress": "hidden"}
    draw: Any = {
        "fn": actions.draw,
        "inputs": {shown.picked, shown.first, shown.second, *shown.panel.components},
        "outputs": shown.outputs,
        "concurrency_id": MODELS,
        "concurrency_limit": actions.site.limits.concurrent,
        "api_visibility": "private",
    }
    upload, samples, truth = sources
    taken = [shown.picked, upload]
    upload.change(actions.take, [upload], [*taken, truth], **light)
    samples.select(actions.pick, None, [*taken, truth], **light)
    truth.upload(actions.take_truth, [shown.picked, truth], [shown.picked, truth], **light)
    truth.clear(actions.drop_truth, [shown.picked], [shown.picked], **light)
    if actions.site.samples:
        demo.load(actions.begin, None, taken, **light)
    shown.picked.change(**draw, show_progress="minimal")
    panel, depth = shown.panel, gr.State(shown.panel.block.value)
    fitted = {"inputs": [shown.first, shown.second, panel.kind, panel.head, panel.block, depth], **light}
    for component in (shown.first, shown.second, panel.kind):
        fit = component.input(actions.fit, outputs=[panel.head, panel.block, depth], **fitted)
        fit.then(**draw, show_progress="minimal")
    for component in panel.components[1:]:
        component.input(**draw, trigger_mode="always_last", show_progress="hidden")
    for column in shown.columns:
        chosen = column.heads.select(actions.enlarge, None, [panel.head], **light)
        chosen.then(**draw, show_progress="hidden")
