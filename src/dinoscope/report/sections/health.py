"""The section on health: whether each run learned what it was to learn, what is wrong, and what to do about it."""

from __future__ import annotations

import contextlib
import itertools
import math
import shlex
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from dinoscope.methods.health import COLLAPSED_DEVIATION
from dinoscope.report.page import Block, Bullets, Code, Folded, Notice, Section
from dinoscope.report.runs import Material, RunRecord
from dinoscope.tables import Column, Table, TableRow
from dinoscope.tables import Section as Rows
from dinoscope.text import ABSENT, Phrase, count, figure, listed, percent
from dinoscope.training.loop import patience

SHORT = "too short a run to judge"
HEALTHY = "healthy: no sign of collapse in what was logged."
WINDOW = 50
"""Steps that a verdict rests on, as during training."""
MUCH_WAITING = 0.3
"""Share of the time spent waiting for data above which it is worth doing something about."""
GUESSING = 1.1
"""Accuracy over that of guessing below which features count as of no use for the classes."""
_CONSTANT = "collapsed: features"
_MAX_FILES = 20
_TITLES = ("RankMe", "Feature deviation", "Gradient norm", "Largest norm", "Waiting for data", "Unreadable")
_MEANING = (
    "Verdict: the method's own rules for collapse, applied to the mean of the last logged steps. Supervised training "
    "has none, since labels keep it from collapsing. And whether online k-NN, if there are labels, came out above "
    "guessing. Healthy means no more than that; it does not tell how good features are.",
    "RankMe: how many directions the features of the last images use, as an effective rank (Garrido et al. 2023, "
    "Eq. 1); from 1 to the number of features. Comparable between runs of one network only.",
    "Feature deviation: standard deviation of the features, 0 if all images have the same one, 1 if they point in all "
    f"directions alike. Below {COLLAPSED_DEVIATION} counts as collapsed.",
    "Gradient norm: of the whole network before clipping, mean of the last logged steps, and the largest of all. A "
    "largest value far above the mean is usual in the first epochs; later it is a sign of a learning rate too high.",
    f"Waiting for data: share of the time in which the network waited for images. Above {MUCH_WAITING:.0%} it is worth "
    "more loader processes or smaller files.",
    f"{ABSENT}: was not logged.",
)


@dataclass(frozen=True)
class Finding:
    """A sentence about a run: good, worth knowing, or a warning with what to do."""

    run: str
    kind: Literal["warning", "good", "note"]
    text: str

    def notice(self) -> Notice:
        return Notice(f"{self.run}: {self.text}", self.kind)


def section(material: Material) -> Section | None:
    runs = material.runs
    if not runs:
        return None
    every = [finding for run in runs for finding in findings(run)]
    blocks: list[Block] = []
    for kind in ("warning", "note"):
        blocks += [finding.notice() for finding in together([finding for finding in every if finding.kind == kind])]
    if healthy := [finding.run for finding in every if finding.kind == "good"]:
        blocks.append(Notice(f"{listed(healthy)}: {HEALTHY}", "good"))
    columns = (Column("Run"), Column("Verdict"), *(Column(title, "right") for title in _TITLES))
    blocks += [
        Table(columns, (Rows(tuple(map(_row, runs))),), "At the end of training"),
        Folded("What these figures mean", (Bullets(_MEANING),)),
    ]
    for run in runs:
        if run.unreadable:
            shown = itertools.islice(run.unreadable.items(), _MAX_FILES)
            lines = [f"{path}: {reason}".replace("\n", " ") for path, reason in shown]
            lines += [f"and {len(run.unreadable) - _MAX_FILES} more"] * (len(run.unreadable) > _MAX_FILES)
            blocks.append(Folded(f"Unreadable images of {run.label}", (Code("\n".join(lines)),)))
    return Section("Health", "health", "Whether each run learned, what is wrong, and what to do.", tuple(blocks))


def _row(run: RunRecord) -> TableRow:
    cells = (
        run.label,
        verdict(run).partition(",")[0],
        figure(run.last("rank_me")),
        figure(run.last("feature_spread"), 2),
        figure(_mean(run, "gradient_norm"), 2),
        figure(max(run.series("gradient_norm")[1], default=None), 1),
        percent(_mean(run, "waiting_for_data")),
        count(len(run.unreadable)),
    )
    return TableRow(cells)


def verdict(run: RunRecord) -> str:
    state = "healthy" if _recent(run) else "nothing was logged, so there is no verdict"
    return next((words for words, _ in _problems(run)), SHORT if state == "healthy" and _is_short(run) else state)


def is_wrong(run: RunRecord) -> bool:
    return any(_problems(run))


