"""What the page says, in English and Spanish: the browser's language decides, or one that is forced.

Labels are translated in the browser (`Words.label`), and what is said while the page is used on the server
(`Words.say`), by what the browser asks for. Each tab keeps its texts in a dictionary of the same form.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from gradio.i18n import I18n, I18nData

Language = Literal["en", "es"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
FALLBACK: Language = "en"

Texts = Mapping[Language, Mapping[str, str]]
"""language -> key -> text. Keys are letters, digits and underscores, and begin with the tab's name; every language
has the same keys, and each text the same {placeholders}, as `str.format` takes them."""


@dataclass(frozen=True)
class Words:
    """The texts of all tabs. forced: the language of everything, whatever the browser prefers."""

    texts: Texts
    forced: Language | None = None

    @staticmethod
    def joined(tabs: Sequence[Texts], forced: Language | None = None) -> Words:
        """The texts of several tabs as one. Raises ValueError for a key that two of them have."""
        texts: dict[Language, dict[str, str]] = {language: {} for language in LANGUAGES}
        for tab in tabs:
            for language in LANGUAGES:
                twice = texts[language].keys() & tab[language].keys()
                if twice:
                    raise ValueError(f"two tabs have texts of the same name: {', '.join(sorted(twice))}")
                texts[language].update(tab[language])
        return Words(texts, forced)

    def label(self, key: str) -> I18nData:
        """A text without placeholders for a component made while the page is built; the browser translates it.

        Raises KeyError where there is no such text.
        """
        from gradio.i18n import I18nData

        if key not in self.texts[FALLBACK]:
            raise KeyError(key)
        return I18nData(key)

    def language(self, accepted: str | None) -> Language:
        """The first of our languages in an Accept-Language header, by its weights (RFC 9110, 12.5.4); else English."""
        if self.forced:
            return self.forced
        return preferred(accepted or "")

    def say(self, request: Any, key: str, **values: object) -> str:
        """Return a text as Markdown, in the language of a `gr.Request` (None: English, or what is forced).

        Values fill its placeholders literally: no name of a file, class or model becomes Markdown or HTML.
        Raises KeyError if there is no such text, or a placeholder has no value.
        """
        return self.plain(request, key, **{name: _literal_value(value) for name, value in values.items()})

    def plain(self, request: Any, key: str, **values: object) -> str:
        """Return a text as `say` does, for a component that shows plain text."""
        accepted = None if request is None else request.headers.get("accept-language")
        return self.texts[self.language(accepted)][key].format(**values)

    def translations(self) -> I18n:
        """What `launch(i18n=...)` takes. A forced language stands under the name of each."""
        from gradio.i18n import I18n

        return I18n(**{language: dict(self.texts[self.forced or language]) for language in LANGUAGES})


def _literal_value(value: object) -> object:
    return value if isinstance(value, int | float) else literal(str(value))


_A_NUMBER = re.compile(r"[\d\s.,:%×+-]*")


def literal(text: str) -> str:
    """Return Markdown, which is HTML too, that shows the text as it is: punctuation becomes character references.

    References never form Markdown (CommonMark 0.31, section 2.5). Numbers stay as they are.
    """
    if _A_NUMBER.fullmatch(text):
        return text
    return "".join(f"&#{ord(character)};" if character in string.punctuation else character for character in text)


def preferred(accepted: str) -> Language:
    """Ours among the languages of an Accept-Language header, such as "es-MX,es;q=0.9,en;q=0.8"; else English."""
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
