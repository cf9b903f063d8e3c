"""The page without a mouse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

TRIES = 6
_WAIT = 20_000  # ms


def go_to(page: Any, target: Any, key: str = "Tab") -> None:
    """Press a key until something has the focus."""
    for _ in range(100):
        if target.evaluate("each => each === document.activeElement"):
            return
        page.keyboard.press(key)
    pytest.fail(f"{key} does not reach {target}")


def choose_file(page: Any, target: Any, file: Path) -> None:
    """Choose a file with the field that has the target. Again, if the field was drawn anew just then."""
    from playwright.sync_api import TimeoutError as NoChooser

    for _ in range(TRIES):
        go_to(page, target)
        try:
            with page.expect_file_chooser(timeout=_WAIT) as chooser:
                page.keyboard.press("Enter")
        except NoChooser:
            continue
        chooser.value.set_files(str(file))
        return
    pytest.fail(f"Enter opens no choice of files on {target}")
