"""Text for people: numbers, durations and lists, and text that is safe on a terminal or in a spreadsheet."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence

_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and newline, those that reverse the direction of text, and bytes that are no UTF-8."""

_JOINT = re.compile(r"(?<=[^,])(?<![\d.][eE])\+")
"""A plus between two windows, and not the sign of a number or of its exponent."""

_A_NUMBER = re.compile(r"[^a-zA-Z|!]*|[+-]?[0-9.]+(e[+-]?[0-9]+)?|[+-](inf|nan)")
"""No function or reference of a spreadsheet can be made without letters: 1e-05, -0.5 ± 0.2."""


def printable(text: str) -> str:
    r"""Return the text with escape codes and the like spelled out (``\x1b``), as file names may hold them."""
    return _UNPRINTABLE.sub(lambda match: match.group().encode("unicode_escape").decode("ascii"), text)


def window_parts(text: str) -> list[str]:
    """Return the windows that a word of the command line joins by a plus: "lung+40,400" has two."""
    return _JOINT.split(text)


def spreadsheet_cell(text: str) -> str:
    """Return a cell of a CSV file that no spreadsheet takes for a formula: an apostrophe goes before = + - @.

    Signed numbers stay as they are. See OWASP, "CSV injection".
    """
    bare = text.lstrip()
    formula = bare.startswith(("=", "@")) or (bare.startswith(("+", "-")) and not _A_NUMBER.fullmatch(bare))
    return f"'{text}" if formula else text


class PrintableFormatter(logging.Formatter):
    """A log's lines as `printable` text."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return printable(super().format(record))


ABSENT = "–"


def count(number: float | None) -> str:
    """Return a whole number with separated thousands; a dash if it is not known."""
    return ABSENT if number is None else f"{number:,.0f}"


def figure(number: float | None, digits: int = 1) -> str:
    """Return a number with so many digits after the point; a dash if there is none."""
    return ABSENT if number is None else f"{number:.{digits}f}"


def percent(number: float | None) -> str:
    """Return a share as a percentage; a dash if there is none."""
    return ABSENT if number is None else f"{100 * number:.0f} %"


def duration(seconds: float | None, *, coarse: bool = False) -> str:
    """Return a time in its two largest units; coarse: minutes without their seconds, as for an estimate."""
    if seconds is None:
        return "not recorded"
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes, rest = (round(seconds / 60), 0) if coarse else divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min" + (f" {rest} s" if rest and minutes < 10 else "")
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24} h"


class Phrase(str):
    """An English text that keeps the template and the values that it is made of, so that others can be made of them.

    The template is its key in a catalogue of another language, as in gettext: English is where the text is made, and
    nowhere else.
    """

    template: str
    values: Mapping[str, object]

    def __new__(cls, template: str, /, **values: object) -> Phrase:
        phrase = super().__new__(cls, template.format(**values))
        phrase.template, phrase.values = template, values
        return phrase

    def __getnewargs_ex__(self) -> tuple[tuple[str], Mapping[str, object]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return (self.template,), self.values


def translated(text: str, catalogue: Mapping[str, str]) -> str:
    """Return a text, and the texts among its values, in the language of a catalogue, as far as it has them.

    catalogue: English text or template -> the same in the other language.
    """
    if not isinstance(text, Phrase):
        return catalogue.get(text, text)
    values = {
        name: translated(value, catalogue) if isinstance(value, str) else value for name, value in text.values.items()
    }
    return catalogue.get(text.template, text.template).format(**values)


def listed(names: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    if len(names) < 2:
        return "".join(names)
    return Phrase("{first} and {last}", first=joined(names[:-1], ", "), last=names[-1])


def joined(texts: Sequence[str], between: str = " ") -> str:
    """Join texts as a `Phrase` of each."""
    slots = [f"text{number}" for number in range(len(texts))]
    return Phrase(between.join(f"{{{slot}}}" for slot in slots), **dict(zip(slots, texts, strict=True)))
