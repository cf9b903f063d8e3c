"""Gradio's own words that stand in its scripts in English alone: said in the language of the page.

Most of Gradio is translated, by the browser's language. What is not (tips on buttons, the place in the queue, what is
read out to those who do not see the page) is exchanged in the browser, whenever Gradio writes it.
"""

from __future__ import annotations

import json

from dinoscope.demo.words import Language

SPANISH: dict[str, str] = {
    "Fullscreen": "Pantalla completa",
    "Exit fullscreen mode": "Salir de la pantalla completa",
    "Remove Image": "Quitar la imagen",
    "Clear": "Borrar",
    "Undo": "Deshacer",
    "undo": "deshacer",
    "Upload file": "Subir un archivo",
    "File upload": "Subida de un archivo",
    "Click to upload or drop files": "Haz clic o suelta archivos aquí",
    "Capture from camera": "Usar la cámara",
    "Paste from clipboard": "Pegar del portapapeles",
    "Click to Access Webcam": "Haz clic para usar la cámara",
    "grant webcam access": "permitir la cámara",
    "capture photo": "hacer la foto",
    "select input source": "elegir la cámara",
    "Invalid file type: * Only * allowed.": "Este tipo de archivo no se admite: * Solo *.",
    "Empty value": "Vacío",
    "More tabs": "Más pestañas",
    "processing |": "en marcha |",
    "queue: *": "en cola: *",
    "Thumbnail * of *": "Miniatura * de *",
    "number input for *": "*, número",
    "range slider for *": "*, deslizador",
}
"""English -> Spanish. Each * stands for the same in both."""

_SCRIPT = """
(() => {
  if (!navigator.language.toLowerCase().startsWith("es")) return;
  const escape = (text) => text.replace(/[.+?^${}()|[\\]\\\\]/g, "\\\\$&");
  const rules = Object.entries(WORDS).map(([from, to]) =>
    [new RegExp("^(\\\\s*)" + escape(from).replaceAll("*", "(.*?)") + "(\\\\s*)$"), to.split("*")]);
  const said = (text) => {
    for (const [pattern, parts] of rules) {
      const found = pattern.exec(text);
      if (found) return found[1] + parts.map((part, n) => part + (n + 1 < parts.length ? found[n + 2] : "")).join("")
        + found[found.length - 1];
    }
    return text;
  };
  const own = (node) => node.parentElement && !node.parentElement.closest(".prose, textarea, style, script");
  const mend = (node) => {
    if (node.nodeType === Node.TEXT_NODE) {
      const text = said(node.data);
      if (text !== node.data && own(node)) node.data = text;
      return;
    }
    if (node.nodeType !== Node.ELEMENT_NODE) return;
    for (const name of ["title", "aria-label"]) {
      const before = node.getAttribute(name), after = before && said(before);
      if (after !== before) node.setAttribute(name, after);
    }
    node.childNodes.forEach(mend);
  };
  new MutationObserver((changes) => changes.forEach((change) => {
    change.type === "childList" ? change.addedNodes.forEach(mend) : mend(change.target);
  })).observe(document.documentElement, {
    subtree: true, childList: true, characterData: true, attributes: true, attributeFilter: ["title", "aria-label"],
  });
})();
"""


def script(language: Language | None) -> str:
    """What goes into the page's head: in Spanish, by the browser or forced, Gradio's words are Spanish as well."""
    if language == "en":
        return ""
    return f"<script>{_SCRIPT.replace('WORDS', json.dumps(SPANISH))}</script>"
