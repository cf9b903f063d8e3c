"""The tab for trainings: curves, health, state and attention of one run or two, of which any may still be trained.

Only folders that the page was started with are looked at; whoever visits it chooses among the names of their runs.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gradio as gr
from jaxtyping import UInt8
from numpy import ndarray

from dinoscope.demo.languages import Language, data_file, preferred
from dinoscope.demo.site import LIGHT, NOTHING, Dropdown, Site, chosen_models, literal
from dinoscope.errors import UserError
from dinoscope.explain.history import FOLDER, AttentionHistory, Snapshot, read_history
from dinoscope.files import RUN_SETTINGS
from dinoscope.methods.method import FEATURES, TEACHER_AND_STUDENT
from dinoscope.model_names import distinct, runs_at
from dinoscope.pictures import Tile, bands, fitted, overlay, overlay_legend, page, per_band
from dinoscope.report.runs import RunRecord, read_runs
from dinoscope.report.sections.curves import LOSS, galleries
from dinoscope.report.sections.health import findings
from dinoscope.text import count, duration, printable, translated
from dinoscope.training.run_folder import MACHINE, METRICS, RunFolder, is_in_training

REFRESH_SECONDS = 5
"""Between looks at a run that is in training. A look costs little as long as nothing was written."""

_FIGURES = (LOSS, TEACHER_AND_STUDENT, FEATURES)
_OUTPUTS = 11  # of `TrainingTab._draw`
_PER_ROW, _TILE = 3, 190  # images of a picture, pixels
_STROKES = {"-": "solid", ":": "dotted"}  # of matplotlib -> of CSS
_UNREADABLE = (UserError, OSError, ValueError, TypeError, KeyError, RecursionError)
"""What a folder raises whose files are damaged, half-written, of another version or just being replaced."""

Stamp = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Look:
    """A run as it is now.

    record: None if it cannot be read, for this reason. history: None if there is none, or it cannot be read.
    """

    label: str
    path: Path
    stamp: Stamp
    in_training: bool
    record: RunRecord | None
    history: AttentionHistory | None
    reason: str = ""
    history_reason: str = ""

    @property
    def snapshots(self) -> tuple[Snapshot, ...]:
        return () if self.history is None else self.history.snapshots


@dataclass(frozen=True)
class Runs:
    """The runs that may be shown: places that are run folders, and the runs in places that are not.

    They are looked for each time, because a training may begin while the page is open.
    """

    places: tuple[Path, ...]
    _drawing: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def found(self) -> dict[str, Path]:
        """Return the run folders by short unique names, the newest first."""
        begun: dict[Path, float] = {}
        for place in self.places:
            for run in runs_at(place):
                with contextlib.suppress(OSError):  # it may just be removed
                    begun.setdefault(run.resolve(), (run / RUN_SETTINGS).stat().st_mtime)
        folders = sorted(begun, key=lambda folder: -begun[folder])
        return dict(zip(distinct([(folder.name, folder) for folder in folders]), folders, strict=True))

    def look(self, names: Sequence[str]) -> list[Look]:
        """Read runs by their names; unknown ones are left out."""
        found = self.found()
        return [_look(name, found[name]) for name in names if name in found]

    def curves(self, looks: Sequence[Look], language: Language) -> str:
        """Draw the curves of the runs that could be read, as HTML."""
        runs = tuple((look.path, look.label, look.stamp) for look in looks if look.record is not None)
        with self._drawing:  # many may wait for the same picture
            return _curves(runs, language)


def _look(label: str, path: Path) -> Look:
    look = Look(label, path, _stamp(path), is_in_training(path), None, None)
    try:
        look = replace(look, history=_history(path, look.stamp))
    except _UNREADABLE as error:
        look = replace(look, history_reason=_reason(error, path, label))
    try:
        record = _record(path, label, look.stamp)
        findings(record)  # values may be missing that a rule needs
    except _UNREADABLE as error:
        return replace(look, reason=_reason(error, path, label))
    return replace(look, record=record)


def _reason(error: Exception, path: Path, label: str) -> str:
    # not where the run lies on this machine
    return printable(str(error).replace(str(path), label) if isinstance(error, UserError) else type(error).__name__)


def _stamp(path: Path) -> Stamp:
    """What changes when anything changes that is read of a run."""
    run = RunFolder(path)
    changed: list[tuple[int, int]] = []
    for file in (path / RUN_SETTINGS, path / MACHINE, path / METRICS, run.log, run.checkpoints, path / FOLDER):
        try:
            status = file.stat()
            changed.append((status.st_mtime_ns, status.st_size))
        except OSError:
            changed.append((0, 0))
    return tuple(changed)


@functools.lru_cache(maxsize=16)
def _record(path: Path, label: str, stamp: Stamp) -> RunRecord:
    (record,) = read_runs([path])
    # not where the run lies on this machine
    return replace(record, label=printable(label), path=Path(label))


@functools.lru_cache(maxsize=16)
def _history(path: Path, stamp: Stamp) -> AttentionHistory | None:
    return read_history(path)


@functools.lru_cache(maxsize=16)
def _curves(runs: tuple[tuple[Path, str, Stamp], ...], language: Language) -> str:
    records = [_record(*run) for run in runs]
    drawn = galleries(records, lambda done, total: None, _FIGURES, lambda text: translated(text, catalogue(language)))
    parts: list[str] = []
    for gallery in drawn:
        parts.append("<div class='charts'>")
        for figure in gallery.figures:
            alt = _text(f"{figure.alt}: {', '.join(record.label for record in records)}")
            parts.append(f'<img src="{figure.source}" alt="{alt}">')
        parts.append("</div>")
        if gallery.legend:
            parts.append("<ul class='legend'>")
            for line in gallery.legend:
                stroke = f"border-top: 3px {_STROKES.get(line.style, 'dashed')} {line.color}"
                parts.append(f'<li><span style="{stroke}"></span>{_text(line.label)}</li>')
            parts.append("</ul>")
        parts.append(f"<p class='small'>{_text(gallery.caption)}</p>")
    return "".join(parts)


@functools.cache
def catalogue(language: Language) -> Mapping[str, str]:
    """Return the sentences of the report in a language: English text or template -> the same in that language."""
    return {} if language == "en" else tomllib.loads(data_file(f"report.{language}.toml"))


class TrainingTab:
    """The tab's components and handlers; build it inside `tab`."""

    def __init__(self, site: Site, runs: Runs, tab: gr.Tab) -> None:
        self.site, self.runs = site, runs
        word = site.words.label
        if not runs.places:
            gr.Markdown(word("training_none"), elem_id="training-none")
            return
        gr.Markdown(word("training_hint"), elem_classes="hint")
        self.nothing = (word("image_no_second"), NOTHING)
        with gr.Row():
            self.first = Dropdown([], label=word("training_run"), filterable=False, elem_id="training-first")
            self.second = Dropdown(
                [self.nothing],
                value=NOTHING,
                label=word("training_second"),
                filterable=False,
                elem_id="training-second",
            )
        self.state = gr.HTML(elem_id="training-state", js_on_load=None)
        # the snapshot, from 1
        self.place = site.slider("training_place", 1, 2, 2, step=1, visible=False, elem_id="training-place")
        with gr.Row():
            columns = [self._build_column(f"training-{name}-run") for name in ("first", "second")]
        self.curves = gr.HTML(elem_id="training-curves", js_on_load=None)
        self.timer = gr.Timer(REFRESH_SECONDS, active=False)
        self.shown = gr.State(((), 0))  # what is shown: stamps, and the number of snapshots

        pictures = [component for column in columns for component in column]
        chosen = [self.first, self.second, self.place, self.shown]
        drawn = [self.state, self.curves, self.place, *pictures, self.timer, self.shown]
        tab.select(self.open, chosen, [self.first, self.second, *drawn], **LIGHT)
        for menu in (self.first, self.second):
            menu.input(self.choose, chosen, drawn, **LIGHT)
        self.timer.tick(self.refresh, chosen, drawn, **LIGHT)
        self.place.input(self.move, chosen, pictures, trigger_mode="always_last", **LIGHT)

    def _build_column(self, name: str) -> list[Any]:
        with gr.Column(visible=False, min_width=290, elem_classes="model-column") as column:
            caption = self.site.caption(name)
            buttons: Any = ["fullscreen", "download"]
            picture = self.site.picture(f"{name}-attention", "training_attention", "large", buttons=buttons)
        return [column, caption, picture]

    def open(self, first: Any, second: Any, place: int, shown: Any, request: gr.Request) -> list[Any]:
        """Look for runs again, and show the chosen ones, at first the newest."""
        names = list(self.runs.found())
        first = first if first in names else next(iter(names), None)
        second = second if second in names else NOTHING
        choices = [(printable(name), name) for name in names]
        menus = [gr.update(choices=choices, value=first), gr.update(choices=[self.nothing, *choices], value=second)]
        return [*menus, *self.choose(first, second, place, shown, request)]

    def choose(self, first: Any, second: Any, place: int, shown: Any, request: gr.Request) -> list[Any]:
        """Show runs with their newest attention."""
        looks = self._looks(first, second)
        return self._draw(looks, _length(looks), request)

    def refresh(self, first: Any, second: Any, place: int, shown: Any, request: gr.Request) -> list[Any]:
        """Show what was written since the last look; whoever looked at the newest attention sees the newest again."""
        looks = self._looks(first, second)
        length = _length(looks)
        if (_stamps(looks), length) == shown and not any(look.reason or look.history_reason for look in looks):
            return [gr.skip()] * _OUTPUTS
        return self._draw(looks, length if place >= shown[1] else place, request)

    def move(self, first: Any, second: Any, place: int, shown: Any, request: gr.Request) -> list[Any]:
        """Show attention at another time."""
        return self._pictures(self._looks(first, second), place, request)

    def _looks(self, first: Any, second: Any) -> list[Look]:
        # what the browser sends is a name among ours, or nothing
        names = [name if isinstance(name, str) else NOTHING for name in (first, second)]
        return self.runs.look(chosen_models(*names))

    def _draw(self, looks: list[Look], place: int, request: gr.Request) -> list[Any]:
        length = _length(looks)
        if looks:
            parts = (part for look in looks for part in self._state(look, request))
            state = f"<div class='prose stored'><div class='runs'>{''.join(parts)}</div></div>"
        else:
            state = f"<p>{self.site.words.say(request, 'training_empty')}</p>"
        curves = self.runs.curves(looks, self._language(request))
        if curves:
            curves = f"<h3>{self.site.words.say(request, 'training_curves')}</h3>{curves}"
        slider = gr.update(value=max(place, 1), maximum=max(length, 2), visible=length > 1)
        timer = gr.Timer(active=any(look.in_training for look in looks))
        shown = (_stamps(looks), length)
        curves = f"<div class='prose stored'>{curves}</div>"
        return [state, curves, slider, *self._pictures(looks, place, request), timer, shown]

    def _state(self, look: Look, request: gr.Request) -> Iterator[str]:
        say = self.site.words.say
        yield f"<section><h3>{_text(look.label)}</h3>"
        if look.record is None:
            yield f"<p>{say(request, 'training_unreadable', reason=look.reason)}</p></section>"
            return
        key, values = _progress(look.record, look.in_training)
        yield f"<p>{say(request, key, **values)}"
        if look.in_training and (left := _seconds_left(look.record)) is not None:
            yield f" · {say(request, 'training_left', left=duration(left, coarse=True))}"
        yield "</p><ul class='checks'>"
        # that it has not ended is no fault of a run that is in training
        record = replace(look.record, state="finished") if look.in_training else look.record
        for finding in findings(record):
            what, text = say(request, f"compare_check_{finding.kind}"), self._translated(finding.text, request)
            yield f"<li class='{finding.kind}'><strong>{what}</strong> {text}</li>"
        yield "</ul></section>"

    def _language(self, request: gr.Request) -> Language:
        accepted: str = request.headers.get("accept-language") or ""
        return preferred(self.site.words.forced or accepted)

    def _translated(self, text: str, request: gr.Request) -> str:
        """Return a text of the report as HTML; one that is English on a page of another language is marked."""
        language = self._language(request)
        own = translated(text, catalogue(language))
        shown = _text(own)
        return f"<span lang='en'>{shown}</span>" if own == text and language != "en" else shown

    def _pictures(self, looks: list[Look], place: int, request: gr.Request) -> list[Any]:
        lead = next((look.snapshots for look in looks if look.snapshots), ())
        epoch = lead[min(max(place, 1), len(lead)) - 1].epoch if lead else 0.0
        updates: list[Any] = []
        for look in looks:
            updates += [gr.Column(visible=True), *self._column(look, epoch, request)]
        return updates + [gr.Column(visible=False), "", None] * (2 - len(looks))

    def _column(self, look: Look, epoch: float, request: gr.Request) -> list[Any]:
        say = self.site.words.say
        title = f"**{literal(printable(look.label))}**\n\n"
        if look.history is None:
            key = "training_unreadable_attention" if look.history_reason else "training_no_attention"
            return [title + say(request, key, reason=look.history_reason), gr.update(value=None, visible=False)]
        snapshot = min(look.snapshots, key=lambda each: abs(each.epoch - epoch))
        key = "training_at" if snapshot.steps else "training_before"
        values = {"epoch": f"{snapshot.epoch:.3g}", "step": count(snapshot.steps)}
        caption = f"{title}{say(request, key, **values)} · {self._translated(snapshot.what, request)}"
        file = self.site.words.plain(request, key, **values)
        ends = (say(request, "image_scale_low"), say(request, "training_strongest"))
        drawn = attention_picture(look.history, snapshot, ends)
        update = self.site.shown(request, printable(look.label), file, "training_attention", drawn)
        return [caption, update | {"visible": True}]


