"""The page: its tabs, and how it looks. Everything is of system fonts and the package's own files."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import gradio as gr

from dinoscope.demo.image import ImageTab
from dinoscope.demo.neighbours import NeighboursTab
from dinoscope.demo.similarity import SimilarityTab
from dinoscope.demo.site import Language, Site, data_file
from dinoscope.demo.video import VideoTab

_CACHE_SECONDS = (600, 3600)
"""How often files that the page made or was sent are checked, and the age at which they are removed."""


def build_page(site: Site, gallery: Path | None = None) -> gr.Blocks:
    """Lay out and connect all tabs. gallery: images to search for neighbours; None: drawn scenes."""
    word = site.words.label
    with gr.Blocks(title="dinoscope", analytics_enabled=False, fill_width=True, delete_cache=_CACHE_SECONDS) as demo:
        gr.Markdown(word("page_title"), elem_id="page-title")
        with gr.Tabs():
            with gr.Tab(word("image_tab"), id="image"):
                image = ImageTab(site, demo)
            with gr.Tab(word("similarity_tab"), id="similarity") as tab:
                SimilarityTab(site, image, tab)
            with gr.Tab(word("neighbours_tab"), id="neighbours") as tab:
                NeighboursTab(site, image, gallery, tab)
            with gr.Tab(word("video_tab"), id="video") as tab:
                VideoTab(site, tab)
    return demo


def theme() -> gr.themes.Base:
    """Return the page's colours, spacing and fonts, for light and dark."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.violet,
        secondary_hue=gr.themes.colors.violet,
        neutral_hue=gr.themes.colors.slate,
        spacing_size=gr.themes.sizes.spacing_sm,
        radius_size=gr.themes.sizes.radius_lg,
        text_size=gr.themes.sizes.text_sm,
        font=("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"),
        font_mono=("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"),
    ).set(**tomllib.loads(data_file("theme.toml")))


def head(language: Language | None) -> str:
    """Return what goes into the page's head; a forced language also holds for Gradio's own words."""
    settings = json.dumps({"language": language, "words": tomllib.loads(data_file("gradio.es.toml"))})
    script = f"((dinoscope) => {{\n{data_file('page.js')}}})({settings});"
    return f"<style>{data_file('frame.css')}</style><script>{script}</script>"
