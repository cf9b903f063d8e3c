"""How the page looks: one theme of system fonts, and a little CSS. Nothing is loaded from elsewhere."""

from __future__ import annotations

import gradio as gr

from dinoscope.demo.gradio_words import script
from dinoscope.demo.words import Language

FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
MONOSPACE = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

CSS = """
#page-title h1 { font-size: 1.3rem; font-weight: 700; letter-spacing: -0.01em; margin: 0; display: inline; }
#page-title p { color: var(--body-text-color-subdued); display: inline; margin-left: 0.6rem; }
.tabs { gap: 0.4rem; }
.controls, .model-column { gap: 0.5rem !important; }
.controls .form { gap: 0; }
.kinds .wrap, .heads-choice .wrap, .sizes .wrap { gap: 0.3rem; }
.kinds label, .heads-choice label, .sizes label { padding: 0.2rem 0.6rem !important; }
.kinds input, .heads-choice input, .sizes input { display: none; }
.kinds label span, .heads-choice label span, .sizes label span { margin-left: 0; }
.kinds label:focus-within, .heads-choice label:focus-within, .sizes label:focus-within {
  outline: 2px solid var(--color-accent); }
.caption { padding: 0 0.2rem; font-size: 0.92rem; line-height: 1.4; }
.caption p { margin: 0 !important; }
.caption .small { color: var(--body-text-color-subdued); font-size: 0.82rem; }
.caption p:first-child { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.caption p:first-child:last-child { white-space: normal; }
.picture img { object-fit: contain; }
/* pictures take what the height of the window leaves them, and stay in sight while the controls are gone through */
.large { height: clamp(300px, 100vh - 468px, 540px) !important; }
.below, .below .grid-wrap { height: clamp(195px, 25vh, 260px) !important; }
.one-of-four { height: clamp(225px, 31vh, 340px) !important; }
#video-status, #video-progress { min-height: 1.3rem; }
#video-frame, #video-editor, #video-moving, #video-overlay { height: clamp(330px, 100vh - 438px, 620px) !important; }
@media (min-width: 900px) and (min-height: 740px) {
  .results { position: sticky; top: 0.5rem; align-self: flex-start; }
}
.picture .image-container { background: var(--background-fill-secondary); }
.samples .grid-wrap, .heads .grid-wrap { padding: 0.35rem; min-height: 0; overflow-x: hidden; }
.samples .grid-container, .heads .grid-container { gap: 0.3rem; margin: 0; }
.samples .grid-container, .heads .grid-container { padding-top: 1.5rem; grid-auto-rows: auto !important; }
.samples .grid-container { grid-template-columns: repeat(4, minmax(0, 1fr)) !important; }
.heads .grid-container { grid-template-columns: repeat(3, minmax(0, 1fr)) !important; }
.samples .thumbnail-lg, .heads .thumbnail-lg { min-width: 0; aspect-ratio: 1; height: auto; }
.samples .gallery-item, .heads .gallery-item { min-width: 0; }
.heads .caption-label { font-size: 0.66rem; padding: 0 0.3rem; left: 0.15rem; bottom: 0.15rem; max-width: 95%; }
.dark input[type="range"] { --neutral-200: var(--neutral-700); }
input[role="combobox"] { text-overflow: ellipsis; padding-right: 1.5rem !important; }
.stack { gap: 0.3rem !important; }
.stack button { flex: 1; }
.found .grid-wrap { height: auto !important; max-height: none !important; }
.hint { color: var(--body-text-color-subdued); font-size: 0.9rem; }
.clickable img { cursor: crosshair; }
.toast-title.warning, .toast-header:has(.warning) .chevron, .toast-separator.warning,
.toast-message-item.warning:has(~ .toast-message-item) { display: none; }
@media (max-width: 640px) {
  #page-title p { display: block; margin: 0.1rem 0 0; font-size: 0.85rem; }
  /* the image, what is seen in it, and then the controls */
  .controls:has(> .first) { display: contents; }
  .controls > * { order: 3; flex: 1 1 100%; }
  .controls > .first, .controls > .upload ~ .samples { order: 1; }
  .controls + .results { order: 2; }
  .large { height: min(300px, 72vw) !important; }
  .one-of-four, .below, .below .grid-wrap { height: 46vw !important; }
  #video-frame, #video-editor, #video-moving, #video-overlay { height: min(330px, 72vw) !important; }
}
"""


_AROUND = """
.gradio-container { overflow: clip !important; } /* hidden, as Gradio has it, nothing in it could stick */
.gradio-container > main, .gradio-container .main { padding: 0.5rem 1rem 1.2rem !important; }
@media (max-width: 640px) {
  .gradio-container > main, .gradio-container .main { padding: 0.4rem 0.5rem 1rem !important; }
}
"""
"""For what is around the parts that Gradio lets `CSS` reach."""


def theme() -> gr.themes.Base:
    """The page's colours, spacing and fonts, for light and dark."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.violet,
        secondary_hue=gr.themes.colors.violet,
        neutral_hue=gr.themes.colors.slate,
        spacing_size=gr.themes.sizes.spacing_sm,
        radius_size=gr.themes.sizes.radius_lg,
        text_size=gr.themes.sizes.text_sm,
        font=FONTS,
        font_mono=MONOSPACE,
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_border_width="1px",
        block_border_color="*neutral_200",
        block_border_color_dark="*neutral_800",
        block_shadow="0 1px 2px rgba(15, 23, 42, 0.05)",
        block_title_text_weight="600",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        block_label_text_weight="500",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_300",
        block_label_background_fill="rgba(255, 255, 255, 0.88)",
        block_label_background_fill_dark="rgba(15, 23, 42, 0.85)",
        block_label_border_width="0px",
        checkbox_label_background_fill="*neutral_100",
        checkbox_label_background_fill_dark="*neutral_800",
        checkbox_label_background_fill_selected="*primary_100",
        checkbox_label_background_fill_selected_dark="*primary_800",
        checkbox_label_border_width="0px",
        checkbox_label_text_weight="500",
        slider_color="*primary_500",
        slider_color_dark="*primary_400",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_text_color="white",
        button_secondary_background_fill="white",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_700",
        button_border_width="1px",
        button_large_text_size="*text_md",
        button_large_text_weight="600",
    )


def head(language: Language | None) -> str:
    """What goes into the page's head: a forced language also holds for Gradio's own words."""
    plain = f"<style>{_AROUND}</style>{script(language)}"
    if language is None:
        return plain
    return (
        "<script>"
        f"Object.defineProperty(navigator, 'language', {{get: () => '{language}'}});"
        f"Object.defineProperty(navigator, 'languages', {{get: () => ['{language}']}});"
        "</script>"
    ) + plain
