"""The section on health: whether each run learned what it was to learn, what is wrong, and what to do about it."""

from __future__ import annotations

import functools
import itertools
import math
import shlex
import statistics
from collections.abc import Iterator, Sequence
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
    kind: Literal["warning", "good", "note"]
    text: str

    def notice(self) -> Notice:
        """Return it with the run's name before it."""
        return Notice(f"{self.run}: {self.text}", self.kind)


def section(material: Material) -> Section | None:
    """Show findings, the figures that they rest on, and what these mean; None without runs."""
    runs = material.runs
    if not runs:
        return None
    found = [finding for run in runs for finding in findings(run)]
    blocks: list[Block] = []
    for kind in ("warning", "note"):
        blocks += [finding.notice() for finding in together([one for one in found if one.kind == kind])]
    if well := [finding.run for finding in found if finding.kind == "good"]:
        blocks.append(Notice(f"{listed(well)}: {HEALTHY}", "good"))
    blocks += [_table(runs), Folded("What these figures mean", (Bullets(_MEANING),))]
    for run in runs:
        if run.unreadable:
            shown = itertools.islice(run.unreadable.items(), _SHOWN)
            lines = [f"{path}: {reason}".replace("\n", " ") for path, reason in shown]
            lines += [f"and {len(run.unreadable) - _SHOWN} more"] * (len(run.unreadable) > _SHOWN)
            blocks.append(Folded(f"Unreadable images of {run.label}", (Code("\n".join(lines)),)))
    return Section("Health", "health", "Whether each run learned, what is wrong, and what to do.", tuple(blocks))


def findings(run: RunRecord) -> list[Finding]:
    """Return all that is worth saying of a run, warnings first; or that all is well, if nothing is wrong."""
    warnings, notes = list(_warnings(run)), list(_notes(run))
    found = [Finding(run.label, "warning", text) for text in warnings]
    if not warnings:
        judged = verdict(run)
        well = judged == "healthy"
        found.append(Finding(run.label, "good" if well else "note", HEALTHY if well else f"{judged}."))
    return [*found, *(Finding(run.label, "note", text) for text in notes)]


def together(found: Sequence[Finding]) -> list[Finding]:
    """Join findings that say the same of several runs into one, with all their names."""
    names: dict[str, list[str]] = {}
    for finding in found:
        names.setdefault(finding.text, []).append(finding.run)
    first = {finding.text: finding for finding in reversed(found)}
    return [replace(first[text], run=listed(runs)) for text, runs in names.items()]


def verdict(run: RunRecord) -> str:
    """Return the state of a run's health in a few words."""
    judged = diagnosis(run)
    if judged is not None:
        return judged.kind
    if _has_collapsed_features(run):
        return "collapsed: features"
    if not _recent(run):
        return "nothing was logged, so that nothing can be said"
    if _has_diverged(run):
        return "diverged: values that are no numbers"
    if _is_short(run):
        return SHORT
    return "no better than guessing" if _guesses(run) else "healthy"


def is_wrong(run: RunRecord) -> bool:
    """Return whether the verdict is bad news."""
    judged = verdict(run)
    return judged.startswith(("collapsed", "diverged", "no better")) or judged.endswith("collapse")


def diagnosis(run: RunRecord) -> Verdict | None:
    """Return what the method makes of the mean of the last logged values; None if healthy or too early to judge."""
    recent = _recent(run)
    if not recent or _is_short(run) or _has_diverged(run):
        return None
    names = [name for name in recent[-1] if all(name in line for line in recent)]
    means = {name: statistics.fmean(line[name] for line in recent) for name in names}
    try:
        return _judge(run.config.method, run.config.backbone_config, max(run.classes or 0, 2)).diagnose(means)
    except KeyError:  # a run from before the value was logged
        return None


@functools.lru_cache(maxsize=16)
def _judge(config: MethodConfig, backbone: BackboneConfig, classes: int) -> Method:
    """A method whose settings judge: its weights are not needed, and it is asked several times about each run."""
    with torch.device("meta"):
        return build_method(config, backbone, classes)


def _has_collapsed_features(run: RunRecord) -> bool:
    deviation = run.last("feature_spread")
    return deviation is not None and deviation < COLLAPSED_DEVIATION


def _has_diverged(run: RunRecord) -> bool:
    """Whether one of the last logged values is not finite: no rule can be applied to it."""
    return not all(math.isfinite(value) for line in _recent(run) for value in line.values())


def _guesses(run: RunRecord) -> bool:
    """Whether online k-NN ended no better than guessing among classes of one size."""
    accuracy = run.last("knn_top1")
    return accuracy is not None and bool(run.classes) and accuracy < GUESSING * 100 / (run.classes or 1)


def _is_short(run: RunRecord) -> bool:
    """Every run starts uniform: before so many steps, its training gave no verdict either."""
    last = max((line["step"] for line in run.metrics), default=0)
    return last + 1 < patience(run.total_steps or 0)


def _recent(run: RunRecord) -> list[dict[str, float]]:
    """Logged steps (not evaluations) of the last `WINDOW` ones; at least three if there are so many."""
    lines = [line for line in run.metrics if "loss" in line]
    newest = [line for line in lines if line["step"] > lines[-1]["step"] - WINDOW]
    return newest if len(newest) >= 3 else lines[-3:]


