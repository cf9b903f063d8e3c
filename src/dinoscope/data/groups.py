"""Groups: images that belong together, of one patient, study, slide, well or video.

Images of one group are alike for other reasons than their class. If some are trained on and others measured, the
figure is too good. So splits, votes of neighbours, held-out images and intervals keep groups whole.

The name of a group may be that of a patient. It is turned into a number at once, and no number is written to a file.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Int64

from dinoscope.errors import UserError

COLUMNS = ("group", "patient", "study", "slide", "video")
"""Columns of a list that tell groups, the first that it has: a patient may have several studies and slides."""


def group_numbers(names: Iterable[str]) -> Int64[np.ndarray, " n"]:
    """Return a number for each name, 63 bits of its hash: the same in all sources, so that splits can be compared.

    Of a million groups, two get the same number with a probability of 5e-8. Names that differ in their Unicode form
    alone are one group.
    """
    return np.fromiter(map(_number, names), np.int64)


def _number(name: str) -> int:
    text = os.fsencode(unicodedata.normalize("NFC", name))
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def matched(keys: Iterable[str], pattern: str, source: str) -> Iterator[str]:
    """Yield what the one group in parentheses of a pattern matches in each key (`re.search`).

    A pattern is run as it is: one that takes exponential time, such as (a+)+$, is not stopped.

    Raises UserError if the pattern is none, has not exactly one group, or does not match a key.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--group {pattern!r} is no regular expression: {error}") from error
    if expression.groups != 1:
        raise UserError(
            f"--group {pattern!r} has {expression.groups} parts in parentheses, and needs exactly one, which names the "
            "group, such as '(?P<patient>[^/]+)/'; write other parentheses as (?:...)"
        )
    for key in keys:
        match = expression.search(key)
        if match is None or not match[1]:
            raise UserError(
                f"{source}: --group {pattern!r} finds no group in {key!r}. It is matched against the path below the "
                "folder of the images or of their split, and every image needs a group"
            )
        yield match[1]
