"""The languages of the page, and the package's own files. Imports nothing that takes time."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

Language = Literal["en", "es"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
FALLBACK: Language = "en"


def data_file(name: str) -> str:
    """Return the text of a file of this package: words, styles and scripts of the page."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def preferred(accepted: str) -> Language:
    """Return our language that an Accept-Language header weighs most (RFC 9110, 12.5.4), or English."""
    best, weight = FALLBACK, 0.0
    for part in accepted.split(","):
        tag, _, quality = part.partition(";")
        name = tag.strip().lower().split("-")[0]
        try:
            value = float(quality.partition("=")[2]) if quality else 1.0
        except ValueError:
            continue
        if name in LANGUAGES and value > weight:
            best, weight = name, value
    return best
