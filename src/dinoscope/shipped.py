"""The model that travels with the package: what people see without a network and before they have trained."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

FOLDER = Path(str(resources.files("dinoscope"))) / "shipped_model"


def shipped_model() -> Path:
    """Folder of the shipped backbone (recipe `quickstart_long`); loads like any exported model."""
    return FOLDER


def shipped_card() -> dict[str, Any]:
    """How the shipped model was made and what was measured then: recipe, command, commit, machine, figures."""
    return json.loads((FOLDER / "card.json").read_text(encoding="utf-8"))
