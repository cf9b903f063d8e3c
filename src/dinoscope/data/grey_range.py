"""The grey range: which values of images with more than 8 bits become black and white.

It belongs to a data set, not to an image, or brightness would jump from one image to the next. A model keeps the range
that it was trained with, for every image that it is given. Images of unsigned 8 bits need none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeGuard

import numpy as np
from jaxtyping import Shaped, UInt8
from numpy import ndarray

from dinoscope.errors import UserError
from dinoscope.text import window_parts

Window = tuple[float, ...]
"""(level, width): values from level - width / 2 (black) to level + width / 2 (white).

Joined windows follow each other: (level, width, level, width, ...). An image of one channel then becomes as many.
"""

MAX_WINDOWS = 16
"""Windows that can be joined: as many as an image may have channels."""

HEADER: Window = (0.0, 0.0)
"""The window in the header of each file, as DICOM has one; of a file without one, the range of its own values.

`with_fallback` gives such files a range in common: its width is negative. So a grey range is two numbers wherever it is
stored, and no other one has such a width.
"""

WINDOWS: dict[str, Window] = {
    "lung": (-600.0, 1500.0),
    "soft": (40.0, 400.0),
    "bone": (400.0, 1800.0),
    "brain": (40.0, 80.0),
}
"""Windows of CT in Hounsfield units, by the name that `parse_window` takes.