def _warnings(run: RunRecord) -> Iterator[str]:
    if run.state == "begun":
        yield "it was begun and nothing of it is saved yet: there are no weights to look at."
    if run.state == "stopped":
        yield (
            f"saved up to step {count(run.steps)} of {count(run.total_steps)}, and its weights are of there. Unless it "
            f"is being trained just now, continue with dinoscope train --out {shlex.quote(str(run.path))} --resume"
        )
    if _has_diverged(run):
        yield "values that were logged last are no numbers: training diverged. Lower the learning rate."
    elif judged := diagnosis(run):
        yield judged.text
    if _has_collapsed_features(run):
        yield (
            f"all images have nearly the same feature (standard deviation {figure(run.last('feature_spread'), 4)}; "
            f"healthy runs are well above {COLLAPSED_DEVIATION}): nothing that is measured of it means much. Lower the "
            "learning rate."
        )
    elif (fall := _fallen_rank(run)) and fall[1]:
        yield fall[0]
    if _guesses(run) and not _is_short(run):
        yield (
            f"online k-NN ended at {figure(run.last('knn_top1'))} %, no better than guessing among {run.classes} "
            "classes: the features say nothing of the classes. Train longer or with other settings."
        )


def _fallen_rank(run: RunRecord) -> tuple[str, bool] | None:
    """A sentence if RankMe ended far below its maximum, and whether accuracy fell with it."""
    ranks, accuracies = run.series("rank_me")[1], run.series("knn_top1")[1]
    if len(ranks) < 2 or not ranks[-1] < max(ranks) / 2:  # which is false of values that are not finite, too
        return None
    text = f"RankMe fell from {max(ranks):.1f} to {ranks[-1]:.1f}: features use fewer directions than they did"
    if not accuracies:
        return f"{text}. Whether accuracy fell is not known.", False
    if not accuracies[-1] < 0.9 * max(accuracies):
        return f"{text}. Online k-NN did not fall with it.", False
    text += f", and online k-NN fell with it, from {max(accuracies):.1f} to {accuracies[-1]:.1f} %"
    return f"{text}: the run collapses in part. Lower the learning rate, or stop earlier.", True


def _notes(run: RunRecord) -> Iterator[str]:
    fall = _fallen_rank(run)
    if fall and not fall[1] and not _has_collapsed_features(run):
        yield fall[0]
    judged = diagnosis(run)
    for step, text in run.said:
        if judged is None or judged.text.partition(":")[0] not in text:  # else it is among the warnings
            yield f"at step {count(step)}, training warned: {text}"
    waiting = _mean(run, "waiting_for_data")
    if waiting is not None and waiting > MUCH_WAITING:
        yield (
            f"{percent(waiting)} of the time was spent waiting for images. Raise --workers, or store the images "
            "smaller: about 1.2 times the size of a global view is enough."
        )
    if run.unreadable:
        yield f"{count(len(run.unreadable))} images could not be read and were left out; `dinoscope scan` says why."


def _table(runs: Sequence[RunRecord]) -> Table:
    titles = ("RankMe", "Feature deviation", "Gradient norm", "Largest norm", "Waiting for data", "Unreadable")
    columns = (Column("Run"), Column("Verdict"), *(Column(title, "right") for title in titles))
    rows = [
        TableRow(
            (
                run.label,
                verdict(run).partition(",")[0],
                figure(run.last("rank_me")),
                figure(run.last("feature_spread"), 2),
                figure(_mean(run, "gradient_norm"), 2),
                figure(max(run.series("gradient_norm")[1], default=None), 1),
                percent(_mean(run, "waiting_for_data")),
                count(len(run.unreadable)),
            )
        )
        for run in runs
    ]
    return Table(columns, (Rows(tuple(rows)),), "At the end of training")


def _mean(run: RunRecord, name: str) -> float | None:
    """Over the last logged steps."""
    values = [line[name] for line in _recent(run) if name in line]
    return statistics.fmean(values) if values else None


_MEANING = (
    "Verdict: the method's own rules for collapse, applied to the mean of the last logged steps. Supervised training "
    "has none, since labels keep it from collapsing. And whether online k-NN, if there are labels, came out above "
    "guessing. Healthy means no more than that: how good features are, the comparison says.",
    "RankMe: how many directions the features of the last images use, as an effective rank (Garrido et al. 2023, "
    "Eq. 1); from 1 to the number of features. Comparable between runs of one network only.",
    "Feature deviation: standard deviation of the features, 0 if all images have the same one, 1 if they point in all "
    f"directions alike. Below {COLLAPSED_DEVIATION} counts as collapsed.",
    "Gradient norm: of the whole network before clipping, mean of the last logged steps, and the largest of all. A "
    "largest value far above the mean is usual in the first epochs; later it speaks of a learning rate too high.",
    f"Waiting for data: share of the time in which the network stood still for want of images. Above "
    f"{MUCH_WAITING:.0%} it is worth more loader processes or smaller files.",
    f"{ABSENT}: was not logged.",
)
