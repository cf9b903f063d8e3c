"""Texts of the page around its tabs."""

from __future__ import annotations

from dinoscope.demo.words import Texts

TEXTS: Texts = {
    "en": {
        "page_title": "# dinoscope\n\nWhat does a vision model look at?",
    },
    "es": {
        "page_title": "# dinoscope\n\n¿Qué mira un modelo de visión?",
    },
}
