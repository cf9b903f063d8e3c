"""Where things are kept that can always be made or fetched again: drawn scenes, scans, features, released weights."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

CACHE_VARIABLE = "DINOSCOPE_CACHE"

OFFLINE_VARIABLE = "DINOSCOPE_OFFLINE"
"""Set to anything but 0: nothing is fetched into it."""

MEGAPIXELS_VARIABLE = "DINOSCOPE_MAX_MEGAPIXELS"
"""How many million pixels an image may have; unset: see `data.image_header.pixel_limit`."""


def cache_folder(kind: str) -> Path:
    """The folder for one kind of thing, below $DINOSCOPE_CACHE or the user's cache folder. It need not exist yet."""
    root = os.environ.get(CACHE_VARIABLE)
    return (Path(root).expanduser() if root else Path(platformdirs.user_cache_dir("dinoscope"))) / kind
