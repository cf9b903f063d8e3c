"""A run in a process of its own, on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from dinoscope.config import from_dict, to_dict
from dinoscope.errors import UserError
from dinoscope.files import write_text
from dinoscope.training.config import RunConfig

LAST_LINES, LAST_BYTES = 12, 64 * 1024
"""Of a log, for the diagnosis of a run that failed."""


def beside(run: Path, ending: str) -> Path:
    """The file NAME.ending beside the run folder NAME: it outlives the folder, and is there before it."""
    return run.with_name(f"{run.name}.{ending}")


def write_settings(config: RunConfig) -> Path:
    """Write the settings beside the run folder, for `read_settings` in another process. Returns the file.

    Raises UserError where that is impossible.
    """
    file = beside(config.out, "settings.json")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(to_dict(config), indent=2) + "\n")
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error}. Choose another --out") from error
    return file


def read_settings(file: Path) -> RunConfig:
    """The settings that `write_settings` wrote, the same to the last bit.

    Raises UserError where the file is missing or is not one of them.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    return from_dict(RunConfig, values, str(file))


class WorkerProcess:
    """A process that brings one run to its end: `COMMAND... SETTINGS.json`.

    Its exit code is 0 for a finished run, 130 for one that a signal stopped. Its standard input is a pipe that
    nothing is ever written to: it ends with this process, however that dies, so that the worker can stop as well.
    It has a session of its own, because Ctrl-C must reach it once, by `stop`, and not twice.
    """

    def __init__(self, command: Sequence[str], config: RunConfig, environment: Mapping[str, str]) -> None:
        self.log = beside(config.out, "log")
        settings = write_settings(config)
        with self.log.open("ab") as log:
            self.begin = log.tell()
            self.process = subprocess.Popen(
                [*command, str(settings)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # the same on Windows
            )

    def poll(self) -> int | None:
        """Exit code, or None while it runs."""
        return self.process.poll()

    def stop(self) -> None:
        """Ask it to write a checkpoint and end."""
        if sys.platform == "win32":  # there, to terminate is to kill; the end of its standard input is a request
            assert self.process.stdin is not None
            self.process.stdin.close()
        else:
            self.process.terminate()

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()

    def diagnosis(self) -> str:
        """The last lines that it printed, or by what it was killed."""
        code = self.process.poll()
        if code is not None and code < 0:
            hint = " (the machine may be out of memory)" if code == -9 else ""
            return f"killed by signal {-code}{hint}"
        return last_lines(self.log, self.begin)


class LocalRunner:
    """Runs on this machine.

    Args:
        command: what brings the run of a settings file, its last argument, to its end.
        at_once: number of runs at the same time.
        gpus: names for CUDA_VISIBLE_DEVICES, of which each run gets the least used one; empty: all runs see all.
    """

    def __init__(self, command: Sequence[str], at_once: int, gpus: Sequence[str] = ()) -> None:
        self.command, self.at_once, self.gpus = tuple(command), at_once, tuple(gpus)
        self.on: dict[str, list[WorkerProcess]] = {gpu: [] for gpu in gpus}

    def start(self, configs: Sequence[RunConfig]) -> list[WorkerProcess]:
        """A process for each."""
        return [self._start(config) for config in configs]

    def _start(self, config: RunConfig) -> WorkerProcess:
        # Set before any library starts its threads; a run that does not say how many gets its share of the cores.
        environment = {"OMP_NUM_THREADS": str(config.threads or max(cores() // self.at_once, 1))}
        if not self.gpus:
            return WorkerProcess(self.command, config, environment)
        gpu = min(self.gpus, key=lambda name: sum(process.poll() is None for process in self.on[name]))
        process = WorkerProcess(self.command, config, environment | {"CUDA_VISIBLE_DEVICES": gpu})
        self.on[gpu].append(process)
        return process


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def last_lines(log: Path, begin: int = 0) -> str:
    """The last lines of a log, from byte `begin` on; empty where there is none."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(begin, size - LAST_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.strip().splitlines()[-LAST_LINES:])
