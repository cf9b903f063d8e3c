"""What a report is about: runs, with their settings, state, log and machine, and models."""

from __future__ import annotations

import contextlib
import functools
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from dinoscope import checkpoint
from dinoscope.data.finding import find_images, resolve_split
from dinoscope.errors import UserError
from dinoscope.evaluation.base import DEFAULT_CONTEXT, Context
from dinoscope.evaluation.compare import METHOD_NAMES, Comparison
from dinoscope.methods import build_method, method_name, shown_name
from dinoscope.methods.method import Method, MethodConfig
from dinoscope.model_names import Model, distinct
from dinoscope.models.backbone import BackboneConfig, network_title
from dinoscope.text import printable
from dinoscope.training.config import RunConfig
from dinoscope.training.run_folder import RunFolder, Session, read_config, read_metrics, read_sessions
from dinoscope.training.start import read_unreadable

_BETWEEN = "-_/. "
_WORDS = re.compile(rf"[^{re.escape(_BETWEEN)}]+[{re.escape(_BETWEEN)}]*|[{re.escape(_BETWEEN)}]+")
_START = re.compile(r"^(\S+ \S+?)(?:,\d+)? INFO training \S+ on (\d+) images", re.MULTILINE)
_WARNING = re.compile(r"^\S+ \S+ WARNING step (\d+): (.*)$", re.MULTILINE)


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
    warnings: of the training itself, as (step, sentence).
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
    warnings: tuple[tuple[int, str], ...]
    unreadable: dict[str, str]

    @property
    def network(self) -> str:
        return network_title(self.config.backbone).partition(" (")[0]

    @property
    def image_size(self) -> int:
        """Side in pixels of the images on which online k-NN measures the run."""
        return self.config.backbone_config.image_size

    @property
    def judge(self) -> Method:
        """The method with its settings and without weights: what it can do, and how it judges logged values."""
        return _without_weights(self.config.method, self.config.backbone_config, max(self.classes or 0, 2))

    def series(self, name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return a logged value over training: epochs passed, and values."""
        lines = [line for line in self.metrics if name in line]
        per_epoch = self.total_steps / self.config.epochs if self.total_steps else None
        epochs = tuple((line["step"] + 1) / per_epoch if per_epoch else line["epoch"] + 1 for line in lines)
        return epochs, tuple(line[name] for line in lines)

    def last(self, name: str) -> float | None:
        return next((line[name] for line in reversed(self.metrics) if name in line), None)


@functools.lru_cache(maxsize=16)
def _without_weights(config: MethodConfig, backbone: BackboneConfig, classes: int) -> Method:
    with torch.device("meta"):
        return build_method(config, backbone, classes)


@dataclass(frozen=True)
class Material:
    """What the sections of a report are made of.

    runs: labelled as the models. models: all that have weights. comparison: of these; None without any.
    pictures: whether to show images, which takes time.
    """

    runs: tuple[RunRecord, ...] = ()
    models: tuple[Model, ...] = ()
    comparison: Comparison | None = None
    context: Context = DEFAULT_CONTEXT
    pictures: bool = True

    @property
    def others(self) -> dict[str, str]:
        """Label of each model that is no run -> as it was given."""
        return {model.label: model.name for model in self.models if model.run is None}


def read_runs(paths: Sequence[Path]) -> list[RunRecord]:
    """Read every run folder; labels that would be the same are told apart by the folders above.

    Raises UserError if one is no run folder, or something in it is damaged.
    """
    labels = distinct([(path.resolve().name, path) for path in paths])
    return [_read_run(path, printable(label)) for path, label in zip(paths, labels, strict=True)]


def _read_run(path: Path, label: str) -> RunRecord:
    run, config, sessions, metrics = RunFolder(path), read_config(path), read_sessions(path), _metrics(path)
    try:
        log = run.log.read_text(encoding="utf-8", errors="surrogateescape") if run.log.exists() else ""
    except OSError as error:
        raise UserError(f"{run.log} cannot be read: {error}") from error
    began = _START.search(log)
    times = [session.seconds for session in sessions]
    recorded = None if not times or None in times else sum(filter(None, times))  # None: a session was killed
    return RunRecord(
        path,
        label,
        config,
        METHOD_NAMES.get(shown := shown_name(config.method), shown),
        method_name(config.method),
        *_progress(run, sessions, metrics),
        sessions[0].images if sessions else int(began[2]) if began else None,
        sessions[0].classes if sessions else _classes(config),
        recorded or _estimated_seconds(config, metrics),
        recorded is None,
        sessions[0].started if sessions else began[1] if began else "",
        sessions,
        metrics,
        tuple((int(step), text) for step, text in _WARNING.findall(log)),
        read_unreadable(run),
    )


def _metrics(path: Path) -> tuple[dict[str, float], ...]:
    damaged = f"{RunFolder(path).metrics} is damaged: a line of it"
    try:
        lines = read_metrics(path)
    except ValueError as error:
        raise UserError(f"{damaged} is not JSON ({error})") from error
    if any(not isinstance(line, dict) or "step" not in line for line in lines):
        raise UserError(f"{damaged} names no step")
    if any(not isinstance(value, int | float) for line in lines for value in line.values()):
        raise UserError(f"{damaged} holds a value that is no number")
    return tuple(lines)


def _progress(
    run: RunFolder, sessions: Sequence[Session], metrics: Sequence[dict[str, float]]
) -> tuple[int | None, int | None, Literal["finished", "stopped", "begun"]]:
    """Steps saved, steps in all, as far as they are known, and the state."""
    newest = checkpoint.newest_metadata(run.checkpoints)
    total = sessions[-1].total_steps if sessions else None
    if newest is not None:
        steps, total = int(newest.get("step", 0)), int(newest.get("total", 0)) or total
        return steps, total, "finished" if steps == total else "stopped"
    if not (run.exported / checkpoint.BACKBONE_WEIGHTS).is_file():
        return 0, total, "begun"
    # Whoever deletes the checkpoints of a finished run keeps its export. The last evaluation is that of the last step.
    steps = total or max((int(line["step"]) + 1 for line in metrics if "rank_me" in line), default=None)
    return steps, total, "finished"


def _estimated_seconds(config: RunConfig, metrics: Sequence[dict[str, float]]) -> float | None:
    speeds = [(line["step"], line["images_per_second"]) for line in metrics if line.get("images_per_second", 0) > 0]
    if len(speeds) < 2:
        return None
    pairs = itertools.pairwise([(-1, 0.0), *speeds])
    return sum((step - earlier) * config.batch_size / speed for (earlier, _), (step, speed) in pairs)


def _classes(config: RunConfig) -> int | None:
    with contextlib.suppress(UserError):
        return len(find_images(resolve_split(config.data, "train")).classes)
    return None


def told_apart(titles: Sequence[str]) -> list[str]:
    """Shorten titles to what tells them apart: without the words that all begin or end with."""
    words = [_WORDS.findall(title) for title in titles]
    spare = min(map(len, words), default=0) - 1
    if len(words) < 2 or spare < 1:
        return list(titles)
    start = min(_shared(words), spare)
    end = min(_shared([title[::-1] for title in words]), spare - start)
    short = ["".join(title[start : len(title) - end]).strip(_BETWEEN) for title in words]
    return short if all(short) and len(set(short)) == len(short) else list(titles)


def _shared(words: Sequence[Sequence[str]]) -> int:
    return len(list(itertools.takewhile(lambda column: len(set(column)) == 1, zip(*words, strict=False))))
