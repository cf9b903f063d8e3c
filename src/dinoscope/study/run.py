"""The engine: many jobs, some at once, each brought to its end. What is done is read from their folders only.

A job is the settings of a run or an evaluation; what starts it is a runner: processes of this machine, SLURM, this
process itself, functions in a test.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from dinoscope.config import from_dict, to_dict
from dinoscope.errors import UserError
from dinoscope.files import write_text
from dinoscope.study.state import Stopped, mark_stopped, run_state
from dinoscope.system import available_cores, stop_signals
from dinoscope.training.config import RunConfig
from dinoscope.training.run_folder import read_metrics

WORKER = (sys.executable, "-m", "dinoscope.cli.worker", "--stop-with-stdin")
"""The process of one run; the file of its settings is the last argument."""
POLL_SECONDS = 0.1
"""Pause between two looks at the processes."""
STOP_CODES = (130, -signal.SIGTERM)
"""Exit codes of a run that a signal stopped: after its checkpoint, or before there was anything to save."""
KILLED = 1 if sys.platform == "win32" else -signal.SIGKILL
"""Exit code of a process that `Handle.kill` ended."""
MAX_LOG_LINES, MAX_LOG_BYTES = 12, 64 * 1024
"""Lines and bytes at the end of a log that are read to diagnose a failed run."""


@runtime_checkable
class Handle(Protocol):
    """A job under way."""

    def poll(self) -> int | None:
        """Return the exit code (0: finished), or None while it runs."""
        ...

    def stop(self) -> None:
        """Ask it to write a checkpoint and end."""
        ...

    def kill(self) -> None: ...

    def diagnosis(self) -> str:
        """Return why it failed, for a person."""
        ...


@runtime_checkable
class Runner(Protocol):
    """What starts jobs. at_once: limit of jobs under way at the same time."""

    at_once: int

    def start(self, configs: Sequence[Any]) -> Sequence[Handle]:
        """Start these, at most `at_once` less those under way, each beginning or continuing by itself."""
        ...


@dataclass
class RunStatus:
    """One job of the study, while it is executed.

    config: the job, such as the settings of a run; its `out` is a path that no two jobs share.
    state: new, running, finished, failed, or stopped (by a signal, with what it did saved).
    before: whether it was finished already when the study began.
    began, ended: of time.monotonic(), while and after this study ran it.
    diagnosis: of a failure.
    handle: while it is under way.
    """

    config: Any
    state: Literal["new", "running", "finished", "failed", "stopped"] = "new"
    before: bool = False
    began: float | None = None
    ended: float | None = None
    diagnosis: str = ""
    handle: Handle | None = None

    @property
    def name(self) -> str:
        return self.config.out.name

    @property
    def seconds(self) -> float | None:
        """Time that this study has spent on it, until now if it is under way; None if it was not started."""
        return None if self.began is None else (self.ended or time.monotonic()) - self.began


@dataclass(frozen=True)
class StudyResult:
    """Every job in the order given, and whether a signal to this process ended the study before its end."""

    runs: list[RunStatus]
    interrupted: bool

    def named(self, *states: str) -> list[RunStatus]:
        return [run for run in self.runs if run.state in states]


Watch = Callable[[Sequence[RunStatus]], object]


def execute(
    jobs: Sequence[Any],
    runner: Runner,
    watch: Watch = lambda _: None,
    finished: Callable[[Any], bool] = lambda config: run_state(config).name == "finished",
    *,
    catch_signals: bool = True,
) -> StudyResult:
    """Bring every job to its end, in the order given. A failure is noted and the others continue.

    watch: called at the start and after every look at the jobs; it decides itself how often to show something.
    finished: whether a job was finished before, and is left alone; the default is that of a run.
    catch_signals: SIGINT or SIGTERM stops the jobs under way and starts no more; a second one kills them. False leaves
        signals alone, for jobs within this process.

    Raises UserError if two jobs share a folder, or a folder holds another run; nothing was started then.
    """
    for folder, number in Counter(job.out.absolute() for job in jobs).items():
        if number > 1:
            raise UserError(f"two runs of the study would write to {folder}: each needs a folder of its own")
    runs = [RunStatus(job) for job in jobs]
    for run in runs:
        if finished(run.config):
            run.state, run.before = "finished", True
    obeyed = 0
    with stop_signals() if catch_signals else contextlib.nullcontext(list[int]()) as received:
        try:
            watch(runs)
            while any(run.state == "running" or (run.state == "new" and not obeyed) for run in runs):
                if len(received) > obeyed:  # the first signal is passed on as a request, later ones as an order
                    for handle in _handles(runs):
                        (handle.kill if obeyed else handle.stop)()
                    obeyed = len(received)
                changed = _collect(runs, killed=obeyed > 1) + (0 if received else _launch(runs, runner))
                watch(runs)
                if not changed:
                    time.sleep(POLL_SECONDS)
        finally:
            for handle in _handles(runs):  # only after an exception
                handle.stop()
    return StudyResult(runs, interrupted=bool(received))


def _handles(runs: Sequence[RunStatus]) -> list[Handle]:
    return [run.handle for run in runs if run.handle is not None]


def _launch(runs: Sequence[RunStatus], runner: Runner) -> int:
    chosen = [run for run in runs if run.state == "new"][: max(runner.at_once - len(_handles(runs)), 0)]
    if chosen:
        for run, handle in zip(chosen, runner.start([run.config for run in chosen]), strict=True):
            run.state, run.began, run.handle = "running", time.monotonic(), handle
    return len(chosen)


def _collect(runs: Sequence[RunStatus], *, killed: bool) -> int:
    ended = 0
    for run in runs:
        if run.handle is None or (code := run.handle.poll()) is None:
            continue
        ended, handle, run.handle, run.ended = ended + 1, run.handle, None, time.monotonic()
        if code == 0:
            run.state = "finished"
        elif code in STOP_CODES or (killed and code == KILLED):
            run.state = "stopped"
        else:
            run.state, run.diagnosis = "failed", handle.diagnosis() or f"exit code {code}, without a message"
    return ended


# Stopping runs that fall behind


WARM_UP = 0.25
"""Share of its epochs in which the median rule leaves a run alone: first places of learning curves cross often."""
MIN_OTHERS = 3
"""Runs that must have come as far, for their median to mean anything."""
LOOK_SECONDS = 5.0
"""Between two looks of the median rule at the metrics files."""
Curve = Mapping[int, float]
"""Epoch -> online k-NN top-1 in %, of every evaluation."""


class MedianRule:
    """Stops runs that fall behind the others (Golovin et al. 2017, Vizier, section 3.2.2); a `Watch` of `execute`.

    Vizier compares with completed trials at the same step; here with all others that have come as far, at the same
    epoch, since batch sizes differ. What is stopped depends on the order in which runs advance.

    spared: names of runs that are never stopped (the baseline). earlier: folders of runs that had ended before.
    """

    def __init__(self, spared: Collection[str], earlier: Sequence[Path] = ()) -> None:
        self.spared = spared
        self.curves = {run.name: knn_curve(run) for run in earlier}
        self.stopped: set[str] = set()
        self.looked = float("-inf")

    def __call__(self, runs: Sequence[RunStatus]) -> None:
        if time.monotonic() - self.looked < LOOK_SECONDS:
            return
        self.looked = time.monotonic()
        for run in runs:
            if run.state == "running" or (run.state == "finished" and run.name not in self.curves):
                self.curves[run.name] = knn_curve(run.config.out)
        for run in runs:
            if run.state != "running" or run.handle is None or run.name in {*self.spared, *self.stopped}:
                continue
            others = [curve for name, curve in self.curves.items() if name != run.name]
            verdict = behind(self.curves[run.name], others, WARM_UP * run.config.epochs)
            if verdict is not None:
                self.stopped.add(run.name)
                steps = int(read_metrics(run.config.out)[-1]["step"]) + 1
                mark_stopped(run.config.out, Stopped("stop-median", steps, verdict))
                run.handle.stop()


def knn_curve(run: Path) -> Curve:
    return {int(line["epoch"]): line["knn_top1"] for line in read_metrics(run) if "knn_top1" in line}


def behind(own: Curve, others: Sequence[Curve], warm_up: float) -> str | None:
    """Return in words that a run's best value so far is below the median of the others' mean values so far, or None.

    own: of the run. others: of all other runs, of which those count that have come as far. warm_up: epochs.
    """
    if not own or (epoch := max(own)) + 1 < warm_up:
        return None
    means = [
        statistics.fmean(value for at, value in curve.items() if at <= epoch)
        for curve in others
        if curve and max(curve) >= epoch and min(curve) <= epoch
    ]
    if len(means) < MIN_OTHERS or (best := max(own.values())) >= (median := statistics.median(means)):
        return None
    return (
        f"its best k-NN until epoch {epoch + 1} is {best:.1f} %, below {median:.1f} %, the median of the means of "
        f"{len(means)} other runs until then"
    )


# A run in a process of its own, on this machine


class WorkerProcess:
    """A process that brings one run to its end: `COMMAND... SETTINGS.json`.

    Its exit code is 0 for a finished run, 130 for one that a signal stopped. Its standard input is a pipe that
    nothing is ever written to: it ends with this process, however that dies, so that the worker can stop as well.
    It has a session of its own, because Ctrl-C must reach it once, by `stop`, and not twice.
    """

    def __init__(self, command: Sequence[str], config: RunConfig, environment: Mapping[str, str]) -> None:
        self.log = sibling(config.out, "log")
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
        return self.process.poll()

    def stop(self) -> None:
        if sys.platform == "win32":  # there, to terminate is to kill; the end of its standard input is a request
            assert self.process.stdin is not None
            self.process.stdin.close()
        else:
            self.process.terminate()

    def kill(self) -> None:
        self.process.kill()

    def diagnosis(self) -> str:
        """Return the last lines that it printed, or the signal that killed it."""
        code = self.process.poll()
        if code is not None and code < 0:
            hint = " (the machine may be out of memory)" if code == -9 else ""
            return f"killed by signal {-code}{hint}"
        return last_lines(self.log, self.begin)


class LocalRunner:
    """Starts runs on this machine.

    command: what brings the run of a settings file, its last argument, to its end.
    gpus: names for CUDA_VISIBLE_DEVICES, of which each run gets the least used one; empty: all runs see all.
    """

    def __init__(self, command: Sequence[str], at_once: int, gpus: Sequence[str] = ()) -> None:
        self.command, self.at_once = tuple(command), at_once
        self.on: dict[str, list[WorkerProcess]] = {gpu: [] for gpu in gpus}

    def start(self, configs: Sequence[RunConfig]) -> list[WorkerProcess]:
        return [self._start(config) for config in configs]

    def _start(self, config: RunConfig) -> WorkerProcess:
        # Set before any library starts its threads; a run without a number of its own gets its share of the cores.
        environment = {"OMP_NUM_THREADS": str(config.threads or max(available_cores() // self.at_once, 1))}
        if not self.on:
            return WorkerProcess(self.command, config, environment)
        gpu = min(self.on, key=lambda name: sum(process.poll() is None for process in self.on[name]))
        process = WorkerProcess(self.command, config, environment | {"CUDA_VISIBLE_DEVICES": gpu})
        self.on[gpu].append(process)
        return process


def sibling(run: Path, ending: str) -> Path:
    """Return NAME.ending next to the run folder NAME: it outlives the folder, and is there before it."""
    return run.with_name(f"{run.name}.{ending}")


def write_settings(config: RunConfig) -> Path:
    """Write the settings next to the run folder, for another process; return the file. Raises UserError."""
    file = sibling(config.out, "settings.json")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(to_dict(config), indent=2) + "\n")
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error}. Choose another --out") from error
    return file


def read_settings(file: Path) -> RunConfig:
    """Return what `write_settings` wrote, to the last bit. Raises UserError if the file is missing or another."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    return from_dict(RunConfig, values, str(file))


def last_lines(log: Path, begin: int = 0) -> str:
    """Return the last lines of a log, from byte `begin` on; empty if there is none."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(begin, size - MAX_LOG_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.strip().splitlines()[-MAX_LOG_LINES:])
