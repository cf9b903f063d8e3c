"""How labels travel from frame to frame: options that the commands on videos share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dinoscope.evaluation.window import PropagationConfig


@dataclass(frozen=True)
class PropagationOptions:
    """How labels travel from frame to frame. The defaults are DINO's for DAVIS."""

    size: int = 480
    """Short side at which the network sees a frame, in pixels: the larger, the finer the masks, and the slower."""

    context: int = 7
    """Frames before the current one that it is compared with, besides the first."""

    radius: int = 12
    """A patch is compared with those at most so many rows and columns of patches away."""

    top_k: int = 5
    """Most similar patches that count, over all frames together."""

    temperature: float = 0.1
    """A patch weighs exp(cosine similarity / temperature): the smaller, the more the most similar one counts."""

    device: str = "auto"
    """cpu, cuda, cuda:N or mps; auto takes the best there is."""

    def config(self) -> PropagationConfig:
        """The settings. Raises UserError for one that is out of range."""
        from dinoscope.evaluation.window import PropagationConfig, check_config

        config = PropagationConfig(self.size, self.context, self.radius, self.top_k, self.temperature)
        check_config(config)
        return config
