"""The page: its tabs, how it looks (system fonts and the package's own files alone), and how Gradio serves it."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from dinoscope.demo.compare import CompareTab
from dinoscope.demo.image import ImageTab
from dinoscope.demo.languages import data_file
from dinoscope.demo.neighbours import NeighboursTab
from dinoscope.demo.pictures import MB
from dinoscope.demo.similarity import SimilarityTab
from dinoscope.demo.site import Site
from dinoscope.demo.training import Runs, TrainingTab
from dinoscope.demo.video import VideoTab
from dinoscope.evaluation.evidence import Verdict
from dinoscope.model_names import shipped_model

_CACHE_SECONDS = (600, 3600)
"""How often files that the page made or was sent are checked, and the age at which they are removed."""


def build_page(
    site: Site,
    gallery: Path | None = None,
    results: Mapping[str, Verdict] | None = None,
    runs: Sequence[Path] = (),
) -> gr.Blocks:
    """Lay out and connect all tabs.

    gallery: images to search for neighbours; None: drawn scenes. results: stored verdicts to show, by name.
    runs: run folders, and folders of them, to show the training of.
    """
    word = site.words.label
    with gr.Blocks(title="dinoscope", analytics_enabled=False, fill_width=True, delete_cache=_CACHE_SECONDS) as demo:
        gr.Markdown(word("page_title"), elem_id="page-title")
        if any(
            model.path is not None and model.path.is_relative_to(shipped_model())
            for model in site.engine.models.values()
        ):
            gr.Markdown(word("page_shipped"), elem_id="shipped")
        with gr.Tabs(overflow_behavior="wrap"):  # on a telephone all of them are in sight
            with gr.Tab(word("image_tab"), id="image"):
                image = ImageTab(site, demo)
            with gr.Tab(word("similarity_tab"), id="similarity") as tab:
                SimilarityTab(site, image, tab)
            with gr.Tab(word("neighbours_tab"), id="neighbours") as tab:
                NeighboursTab(site, image, gallery, tab)
            with gr.Tab(word("video_tab"), id="video") as tab:
                VideoTab(site, tab)
            with gr.Tab(word("compare_tab"), id="compare") as tab:
                CompareTab(site, results or {}, tab)
            with gr.Tab(word("training_tab"), id="training") as tab:
                TrainingTab(site, Runs(tuple(runs)), tab)
    return demo


def launch(demo: gr.Blocks, site: Site, host: str, port: int | None, middleware: list[Any]) -> str:
    """Serve the page in threads of this process and return its address. Raises OSError if there is no free port."""
    theme = gr.themes.Base(
        primary_hue=gr.themes.colors.violet,
        secondary_hue=gr.themes.colors.violet,
        neutral_hue=gr.themes.colors.slate,
        spacing_size=gr.themes.sizes.spacing_sm,
        radius_size=gr.themes.sizes.radius_lg,
        text_size=gr.themes.sizes.text_sm,
        font=("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"),
        font_mono=("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"),
    ).set(**tomllib.loads(data_file("theme.toml")))
    # a forced language also holds for Gradio's own words
    settings = {"language": site.words.forced, "words": tomllib.loads(data_file("gradio.es.toml"))}
    script = f"((dinoscope) => {{\n{data_file('page.js')}}})({json.dumps(settings)});"
    limits = site.engine.limits
    _, address, _ = demo.queue(max_size=limits.queue).launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        share=False,
        quiet=True,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        max_file_size=int(max(limits.upload_mb, limits.video_mb) * MB),
        app_kwargs={"middleware": middleware},
        theme=theme,
        css=data_file("page.css"),
        head=f"<style>{data_file('frame.css')}</style><script>{script}</script>",
        i18n=site.words.translations(),
    )
    return address
