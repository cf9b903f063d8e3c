"""The pictures of the conformance suite have labels: supervised training is among the methods."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def picture_folder(picture_folder: Callable[..., Path]) -> Callable[..., Path]:
    """As everywhere, with two classes."""
    return functools.partial(picture_folder, classes=2)