Usual values. Workstations and textbooks differ (lung: levels of -600 to -500 and widths of 1000 to 1600; bone: 200 to
500 and 1200 to 2000), so LEVEL,WIDTH takes any other.
"""

_BIT_DEPTHS = (8, 10, 12, 14, 16)
_CHUNK = 1 << 20
"""Values that are converted at a time: in float64 they take 8 MB."""


@dataclass(frozen=True)
class ValueRange:
    """Smallest and largest finite value of some images. integral: all of them are whole numbers by their type."""

    low: float
    high: float
    integral: bool

    @property
    def window(self) -> Window:
        """The grey range of these values.

        - Integers, none negative, up to 65535: from 0 to 2^b - 1, where b is the smallest of 8, 10, 12, 14 and 16 bits
          that holds the largest value. Black stays black, and 12 bits in a 16-bit file keep their contrast.
        - Floats within [0, 1]: from 0 to 1.
        - Anything else (Hounsfield units, floats of any range): from the smallest value to the largest.
        """
        if self.integral and self.low >= 0 and self.high < 2 ** _BIT_DEPTHS[-1]:
            return bits_window(next(bits for bits in _BIT_DEPTHS if self.high < 2**bits))
        if not self.integral and self.low >= 0 and self.high <= 1:
            return (0.5, 1.0)
        return ((self.low + self.high) / 2, self.high - self.low)


def bits_window(bits: int) -> Window:
    """Return the range of unsigned integers of so many bits."""
    return ((2**bits - 1) / 2, float(2**bits - 1))


def range_of(values: Shaped[ndarray, "*shape"]) -> ValueRange | None:
    """Return the range of the finite values, or None if there are none."""
    integral = values.dtype.kind in "iu"
    finite = values if integral else values[np.isfinite(values)]
    if finite.size == 0:
        return None
    return ValueRange(float(finite.min()), float(finite.max()), integral)


def joined(ranges: Iterable[ValueRange]) -> ValueRange | None:
    """Return the range that holds all of them, or None if there are none."""
    ranges = list(ranges)
    if not ranges:
        return None
    integral = all(range.integral for range in ranges)
    return ValueRange(min(range.low for range in ranges), max(range.high for range in ranges), integral)


def to_uint8(values: Shaped[ndarray, "*shape"], window: Window | None = None) -> UInt8[ndarray, "*shape"]:
    """Map values linearly to uint8: the window's lower end becomes 0, its upper end 255, what is beyond is clipped.

    window: None takes that of these values alone (`ValueRange.window`). Not-a-number becomes 0.
    """
    if window is None:
        own = range_of(values)
        if own is None:
            return np.zeros(values.shape, np.uint8)
        window = own.window
    native = values.dtype.newbyteorder("=")
    table = _table(native.str, window) if native.kind in "iu" and native.itemsize <= 2 else None
    flat = values.reshape(-1)
    scaled = np.empty(flat.shape, np.uint8)
    for start in range(0, len(flat), _CHUNK):
        chunk = flat[start : start + _CHUNK].astype(native, copy=False)
        scaled[start : start + _CHUNK] = _scaled(chunk, window) if table is None else table[chunk]
    return scaled.reshape(values.shape)


def _scaled(values: Shaped[ndarray, " n"], window: Window) -> UInt8[ndarray, " n"]:
    level, width = window
    scaled = np.subtract(values, level - width / 2, dtype=np.float64)
    scaled *= 255 / (width or 1.0)
    np.clip(scaled, 0, 255, out=scaled)  # infinities too
    return np.rint(np.nan_to_num(scaled, copy=False), out=scaled).astype(np.uint8)


@lru_cache(maxsize=16)
def _table(dtype: str, window: Window) -> UInt8[ndarray, " n"]:
    """uint8 of every value of an integer type of 8 or 16 bits; negative ones from the end, as an index counts."""
    kind = np.dtype(dtype)
    return _scaled(np.arange(256**kind.itemsize).astype(f"u{kind.itemsize}").view(kind), window)


def separate(window: Window) -> tuple[tuple[float, float], ...]:
    """Return level and width of each of the windows that are joined, or of the only one."""
    return tuple(zip(window[::2], window[1::2], strict=True))


def is_joined(window: Window | None) -> TypeGuard[Window]:
    """Whether it is several windows, for a channel each."""
    return window is not None and len(window) > 2


def with_fallback(window: Window) -> Window:
    """Return `HEADER` with a range for the files that have no window of their own."""
    level, width = window
    return level, -width


def is_header(window: Window | None) -> bool:
    """Whether it is `HEADER`, with a range for other files or without one."""
    return window is not None and len(window) == 2 and (window == HEADER or window[1] < 0)


def fallback(window: Window | None) -> Window | None:
    """Return the range of files that have no window of their own: any other single one itself, None of `HEADER`."""
    return None if window is None or window == HEADER else (window[0], abs(window[1]))


def parse_window(text: str) -> Window:
    """Read LEVEL,WIDTH, a name of `WINDOWS`, several of these joined by +, `header`, or header,LEVEL,WIDTH.

    Raises UserError for anything else, and for a width that is not above 0.
    """
    parts = window_parts(text)
    if len(parts) > 1:
        if any(part.startswith("header") for part in parts):
            raise UserError(f"--window {text}: header cannot be joined with other windows")
        window = tuple(number for part in parts for number in parse_window(part))
        check_window(window)
        return window
    if text in WINDOWS:
        return WINDOWS[text]
    if text == "header":
        return HEADER
    try:
        level, width = (float(part) for part in text.removeprefix("header,").split(","))
    except ValueError as error:
        raise UserError(
            f"--window must be LEVEL,WIDTH, such as 2047.5,4095, {', '.join(WINDOWS)}, several of these joined by +, "
            f"or header, not {text!r}"
        ) from error
    check_window((level, width))
    return with_fallback((level, width)) if text.startswith("header,") else (level, width)


def check_window(window: Window) -> None:
    """Raise UserError unless there are 1 to 16 windows, levels and widths are finite and the widths are above 0."""
    if len(window) % 2 or not 0 < len(window) <= 2 * MAX_WINDOWS:
        raise UserError(f"--window needs a level and a width for each of 1 to {MAX_WINDOWS} windows, not {window}")
    for level, width in separate(window):
        if not (np.isfinite(level) and np.isfinite(width) and width > 0):
            raise UserError(f"--window LEVEL,WIDTH needs finite numbers and a width above 0, not {level:g},{width:g}")


def window_text(window: Window) -> str:
    """Return a range, or several, as `parse_window` reads it."""
    if is_joined(window):
        return "+".join(map(window_text, separate(window)))
    numbers = fallback(window)
    text = ",".join(repr(value).removesuffix(".0") for value in numbers or ())
    return f"header,{text}".rstrip(",") if is_header(window) else text


def describe(window: Window) -> str:
    """Return a range, or several, for a person."""
    if is_joined(window):
        ranges = (f"{level - width / 2:g} to {level + width / 2:g}" for level, width in separate(window))
        return f"{', '.join(ranges)}, a channel each (--window {window_text(window)})"
    numbers, own = fallback(window), "the file's own" if is_header(window) else ""
    if numbers is None:
        return f"{own} (--window header)"
    low, high = numbers[0] - numbers[1] / 2, numbers[0] + numbers[1] / 2
    bits = next((f", {bits} bits" for bits in _BIT_DEPTHS if bits_window(bits) == numbers), "")
    return f"{own and own + ', else '}{low:g} to {high:g}{bits} (--window {window_text(window)})"
