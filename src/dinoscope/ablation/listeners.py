"""What listens to a run of an ablation study in its own process."""

from __future__ import annotations

import json
import signal
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from dinoscope.ablation.code_version import code_version
from dinoscope.ablation.early_stopping import COLLAPSE, Stopped, mark_stopped
from dinoscope.config import from_dict
from dinoscope.errors import UserError
from dinoscope.files import write_text
from dinoscope.methods.health import Verdict
from dinoscope.system import MemoryWatch, machine, pick_device
from dinoscope.training.listeners import Listener, RunStart
from dinoscope.types import Step

CIRCUMSTANCES = "circumstances.json"


@dataclass(frozen=True)
class Circumstances:
    """Under what a run was made; several where it was gone on with elsewhere or by other code.

    code: as `code_version` has it. machines: in words.
    peak_memory: bytes, the largest of its processes; None where it is not known. memory: what that figure is.
    """

    code: tuple[str, ...] = ()
    machines: tuple[str, ...] = ()
    peak_memory: int | None = None
    memory: str = ""


def read_circumstances(run: Path) -> Circumstances:
    """What `RunCircumstances` wrote; nothing is known of a run without. Raises UserError where the file is damaged."""
    file = run / CIRCUMSTANCES
    try:
        return from_dict(Circumstances, json.loads(file.read_text(encoding="utf-8")), str(file))
    except FileNotFoundError:
        return Circumstances()
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error


class RunCircumstances(Listener):
    """Keeps code, machine and peak memory of a run in its folder.

    Made before the run takes memory. device: as `pick_device` takes it.
    """

    def __init__(self, device: str) -> None:
        self.device = pick_device(device)
        self.memory = MemoryWatch(self.device)
        self.run: Path | None = None

    def started(self, start: RunStart) -> None:
        """Add this code and machine."""
        self.run = start.config.out
        known = read_circumstances(self.run)
        words = machine(self.device).line()
        self._write(
            replace(
                known,
                code=tuple(dict.fromkeys((*known.code, code_version()))),
                machines=tuple(dict.fromkeys((*known.machines, words))),
            )
        )

    def closed(self) -> None:
        """Add the peak of this process."""
        if self.run is None:
            return
        known, memory = read_circumstances(self.run), self.memory.read()
        if memory.peak is not None and memory.peak > (known.peak_memory or 0):
            self._write(replace(known, peak_memory=memory.peak, memory=memory.meaning))

    def _write(self, values: Circumstances) -> None:
        assert self.run is not None
        write_text(self.run / CIRCUMSTANCES, json.dumps(asdict(values), indent=2) + "\n")


class StopOnCollapse(Listener):
    """Ends the run, as SIGTERM does, when its method says that it has collapsed or stands still."""

    essential = True

    def started(self, start: RunStart) -> None:
        """Remember where the run is kept."""
        self.run = start.config.out

    def diagnosed(self, step: Step, verdict: Verdict) -> None:
        """Mark the run as stopped first: what comes after may be killed."""
        mark_stopped(self.run, Stopped(COLLAPSE, step.index + 1, verdict.text))
        signal.raise_signal(signal.SIGTERM)
