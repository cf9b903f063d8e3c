"""Text that is safe where it goes: on a terminal, in a spreadsheet."""

from __future__ import annotations

import logging
import re

_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and newline, those that reverse the direction of text, and bytes that are no UTF-8."""

_A_NUMBER = re.compile(r"[^a-zA-Z|!]*|[+-]?[0-9.]+(e[+-]?[0-9]+)?|[+-](inf|nan)")
"""No function or reference of a spreadsheet can be made without letters: 1e-05, -0.5 ± 0.2."""


def printable(text: str) -> str:
    r"""Return the text with escape codes and the like spelled out (``\x1b``), as file names may hold them."""
    return _UNPRINTABLE.sub(lambda match: match.group().encode("unicode_escape").decode("ascii"), text)


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
