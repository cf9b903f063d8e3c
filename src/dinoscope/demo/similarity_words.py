"""Texts of the tab for similarity and colours of patches."""

from __future__ import annotations

from dinoscope.demo.words import Texts

TEXTS: Texts = {
    "en": {
        "similarity_tab": "Similarity",
        "similarity_hint": "Click anything in your image: what is bright is, to the model, the most similar. "
        "Parts of one colour are alike. Models and resolution are those of the first tab.",
        "similarity_click": "Click a part of your image",
        "similarity_second": "A second image",
        "similarity_drop": "Drop an image here\nor click to choose one",
        "similarity_samples": "Or one of these",
        "similarity_scale": "Brightness",
        "similarity_scale_info": "Of some models all patches are much alike: the first tells them apart.",
        "similarity_stretched": "from least to most alike",
        "similarity_absolute": "cosine from 0 to 1",
        "similarity_colors": "Colours",
        "similarity_colors_info": "Three main directions of the features, as red, green and blue.",
        "similarity_joint": "of both images together",
        "similarity_single": "of each image by itself",
        "similarity_here": "Similar in your image",
        "similarity_there": "Similar in the second",
        "similarity_colors_here": "Colours of your image",
        "similarity_colors_there": "Colours of the second",
        "similarity_caption": "**{model}** · best match in the second image: cosine **{best:.2f}** · "
        "least alike: {low:.2f} · "
        "colours hold {share:.0%} of the variance",
        "similarity_caption_one": "**{model}** · least alike: cosine {low:.2f} · "
        "colours hold {share:.0%} of the variance",
    },
    "es": {
        "similarity_tab": "Semejanza",
        "similarity_hint": "Haz clic en algo de tu imagen: lo que brilla es, para el modelo, lo más parecido. "
        "Las partes de un mismo color se parecen. Los modelos y la resolución son los de la primera pestaña.",
        "similarity_click": "Haz clic en una parte de tu imagen",
        "similarity_second": "Una segunda imagen",
        "similarity_drop": "Suelta aquí una imagen\no haz clic para elegirla",
        "similarity_samples": "O una de estas",
        "similarity_scale": "Brillo",
        "similarity_scale_info": "Para algunos modelos todo se parece mucho: lo primero permite distinguirlo.",
        "similarity_stretched": "de lo menos a lo más parecido",
        "similarity_absolute": "coseno de 0 a 1",
        "similarity_colors": "Colores",
        "similarity_colors_info": "Las tres direcciones principales de las características, en rojo, verde y azul.",
        "similarity_joint": "de las dos imágenes juntas",
        "similarity_single": "de cada imagen por separado",
        "similarity_here": "Parecido en tu imagen",
        "similarity_there": "Parecido en la segunda",
        "similarity_colors_here": "Colores de tu imagen",
        "similarity_colors_there": "Colores de la segunda",
        "similarity_caption": "**{model}** · lo más parecido en la segunda imagen: coseno **{best:.2f}** · "
        "lo menos: {low:.2f} · "
        "los colores recogen el {share:.0%} de la varianza",
        "similarity_caption_one": "**{model}** · lo menos parecido: coseno {low:.2f} · "
        "los colores recogen el {share:.0%} de la varianza",
    },
}
