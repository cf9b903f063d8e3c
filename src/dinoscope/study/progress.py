"""How a run under way is doing, from the metrics file that it writes."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dinoscope.training.run_folder import METRICS


@dataclass(frozen=True)
class Reading:
    """The newest values; None before there are any.

    step: index of the optimiser step, from 0; epoch likewise. knn: top-1 in %.
    """

    step: int | None = None
    epoch: int | None = None
    loss: float | None = None
    images_per_second: float | None = None
    knn: float | None = None


class MetricsTail:
    """Reads what was added to a run's metrics.jsonl since the last look, so that looking often is cheap."""

    def __init__(self, run: Path) -> None:
        self.path = run / METRICS
        self.start_over(0)

    def start_over(self, inode: int) -> None:
        """Forget everything: the file is another one."""
        self.inode, self.offset, self.reading = inode, 0, Reading()

    def read(self) -> Reading:
        """The newest values. A run that goes on writes a new file, without the steps that it makes again."""
        try:
            with self.path.open("rb") as file:
                status = self.path.stat()
                if status.st_ino != self.inode or status.st_size < self.offset:
                    self.start_over(status.st_ino)
                file.seek(self.offset)
                added = file.read()
        except FileNotFoundError:
            return self.reading
        whole = added[: added.rfind(b"\n") + 1]
        self.offset += len(whole)
        for line in whole.splitlines():
            self.reading = _with(self.reading, json.loads(line))
        return self.reading


def _with(reading: Reading, line: dict[str, Any]) -> Reading:
    names = {"step": "step", "epoch": "epoch", "loss": "loss", "images_per_second": "images_per_second"}
    names |= {"knn_top1": "knn"}
    return replace(reading, **{ours: line[theirs] for theirs, ours in names.items() if theirs in line})
