"""The page: its tabs, from whatever they share."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from dinoscope.demo import image_words, neighbours_words, page_words, similarity_words, video_words
from dinoscope.demo.image_tab import build_image_tab
from dinoscope.demo.neighbours_tab import build_neighbours_tab
from dinoscope.demo.samples import thumbnails
from dinoscope.demo.similarity_tab import build_similarity_tab
from dinoscope.demo.site import Site
from dinoscope.demo.video_tab import build_video_tab
from dinoscope.demo.words import Language, Words

_CACHE_SECONDS = (600, 3600)
"""How often files that the page made or was sent are looked over, and after how long they are removed."""


def all_words(forced: Language | None) -> Words:
    """The texts of every tab."""
    tabs = [page_words, image_words, similarity_words, neighbours_words, video_words]
    return Words.joined([tab.TEXTS for tab in tabs], forced)


def build_page(site: Site, gallery: Path | None = None) -> gr.Blocks:
    """Lay out and wire all tabs. site.folder: must be there. gallery: images to look for neighbours in; None: drawn."""
    small = site.folder / "thumbnails"
    small.mkdir(exist_ok=True)
    pictures: list[Path] = thumbnails(site.samples, small, site.engine.window)
    with gr.Blocks(title="dinoscope", analytics_enabled=False, fill_width=True, delete_cache=_CACHE_SECONDS) as demo:
        gr.Markdown(site.words.label("page_title"), elem_id="page-title")
        with gr.Tabs():
            with gr.Tab(site.words.label("image_tab"), id="image"):
                shown = build_image_tab(site, pictures, demo)
            with gr.Tab(site.words.label("similarity_tab"), id="similarity") as tab:
                build_similarity_tab(site, shown, pictures, tab)
            with gr.Tab(site.words.label("neighbours_tab"), id="neighbours") as tab:
                build_neighbours_tab(site, shown, pictures, gallery, tab)
            with gr.Tab(site.words.label("video_tab"), id="video") as tab:
                models = list(site.engine.models.values())
                build_video_tab(models, site.words, site.limits, site.folder / "videos", site.engine.apart, tab)
    return demo
