"""The section on health: whether each run learned what it was to learn, what is wrong, and what to do about it."""

from __future__ import annotations

import functools
import itertools
import math
import shlex
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from dinoscope.methods import build_method
from dinoscope.methods.health import COLLAPSED_DEVIATION, Verdict
from dinoscope.methods.method import Method, MethodConfig
from dinoscope.models.backbone import BackboneConfig
from dinoscope.report.page import Block, Bullets, Code, Folded, Notice, Section
from dinoscope.report.runs import Material, RunRecord
from dinoscope.tables import Column, Table, TableRow
from dinoscope.tables import Section as Rows
from dinoscope.text import ABSENT, count, figure, listed, percent
from dinoscope.training.loop import patience

SHORT = "too short a run to judge"
HEALTHY = "healthy: no sign of collapse in what was logged."

WINDOW = 50
"""Steps that a verdict rests on, as during training."""
MUCH_WAITING = 0.3
"""Share of the time spent waiting for data above which it is worth doing something about."""
GUESSING = 1.1
"""Accuracy over that of guessing below which features count as of no use for the classes."""
_SHOWN = 20  # names of unreadable files


@dataclass(frozen=True)
class Finding:
    """A sentence about a run: good, worth knowing, or a warning with what to do."""

    run: str
    kind: Literal["good", "note", "warning"]
    text: str

    def notice(self) -> Notice:
        """With the run's name before it."""
        return Notice(f"{self.run}: {self.text}", self.kind)


def section(material: Material) -> Section | None:
    """Show findings, the figures that they rest on, and what these mean; None without runs."""
    runs = material.runs
    if not runs:
        return None
    found = [finding for run in runs for finding in findings(run)]
    blocks: list[Block] = [
        finding.notice()
        for kind in ("warning", "note")
        for finding in together([one for one in found if one.kind == kind])
    ]
    if well := [finding.run for finding in found if finding.kind == "good"]:
        blocks.append(Notice(f"{listed(well)}: {HEALTHY}", "good"))
    blocks += [_table(runs), Folded("What these figures mean", (Bullets(_MEANING),))]
    blocks += [
        Folded(f"Unreadable images of {run.label}", (Code("\n".join(_first_unreadable(run))),))
        for run in runs
        if run.unreadable
    ]
    return Section("Health", "health", "Whether each run learned, what is wrong, and what to do.", tuple(blocks))


def findings(run: RunRecord) -> list[Finding]:
    """All that is to be said of a run, the gravest first; one that all is well where nothing is wrong."""
    found = [*_state(run), *_collapse(run), *_features(run), *_guessing(run), *_said(run), *_data(run)]
    if not any(each.kind == "warning" for each in found):
        judged = verdict(run)
        well = judged == "healthy"
        found.insert(0, Finding(run.label, "good" if well else "note", HEALTHY if well else f"{judged}."))
    return sorted(found, key=lambda each: ("warning", "good", "note").index(each.kind))


def together(found: Sequence[Finding]) -> list[Finding]:
    """Findings that say the same of several runs become one, with all their names."""
    names: dict[str, list[str]] = {}
    for each in found:
        names.setdefault(each.text, []).append(each.run)
    first = {each.text: each for each in reversed(found)}
    return [replace(first[text], run=listed(runs)) for text, runs in names.items()]


def verdict(run: RunRecord) -> str:
    """In a few words."""
    judged = diagnosis(run)
    if judged is not None:
        return judged.kind
    if collapsed_features(run):
        return "collapsed: features"
    if not _recent(run):
        return "nothing was logged, so that nothing can be said"
    if diverged(run):
        return "diverged: values that are no numbers"
    if _is_short(run):
        return SHORT
    if guesses(run):
        return "no better than guessing"
    return "healthy"


def is_wrong(run: RunRecord) -> bool:
    """Whether the verdict is bad news."""
    said = verdict(run)
    return said.startswith(("collapsed", "diverged", "no better")) or said.endswith("collapse")


