"""The model that travels with the package: what people see without a network and before they have trained."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

FOLDER = Path(str(resources.files("dinoscope"))) / "shipped_model"


def shipped_model() -> Path:
    """Folder of the shipped backbone (recipe `quickstart_long`); loads like any exported model.

    Its card.json says how it was made and what was measured then: recipe, command, commit, machine, figures.
    """
    return FOLDER
