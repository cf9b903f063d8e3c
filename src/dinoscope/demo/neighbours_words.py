"""Texts of the tab for nearest neighbours."""

from __future__ import annotations

from dinoscope.demo.words import Texts

TEXTS: Texts = {
    "en": {
        "neighbours_tab": "Neighbours",
        "neighbours_hint": "Which images of a folder does the model take to be most like this one? "
        "The models are those of the first tab.",
        "neighbours_upload": "Image",
        "neighbours_drop": "Drop an image here\nor click to choose one",
        "neighbours_samples": "Or one of these",
        "neighbours_count": "How many",
        "neighbours_found": "Most similar first",
        "neighbours_opening": "Looking at the folder with {model}",
        "neighbours_caption": "**{model}** · {taken} images ({folder})",
        "neighbours_caption_some": "**{model}** · {taken} of {total} images, spread evenly ({folder})",
        "neighbours_caption_unreadable": " · unreadable: {unreadable}",
        "neighbours_caption_class": "<br>Most often: **{label}** ({votes} of {count})",
        "neighbours_drawn": "drawn scenes",
        "neighbours_failed": "The folder cannot be looked through: {reason}",
    },
    "es": {
        "neighbours_tab": "Vecinos",
        "neighbours_hint": "¿Qué imágenes de una carpeta le parecen al modelo más similares a esta? "
        "Los modelos son los de la primera pestaña.",
        "neighbours_upload": "Imagen",
        "neighbours_drop": "Suelta aquí una imagen\no haz clic para elegirla",
        "neighbours_samples": "O una de estas",
        "neighbours_count": "Cuántas",
        "neighbours_found": "Primero la más similar",
        "neighbours_opening": "Examinando la carpeta con {model}",
        "neighbours_caption": "**{model}** · {taken} imágenes ({folder})",
        "neighbours_caption_some": "**{model}** · {taken} de {total} imágenes, a intervalos regulares ({folder})",
        "neighbours_caption_unreadable": " · ilegibles: {unreadable}",
        "neighbours_caption_class": "<br>Lo más frecuente: **{label}** ({votes} de {count})",
        "neighbours_drawn": "escenas dibujadas",
        "neighbours_failed": "No se puede examinar la carpeta: {reason}",
    },
}