def diagnosis(run: RunRecord) -> Verdict | None:
    """What the method says to the mean of the last logged values; None where it is healthy or too early to say."""
    recent = _recent(run)
    if not recent or _is_short(run) or diverged(run):
        return None
    means = {
        name: statistics.fmean(line[name] for line in recent) for name in recent[-1] if all(name in x for x in recent)
    }
    try:
        return _judge(run.config.method, run.config.backbone_config, max(run.classes or 0, 2)).diagnose(means)
    except KeyError:  # a run from before the value was logged
        return None


@functools.lru_cache(maxsize=16)
def _judge(config: MethodConfig, backbone: BackboneConfig, classes: int) -> Method:
    """A method whose settings judge: its weights are not needed, and it is asked for several times of each run."""
    with torch.device("meta"):
        return build_method(config, backbone, classes)


def collapsed_features(run: RunRecord) -> bool:
    """Whether all images had the same feature at the last evaluation."""
    spread = run.last("feature_spread")
    return spread is not None and spread < COLLAPSED_DEVIATION


def diverged(run: RunRecord) -> bool:
    """Whether one of the last values that were logged is no number: no rule can be applied to it."""
    return not all(math.isfinite(value) for line in _recent(run) for value in line.values())


def guesses(run: RunRecord) -> bool:
    """Whether online k-NN ended no better than guessing among classes of one size."""
    accuracy = run.last("knn_top1")
    return accuracy is not None and bool(run.classes) and accuracy < GUESSING * 100 / (run.classes or 1)


def _is_short(run: RunRecord) -> bool:
    """Every run starts uniform: before so many steps, its training gave no verdict either."""
    last = max((line["step"] for line in run.metrics), default=0)
    return last + 1 < patience(run.total_steps or 0)


def _recent(run: RunRecord) -> list[dict[str, float]]:
    """Logged steps (not evaluations) of the last `WINDOW` ones, three at least where there are so many."""
    lines = [line for line in run.metrics if "loss" in line]
    if not lines:
        return []
    newest = [line for line in lines if line["step"] > lines[-1]["step"] - WINDOW]
    return newest if len(newest) >= 3 else lines[-3:]


def _state(run: RunRecord) -> list[Finding]:
    if run.state == "finished":
        return []
    if run.state == "begun":
        text = "it was begun and nothing of it is saved yet: there are no weights to look at."
        return [Finding(run.label, "warning", text)]
    text = (
        f"saved up to step {count(run.steps)} of {count(run.total_steps)}, and its weights are of there. Unless it is "
        f"being trained just now, go on with dinoscope train --out {shlex.quote(str(run.path))} --resume"
    )
    return [Finding(run.label, "warning", text)]


def _collapse(run: RunRecord) -> list[Finding]:
    if diverged(run):
        text = "values that were logged last are no numbers: training diverged. Lower the learning rate."
        return [Finding(run.label, "warning", text)]
    judged = diagnosis(run)
    return [Finding(run.label, "warning", judged.text)] if judged else []


def _features(run: RunRecord) -> list[Finding]:
    if collapsed_features(run):
        text = (
            f"all images have nearly the same feature (spread {figure(run.last('feature_spread'), 4)}; healthy runs "
            f"are well above {COLLAPSED_DEVIATION}): nothing that is measured of it means much. Lower the learning "
            "rate."
        )
        return [Finding(run.label, "warning", text)]
    ranks = run.series("rank_me")[1]
    if len(ranks) > 1 and ranks[-1] < max(ranks) / 2:
        accuracies = run.series("knn_top1")[1]
        fell = bool(accuracies) and accuracies[-1] < 0.9 * max(accuracies)
        text = f"RankMe fell from {max(ranks):.1f} to {ranks[-1]:.1f}: features use fewer directions than they did"
        if fell:
            text += f", and online k-NN fell with it, from {max(accuracies):.1f} to {accuracies[-1]:.1f} %: the run "
            text += "collapses in part. Lower the learning rate, or stop earlier."
        else:
            text += ". Online k-NN did not fall with it." if accuracies else ". Whether accuracy fell is not known."
        return [Finding(run.label, "warning" if fell else "note", text)]
    return []


