"""What is exported, and what an export leaves behind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinoscope import __version__
from dinoscope.config import to_dict
from dinoscope.models.backbone import Backbone, without_drop_path


@dataclass(frozen=True)
class Subject:
    """A model to export: its network in evaluation mode, and the run folder or file that it came from.

    origin: whose weights they are, where they are not ours; see `Model`.
    """

    backbone: Backbone
    path: Path
    origin: Mapping[str, Any] | None = None

    def settings(self) -> dict[str, Any]:
        """How to build the network again, how to normalise its images, and where its weights are from."""
        origin = {} if self.origin is None else {"origin": dict(self.origin)}
        return {"backbone": to_dict(without_drop_path(self.backbone.config)), **origin}

    def description(self) -> str:
        """`settings` as JSON."""
        return json.dumps({"version": __version__, **self.settings()})
