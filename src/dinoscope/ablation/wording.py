"""Figures as text, for tables and sentences."""

from __future__ import annotations

from collections.abc import Sequence

from dinoscope.ablation.statistics import Difference
from dinoscope.evaluation.statistics import OverSeeds
from dinoscope.text import ABSENT

MINUS = "−"


def number(value: float, digits: int) -> str:
    """With a real minus sign; what rounds to zero has none."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if not text.strip("-0.") else text.replace("-", MINUS)


def signed(value: float, digits: int) -> str:
    """With its sign in any case."""
    text = number(value, digits)
    return f"+{text}" if value > 0 and text.strip("0.") else text


def with_deviation(found: OverSeeds | None, digits: int) -> str:
    """34.0 ± 0.8; of one value the value alone."""
    if found is None:
        return ABSENT
    deviation = "" if found.deviation is None else f" ± {found.deviation:.{digits}f}"
    return number(found.mean, digits) + deviation


def with_interval(found: Difference | None, digits: int) -> str:
    """−3.9 [−6.6, −1.2]; without an interval the difference alone."""
    if found is None:
        return ABSENT
    return signed(found.mean, digits) + interval(found, digits)


def interval(found: Difference, digits: int) -> str:
    """The interval in brackets behind a space; empty where there is none."""
    if found.low is None or found.high is None:
        return ""
    return f" [{number(found.low, digits)}, {number(found.high, digits)}]"


def listed(texts: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def counted(count: int, what: str) -> str:
    """1 seed, 3 seeds."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
