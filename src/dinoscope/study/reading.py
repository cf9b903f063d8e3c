"""A study in tables and plain words, from its figures alone.

Rules: what collapsed is reported first, and from which step on. A difference is called one only if its interval
excludes 0; if it does not, the sentence reports that so many seeds could show none, which is not that there is none.
One seed gives a figure and no judgement. What failed is named. Nothing is explained.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence

from dinoscope.evaluation import EVALUATIONS
from dinoscope.evaluation.statistics import OverSeeds
from dinoscope.study import effects
from dinoscope.study.effects import KNN, Agreement, Axis, Collapse, Difference, Group, Study
from dinoscope.tables import Column, Section, Table, TableRow
from dinoscope.text import ABSENT, listed

CLOSE_RHO = 0.7
"""From here on, a measure is reported to rank variants much as k-NN does."""
MAX_P = 0.05
"""An order that chance gives more often than that is no agreement."""
MIN_VARIANTS = 5
"""With four variants, even the same order has p = 0.08."""
SHOWN = {"teacher_entropy": "entropy/ln K", "images_per_second": "images/s", "peak_memory": "memory (MB)"}
"""What of the logged measures has a column in a table -> title."""

_PERCENT = f"{100 * effects.CONFIDENCE:g}\N{NO-BREAK SPACE}%"
MINUS = "−"

REMARK = (
    f"Mean ± standard deviation over n seeds. Difference: k-NN against the baseline, paired by seed, with Student's "
    f"{100 * effects.CONFIDENCE:g} % interval over seeds; other test images would add to it."
)


# Tables


def axis_table(axis: Axis, *, brief: bool = False) -> Table:
    """Return baseline and variants, one row each, in the order of `Axis.rows`, without columns that no run has.

    brief: for a terminal: means of the measures next to k-NN, and the state behind the name if a run did not simply
    finish.
    """
    groups = [group for _, group in axis.rows]
    titles = {
        column.name: column.title
        for one in EVALUATIONS.values()
        for column in one.columns
        if column.name != KNN and (not brief or one.default or column.name == effects.RANK)
    }
    titles |= {"teacher_entropy": "H/ln K"} if brief else SHOWN
    states = [_states(group) for group in groups]
    labels = [
        f"{label} ({state})" if brief and state != "finished" else label
        for (label, _), state in zip(axis.rows, states, strict=True)
    ]
    differences = [ABSENT if group is axis.baseline else with_interval(group.difference) for group in groups]
    by_column: list[tuple[str, Sequence[str]]] = [
        (axis.name, labels),
        ("n", [str(len(group.usable)) for group in groups]),
        ("k-NN", [_cell(group, KNN) for group in groups]),
        ("difference" if brief else f"difference [{100 * effects.CONFIDENCE:g} %]", differences),
    ]
    measured = [(title, [_cell(group, name, brief=brief) for group in groups]) for name, title in titles.items()]
    by_column += [(title, cells) for title, cells in measured if set(cells) != {ABSENT}]
    by_column += [] if brief else [("state", states)]
    head, *others = (Column(title, "right" if number else "left") for number, (title, _) in enumerate(by_column))
    rows = tuple(TableRow(cells) for cells in zip(*(cells for _, cells in by_column), strict=True))
    return Table((head, *others), (Section(rows),), axis.title if brief else "", remarks=() if brief else (REMARK,))


def _states(group: Group) -> str:
    counts = Counter(run.state for run in group.runs)
    if len(counts) < 2:
        return next(iter(counts), "not run")
    return ", ".join(f"{count} {state}" for state, count in counts.most_common())


def _cell(group: Group, measure: str, *, brief: bool = False) -> str:
    """Return mean and deviation of a measure; speeds and entropies without."""
    if measure == "teacher_entropy":
        share = group.entropy_share()
        return ABSENT if share is None else number(share, 2)
    summary = group.over_seeds(measure)
    if summary is None:
        return ABSENT
    if measure in effects.LOGGED:
        return number(summary.mean, 0 if summary.mean >= 10 else 1)
    digits = effects.columns()[measure].digits
    return number(summary.mean, digits) if brief else with_deviation(summary, digits)


def csv_table(result: effects.AblationResult) -> list[list[str]]:
    """Return a header, and every run, unrounded, in the order of the result; what it did not measure is empty."""
    names = [name for name in effects.columns() if any(name in run.metrics for run in result.runs)] + list(
        effects.LOGGED
    )
    rows = [["axis", "value", "settings", "seed", "state", "diagnosis", *names, "folder"]]
    for run in result.runs:
        settings = json.dumps(dict(run.variant.settings), sort_keys=True, default=str)
        values = [repr(float(run.metrics[name])) if name in run.metrics else "" for name in names]
        about = [run.variant.axis, run.variant.label, settings, str(run.seed), run.state, run.diagnosis]
        rows.append([*about, *values, run.folder])
    return rows


# The whole study in words


def study_reading(study: Study) -> list[str]:
    """Return sentences on its runs, the baseline, what matters most, and what could be known without labels."""
    runs = {effects.run_identity(run): run for run in study.result.runs}.values()
    states = listed([f"{count} {state}" for state, count in Counter(run.state for run in runs).most_common()])
    variants = counted(sum(len(axis.groups) for axis in study.axes), "variant")
    axes = f"{len(study.axes)} {'axis' if len(study.axes) == 1 else 'axes'}"
    seeds = counted(len({run.seed for run in runs}), "seed")
    ended = f": {states}" if states else ""
    return [
        f"{variants} on {axes} next to the baseline; {seeds}; {counted(len(runs), 'run')}{ended}.",
        *_baseline(study.baseline),
        *_ranking(study),
        *_chance(study),
        *_without_labels(study),
    ]


def _baseline(baseline: Group) -> list[str]:
    if not baseline.usable:
        return ["The baseline has no run that did not fail: there is nothing to compare with."]
    summary = baseline.over_seeds(KNN)
    value = "" if baseline.label in ("", "baseline") else f" ({baseline.label})"
    known = "k-NN was not measured" if summary is None else f"k-NN {with_deviation(summary)}"
    sentences = [f"Baseline{value}: {known}."]
    if baseline.collapses:
        collapsed = _collapse(baseline)
        sentences.append(f"The baseline itself has collapsed, and differences from it mean little: {collapsed}.")
    if baseline.failed:
        sentences.append(f"Of the baseline, a run {_failures(baseline)}; left out.")
    return sentences


def _ranking(study: Study) -> list[str]:
    shown: list[str] = []
    unsure: list[str] = []
    unknown: list[str] = []
    ranked = effects.largest_effects(study)
    for axis, largest, healthy in ranked:
        if largest is None or largest.difference is None:
            continue
        text = f"{axis.name} ({largest.label}: {with_interval(largest.difference)}"
        if largest.collapses:
            text += ", collapsed"
            text += f"; of what did not, {healthy.label}: {with_interval(healthy.difference)}" if healthy else ""
        found = largest.difference
        (shown if found.shown else unknown if found.low is None else unsure).append(f"{text})")
    failed = [f"{axis.name} {group.label}" for axis, _, _ in ranked for group in axis.groups if not group.usable]
    beginnings = {
        "Effects on k-NN that these seeds show, the largest of each axis": "; ".join(shown),
        "No effect that these seeds could show, the largest of each axis": "; ".join(unsure),
        "Without an interval, and so without a judgement, the largest of each axis": "; ".join(unknown),
        "Failed, and in no ranking": listed(failed) if failed else "",
    }
    return [f"{beginning}: {text}." for beginning, text in beginnings.items() if text]


def _chance(study: Study) -> list[str]:
    differences = [group.difference for group in study.trainings]
    intervals = sum(one is not None and one.low is not None for one in differences)
    if intervals < 2:
        return []
    missed = number((1 - effects.CONFIDENCE) * intervals)
    return [
        f"{intervals} intervals of {_PERCENT}: were nothing different, about {missed} of them would exclude 0 by "
        "chance; and the largest effect of several is flattered by being chosen."
    ]


def _without_labels(study: Study) -> list[str]:
    sentences: list[str] = []
    for title, variants, every, healthy in effects.label_free(study):
        if every is not None:
            sentences.append(f"Without labels: {_agreement(title, every)}.")
        elif variants >= effects.MIN_RANKED:
            alike = f"one of the two is the same for all {variants} variants"
            sentences.append(f"Without labels: {title} cannot be set next to k-NN: {alike}.")
        elif variants:
            few = counted(variants, "variant")
            sentences.append(f"Without labels: {few} cannot show whether {title} ranks as k-NN does.")
        if every is not None and healthy is not None:
            sentences.append(f"Among those that did not collapse, {_agreement(title, healthy)}.")
    return sentences


def _agreement(title: str, one: Agreement) -> str:
    chance = "p < 0.001" if one.p < 0.001 else f"p = {one.p:.2g}"
    figures = f"Spearman's rho {number(one.rho, 2)}, n = {one.n}, {chance}"
    if one.n < MIN_VARIANTS:
        return f"{one.n} variants are too few to tell whether {title} ranks them as k-NN does ({figures})"
    if one.p >= MAX_P:
        return f"{title} and k-NN show no common order that {one.n} variants could prove ({figures})"
    if one.rho <= -CLOSE_RHO:
        return f"{title} ranks {one.n} variants much against k-NN: the lower, the better ({figures})"
    if one.rho >= CLOSE_RHO:
        return f"{title} ranks {one.n} variants much as k-NN does ({figures})"
    way = "with" if one.rho > 0 else "against"
    return f"{title} goes {way} k-NN over {one.n} variants, too loosely to choose by ({figures})"


# One axis in words


def axis_reading(axis: Axis) -> list[str]:
    """Return a sentence for each variant; those that differ from the baseline in nothing come together."""
    sentences: list[str] = []
    alike: list[Group] = []
    for group in axis.groups:
        found = group.difference
        if not group.usable:
            sentences.append(f"{group.label}: no run is left; {_failures(group)}.")
        elif group.collapses:
            sentences.append(f"{group.label}: {_collapse(group)}: {_difference(group)}.")
        elif found is None or found.low is None or found.shown:
            sentences.append(f"{group.label}: {_difference(group)}.")
        else:
            alike.append(group)
        if group.usable and group.failed:
            sentences.append(f"{group.label}: {_failures(group)}; left out.")
        if early := sum(run.state == "stopped" for run in group.runs):
            sentences.append(
                f"{group.label}: {counted(early, 'run')} ended early by rule: left out of k-NN, and "
                f"{'its' if early == 1 else 'their'} other figures are of less training."
            )
    if alike:
        pairs = {group.difference.pairs for group in alike if group.difference is not None}
        texts = listed([f"{group.label} ({with_interval(group.difference)})" for group in alike])
        seeds = pairs.pop() if len(pairs) == 1 else "these"
        sentences.append(f"{texts}: no difference in k-NN that {seeds} seeds could show.")
    return sentences


def _collapse(group: Group) -> str:
    kinds = dict.fromkeys(one.kind for one in group.collapses)
    return listed([_of_kind([one for one in group.collapses if one.kind == kind], group) for kind in kinds])


def _of_kind(collapses: Sequence[Collapse], group: Group) -> str:
    of, some = len(group.usable), len(collapses)
    runs = "" if of == 1 else f" with each of {of} seeds" if some == of else f" with {some} of {of} seeds"
    if collapses[0].kind == "marked":
        marked = Collapse("marked")
        reasons = _reasons(run.diagnosis for run in group.runs if effects.collapse_of(run, group.outputs) == marked)
        return f"training is marked as collapsed{runs}{reasons}"
    what, name = ("becomes uniform over all classes", "entropy")
    if collapses[0].kind == "one-hot":
        what, name = ("collapses to one class", "marginal entropy")
    step = max(one.step or 0 for one in collapses)
    when = "from the start" if all(one.first for one in collapses) else f"by step {step}"
    entropy, max_entropy = sum(one.value for one in collapses) / some, math.log(group.outputs or 1)
    return f"the output {what} {when}{runs} ({name} {number(entropy, 2)} of ln K = {max_entropy:.2f} nats)"


def _difference(group: Group) -> str:
    own, found = group.over_seeds(KNN), group.difference
    if own is None:
        return "k-NN was not measured"
    if found is None:
        return f"k-NN {with_deviation(own)}, and no seed in common with the baseline to compare it by"
    figures = f"k-NN {number(found.value)} against {number(found.baseline)}"
    if found.pairs == 1:
        return f"{figures}, one seed: how much of {signed(found.mean)} is chance cannot be told"
    if found.low is None or found.high is None:
        return f"{figures}, {signed(found.mean)} with each of {found.pairs} seeds: no interval can be drawn from that"
    if not found.shown:
        return f"{figures}, no difference that {found.pairs} seeds could show{interval(found)}"
    low, high = sorted((abs(found.low), abs(found.high)))
    way = "lower" if found.mean < 0 else "higher"
    sure = f"{_PERCENT} interval {number(low)} to {number(high)}, {found.pairs} seeds"
    return f"{figures}, {number(abs(found.mean))} {way} ({sure})"


def _failures(group: Group) -> str:
    seeds = ", ".join(str(run.seed) for run in group.failed)
    return f"failed with seed {seeds}{_reasons(run.diagnosis for run in group.failed)}"


def _reasons(diagnoses: Iterable[str]) -> str:
    reasons = "; ".join(dict.fromkeys(one.strip().rstrip(". ") for one in diagnoses if one.strip()))
    return f" ({reasons})" if reasons else ""


# Figures as text


def number(value: float, digits: int = 1) -> str:
    """Return the number with a real minus sign; what rounds to zero has none."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if not text.strip("-0.") else text.replace("-", MINUS)


def signed(value: float) -> str:
    text = number(value)
    return f"+{text}" if value > 0 and text.strip("0.") else text


def with_deviation(summary: OverSeeds, digits: int = 1) -> str:
    """Return "34.0 ± 0.8"; of one value the value alone."""
    deviation = "" if summary.deviation is None else f" ± {summary.deviation:.{digits}f}"
    return number(summary.mean, digits) + deviation


def with_interval(difference: Difference | None) -> str:
    """Return "−3.9 [−6.6, −1.2]"; without an interval the difference alone."""
    return ABSENT if difference is None else signed(difference.mean) + interval(difference)


def interval(difference: Difference) -> str:
    if difference.low is None or difference.high is None:
        return ""
    return f" [{number(difference.low)}, {number(difference.high)}]"


def counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