def _guessing(run: RunRecord) -> list[Finding]:
    if not guesses(run) or _is_short(run):
        return []
    text = (
        f"online k-NN ended at {figure(run.last('knn_top1'))} %, no better than guessing among {run.classes} classes: "
        "the features say nothing of the classes. Train longer or with other settings."
    )
    return [Finding(run.label, "warning", text)]


def _said(run: RunRecord) -> list[Finding]:
    """Warnings of the training; a collapse that is still there was said already."""
    judged = diagnosis(run)
    return [
        Finding(run.label, "note", f"at step {count(step)}, training said: {text}")
        for step, text in run.said
        if judged is None or judged.text.partition(":")[0] not in text
    ]


def _data(run: RunRecord) -> list[Finding]:
    found: list[Finding] = []
    waiting = _mean(run, "waiting_for_data")
    if waiting is not None and waiting > MUCH_WAITING:
        text = (
            f"{percent(waiting)} of the time was spent waiting for images. Raise --workers, or store the images "
            "smaller: about 1.2 times the size of a global view is enough."
        )
        found.append(Finding(run.label, "note", text))
    if run.unreadable:
        text = f"{count(len(run.unreadable))} images could not be read and were left out; `dinoscope scan` says why."
        found.append(Finding(run.label, "note", text))
    return found


def _table(runs: Sequence[RunRecord]) -> Table:
    columns = (
        Column("Run"),
        Column("Verdict"),
        Column("RankMe", "right"),
        Column("Feature spread", "right"),
        Column("Gradient norm", "right"),
        Column("Largest norm", "right"),
        Column("Waiting for data", "right"),
        Column("Unreadable", "right"),
    )
    rows = tuple(
        TableRow(
            (
                run.label,
                verdict(run).partition(",")[0],
                figure(run.last("rank_me")),
                figure(run.last("feature_spread"), 2),
                figure(_mean(run, "gradient_norm"), 2),
                figure(max(run.series("gradient_norm")[1], default=None), 1),
                percent(_mean(run, "waiting_for_data")),
                count(len(run.unreadable)) if run.unreadable else "0",
            )
        )
        for run in runs
    )
    return Table(columns, (Rows(rows),), "At the end of training")


def _mean(run: RunRecord, name: str) -> float | None:
    """Over the last logged steps."""
    values = [line[name] for line in _recent(run) if name in line]
    return statistics.fmean(values) if values else None


def _first_unreadable(run: RunRecord) -> list[str]:
    lines = [
        f"{path}: {reason}".replace("\n", " ") for path, reason in itertools.islice(run.unreadable.items(), _SHOWN)
    ]
    left = len(run.unreadable) - len(lines)
    return [*lines, f"and {left} more"] if left else lines


_MEANING = (
    "Verdict: the method's own rules for collapse, applied to the mean of the last logged steps. Supervised training "
    "has none, since labels keep it from collapsing. And whether online k-NN, where there are labels, came out above "
    "guessing. Healthy says no more than that: how good features are, the comparison says.",
    "RankMe: how many directions the features of the last images use, as an effective rank (Garrido et al. 2023, "
    "Eq. 1); from 1 to the number of features. Comparable between runs of one network only.",
    f"Feature spread: 0 where all images have the same feature, 1 where features point in all directions alike. Below "
    f"{COLLAPSED_DEVIATION} counts as collapsed.",
    "Gradient norm: of the whole network before clipping, mean of the last logged steps, and the largest of all. A "
    "largest value far above the mean is usual in the first epochs; later it speaks of a learning rate too high.",
    f"Waiting for data: share of the time in which the network stood still for want of images. Above "
    f"{MUCH_WAITING:.0%} it is worth more loader processes or smaller files.",
    f"{ABSENT}: was not logged.",
)
