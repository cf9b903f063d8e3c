"""Plain text, pictures and tables as HTML: the one place where they are escaped."""

from __future__ import annotations

import base64
import html
import unicodedata
from collections.abc import Sequence

from dinoscope.tables import Table, TableRow, joined_sections

_TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"

_SHORT = 22  # letters of a cell that are not broken over lines

_KINDS = {b"\x89PNG\r\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}
"""First bytes of a picture's file -> its kind."""


def escape(text: str) -> str:
    """Plain text as HTML."""
    return html.escape(printable(text), quote=True)


def printable(text: str) -> str:
    """The text with U+FFFD for what no page may hold: control characters, bytes of a file name that are no text."""
    return "".join(letter if letter in "\n\t" or not _unprintable(letter) else "\ufffd" for letter in text)


def _unprintable(letter: str) -> bool:
    """Control characters, halves of characters, and marks that would turn the direction of what follows their text."""
    return unicodedata.category(letter) in ("Cc", "Cs") or letter in _TURNING


def data_address(picture: bytes) -> str:
    """The whole file as an address. Raises ValueError for a format that browsers do not show."""
    webp = "image/webp" if picture[:4] == b"RIFF" and picture[8:12] == b"WEBP" else None
    kind = next((kind for start, kind in _KINDS.items() if picture.startswith(start)), webp)
    if kind is None:
        raise ValueError(f"a picture must be PNG, JPEG, WebP or GIF, and not begin with {picture[:12]!r}")
    return f"data:{kind};base64,{base64.b64encode(picture).decode('ascii')}"


def table_html(table: Table) -> str:
    """In a frame that scrolls where the table is wider than the page; notes below it."""
    sides = [' class="right"' if column.align == "right" else "" for column in table.columns]
    parts = [f"<caption>{escape(table.caption)}</caption>"] if table.caption else []
    head = "".join(
        f'<th scope="col"{side}>{escape(column.title)}</th>' for column, side in zip(table.columns, sides, strict=True)
    )
    parts.append(f"<thead><tr>{head}</tr></thead>")
    for section in joined_sections(table.sections):
        title = f'<tr><th scope="rowgroup" colspan="{len(sides)}">{escape(section.title)}</th></tr>'
        rows = "".join(_row(row, sides) for row in section.rows)
        parts.append(f"<tbody>{title if section.title else ''}{rows}</tbody>")
    notes = "".join(f"<li>{escape(note)}</li>" for note in table.notes)
    remarks = "".join(f"<p>{escape(remark)}</p>" for remark in table.remarks)
    below = (f"<ol>{notes}</ol>" if notes else "") + remarks
    framed = f'<div class="scroll" tabindex="0"><table>{"".join(parts)}</table></div>'
    return framed + (f'<div class="notes">{below}</div>' if below else "")


def _row(row: TableRow, sides: Sequence[str]) -> str:
    marks = f"<sup>{', '.join(map(str, row.marks))}</sup>" if row.marks else ""
    texts = [
        f"<strong>{escape(cell)}</strong>" if at in row.best else escape(cell) for at, cell in enumerate(row.cells)
    ]
    shown = list(zip(row.cells, texts, sides, strict=True))[1:]
    cells = "".join(f"<td{_short(cell, side)}>{text}</td>" for cell, text, side in shown)
    return f'<tr><th scope="row"{sides[0]}>{texts[0]}{marks}</th>{cells}</tr>'


def _short(cell: str, side: str) -> str:
    """The class of a cell: what is short stands on one line."""
    return side or (' class="short"' if len(cell) <= _SHORT else "")
