"""What is exported, and what an export leaves behind."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from dinoscope import __version__
from dinoscope.models.backbone import Backbone, without_drop_path
from dinoscope.settings import to_dict


@dataclass(frozen=True)
class Subject:
    """A model to export: its network in evaluation mode, and the run folder or file that it came from."""

    backbone: Backbone
    path: Path

    def description(self) -> str:
        """How to build the network again, and how to normalise its images, as JSON."""
        config = to_dict(without_drop_path(self.backbone.config))
        return json.dumps({"version": __version__, "backbone": config})
