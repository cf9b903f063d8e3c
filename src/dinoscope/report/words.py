"""Numbers, durations and lists as a person reads them."""

from __future__ import annotations

from collections.abc import Sequence

ABSENT = "–"


def count(number: float | None) -> str:
    """A whole number with its thousands apart; a dash where it is not known."""
    return ABSENT if number is None else f"{number:,.0f}"


def figure(number: float | None, digits: int = 1) -> str:
    """With so many digits after the point; a dash where there is none."""
    return ABSENT if number is None else f"{number:.{digits}f}"


def percent(number: float | None) -> str:
    """Of a share."""
    return ABSENT if number is None else f"{100 * number:.0f} %"


def duration(seconds: float | None, *, coarse: bool = False) -> str:
    """In the two largest units that say something; coarse: minutes without their seconds, as of an estimate."""
    if seconds is None:
        return "not recorded"
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes, rest = (round(seconds / 60), 0) if coarse else divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min" + (f" {rest} s" if minutes < 10 and not coarse else "")
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24} h"


def listed(names: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