def attention_picture(history: AttentionHistory, snapshot: Snapshot, ends: tuple[str, str]) -> UInt8[ndarray, "_ _ 3"]:
    """Draw each image with what was attended to in it below. ends: names of the ends of the scale of colours."""
    grounds = [fitted(picture, _TILE) for picture in history.pictures]
    columns = [(Tile(ground), Tile(overlay(ground, map))) for ground, map in zip(grounds, snapshot.maps, strict=True)]
    return page(bands(columns, per_band(len(columns), _PER_ROW), _TILE), legend=overlay_legend("", *ends), min_width=0)


def _progress(record: RunRecord, in_training: bool) -> tuple[str, Mapping[str, object]]:
    """The state of a run: a text, and its values."""
    steps = record.steps or 0
    if in_training and record.metrics:  # more than what is saved
        steps = max(steps, int(record.metrics[-1]["step"]) + 1)
    epochs = record.config.epochs
    done = epochs * steps / record.total_steps if record.total_steps else None
    values = {
        "step": count(steps),
        "total": count(record.total_steps),
        "epoch": "?" if done is None else f"{done:.3g}",
        "epochs": f"{epochs:g}",
    }
    if in_training:
        return "training_running", values
    if record.state == "finished" and record.seconds is not None:
        return "training_finished", values | {"time": duration(record.seconds)}
    return f"training_{record.state}", values


def _seconds_left(record: RunRecord) -> float | None:
    """By the speed of the last steps, without evaluations; None if it is not known."""
    line = next((line for line in reversed(record.metrics) if line.get("images_per_second", 0) > 0), None)
    if line is None or record.total_steps is None:
        return None
    left = record.total_steps - int(record.metrics[-1]["step"]) - 1
    return left * record.config.batch_size / line["images_per_second"]


def _length(looks: Sequence[Look]) -> int:
    """How many times the slider goes through: those of the first run that has any."""
    return next((len(look.snapshots) for look in looks if look.snapshots), 0)


def _stamps(looks: Sequence[Look]) -> tuple[object, ...]:
    return tuple((look.label, look.stamp, look.in_training) for look in looks)


def _text(text: str) -> str:
    return literal(printable(text))