def findings(run: RunRecord) -> list[Finding]:
    problems = list(_problems(run))
    warnings, notes = [text for _, text in problems], list[str]()
    if run.state == "begun":
        warnings.insert(0, "it has started, but nothing is saved yet: there are no weights.")
    if run.state == "stopped":
        again = f"dinoscope train --out {shlex.quote(str(run.path))} --resume"
        text = Phrase(
            "saved up to step {step} of {total}: its weights are from there. If it is not in training now, continue "
            "with {command}",
            step=count(run.steps),
            total=count(run.total_steps),
            command=again,
        )
        warnings.insert(0, text)
    ranks, accuracies = run.series("rank_me")[1], run.series("knn_top1")[1]
    is_constant = any(words == _CONSTANT for words, _ in problems)
    if not is_constant and len(ranks) > 1 and ranks[-1] < max(ranks) / 2:  # which is false of NaN, too
        text = Phrase(
            "RankMe fell from {highest:.1f} to {last:.1f}: features use fewer directions than they did",
            highest=max(ranks),
            last=ranks[-1],
        )
        if accuracies and accuracies[-1] < 0.9 * max(accuracies):
            partly = Phrase(
                "{text}, and online k-NN fell with it, from {highest:.1f} to {last:.1f} %: the run collapses in part. "
                "Lower the learning rate, or stop earlier.",
                text=text,
                highest=max(accuracies),
                last=accuracies[-1],
            )
            warnings.append(partly)
        else:
            accuracy = "Online k-NN did not fall with it" if accuracies else "Whether accuracy fell is not known"
            notes.append(Phrase("{text}. {accuracy}.", text=text, accuracy=accuracy))
    for step, text in run.warnings:
        if not any(sentence.partition(":")[0] in text for _, sentence in problems):
            notes.append(Phrase("at step {step}, training warned: {text}", step=count(step), text=text))
    waiting = _mean(run, "waiting_for_data")
    if waiting is not None and waiting > MUCH_WAITING:
        notes.append(
            Phrase(
                "{share} of the time was spent waiting for images. Raise --workers, or store the images smaller: about "
                "1.2 times the size of a global view is enough.",
                share=percent(waiting),
            )
        )
    if run.unreadable:
        unread = count(len(run.unreadable))
        notes.append(Phrase("{count} images could not be read and were left out: see `dinoscope scan`.", count=unread))
    state = verdict(run)
    well = (
        Finding(run.label, "good", HEALTHY)
        if state == "healthy"
        else Finding(run.label, "note", Phrase("{state}.", state=state))
    )
    first = [Finding(run.label, "warning", text) for text in warnings] or [well]
    return [*first, *(Finding(run.label, "note", text) for text in notes)]


def together(found: Sequence[Finding]) -> list[Finding]:
    """Join findings that several runs share into one, with all their names."""
    first: dict[str, Finding] = {}
    names: dict[str, list[str]] = {}
    for finding in found:
        first.setdefault(finding.text, finding)
        names.setdefault(finding.text, []).append(finding.run)
    return [replace(finding, run=listed(names[text])) for text, finding in first.items()]


def _problems(run: RunRecord) -> Iterator[tuple[str, str]]:
    """Each sign that a run has not learned, the worst first: in a few words, and as a sentence with what to do."""
    recent = _recent(run)
    if not all(math.isfinite(value) for line in recent for value in line.values()):  # no rule can be applied to it
        text = "the values that were logged last are no numbers: training diverged. Lower the learning rate."
        yield "diverged: values that are no numbers", text
    elif recent and not _is_short(run):
        names = [name for name in recent[-1] if all(name in line for line in recent)]
        means = {name: statistics.fmean(line[name] for line in recent) for name in names}
        with contextlib.suppress(KeyError):  # a run from before the value was logged
            method = run.judge
            if (diagnosis := method.diagnose(means)) is not None:
                yield diagnosis.kind, diagnosis.text
    deviation, accuracy = run.last("feature_spread"), run.last("knn_top1")
    if deviation is not None and deviation < COLLAPSED_DEVIATION:
        yield (
            _CONSTANT,
            Phrase(
                "all images have nearly the same feature (standard deviation {deviation:.4f}; healthy runs are well "
                "above {limit}): nothing that is measured of it means much. Lower the learning rate.",
                deviation=deviation,
                limit=COLLAPSED_DEVIATION,
            ),
        )
    if accuracy is not None and run.classes and accuracy < GUESSING * 100 / run.classes and not _is_short(run):
        yield (
            "no better than guessing",
            Phrase(
                "online k-NN ended at {accuracy:.1f} %, no better than guessing among {classes} classes: the features "
                "tell nothing of the classes. Train longer or with other settings.",
                accuracy=accuracy,
                classes=run.classes,
            ),
        )


def _is_short(run: RunRecord) -> bool:
    """Every run starts uniform: before so many steps, its training gave no verdict either."""
    return max((line["step"] for line in run.metrics), default=0) + 1 < patience(run.total_steps or 0)


def _recent(run: RunRecord) -> list[dict[str, float]]:
    """Logged steps (not evaluations) of the last `WINDOW` ones; at least three if there are so many."""
    lines = [line for line in run.metrics if "loss" in line]
    newest = [line for line in lines if line["step"] > lines[-1]["step"] - WINDOW]
    return newest if len(newest) >= 3 else lines[-3:]


def _mean(run: RunRecord, name: str) -> float | None:
    values = [line[name] for line in _recent(run) if name in line]
    return statistics.fmean(values) if values else None
