"""What a report is about: runs, with their settings, state, log and machine, and models with their titles."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dinoscope import checkpoint
from dinoscope.data.sources import find_images, resolve_split
from dinoscope.errors import UserError
from dinoscope.evaluation.compare import METHOD_NAMES, Comparison, Measuring
from dinoscope.methods import method_name, shown_name
from dinoscope.model_names import Model, distinct
from dinoscope.models.backbone import network_title
from dinoscope.text import printable
from dinoscope.training.config import RunConfig
from dinoscope.training.run_folder import RunFolder, Session, read_config, read_metrics, read_sessions
from dinoscope.training.start import read_unreadable

_BETWEEN = "-_/. "
_WORDS = re.compile(rf"[^{re.escape(_BETWEEN)}]+[{re.escape(_BETWEEN)}]*|[{re.escape(_BETWEEN)}]+")
_BEGAN = re.compile(r"^(\S+ \S+?)(?:,\d+)? INFO training \S+ on (\d+) images")
_SAID = re.compile(r"^\S+ \S+ WARNING step (\d+): (.*)$")


@dataclass(frozen=True)
class RunRecord:
    """One run. What is not recorded, as in runs from before it was, is None or empty.

    label: short, and unique in a report.
    method: as the field writes it; method_key: name in `METHODS`.
    steps, total_steps: optimiser steps that are saved, and of the whole run.
    state: finished, stopped (saved on the way) or begun (nothing saved yet: there are no weights to look at).
    images, classes: of the training images; 0 classes: no labels.
    seconds: of training, over all its sessions; estimated: from the speeds that were logged.
    started: when it began, in words.
    metrics: lines of metrics.jsonl.
    said: warnings of the training itself, as (step, sentence).
    unreadable: names of files that were left out -> why.
    """

    path: Path
    label: str
    config: RunConfig
    method: str
    method_key: str
    steps: int | None
    total_steps: int | None
    state: Literal["finished", "stopped", "begun"]
    images: int | None
    classes: int | None
    seconds: float | None
    estimated: bool
    started: str
    sessions: tuple[Session, ...]
    metrics: tuple[dict[str, float], ...]
    said: tuple[tuple[int, str], ...]
    unreadable: dict[str, str]

    @property
    def architecture(self) -> str:
        """The network as the field writes it, with the name that it has here where that differs."""
        shown = network_title(self.config.backbone)
        return shown if shown == self.config.backbone else f"{shown} ({self.config.backbone})"

    @property
    def network(self) -> str:
        """The network as the field writes it, without what is in brackets."""
        return self.architecture.partition(" (")[0]

    @property
    def image_size(self) -> int:
        """Side in pixels of the images on which online k-NN measures the run."""
        return self.config.backbone_config.image_size

    def series(self, name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """A logged value over training: epochs passed, and values."""
        found = [line for line in self.metrics if name in line]
        per_epoch = self.total_steps / self.config.epochs if self.total_steps else None
        epochs = tuple((line["step"] + 1) / per_epoch if per_epoch else line["epoch"] + 1 for line in found)
        return epochs, tuple(line[name] for line in found)

    def last(self, name: str) -> float | None:
        """The last that was logged of a value."""
        values = self.series(name)[1]
        return values[-1] if values else None


@dataclass(frozen=True)
class Material:
    """What the sections of a report are made of.

    runs: labelled as in `titles`. models: all that have weights. comparison: of these; None without any.
    pictures: whether to show images, which takes time.
    """

    runs: tuple[RunRecord, ...] = ()
    models: tuple[Model, ...] = ()
    comparison: Comparison | None = None
    measuring: Measuring = field(default_factory=Measuring)
    pictures: bool = True

    @property
    def titled(self) -> list[tuple[Model, str]]:
        """Each model with its label, as it can be shown."""
        return [(model, printable(model.label)) for model in self.models]

    @property
    def titles(self) -> list[str]:
        """Labels of the models."""
        return [title for _, title in self.titled]

    @property
    def others(self) -> dict[str, str]:
        """Label of each model that is no run -> as it was given."""
        return {title: model.name for model, title in self.titled if model.run is None}


def read_runs(paths: Sequence[Path]) -> list[RunRecord]:
    """Read every run folder; labels that would be the same are told apart by the folders above.

    Raises UserError if one is no run folder, or something in it is damaged.
    """
    labels = distinct([(path.resolve().name, path) for path in paths])
    return [read_run(path, printable(label)) for path, label in zip(paths, labels, strict=True)]


def read_run(path: Path, label: str) -> RunRecord:
    """Read one run folder. Raises UserError as `read_runs` does."""
    run, config, sessions = RunFolder(path), read_config(path), read_sessions(path)
    log = _text(run.log).splitlines()
    began = next((found for line in log if (found := _BEGAN.match(line))), None)
    metrics = _metrics(path)
    steps, total, state = _progress(run, sessions, metrics)
    images = sessions[0].images if sessions else int(began[2]) if began else None
    recorded = _recorded_seconds(sessions)
    return RunRecord(
        path,
        label,
        config,
        METHOD_NAMES.get(shown := shown_name(config.method), shown),
        method_name(config.method),
        steps,
        total,
        state,
        images,
        sessions[0].classes if sessions else _classes(config),
        recorded or _estimated_seconds(config, metrics),
        recorded is None,
        sessions[0].started if sessions else began[1] if began else "",
        sessions,
        metrics,
        tuple((int(found[1]), found[2]) for line in log if (found := _SAID.match(line))),
        read_unreadable(run),
    )


def _progress(
    run: RunFolder, sessions: Sequence[Session], metrics: Sequence[dict[str, float]]
) -> tuple[int | None, int | None, Literal["finished", "stopped", "begun"]]:
    """Steps saved, steps in all, as far as they are known, and the state."""
    newest = checkpoint.newest_metadata(run.checkpoints)
    total = sessions[-1].total_steps if sessions else None
    if newest is None:
        if not (run.exported / checkpoint.BACKBONE_WEIGHTS).is_file():
            return 0, total, "begun"
        # Whoever deletes the checkpoints of a finished run keeps its export.
        # The last evaluation is that of the last step.
        steps = total or max((int(line["step"]) + 1 for line in metrics if "rank_me" in line), default=None)
        return steps, total, "finished"
    steps, total = int(newest.get("step", 0)), int(newest.get("total", 0)) or total
    return steps, total, "finished" if steps == total else "stopped"


def _metrics(path: Path) -> tuple[dict[str, float], ...]:
    try:
        lines = read_metrics(path)
    except ValueError as error:
        raise UserError(f"{RunFolder(path).metrics} is damaged: a line of it is not JSON ({error})") from error
    if any(not isinstance(line, dict) or "step" not in line for line in lines):
        raise UserError(f"{RunFolder(path).metrics} is damaged: a line of it names no step")
    if any(not isinstance(value, int | float) for line in lines for value in line.values()):
        raise UserError(f"{RunFolder(path).metrics} is damaged: a value in it is no number")
    return tuple(lines)


def _recorded_seconds(sessions: Sequence[Session]) -> float | None:
    """Of all sessions; None if one was killed, so that its time is not known."""
    seconds = [session.seconds for session in sessions]
    return sum(each or 0.0 for each in seconds) if seconds and None not in seconds else None


def _estimated_seconds(config: RunConfig, metrics: Sequence[dict[str, float]]) -> float | None:
    """From the speeds that were logged; evaluations are not in them."""
    speeds = [(line["step"], line["images_per_second"]) for line in metrics if line.get("images_per_second", 0) > 0]
    if len(speeds) < 2:
        return None
    steps = [speeds[0][0] + 1, *(late - early for (early, _), (late, _) in itertools.pairwise(speeds))]
    return sum(count * config.batch_size / speed for count, (_, speed) in zip(steps, speeds, strict=True))


def _classes(config: RunConfig) -> int | None:
    """Of the images that are there now; None if they are not."""
    with contextlib.suppress(UserError):
        return len(find_images(resolve_split(config.data, "train")).classes)
    return None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error}") from error


def told_apart(titles: Sequence[str]) -> list[str]:
    """Shorten titles to what tells them apart: without the words that all begin or end with."""
    words = [_WORDS.findall(title) for title in titles]
    least = min(map(len, words), default=0)
    if len(words) < 2 or least < 2:
        return list(titles)
    first = next((at for at in range(least) if len({each[at] for each in words}) > 1), least - 1)
    last = next((at for at in range(1, least - first) if len({each[-at] for each in words}) > 1), least - first)
    short = ["".join(each[first : len(each) - last + 1]).strip(_BETWEEN) for each in words]
    return short if all(short) and len(set(short)) == len(short) else list(titles)
